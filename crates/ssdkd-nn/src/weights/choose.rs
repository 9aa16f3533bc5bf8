//! Chooses one of the networks in a checkpoint.

use std::collections::BTreeMap;

use ssdkd_pickle::{Id, Value};

use super::Entry;
use super::entries::{Candidate, Found};
use super::refusal::{Refusal, Result, listed, quoted, save_with, short};
use super::{names, roles};

/// Returns the index of the network under `key`, or of the default network without a key.
pub(super) fn network(found: &Found<'_>, root: Value<'_>, key: Option<&str>) -> Result<usize> {
    let networks = &found.networks;
    let list = || listed(networks.iter().map(|network| network.entry().to_string()));
    let group = match key {
        None => (0..networks.len()).collect::<Vec<_>>(),
        Some(key) => under(networks, root, key),
    };
    if group.is_empty() {
        let reason = format!("it holds no network under the key {}", short(key.unwrap_or_default()));
        return Err(Refusal::choice(reason, format!("--key with one of {}", list())));
    }
    let keys = group.iter().map(|&index| networks[index].key.as_str()).collect::<Vec<_>>();
    let same = |one: usize, other: usize| {
        let [one, other] = [one, other].map(|index| signature(&networks[group[index]]));
        one.is_some() && one == other
    };
    let picked = roles::pick(&keys, same).ok_or_else(|| {
        let largest = group.iter().rev().max_by_key(|&&index| networks[index].entry().parameters);
        let example = short(largest.map_or("", |&index| &networks[index].key));
        Refusal::choice(
            format!("it holds several networks: {}", list()),
            format!("choose one with --key, such as --key {example}"),
        )
    })?;
    Ok(group[picked])
}

/// Returns the networks under a key: the one with that key, or those within what has it.
fn under(networks: &[Candidate<'_>], root: Value<'_>, key: &str) -> Vec<usize> {
    let matching = |is: &dyn Fn(&Candidate<'_>) -> bool| {
        (0..networks.len()).filter(|&index| is(&networks[index])).collect::<Vec<_>>()
    };
    let exact = matching(&|network| network.key == key);
    if !exact.is_empty() {
        return exact;
    }
    let id = resolve(root, key);
    let same = matching(&|network| Some(network.id) == id);
    if !same.is_empty() {
        return same;
    }
    matching(&|network| network.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

/// Follows the keys to a value, which may have been found under another key.
fn resolve(root: Value<'_>, key: &str) -> Option<Id> {
    let (mut value, mut rest) = (root, key);
    loop {
        if let Some(value) = value.get(rest) {
            return Some(value.id());
        }
        let (first, after) = rest.split_once('.')?;
        (value, rest) = (value.get(first)?, after);
    }
}

/// Returns the names and shapes of a network's tensors, without what wrappers add.
fn signature(network: &Candidate<'_>) -> Option<BTreeMap<String, Vec<usize>>> {
    let mut shapes = network.shapes();
    let names = names::clean(&shapes, None).ok()?;
    Some(names.kept.into_iter().filter_map(|(old, new)| Some((new, shapes.remove(&old)?))).collect())
}

/// Says what a checkpoint holds that has no network.
pub(super) fn nothing(found: &Found<'_>, root: Value<'_>, path: &std::path::Path) -> Refusal {
    let load = format!("torch.load({}, map_location=\"cpu\", weights_only=False)", quoted(path));
    if let Some(class) = found.class {
        if class.starts_with("torch._utils._rebuild") {
            return Refusal::new("it is a single tensor, without a name", "save model.state_dict()");
        }
        return Refusal::new(
            format!("it holds a whole object (class {class}) and not a state_dict"),
            save_with(&format!("state_dict = {load}.state_dict()")),
        );
    }
    let keys = root.entries().into_iter().flatten().filter_map(|(key, _)| key.text()).collect::<Vec<_>>();
    let reason = if found.has_optimizer {
        "it holds the state of an optimizer, and no network's tensors".to_string()
    } else if keys.is_empty() {
        "it holds no dictionary of tensors".to_string()
    } else {
        format!("it holds no dictionary of tensors; its entries are {}", listed(keys))
    };
    Refusal::new(reason, "save model.state_dict() with torch.save, and give that file")
}

impl Candidate<'_> {
    /// Returns the `state_dict` as an expression of Python.
    pub fn python(&self, path: &std::path::Path) -> String {
        let file = format!("torch.load({}, map_location=\"cpu\", weights_only=False)", quoted(path));
        let keys = self.key.split('.').filter(|key| !key.is_empty());
        let indices =
            keys.map(|key| key.parse().map_or_else(|_| format!("[{key:?}]"), |index: usize| format!("[{index}]")));
        let method = if self.class.is_some() { ".state_dict()" } else { "" };
        format!("{file}{}{method}", short(&indices.collect::<String>()))
    }

    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.tensors.iter().map(|(name, source)| (name.clone(), source.shape().to_vec())).collect()
    }

    pub fn entry(&self) -> Entry {
        let count = |shape: &[usize]| shape.iter().fold(1_usize, |count, &side| count.saturating_mul(side));
        let parameters = self.tensors.values().map(|source| count(source.shape())).fold(0, usize::saturating_add);
        Entry { key: self.key.clone(), tensors: self.tensors.len(), parameters }
    }
}
