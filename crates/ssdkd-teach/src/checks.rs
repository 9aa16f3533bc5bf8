//! Which data sets cannot train a teacher, or cannot measure it.

use ssdkd_data::{BINARY_MASKS, Dataset, MaskPixels};
use ssdkd_stage::StageError;
use ssdkd_stage::exit::Code;

/// Refuses a data set of one class: every network would be right of all of its images.
pub(crate) fn check_count(spec: &str, train: &Dataset) -> Result<(), StageError> {
    if train.classes() > 1 {
        return Ok(());
    }
    let what = format!("{spec}: the data has one class, {}", train.class_name(0));
    let hint = "a teacher needs at least two classes: check that each class has its own folder, label or number";
    Err(StageError::other(Code::Integrity, format!("{what}\nhint: {hint}")))
}

/// Refuses masks of two classes that were saved as 0 and 255: every pixel of the second class would count as unlabeled, and a
/// network that knows the first class alone would be perfect.
pub(crate) fn check_masks(spec: &str, train: &Dataset) -> Result<(), StageError> {
    let Some(pixels) = train.mask_pixels().filter(MaskPixels::are_binary_with_255) else { return Ok(()) };
    let names = pixels.missing().into_iter().map(|class| train.class_name(class)).collect::<Vec<_>>().join(" or ");
    let what = format!(
        "{spec}: no pixel of the training masks is of class {names}, and {:.1} % are of no class\nhint: {BINARY_MASKS}",
        100.0 * pixels.unlabelled_share()
    );
    Err(StageError::other(Code::Integrity, what))
}

/// Refuses splits with different classes. What has no names is compared by number.
pub(crate) fn check_classes(spec: &str, train: &Dataset, test: &Dataset) -> Result<(), StageError> {
    const HINT: &str = "both splits need the same classes";
    let refuse = |what: String| Err(StageError::other(Code::Integrity, format!("{spec}: {what}\nhint: {HINT}")));
    if test.classes() > train.classes() {
        let (test, train) = (test.classes(), train.classes());
        return refuse(format!("the test images are of {test} classes, and the training images of {train}"));
    }
    if let (Some(names), Some(others)) = (train.class_names(), test.class_names())
        && let Some(other) = others.iter().find(|other| !names.contains(other))
    {
        return refuse(format!("the test split has the class {other}, and the training split does not"));
    }
    Ok(())
}

/// Says how many of the test images were trained on.
pub(crate) fn warn_of_common_images(train: &Dataset, test: &Dataset) {
    let common = test.images_also_in(train);
    if common == test.len() {
        tracing::warn!("the data set has one part only: the test accuracy is that on the training images");
    } else if common > 0 {
        let (images, percent) = (test.len(), 100.0 * common as f64 / test.len() as f64);
        tracing::warn!(
            "{common} of {images} test images ({percent:.1} %) are training images too: the test accuracy is too high"
        );
    }
}
