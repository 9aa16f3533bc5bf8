//! Measures a network on a data set.

use candle_core::{Result, Tensor};
use ssdkd_data::{Dataset, UNLABELLED};
use ssdkd_nn::Network;

use crate::evaluation::Evaluation;
use crate::fit::{check_fit, check_same_task};
use crate::tally::Tally;

/// Returns the logits of images (B, H, W, C): (B, K), or where the network labels pixels a row for each pixel.
pub(crate) fn logits(network: &Network, images: &Tensor) -> Result<Vec<f32>> {
    network.logits(images)?.flatten_all()?.to_vec1::<f32>()
}

/// Measures `network` on all images of `dataset`, `batch` at a time.
///
/// # Errors
/// If the data set has another shape or more classes than the network or [another task](crate::check_task), or the network gives numbers
/// that are not finite.
pub fn evaluate(network: &Network, dataset: &Dataset, batch: usize) -> Result<Evaluation> {
    evaluate_beside(network, None, dataset, batch, |_| Ok(()))
}

/// As [`evaluate`], and how often `teacher` agrees. `after_batch` hears how many images are done, and may end it.
pub fn evaluate_beside(
    network: &Network,
    teacher: Option<&Network>,
    dataset: &Dataset,
    batch: usize,
    mut after_batch: impl FnMut(usize) -> Result<()>,
) -> Result<Evaluation> {
    check_fit(&network.spec().architecture, network.classes(), dataset)?;
    let mut tally = Tally::new(network.classes(), dataset);
    let rows = network.rows_per_image();
    if let Some(teacher) = teacher {
        check_same_task(teacher, network)?;
    }
    let [channels, height, width] = dataset.shape();
    let indices = (0..dataset.len()).collect::<Vec<_>>();
    for indices in indices.chunks(batch.max(1)) {
        let images = dataset.gather(indices);
        let images = Tensor::from_vec(images, (indices.len(), height, width, channels), network.store().device())?;
        let logits = logits(network, &images)?;
        let teacher_logits = teacher.map(|teacher| self::logits(teacher, &images)).transpose()?;
        let label = |row: usize| match dataset.mask(indices[row / rows]) {
            Some(mask) => Some(mask[row % rows]).filter(|&class| class != UNLABELLED).map(usize::from),
            None => Some(dataset.label(indices[row]) as usize),
        };
        let classes = network.classes();
        for (row, logits) in logits.chunks_exact(classes).enumerate() {
            let teacher_logits = teacher_logits.as_ref().map(|logits| &logits[row * classes..][..classes]);
            if let Some(label) = label(row) {
                tally.add(label, logits, teacher_logits)?;
            }
        }
        tally.images += indices.len();
        after_batch(tally.images)?;
    }
    Ok(tally.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::largest;

    #[test]
    fn pixels_of_no_class_count_nothing() {
        let spec = ssdkd_nn::NetworkSpec {
            architecture: "fpn-resnet8".parse().unwrap(),
            classes: 2,
            input: [1, 4, 4],
            mean: vec![0.5],
            std: vec![0.5],
            preprocessing: ssdkd_nn::Preprocessing::default(),
        };
        let network = Network::create(&spec, 1, &candle_core::Device::Cpu).unwrap();
        let images = (0..32).map(|at| at * 8).collect::<Vec<u8>>();
        let names = ["a", "b"].map(String::from).to_vec();
        let plain = Dataset::new([1, 4, 4], images, vec![0, 1], names).unwrap();
        let evaluate = |masks: Vec<u8>| evaluate(&network, &plain.clone().with_masks(masks).unwrap(), 1).unwrap();
        let all = evaluate(vec![1; 32]);
        assert_eq!((all.images, all.confusion[1].iter().sum::<u64>()), (2, 32));
        let half = evaluate([vec![UNLABELLED; 16], vec![1; 16]].concat());
        assert_eq!((half.images, half.confusion[1].iter().sum::<u64>()), (2, 16));
        // Against images that are of one class: a network of pixels has nothing to compare with.
        let error = super::evaluate(&network, &plain, 1).unwrap_err().to_string();
        assert!(error.contains("fpn-resnet8 labels pixels") && error.contains("hint:"), "{error}");
    }

    #[test]
    fn masks_of_oblong_images_are_compared_pixel_by_pixel() {
        let spec = ssdkd_nn::NetworkSpec {
            architecture: "fpn-resnet8".parse().unwrap(),
            classes: 3,
            input: [3, 24, 40],
            mean: vec![0.5; 3],
            std: vec![0.5; 3],
            preprocessing: ssdkd_nn::Preprocessing::default(),
        };
        let network = Network::create(&spec, 1, &candle_core::Device::Cpu).unwrap();
        let images = (0..2 * 3 * 24 * 40).map(|at| (at * at / 7 % 256) as u8).collect::<Vec<_>>();
        let names = ["a", "b", "c"].map(String::from).to_vec();
        let data = Dataset::new([3, 24, 40], images, vec![0, 0], names).unwrap();
        let batch = Tensor::from_vec(data.gather(&[0, 1]), (2, 24, 40, 3), &candle_core::Device::Cpu).unwrap();
        let masks =
            logits(&network, &batch).unwrap().chunks_exact(3).map(|logits| largest(logits) as u8).collect::<Vec<_>>();
        let is_varied = masks.iter().any(|class| *class != masks[0]);
        let found = evaluate(&network, &data.with_masks(masks).unwrap(), 1).unwrap();
        assert_eq!((is_varied, found.top1, found.mean_iou), (true, 1.0, Some(1.0)));
    }
}
