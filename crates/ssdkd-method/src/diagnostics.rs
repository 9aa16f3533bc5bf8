//! Whether synthetic images are any good, before a student has spent hours on them \[O\].
//!
//! Three figures that need the teacher alone:
//!
//! - **agreement**: the share of images whose teacher class survives a random view; where the teacher labels pixels, of those that
//!   the view shows. Near 1 for real images; low where the generator found adversarial noise.
//! - **feature spread**: mean cosine distance between images of one class in the teacher's penultimate features. Near
//!   zero where the generator makes one image a class.
//! - **pixel spread**: standard deviation of a pixel over the images of one class, averaged over pixels.
//!
//! Good figures are necessary, not sufficient: recognisable, varied, stable images can still teach little. What they do
//! show early is a generator that has collapsed or has learned to make noise.

use candle_core::{Result, Tensor};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use ssdkd_nn::views::view;
use ssdkd_nn::{CropFlipSettings, Mode, Network};
use ssdkd_ops as ops;
use ssdkd_ops::Value;

use crate::predictions::Predictions;

/// Figures of a set of images; see the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diagnostics {
    /// Share of images, or of pixels, in `[0, 1]`.
    pub agreement: f64,
    /// Mean cosine distance, in `[0, 2]`, averaged over the images of classes with at least two; 0 if there is none.
    pub feature_spread: f64,
    /// Mean standard deviation in units of the image's range, averaged alike.
    pub pixel_spread: f64,
}

/// Pixels in one forward pass, and images of fewer pixels: bounds the memory, changes no figure.
const PIXELS: usize = 256 * 32 * 32;
const IMAGES: usize = 256;

/// Returns the figures of `images` (N, H, W, C) in `[0, 1]`.
pub fn diagnose(
    teacher: &Network,
    images: &Tensor,
    views: CropFlipSettings,
    rng: &mut ChaCha8Rng,
) -> Result<Diagnostics> {
    let (total, height, width, _) = images.dims4()?;
    let most = (PIXELS / (height * width).max(1)).clamp(1, IMAGES);
    let mut classes = Vec::with_capacity(total);
    let mut features = Vec::with_capacity(total);
    let rows = teacher.rows_per_image();
    let (mut stable, mut seen) = (0, 0);
    for start in (0..total).step_by(most) {
        let chunk = Value::constant(images.narrow(0, start, most.min(total - start))?.contiguous()?);
        let clean = teacher.forward(&chunk, Mode::Eval)?;
        let how = views.draw(chunk.dims()[0], rng);
        let viewed = teacher.forward(&view(&chunk, how.as_ref())?, Mode::Eval)?;
        let clean_classes = ops::argmax(clean.logits.tensor())?;
        let viewed_classes = ops::argmax(viewed.logits.tensor())?;
        let expected = match &how {
            Some(how) if rows > 1 => {
                let clean = clean_classes.into_iter().map(Some).collect::<Vec<_>>();
                ops::crop_flip_masks(&clean, [chunk.dims()[0], height, width], how)?
            }
            _ => clean_classes.into_iter().map(Some).collect(),
        };
        seen += expected.iter().flatten().count();
        stable += expected.iter().zip(&viewed_classes).filter(|(a, b)| **a == Some(**b)).count();
        classes.extend(Predictions::of(clean.logits.tensor(), rows)?.classes);
        features.extend(clean.features.tensor().to_vec2::<f32>()?);
    }
    let pixels = images.flatten_from(1)?.to_vec2::<f32>()?;
    Ok(Diagnostics {
        agreement: stable as f64 / seen.max(1) as f64,
        feature_spread: within_classes(&classes, &features, mean_cosine_distance),
        pixel_spread: within_classes(&classes, &pixels, mean_deviation),
    })
}

/// Returns `spread` of every class with at least two rows, averaged with the number of rows as weight.
fn within_classes(classes: &[u32], rows: &[Vec<f32>], spread: fn(&[&[f32]]) -> f64) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for class in 0..=classes.iter().copied().max().unwrap_or(0) {
        let of_class = classes.iter().zip(rows).filter(|(c, _)| **c == class).map(|(_, row)| row.as_slice());
        let of_class = of_class.collect::<Vec<_>>();
        if of_class.len() >= 2 {
            sum += spread(&of_class) * of_class.len() as f64;
            count += of_class.len();
        }
    }
    if count == 0 { 0.0 } else { sum / f64::from(count as u32) }
}

/// Over all pairs of rows; with unit rows u this is 1 − (‖Σ u‖² − Σ ‖u‖²) / (n·(n − 1)), no loop over pairs.
fn mean_cosine_distance(rows: &[&[f32]]) -> f64 {
    let mut sum = vec![0.0; rows[0].len()];
    let mut own = 0.0;
    for row in rows {
        let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(1e-12);
        for (total, &x) in sum.iter_mut().zip(*row) {
            let unit = f64::from(x) / norm;
            *total += unit;
            own += unit * unit;
        }
    }
    let n = rows.len() as f64;
    let pairs = sum.iter().map(|total| total * total).sum::<f64>() - own;
    1.0 - pairs / (n * (n - 1.0))
}

/// Returns the standard deviation (biased) of each column, averaged over columns.
fn mean_deviation(rows: &[&[f32]]) -> f64 {
    let (n, columns) = (rows.len() as f64, rows[0].len());
    let mut means = vec![0.0; columns];
    for row in rows {
        means.iter_mut().zip(*row).for_each(|(mean, &x)| *mean += f64::from(x) / n);
    }
    let mut variances = vec![0.0; columns];
    for row in rows {
        for ((variance, mean), &x) in variances.iter_mut().zip(&means).zip(*row) {
            *variance += (f64::from(x) - mean).powi(2) / n;
        }
    }
    variances.into_iter().map(f64::sqrt).sum::<f64>() / columns as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_distance_is_that_of_all_pairs() {
        let rows: [&[f32]; 3] = [&[1.0, 0.0], &[0.0, 2.0], &[-3.0, 0.0]];
        // Pairs: 1, 2, 1.
        assert!((mean_cosine_distance(&rows) - 4.0 / 3.0).abs() < 1e-12);
        assert!(mean_cosine_distance(&[&[0.3, 0.1], &[0.6, 0.2]]).abs() < 1e-7);
    }

    #[test]
    fn deviation_is_per_pixel() {
        let rows: [&[f32]; 2] = [&[0.0, 0.5], &[1.0, 0.5]];
        assert!((mean_deviation(&rows) - 0.25).abs() < 1e-12);
    }

    #[test]
    fn classes_count_by_their_images_and_singles_not_at_all() {
        let rows = [0.0, 1.0, 5.0, 5.0, 9.0].map(|x| vec![x]);
        // Class 0 deviates by 0.5, class 1 by 0; class 2 is alone.
        assert!((within_classes(&[0, 0, 1, 1, 2], &rows, mean_deviation) - 0.25).abs() < 1e-12);
        assert_eq!(within_classes(&[0, 1], &rows[..2], mean_deviation), 0.0);
    }

    #[test]
    fn figures_of_images_that_a_network_has_seen() {
        use crate::fixtures::{formula, network};
        use ssdkd_nn::random::stream;
        let teacher = network(1);
        let images = (formula(50, &[12, 8, 8, 3], 0.5) + 0.5).unwrap();
        let still = diagnose(&teacher, &images, CropFlipSettings::OFF, &mut stream(0, "test", &[])).unwrap();
        assert_eq!(still.agreement, 1.0, "nothing was moved");
        // Uniform pixels deviate by 1/√12 but for the bias of few images.
        assert!((0.2..0.3).contains(&still.pixel_spread), "{still:?}");
        assert!((0.0..1.0).contains(&still.feature_spread) && still.feature_spread > 0.0, "{still:?}");
        let copies = images.narrow(0, 0, 1).unwrap().repeat((5, 1, 1, 1)).unwrap();
        let collapsed = diagnose(&teacher, &copies, CropFlipSettings::default(), &mut stream(0, "test", &[])).unwrap();
        assert!(collapsed.feature_spread.abs() < 1e-6 && collapsed.pixel_spread < 1e-6, "{collapsed:?}");
    }
}
