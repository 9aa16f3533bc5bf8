//! Finds the networks in a checkpoint: every dictionary with tensors, at any depth.

use std::collections::{BTreeMap, HashSet, VecDeque};

use ssdkd_pickle::{Id, Object, Pickle, Value};

use super::modules::{self, MOST_TENSORS};
use super::refusal::short;
use super::tensors::{Source, tensor};

/// A dictionary of tensors in a checkpoint.
pub(super) struct Candidate<'a> {
    /// Keys from the root, with dots between them; empty for the root itself.
    pub key: String,
    /// The dictionary itself.
    pub id: Id,
    /// Its tensors by name.
    pub tensors: BTreeMap<String, Source<'a>>,
    /// The class, where it is a whole model object.
    pub class: Option<&'a str>,
}

/// What a checkpoint holds.
pub(super) struct Found<'a> {
    /// The networks, in the order of the file.
    pub networks: Vec<Candidate<'a>>,
    /// Whether the state of an optimizer is there.
    pub has_optimizer: bool,
    /// The class of the root, where it is an object.
    pub class: Option<&'a str>,
}

/// Most dictionaries within each other. Checkpoints have four at most.
const MOST_DEPTH: usize = 8;

/// Most networks of a checkpoint.
const MOST_NETWORKS: usize = 64;

/// Longest key, in bytes, of what is looked into.
const KEY_LIMIT: usize = 128;

/// Longest list that is looked into: `(state_dict, epoch)`, or the networks of an ensemble.
const MOST_ELEMENTS: usize = 256;

/// Where a value is: the place in the list of places of what holds it, and the key in there.
type Place<'a> = (usize, Key<'a>);

#[derive(Clone, Copy)]
enum Key<'a> {
    Root,
    Name(&'a str),
    Index(usize),
}

/// Finds the networks of a checkpoint. Each object is looked into once, under the first of its keys.
pub(super) fn find(pickle: &Pickle) -> Found<'_> {
    let root = pickle.root();
    let mut found = Found { networks: Vec::new(), has_optimizer: false, class: modules::class(root) };
    let (mut others, mut skipped) = (Vec::new(), Vec::new());
    let (mut places, mut seen) = (vec![(0, Key::Root)], HashSet::from([root.id()]));
    let mut queue = VecDeque::from([(root, 0, 0)]);
    loop {
        if queue.is_empty() && found.networks.is_empty() {
            // The only network may be in an entry that is named as an optimizer is.
            queue.extend(skipped.drain(..).filter(|(value, ..): &(Value<'_>, _, _)| seen.insert(value.id())));
        }
        let Some((value, place, depth)) = queue.pop_front() else { break };
        if found.networks.len() >= MOST_NETWORKS {
            break;
        }
        if let Some(tensors) = modules::state_dict(value) {
            found.networks.push(Candidate {
                key: path(&places, place),
                id: value.id(),
                tensors,
                class: modules::class(value),
            });
            continue;
        }
        if is_optimizer(value) {
            found.has_optimizer = true;
            continue;
        }
        let tensors = tensors(value);
        if !tensors.is_empty() {
            let candidate = Candidate { key: path(&places, place), id: value.id(), tensors, class: None };
            let list = if candidate.is_network() { &mut found.networks } else { &mut others };
            if list.len() < MOST_NETWORKS {
                list.push(candidate);
            }
        }
        if depth == MOST_DEPTH {
            continue;
        }
        for (key, child) in children(value) {
            if let Key::Name(name) = key
                && is_optimizer_name(name)
            {
                places.push((place, key));
                skipped.push((child, places.len() - 1, depth + 1));
            } else if seen.insert(child.id()) {
                places.push((place, key));
                queue.push_back((child, places.len() - 1, depth + 1));
            }
        }
    }
    found.has_optimizer |= !skipped.is_empty();
    if found.networks.is_empty() {
        found.networks = others;
    }
    found
}

impl Found<'_> {
    /// Returns the keys of the root that lead to no network and to no optimizer.
    pub fn others(&self, root: Value<'_>) -> Vec<String> {
        if self.networks.iter().any(|network| network.key.is_empty()) {
            return Vec::new(); // the keys are the names of tensors
        }
        let leads = |name: &str| {
            let is_within =
                |key: &str| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            self.networks.iter().any(|network| is_within(&network.key))
        };
        let is_known =
            |value: Value<'_>| is_optimizer(value) || self.networks.iter().any(|network| network.id == value.id());
        let entries = root.entries().into_iter().flatten().filter(|(_, value)| !is_known(*value));
        let names = entries.filter_map(|(key, _)| key.text());
        names.filter(|name| !leads(name) && !is_optimizer_name(name)).map(short).collect()
    }
}

impl Candidate<'_> {
    /// Returns whether a layer's weight is in it, and not measurements alone.
    fn is_network(&self) -> bool {
        let is_weight = |name: &str| {
            let name = name.rsplit('.').next().unwrap_or(name);
            name.contains("weight")
                || name.contains("kernel")
                || name.starts_with("original")
                || name == "_packed_params"
        };
        let is_large = |source: &Source<'_>| source.shape().len() >= 2 || matches!(source, Source::Unusable { .. });
        self.tensors.iter().any(|(name, source)| is_weight(name) && is_large(source))
    }
}

/// Returns the tensors among a dictionary's values.
fn tensors(value: Value<'_>) -> BTreeMap<String, Source<'_>> {
    let mut tensors = BTreeMap::new();
    for (name, value) in value.entries().into_iter().flatten() {
        if let Some(name) = name.text()
            && let Some(source) = tensor(value).or_else(|| packed(name, value))
            && tensors.len() < MOST_TENSORS
        {
            tensors.insert(name.to_string(), source);
        }
    }
    tensors
}

/// Reads the weights of a quantized linear layer, which are a tuple.
fn packed<'a>(name: &str, value: Value<'a>) -> Option<Source<'a>> {
    let is_packed = name.ends_with("_packed_params") && matches!(value.object(), Object::Sequence(_));
    is_packed.then(|| value.element(0).and_then(tensor)).flatten()
}

/// Returns what may hold a network: the values of a dictionary, the attributes of an object, the elements of a short list.
fn children<'a>(value: Value<'a>) -> Vec<(Key<'a>, Value<'a>)> {
    let holds = |value: Value<'_>| matches!(value.object(), Object::Dict(_) | Object::Call(_) | Object::Sequence(_));
    let index = |key: Value<'_>| key.int().and_then(|index| usize::try_from(index).ok());
    let named = |(key, value): (Value<'a>, Value<'a>)| {
        Some((key.text().map(Key::Name).or_else(|| index(key).map(Key::Index))?, value))
    };
    let mut children = Vec::new();
    if let Some(elements) = value.elements() {
        if elements.len() <= MOST_ELEMENTS {
            children.extend(elements.enumerate().map(|(index, value)| (Key::Index(index), value)));
        }
    } else {
        children.extend(value.entries().into_iter().flatten().filter_map(named));
        // The attributes of an `OrderedDict` are about its tensors.
        let attributes = value.state().filter(|_| value.function() != Some("collections.OrderedDict"));
        children.extend(attributes.and_then(Value::entries).into_iter().flatten().filter_map(named));
    }
    children.retain(|&(key, value)| holds(value) && !matches!(key, Key::Name(name) if name.len() > KEY_LIMIT));
    children
}

/// Optimizers keep tensors, which are no weights.
fn is_optimizer(value: Value<'_>) -> bool {
    value.get("param_groups").is_some() && value.get("state").is_some()
}

/// Returns whether a word of the name says that it is an optimizer: not `optimal_model`.
fn is_optimizer_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let mut words = name.split(|letter: char| !letter.is_alphanumeric());
    words.any(|word| word == "opt" || word == "optim" || word.starts_with("optimizer"))
}

fn path(places: &[Place<'_>], mut at: usize) -> String {
    let mut parts = Vec::new();
    while let (parent, key @ (Key::Name(_) | Key::Index(_))) = places[at] {
        parts.push(match key {
            Key::Index(index) => index.to_string(),
            Key::Name(name) => name.to_string(),
            Key::Root => String::new(),
        });
        at = parent;
    }
    parts.reverse();
    parts.join(".")
}
