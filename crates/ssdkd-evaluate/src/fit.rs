//! Which networks can be measured on a data set, or compared.

use candle_core::{Result, bail};
use ssdkd_data::Dataset;
use ssdkd_nn::{Architecture, Network, Task, ZooArchitecture};

/// Checks whether a network of this architecture can learn from a data set, or be measured on it: labels pixels where that has masks, and
/// images where it has none.
///
/// # Errors
/// Where one is of images and the other of pixels; the error names both.
pub fn check_task(architecture: &Architecture, dataset: &Dataset) -> Result<()> {
    check_masks(architecture, dataset.masks().is_some())
}

/// Checks whether a network of this architecture with so many classes can be measured on a data set.
///
/// # Errors
/// As [`check_task`], or if the data set has more classes than the network.
pub fn check_fit(architecture: &Architecture, classes: usize, dataset: &Dataset) -> Result<()> {
    check_task(architecture, dataset)?;
    if dataset.classes() > classes {
        bail!(
            "the data set has {} classes{}, and the network has only {classes}\nhint: measure it on the kind of data it was trained for",
            dataset.classes(),
            dataset.class_names().and_then(<[_]>::first).map(|name| format!(" ({name}, …)")).unwrap_or_default(),
        );
    }
    Ok(())
}

/// The same of a data set of which is known whether it has masks.
pub(crate) fn check_masks(architecture: &Architecture, masked: bool) -> Result<()> {
    match (architecture.task(), masked) {
        (Task::Images, false) | (Task::Pixels, true) => Ok(()),
        (Task::Pixels, false) => bail!(
            "{architecture} labels pixels, and the data set has no masks to compare with\n\
             hint: take a data set with masks, such as shapes-masks"
        ),
        (Task::Images, true) => {
            let pixels = architecture.zoo().map(|zoo| ZooArchitecture { task: Task::Pixels, ..zoo });
            let name =
                pixels.filter(ZooArchitecture::exists).map_or("fpn-resnet20".into(), |pixels| pixels.to_string());
            bail!(
                "{architecture} labels images, and the data set has a mask for each\nhint: take a segmentation network, such as {name}"
            )
        }
    }
}

/// Checks whether two networks can be compared: both label images, or both label pixels.
///
/// # Errors
/// If they do not; the error names both.
pub(crate) fn check_same_task(teacher: &Network, network: &Network) -> Result<()> {
    if teacher.rows_per_image() != network.rows_per_image() {
        let (teacher, network) = (&teacher.spec().architecture, &network.spec().architecture);
        bail!("{teacher} cannot be compared with {network}: one labels images and the other pixels");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_set_of_more_classes_is_refused() {
        let names = (0..4).map(|n| n.to_string()).collect();
        let dataset = Dataset::new([1, 1, 1], vec![0], vec![0], names).unwrap();
        let error = check_fit(&"resnet8".parse().unwrap(), 3, &dataset).unwrap_err().to_string();
        assert!(error.contains("4 classes") && error.contains("only 3"), "{error}");
    }
}
