//! The teacher's prediction for a whole image.
//!
//! A classifier's row of logits is one. A segmentation network gives S rows for each image, and the buffer, its balance
//! and its pictures still need one class and one confidence. Over the S pixels i of an image x of a batch \[O\]:
//!
//! ```text
//! a_c(x)   = share of the pixels with argmax t_i = c
//! class(x) = argmax over c of a_c(x) / (ā_c + 1/B)            ā_c: the mean of a_c over the batch, of B images
//! p(x)     = mean over i of softmax t_i                       its logarithm stands for the image's logits
//! confidence(x) = mean over i of max softmax t_i
//! ```
//!
//! Most pixels of most images are of the same few classes, of ground and sky; an image counts as one of what it has more of than
//! others do. 1/B is as much as one image of nothing else would add to the mean: a few stray pixels of a class that the batch has
//! nowhere else are not enough. With S = 1 all of this is the class, the confidence and (but for a constant) the logits of the row.

use candle_core::{Device, Result, Tensor, bail};
use ssdkd_ops as ops;

/// The teacher's predictions, one for each image.
#[derive(Debug, Clone)]
pub struct Predictions {
    /// (B,)
    pub classes: Vec<u32>,
    /// (B,), in `(0, 1]`.
    pub confidences: Vec<f32>,
    /// (B, K)
    pub logits: Tensor,
    /// (B·S,): the classes of the rows, where an image has several.
    pub pixels: Option<Vec<u32>>,
}

impl Predictions {
    /// Reads logits (B·S, K), `rows` = S of them for each image.
    ///
    /// # Errors
    /// If the rows are not those of whole images.
    pub fn of(logits: &Tensor, rows: usize) -> Result<Self> {
        // Once: a GPU is waited for.
        Self::of_read(logits, &logits.to_device(&Device::Cpu)?, rows)
    }

    /// As [`of`](Self::of), where `here` are the same numbers on the CPU.
    pub(crate) fn of_read(logits: &Tensor, here: &Tensor, rows: usize) -> Result<Self> {
        let classes = ops::argmax(here)?;
        let confidences = ops::confidence(here)?;
        if rows == 1 {
            return Ok(Self { classes, confidences, logits: logits.clone(), pixels: None });
        }
        let (total, count) = logits.dims2()?;
        if rows == 0 || !total.is_multiple_of(rows) {
            bail!("{total} rows of logits are not those of whole images, {rows} for each");
        }
        let probabilities = ops::softmax(here)?.reshape((total / rows, rows, count))?;
        Ok(Self {
            classes: most_unusual(&classes, rows, count),
            confidences: ops::group_means(&Tensor::from_vec(confidences, total, &Device::Cpu)?, rows)?.to_vec1()?,
            // What no pixel of any image can be has the smallest logarithm there is, and not none.
            logits: probabilities.mean(1)?.clamp(f32::MIN_POSITIVE, 1.0)?.log()?.to_device(logits.device())?,
            pixels: Some(classes),
        })
    }
}

/// Returns for each image the class that it has most of, relative to the batch's mean share; of equal ones the first.
fn most_unusual(classes: &[u32], rows: usize, count: usize) -> Vec<u32> {
    let tally = |classes: &[u32]| {
        let mut counts = vec![0_u64; count];
        for &class in classes {
            counts[class as usize] += 1;
        }
        counts
    };
    let overall = tally(classes);
    let of_image = |classes: &[u32]| {
        let mut best = classes[0] as usize;
        let counts = tally(classes);
        // Fractions of whole numbers, which decide alike everywhere.
        let (part, whole) = (|class: usize| counts[class], |class: usize| overall[class] + rows as u64);
        for class in 0..count {
            let (ours, theirs) = (part(class) * whole(best), part(best) * whole(class));
            if ours > theirs || (ours == theirs && class < best) {
                best = class;
            }
        }
        best as u32
    };
    classes.chunks_exact(rows).map(of_image).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{formula, numbers};

    #[test]
    fn one_row_an_image_is_its_own_prediction() {
        let logits = formula(3, &[5, 4], 2.0);
        let predictions = Predictions::of(&logits, 1).unwrap();
        assert_eq!(predictions.classes, ops::argmax(&logits).unwrap());
        assert_eq!(predictions.confidences, ops::confidence(&logits).unwrap());
        assert_eq!(numbers(&predictions.logits), numbers(&logits));
        assert!(predictions.pixels.is_none());
        assert!(Predictions::of(&logits, 2).is_err() && Predictions::of(&logits, 0).is_err());
    }

    #[test]
    fn an_image_counts_as_what_it_has_more_of_than_others() {
        // Three images of four pixels: half and a quarter of the ground (0), and of the ground alone.
        assert_eq!(most_unusual(&[0, 0, 1, 1, 0, 2, 2, 2, 0, 0, 0, 0], 4, 3), [1, 2, 0]);
        // A stray pixel does not make an image one of its class.
        assert_eq!(most_unusual(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], 8, 2), [0, 0]);
        // What all have the same of does not tell them apart: the first.
        assert_eq!(most_unusual(&[0, 1, 1, 0], 2, 2), [0, 0]);
        assert_eq!(most_unusual(&[1, 1, 0, 1, 0, 0, 0, 1, 1], 3, 2), [1, 0, 1]);
    }

    #[test]
    fn probabilities_are_means_over_pixels() {
        let logits = formula(4, &[6, 3], 2.0);
        let predictions = Predictions::of(&logits, 3).unwrap();
        assert_eq!(predictions.pixels, Some(ops::argmax(&logits).unwrap()));
        let probabilities = numbers(&ops::softmax(&logits).unwrap());
        let found = numbers(&predictions.logits);
        for image in 0..2 {
            for class in 0..3 {
                let mean = (0..3).map(|pixel| probabilities[9 * image + 3 * pixel + class]).sum::<f32>() / 3.0;
                assert!((found[3 * image + class].exp() - mean).abs() < 1e-6);
            }
            let confidences = &ops::confidence(&logits).unwrap()[3 * image..][..3];
            assert!((predictions.confidences[image] - confidences.iter().sum::<f32>() / 3.0).abs() < 1e-6);
        }
    }
}
