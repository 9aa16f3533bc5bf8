//! The names of tensors: prefixes that wrappers leave, and what belongs to no network.

use std::collections::{BTreeMap, BTreeSet};

use super::naming::{Item, Names};
use super::refusal::{Refusal, Result, listed, short};
use super::wrappers::{MOST_WRAPPERS, groups, strip_common, unwrap};

/// Tensors of tools: the counts of thop and ptflops, the averages of `torch.optim.swa_utils` and of EMA classes, observers of quantization.
const LITTER: [&str; 13] = [
    "total_ops",
    "total_params",
    "__flops__",
    "__params__",
    "__batch_counter__",
    "n_averaged",
    "step",
    "steps",
    "num_updates",
    "decay",
    "initted",
    "fake_quant_enabled",
    "observer_enabled",
];

type Shapes = BTreeMap<String, Vec<usize>>;

/// Finds the names that the tensors have in the network itself. With `prefix`, those alone that begin with it.
pub(super) fn clean(shapes: &Shapes, prefix: Option<&str>) -> Result<Names> {
    let mut names = Names::default();
    let mut items = Vec::new();
    for (original, shape) in shapes {
        if is_litter(original) {
            names.dropped.push(original.clone());
        } else {
            items.push(Item { original, name: original.clone(), start: 0, shape });
        }
    }
    if items.is_empty() {
        // What looks like litter is all there is.
        names.dropped.clear();
        items.extend(shapes.iter().map(|(original, shape)| Item { original, name: original.clone(), start: 0, shape }));
    }
    if let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty()) {
        select(&mut items, prefix, &mut names)?;
    }
    if prefix != Some("") {
        unwrap(&mut items, &mut names)?;
    }
    for Item { original, name, start, .. } in items {
        names.kept.insert(original.to_string(), name[start..].to_string());
    }
    let distinct = names.kept.values().collect::<BTreeSet<_>>();
    if distinct.len() < names.kept.len() {
        return Err("two of its tensors have one name once wrappers are taken off".into());
    }
    Ok(names)
}

fn is_litter(name: &str) -> bool {
    let mut parts = name.rsplit('.');
    let is_observer = |part: &str| part.starts_with("activation_post_process") || part == "weight_fake_quant";
    parts.next().is_some_and(|last| LITTER.contains(&last)) || parts.any(is_observer)
}

/// Keeps the tensors whose names begin with `prefix`, as they are in the file or without the wrappers around all of them.
fn select(items: &mut Vec<Item<'_>>, prefix: &str, names: &mut Names) -> Result<()> {
    let dotted = if prefix.ends_with('.') { prefix.to_string() } else { format!("{prefix}.") };
    let mut common = 0;
    loop {
        let found =
            [&dotted, prefix].into_iter().find(|prefix| items.iter().any(|item| item.rest().starts_with(*prefix)));
        if let Some(prefix) = found {
            let outside = items.iter().filter(|item| !item.rest().starts_with(prefix)).count();
            items.retain(|item| item.rest().starts_with(prefix));
            for item in items.iter_mut() {
                item.start += prefix.len();
            }
            names.prefix.push_str(prefix);
            if outside > 0 {
                names
                    .notices
                    .push(format!("left out {outside} tensors whose names do not begin with {}", short(&names.prefix)));
            }
            return Ok(());
        }
        common += 1;
        if common > MOST_WRAPPERS || !strip_common(items, &mut names.prefix) {
            break;
        }
    }
    for item in items.iter_mut() {
        item.start = 0;
    }
    let groups = groups(items);
    Err(Refusal::choice(
        format!("no tensor's name begins with {}", short(prefix)),
        format!("--prefix with one of {}", listed(groups.iter().map(ToString::to_string))),
    ))
}
