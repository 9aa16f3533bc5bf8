//! Whole models, as `torch.save(model)` writes them: the tensors that their `state_dict` would hold.
//!
//! A module is an object with dictionaries of its parameters, buffers and modules, whatever its class is. No code of the
//! class is needed to read them.

use std::collections::{BTreeMap, HashSet};

use ssdkd_pickle::{Object, Value};

use super::tensors::{Source, tensor};

/// Most tensors of a network: each costs far more than the few bytes that may repeat it.
pub(super) const MOST_TENSORS: usize = 1 << 16;

/// Most modules of a model. A module may be part of many others.
const MOST_MODULES: usize = 1 << 14;

/// Longest name of a tensor, in bytes.
const NAME_LIMIT: usize = 512;

/// Returns the `state_dict` of a module; `None` for what is no module, or has no tensors.
pub(super) fn state_dict(value: Value<'_>) -> Option<BTreeMap<String, Source<'_>>> {
    value.state()?.get("_modules")?;
    let mut tensors = BTreeMap::new();
    let (mut queue, mut count) = (vec![(String::new(), value)], 0);
    while let Some((prefix, module)) = queue.pop() {
        count += 1;
        let Some(state) = module.state() else { continue };
        if count > MOST_MODULES {
            break;
        }
        let passing = state.get("_non_persistent_buffers_set").map(names).unwrap_or_default();
        for list in ["_parameters", "_buffers"] {
            for (name, value) in state.get(list).and_then(Value::entries).into_iter().flatten() {
                let Some(name) = name.text().filter(|name| prefix.len() + name.len() <= NAME_LIMIT) else { continue };
                if let Some(source) = tensor(value).filter(|_| !passing.contains(name) && tensors.len() < MOST_TENSORS)
                {
                    tensors.insert(format!("{prefix}{name}"), source);
                }
            }
        }
        for (name, module) in state.get("_modules").and_then(Value::entries).into_iter().flatten() {
            let Some(name) = name.text().filter(|name| prefix.len() + name.len() < NAME_LIMIT) else { continue };
            if queue.len() < MOST_MODULES {
                queue.push((format!("{prefix}{name}."), module));
            }
        }
    }
    Some(tensors).filter(|tensors| !tensors.is_empty())
}

/// Returns the texts of a set: from protocol 4 on a set, before that a call with a list.
fn names(set: Value<'_>) -> HashSet<&str> {
    let list = if let Object::Call(_) = set.object() { set.argument(0) } else { Some(set) };
    list.and_then(Value::elements).into_iter().flatten().filter_map(Value::text).collect()
}

/// Returns `module.name` of an object's class; `None` for what is plain data.
pub(super) fn class(value: Value<'_>) -> Option<&str> {
    let function = value.function().or_else(|| {
        // Old streams refer to the class by ("module", class, file, source).
        let Object::Persistent(_) = value.function_value()?.object() else { return None };
        value.function_value()?.persistent()?.element(1)?.global()
    })?;
    match function {
        "collections.OrderedDict" | "collections.defaultdict" => None,
        "copy_reg._reconstructor" | "copyreg._reconstructor" | "copyreg.__newobj__" => value.argument(0)?.global(),
        _ => Some(function),
    }
}
