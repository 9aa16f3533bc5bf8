//! Weights that are stored in parts: pruning masks and weight normalization are applied, others are refused by name.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::refusal::{Refusal, Result, listed, short};

type Tensors = BTreeMap<String, Tensor>;

/// Puts weights together that are stored in parts, and says so.
pub(super) fn resolve(tensors: &mut Tensors) -> Result<Vec<String>> {
    let mut notices = Vec::new();
    let pruned = apply_masks(tensors)?;
    if !pruned.is_empty() {
        notices.push(format!("applied the pruning masks of {} tensors: {}", pruned.len(), listed(&pruned)));
    }
    let normalized = apply_weight_norm(tensors)?;
    if !normalized.is_empty() {
        let (count, list) = (normalized.len(), listed(&normalized));
        notices.push(format!("computed {count} weights from their direction and length (weight norm): {list}"));
    }
    refuse_others(tensors)?;
    Ok(notices)
}

/// Applies `torch.nn.utils.prune`, which stores `weight_orig` and `weight_mask`: the weight is their product.
fn apply_masks(tensors: &mut Tensors) -> Result<Vec<String>> {
    let is_masked =
        |name: &&String| name.strip_suffix("_mask").is_some_and(|name| tensors.contains_key(&format!("{name}_orig")));
    let masks = tensors.keys().filter(is_masked).cloned().collect::<Vec<_>>();
    let mut applied = Vec::new();
    for mask_name in masks {
        let name = mask_name.strip_suffix("_mask").unwrap_or(&mask_name).to_string();
        let (Some(original), Some(mask)) = (tensors.remove(&format!("{name}_orig")), tensors.remove(&mask_name)) else {
            continue;
        };
        put(tensors, &name, mask.to_dtype(original.dtype()).and_then(|mask| original.mul(&mask)))?;
        applied.push(name);
    }
    Ok(applied)
}

/// The parts of a weight norm, length and direction, by the function that made them.
const WEIGHT_NORM: [(&str, &str, &str); 2] = [("_g", "_v", ""), (".original0", ".original1", "parametrizations.")];

/// Computes a weight from its direction, scaled to its length.
fn apply_weight_norm(tensors: &mut Tensors) -> Result<Vec<String>> {
    let mut applied = Vec::new();
    for (length_end, direction_end, infix) in WEIGHT_NORM {
        let ends = |name: &&String| name.ends_with(length_end) && name.contains(infix);
        for length_name in tensors.keys().filter(ends).cloned().collect::<Vec<_>>() {
            let stem = length_name.strip_suffix(length_end).unwrap_or(&length_name);
            let direction_name = format!("{stem}{direction_end}");
            let (Some(length), Some(direction)) = (tensors.get(&length_name), tensors.get(&direction_name)) else {
                continue;
            };
            let sides = length.dims().iter().zip(direction.dims());
            let summed = sides.clone().enumerate().filter(|(_, (length, _))| **length == 1).map(|(axis, _)| axis);
            let summed = summed.collect::<Vec<_>>();
            let fits = sides.clone().all(|(length, direction)| *length == 1 || length == direction);
            if length.rank() != direction.rank() || !fits {
                continue;
            }
            let scaled = || {
                let norm = direction.sqr()?.sum_keepdim(summed)?.sqrt()?;
                direction.broadcast_mul(&length.broadcast_div(&norm)?)
            };
            let (weight, name) = (scaled(), stem.replace(infix, ""));
            tensors.remove(&length_name);
            tensors.remove(&direction_name);
            put(tensors, &name, weight)?;
            applied.push(name);
        }
    }
    Ok(applied)
}

fn put(tensors: &mut Tensors, name: &str, tensor: candle_core::Result<Tensor>) -> Result<()> {
    let tensor = tensor.map_err(|error| format!("the parts of the tensor {} do not fit: {error}", short(name)))?;
    tensors.insert(name.to_string(), tensor);
    Ok(())
}

/// Weights that are computed from parts in other ways, and networks of integers.
fn refuse_others(tensors: &Tensors) -> Result<()> {
    let remove = "make the weight plain before saving: torch.nn.utils.parametrize.remove_parametrizations(layer, \"weight\"), \
                  or torch.nn.utils.remove_spectral_norm(layer)";
    for name in tensors.keys() {
        let refused = |what: &str| Err(Refusal::new(format!("the tensor {} is {what}", short(name)), remove));
        if name.contains("parametrizations.") {
            return refused("part of a weight that is computed from several (parametrized)");
        }
        if let Some(stem) = name.strip_suffix("_orig")
            && tensors.contains_key(&format!("{stem}_u"))
        {
            return refused("part of a weight with spectral norm");
        }
        if let Some(stem) = name.strip_suffix(".zero_point")
            && tensors.contains_key(&format!("{stem}.scale"))
        {
            return Err(Refusal::new(
                format!("the network was quantized: {} is a scale of integers", short(name)),
                "give the state_dict of the network before it was quantized",
            ));
        }
    }
    Ok(())
}
