//! What wrappers put around the names of a network's tensors, and how it is taken off.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::naming::{Item, Names};
use super::refusal::{Refusal, Result, listed, short};
use super::roles;

/// What `DataParallel`, Lightning, `torch.compile` and others put before names. They are taken off whatever follows.
const WRAPPERS: [&str; 9] = [
    "module",
    "model",
    "net",
    "network",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "state_dict",
    "_model",
];

/// Wrappers whose part in the middle of a name says nothing.
const INNER: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// Most wrappers around a network.
pub(super) const MOST_WRAPPERS: usize = 16;

/// Most groups that a message or a choice is made of.
const MOST_GROUPS: usize = 64;

/// Most wrappers around each of several networks, such as `ema.module.`.
const MOST_INNER_WRAPPERS: usize = 4;

/// Takes off what is around the network, from the outside inwards.
pub(super) fn unwrap(items: &mut Vec<Item<'_>>, names: &mut Names) -> Result<()> {
    for _ in 0..MOST_WRAPPERS {
        if !strip_common(items, &mut names.prefix) && !take_wrapped(items, names, unwrapped_signature)? {
            break;
        }
    }
    join_backbone(items, names);
    let mut inner = 0;
    for item in items.iter_mut() {
        let kept = item.rest().split('.').filter(|part| !INNER.contains(part)).collect::<Vec<_>>().join(".");
        if kept.len() < item.rest().len() {
            (item.name, item.start) = (kept, 0);
            inner += 1;
        }
    }
    if inner > 0 {
        names.notices.push(format!("removed the names of wrappers, such as _orig_mod., within {inner} names"));
    }
    strip_inner_module(items);
    Ok(())
}

/// Takes the first part of the names off if all share it and it is no layer's; false if not.
pub(super) fn strip_common(items: &mut [Item<'_>], prefix: &mut String) -> bool {
    let Some(head) = items.first().and_then(Item::head).map(str::to_string) else { return false };
    if !items.iter().all(|item| item.head() == Some(&head)) {
        return false;
    }
    let length = head.len() + 1;
    if items.iter().any(|item| item.rest()[length..].starts_with("parametrizations.")) {
        return false; // the head is a layer
    }
    let has_layers = items.iter().any(|item| item.rest()[length..].contains('.'));
    if !has_layers && !WRAPPERS.contains(&head.as_str()) {
        return false;
    }
    for item in items.iter_mut() {
        item.start += length;
    }
    prefix.push_str(&head);
    prefix.push('.');
    true
}

/// Names that people give to all of a network but its last layer, and to what holds the last layer.
const BACKBONES: [&str; 6] = ["backbone", "encoder", "feature_extractor", "base_model", "trunk", "body"];
const HEADS: [&str; 3] = ["head", "cls_head", "classifier_head"];

/// `backbone.conv1.weight` and `head.fc.weight` are `conv1.weight` and `fc.weight` of one network.
fn join_backbone(items: &mut [Item<'_>], names: &mut Names) {
    let groups = groups(items);
    let is_backbone = |head: &str| BACKBONES.contains(&head);
    let convolutional = groups.iter().filter(|group| group.has_convolution).collect::<Vec<_>>();
    if !matches!(convolutional[..], [group] if is_backbone(&group.head)) {
        return;
    }
    let joined = items.iter().map(|item| match item.rest().split_once('.') {
        Some((head, rest)) if is_backbone(head) || HEADS.contains(&head) && rest.contains('.') => rest,
        _ => item.rest(),
    });
    let joined = joined.map(str::to_string).collect::<Vec<_>>();
    if joined.iter().collect::<BTreeSet<_>>().len() < joined.len() {
        return; // two layers have one name
    }
    names
        .notices
        .push(format!("removed {}., and what is around the last layer, from the names", convolutional[0].head));
    for (item, name) in items.iter_mut().zip(joined) {
        (item.name, item.start) = (name, 0);
    }
}

/// `features.module.0.weight`, where a part of the network was wrapped by `DataParallel`.
fn strip_inner_module(items: &mut [Item<'_>]) {
    let mut wrapped = HashMap::new();
    for item in items.iter() {
        if let Some((head, rest)) = item.rest().split_once('.') {
            *wrapped.entry(head.to_string()).or_insert(true) &= rest.starts_with("module.");
        }
    }
    for item in items.iter_mut() {
        let Some(head) = item.head().filter(|head| wrapped.get(*head) == Some(&true)) else { continue };
        let rest = &item.rest()[head.len() + ".module".len()..];
        (item.name, item.start) = (format!("{head}{rest}"), 0);
    }
}

/// The tensors whose names share their first part.
pub(super) struct Group {
    head: String,
    tensors: usize,
    parameters: usize,
    has_convolution: bool,
    has_matrix: bool,
    /// Whether the names of a layer's weights are in it.
    has_weight: bool,
}

impl Group {
    /// Returns whether it may be a whole classifier.
    fn is_network(&self) -> bool {
        self.has_convolution && self.has_matrix
    }
}

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}. ({} tensors, {} parameters)", short(&self.head), self.tensors, self.parameters)
    }
}

pub(super) fn groups(items: &[Item<'_>]) -> Vec<Group> {
    let (mut groups, mut places) = (Vec::<Group>::new(), HashMap::new());
    for item in items {
        let Some(head) = item.head() else { continue };
        let place = *places.entry(head).or_insert(groups.len());
        if place == groups.len() {
            let head = head.to_string();
            let (tensors, parameters) = (0, 0);
            groups.push(Group {
                head,
                tensors,
                parameters,
                has_convolution: false,
                has_matrix: false,
                has_weight: false,
            });
        }
        let group = &mut groups[place];
        group.tensors += 1;
        let size = item.shape.iter().fold(1_usize, |count, &side| count.saturating_mul(side));
        group.parameters = group.parameters.saturating_add(size);
        group.has_convolution |= item.shape.len() == 4;
        group.has_matrix |= item.shape.len() == 2;
        group.has_weight |= item.shape.len() >= 2 && item.rest().contains(".weight");
    }
    groups
}

/// Returns what wraps a network while other tensors are outside of it, as a loss's weights or a teacher's.
///
/// Returns whether the tensors of one wrapper were taken.
///
/// `compared` returns what is equal where a group is another one's average.
fn take_wrapped(items: &mut Vec<Item<'_>>, names: &mut Names, compared: Compared) -> Result<bool> {
    let groups = groups(items);
    let networks = groups.iter().filter(|group| group.is_network()).take(MOST_GROUPS).collect::<Vec<_>>();
    let heads = networks.iter().map(|group| group.head.as_str()).collect::<Vec<_>>();
    let others = || groups.iter().filter(|group| !group.is_network());
    let chosen = match heads[..] {
        // A network's own layers may hold convolutions and matrices, too. So nothing outside may be a layer of it.
        [head] if WRAPPERS.contains(&head) || is_role(head) || head.parse::<u32>().is_ok() => {
            if others().any(|group| group.has_weight) {
                let outside = groups.iter().filter(|group| group.head != head).map(ToString::to_string);
                let list = listed(outside);
                names.notices.push(format!("--prefix {}. takes the tensors under it without {list}", short(head)));
                return Ok(false);
            }
            head
        }
        [] | [_] => return Ok(false),
        _ => {
            let signatures = heads.iter().map(|head| compared(items, head)).collect::<Vec<_>>();
            let known = heads.iter().filter(|head| WRAPPERS.contains(head) || is_role(head)).count();
            let alike = signatures.iter().skip(1).all(|other| *other == signatures[0]);
            if known < heads.len() && !alike {
                return Ok(false);
            }
            let picked = roles::pick(&heads, |one, other| signatures[one] == signatures[other]);
            let doubt = || {
                let list = listed(networks.iter().map(ToString::to_string));
                let largest =
                    networks.iter().rev().max_by_key(|group| group.parameters).map_or("", |group| &group.head);
                let hint = format!("choose one with --prefix, such as --prefix {}.", short(largest));
                Refusal::choice(format!("it holds several networks: {list}"), hint)
            };
            heads[picked.ok_or_else(doubt)?]
        }
    };
    let prefix = format!("{chosen}.");
    let outside = items.iter().filter(|item| !item.rest().starts_with(&prefix)).map(|item| item.original);
    let (count, list) = (outside.clone().count(), listed(outside));
    names.notices.push(format!(
        "took the tensors under {} alone, and left out the rest ({count}: {list}); --prefix chooses",
        short(&prefix)
    ));
    items.retain(|item| item.rest().starts_with(&prefix));
    for item in items.iter_mut() {
        item.start += prefix.len();
    }
    names.prefix.push_str(&prefix);
    Ok(true)
}

/// Names of networks in a training with several.
const ROLES: [&str; 17] = [
    "student",
    "teacher",
    "encoder",
    "encoder_q",
    "encoder_k",
    "online",
    "target",
    "online_network",
    "target_network",
    "online_encoder",
    "target_encoder",
    "momentum_encoder",
    "generator",
    "discriminator",
    "backbone",
    "ema",
    "classifier",
];

fn is_role(head: &str) -> bool {
    ROLES.contains(&head) || roles::is_averaged(head)
}

/// Names and shapes of a network's tensors.
type Signature = BTreeMap<String, Vec<usize>>;

type Compared = fn(&[Item<'_>], &str) -> Signature;

/// Names and shapes under a prefix.
fn signature(items: &[Item<'_>], head: &str) -> Signature {
    signature_of(&under(items, head))
}

/// Names and shapes under a prefix, without what is around the network in there, such as `module.` in `ema.module.`.
fn unwrapped_signature(items: &[Item<'_>], head: &str) -> Signature {
    let (mut items, mut unused) = (under(items, head), Names::default());
    for _ in 0..MOST_INNER_WRAPPERS {
        let stripped = strip_common(&mut items, &mut unused.prefix);
        if !stripped && !take_wrapped(&mut items, &mut unused, signature).unwrap_or(false) {
            break;
        }
    }
    signature_of(&items)
}

fn under<'i>(items: &[Item<'i>], head: &str) -> Vec<Item<'i>> {
    let is_under = |item: &&Item<'_>| item.head() == Some(head);
    let inside = |item: &Item<'i>| Item { name: item.name.clone(), start: item.start + head.len() + 1, ..*item };
    items.iter().filter(is_under).map(inside).collect()
}

fn signature_of(items: &[Item<'_>]) -> Signature {
    items.iter().map(|item| (item.rest().to_string(), item.shape.to_vec())).collect()
}
