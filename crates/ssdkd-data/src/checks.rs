//! What a user should know of a data set before something is trained or measured on it.

use crate::listing::some;
use crate::mask_pixels::BINARY_MASKS;
use crate::{Dataset, Split};

/// Notices of classes that do not occur in a split, and of pixels without a class.
pub(crate) fn notices(dataset: &Dataset, split: Split) -> Vec<String> {
    let missing = |classes: &[usize], of: &str| {
        let names = classes.iter().map(|&class| dataset.class_name(class)).collect::<Vec<_>>();
        let count = dataset.classes();
        format!("no {of} of the {split} split is of class {} ({} of {count} classes)", some(&names), classes.len())
    };
    let Some(pixels) = dataset.mask_pixels() else {
        let counts = dataset.class_counts();
        let empty = (0..counts.len()).filter(|&class| counts[class] == 0).collect::<Vec<_>>();
        return if empty.is_empty() { Vec::new() } else { vec![missing(&empty, "image")] };
    };
    let mut notices = Vec::new();
    if !pixels.missing().is_empty() {
        notices.push(missing(&pixels.missing(), "pixel"));
    }
    if pixels.unlabelled > 0 {
        let percent = 100.0 * pixels.unlabelled_share();
        let binary = if pixels.are_binary_with_255() { format!("\nhint: {BINARY_MASKS}") } else { String::new() };
        notices.push(format!(
            "{percent:.1} % of the {split} split's pixels are of no class (255, or `-` in classes.txt); they are not counted{binary}"
        ));
    }
    notices
}
