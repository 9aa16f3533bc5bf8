//! The procedural data set: ten kinds of figure, drawn in 32×32 color images.
//!
//! Data-free distillation is measured against real data, and real data is what a fresh checkout does not have. This set needs
//! no download and has no license to ask about: an image is a pure function of (seed, split, index), made with integer and
//! basic IEEE arithmetic only (no `sin`, no `exp`), so it is the same on every platform and at any thread count.
//!
//! Color, texture, position, size, lean, light and clutter are drawn independently of the class; only the outline tells the
//! classes apart, and a figure may be lighter or darker than its ground. A linear model on the pixels therefore fails, while
//! a small convolutional network learns the set in a minute.

mod figure;
mod paint;
mod random;
mod scene;

use rayon::prelude::*;

use crate::{Dataset, Split};
use scene::Scene;

/// Height and width of an image, pixels.
pub const SIDE: usize = 32;

/// Images that [`open`](crate::open()) makes for training.
pub const TRAIN_IMAGES: usize = 20_000;

/// Images that [`open`](crate::open()) makes for testing.
pub const TEST_IMAGES: usize = 5_000;

/// What the classes are called, in order.
pub const CLASS_NAMES: [&str; 10] =
    ["disc", "ring", "square", "triangle", "star", "cross", "crescent", "heart", "arrow", "bolt"];

/// What is around a figure, before the figures among the classes of pixels.
pub const BACKGROUND: &str = "background";

/// Draws the first `count` images of a split. Classes take turns, so any first part is balanced.
pub fn generate(seed: u64, split: Split, count: usize) -> Dataset {
    let (images, _) = draw(seed, split, count);
    let labels = (0..count).map(|index| (index % CLASS_NAMES.len()) as u32).collect();
    Dataset::new([3, SIDE, SIDE], images, labels, CLASS_NAMES.map(String::from).to_vec())
        .expect("lengths and labels follow from `count`")
}

/// Returns the same images, with a class for each pixel: [`BACKGROUND`], or behind it the figure's.
pub fn generate_masked(seed: u64, split: Split, count: usize) -> Dataset {
    let (images, masks) = draw(seed, split, count);
    let labels = (0..count).map(|index| (index % CLASS_NAMES.len()) as u32 + 1).collect();
    let names = std::iter::once(BACKGROUND).chain(CLASS_NAMES).map(String::from).collect();
    Dataset::new([3, SIDE, SIDE], images, labels, names)
        .and_then(|dataset| dataset.with_masks(masks))
        .expect("lengths, labels and masks follow from `count`")
}

/// Images (N, C, H, W) and masks (N, H, W): 0 around the figure, 1 + its class inside.
fn draw(seed: u64, split: Split, count: usize) -> (Vec<u8>, Vec<u8>) {
    const PIXELS: usize = SIDE * SIDE;
    let mut images = vec![0; count * 3 * PIXELS];
    let mut masks = vec![0; count * PIXELS];
    images.par_chunks_exact_mut(3 * PIXELS).zip(masks.par_chunks_exact_mut(PIXELS)).enumerate().for_each(
        |(index, (image, mask))| {
            let class = index % CLASS_NAMES.len();
            let mut rng = random::Draw::new(seed, split, index as u64);
            Scene::random(&mut rng, class).render(&mut rng, image, mask);
        },
    );
    (images, masks)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes whenever the set changes: then the shipped teacher no longer fits it and must be made again.
    #[test]
    fn the_set_is_what_it_always_was() {
        let digest = |seed, split| generate(seed, split, 200).digest().to_hex()[..16].to_string();
        assert_eq!(digest(0, Split::Train), "85c4f3e79db5f0e6");
        assert_eq!(digest(0, Split::Test), "8c22596829eb5c3f");
        assert_ne!(digest(1, Split::Test), digest(0, Split::Test));
    }

    #[test]
    fn threads_and_length_change_nothing() {
        let within = |threads, count| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| generate_masked(3, Split::Test, count))
        };
        let (one, three) = (within(1, 60), within(3, 90));
        assert_eq!(one.images(), &three.images()[..one.images().len()]);
        assert_eq!(one.masks().unwrap(), &three.masks().unwrap()[..one.masks().unwrap().len()]);
    }

    #[test]
    fn classes_are_balanced() {
        assert_eq!(generate(0, Split::Train, 250).class_counts(), [25; 10]);
    }

    #[test]
    fn the_mask_holds_the_figure_and_only_its_class() {
        let dataset = generate_masked(5, Split::Train, 300);
        assert_eq!(dataset.images(), generate(5, Split::Train, 300).images());
        for index in 0..dataset.len() {
            let mask = dataset.mask(index).unwrap();
            let inside = dataset.label(index) as u8;
            assert!(mask.iter().all(|&value| value == 0 || value == inside), "image {index}");
            let area = mask.iter().map(|&value| usize::from(value == inside)).sum::<usize>();
            assert!((35..700).contains(&area), "image {index} ({}) has {area} pixels", dataset.label(index));
        }
    }

    /// The figure differs in color from what surrounds it: otherwise the mask is somewhere else than the figure.
    #[test]
    fn the_mask_agrees_with_the_image() {
        let dataset = generate_masked(5, Split::Test, 500);
        let mean = |image: &[u8], mask: &[u8], inside: bool| {
            let chosen = (0..mask.len()).filter(|&at| (mask[at] != 0) == inside).collect::<Vec<_>>();
            [0, 1, 2].map(|c| {
                let total: f64 = chosen.iter().map(|&at| f64::from(image[c * mask.len() + at])).sum();
                total / chosen.len() as f64
            })
        };
        let apart = (0..dataset.len())
            .filter(|&index| {
                let (image, mask) = (dataset.image(index), dataset.mask(index).unwrap());
                let (figure, ground) = (mean(image, mask, true), mean(image, mask, false));
                figure.iter().zip(ground).map(|(f, g)| (f - g).abs()).sum::<f64>() > 40.0
            })
            .count();
        assert!(apart >= 480, "only {apart} of 500 figures stand out from their ground");
    }

    /// Multinomial logistic regression on the pixels, trained by plain gradient descent on one image at a time.
    fn linear_accuracy(train: &Dataset, test: &Dataset) -> f64 {
        let classes = CLASS_NAMES.len();
        let pixels = |image: &[u8]| image.iter().map(|&level| f32::from(level) / 255.0 - 0.5).collect::<Vec<_>>();
        let scores = |weights: &[Vec<f32>], x: &[f32]| {
            weights.iter().map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>()).collect::<Vec<_>>()
        };
        let mut weights = vec![vec![0.0_f32; 3 * SIDE * SIDE]; classes];
        for epoch in 0..8 {
            let rate = 0.003 / (1.0 + epoch as f32);
            for index in 0..train.len() {
                let x = pixels(train.image(index));
                let scores = scores(&weights, &x);
                let largest = scores.iter().copied().fold(f32::MIN, f32::max);
                let powers = scores.iter().map(|score| (score - largest).exp()).collect::<Vec<_>>();
                let total = powers.iter().sum::<f32>();
                for (class, row) in weights.iter_mut().enumerate() {
                    let truth = if class as u32 == train.label(index) { 1.0 } else { 0.0 };
                    let step = rate * (truth - powers[class] / total);
                    row.iter_mut().zip(&x).for_each(|(w, x)| *w += step * x);
                }
            }
        }
        let right = (0..test.len()).filter(|&index| {
            let scores = scores(&weights, &pixels(test.image(index)));
            let best = (0..classes).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            best == Some(test.label(index) as usize)
        });
        right.count() as f64 / test.len() as f64
    }

    #[test]
    fn a_linear_model_on_the_pixels_fails() {
        let accuracy = linear_accuracy(&generate(0, Split::Train, 3000), &generate(0, Split::Test, 1000));
        assert!((0.1..0.4).contains(&accuracy), "{accuracy}");
    }
}
