//! The mean and the standard deviation that some networks keep as buffers.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use super::refusal::short;

/// Most channels of an image.
const MOST_CHANNELS: usize = 4;

/// Takes pairs such as `normalize.mean` and `normalize.std` out, and says their values in sentences.
///
/// No supported network normalizes its images itself: the card does.
pub(super) fn take(tensors: &mut BTreeMap<String, Tensor>) -> Vec<String> {
    let is_mean = |name: &&String| name.rsplit('.').next() == Some("mean");
    let means = tensors.keys().filter(is_mean).cloned().collect::<Vec<_>>();
    let mut notices = Vec::new();
    for mean in means {
        let std = format!("{}std", mean.strip_suffix("mean").unwrap_or_default());
        let [Some(means), Some(stds)] = [&mean, &std].map(|name| tensors.get(name).and_then(channels)) else {
            continue;
        };
        notices.push(format!(
            "left out {} and {}: the file says mean {means} and std {stds}; give them with --mean and --std",
            short(&mean),
            short(&std)
        ));
        for name in [mean, std] {
            tensors.remove(&name);
        }
    }
    notices
}

/// Returns the numbers of a tensor with one for each channel, such as shape (3) or (1, 3, 1, 1), with commas between them.
fn channels(tensor: &Tensor) -> Option<String> {
    let sides = tensor.dims().iter().filter(|&&side| side != 1).count();
    if sides > 1 || tensor.rank() == 0 || !(1..=MOST_CHANNELS).contains(&tensor.elem_count()) {
        return None;
    }
    let numbers = tensor.flatten_all().and_then(|tensor| tensor.to_dtype(DType::F32)?.to_vec1::<f32>()).ok()?;
    Some(numbers.iter().map(f32::to_string).collect::<Vec<_>>().join(","))
}
