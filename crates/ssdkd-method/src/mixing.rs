//! Views that are not of one image: mixtures of two, and of an image's own channels; and views in another light \[O\].
//!
//! ```text
//! x ← ½ + A·(x − ½), cut to [0, 1]     A = 1 + colour·N, N a matrix of standard normal numbers, one for each image
//! x ← x + λ·(x' − x)                   x' another image of the batch, λ uniform in [0, mixup], one for each image
//! x ← ½ + g·(x − ½) + o, cut to [0, 1] g = e^(light·(N − 0.4)/4), o = light·(0.11·N' + 0.03·N''), N and N' of an image and
//!                                      N'' of each of its channels standard normal numbers
//! ```
//!
//! In distillation the teacher labels each view itself, so a view need not look like data: it only has to be a place where
//! the student should agree. A small buffer reaches further this way, at the price of a copy. Mixtures in distillation are
//! those of "function matching" \[C: Beyer et al. 2022\]; random colours answer generators that settle on one palette,
//! random light those whose images are alike in brightness: their means have a deviation of 0.08, where those of CIFAR-10's
//! have 0.12. The median gain is below 1 since they are rich in contrast. Its numbers were tried at strength 1, as a whole.

use candle_core::{Result, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use ssdkd_nn::random::{normal_tensor, uniform_tensor};

/// Images (B, H, W, C) in `[0, 1]` with their channels mixed by random matrices; as they are if `strength` is 0.
pub fn mix_colours(images: &Tensor, strength: f64, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    if strength == 0.0 {
        return Ok(images.clone());
    }
    let (batch, height, width, channels) = images.dims4()?;
    let device = images.device();
    let noise = normal_tensor(rng, (batch, channels, channels), device)?;
    let matrices = Tensor::eye(channels, images.dtype(), device)?.broadcast_add(&(noise * strength)?)?; // (B, C, C)
    let centred = (images.reshape((batch, height * width, channels))? - 0.5)?; // (B, HW, C)
    (centred.matmul(&matrices)? + 0.5)?.clamp(0f32, 1f32)?.reshape((batch, height, width, channels))
}

/// Images (B, H, W, C), each with some of another one in it; as they are if `most` is 0.
pub fn mix_up(images: &Tensor, most: f64, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    if most == 0.0 {
        return Ok(images.clone());
    }
    let (batch, device) = (images.dim(0)?, images.device());
    // Slots in turn, so that each image is mixed into exactly one other.
    let turn = rng.random_range(1..batch.max(2));
    let partners =
        Tensor::cat(&[images.narrow(0, turn % batch, batch - turn % batch)?, images.narrow(0, 0, turn % batch)?], 0)?;
    let shares = uniform_tensor(rng, (0.0, most as f32), (batch, 1, 1, 1), device)?;
    images + (partners - images)?.broadcast_mul(&shares)?
}

/// Images (B, H, W, C) in `[0, 1]`, each in a light of its own: gain, offset and tint; as they are if `strength` is 0.
pub fn vary_light(images: &Tensor, strength: f64, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    if strength == 0.0 {
        return Ok(images.clone());
    }
    let (batch, _, _, channels) = images.dims4()?;
    let mut normal = |channels| normal_tensor(rng, (batch, 1, 1, channels), images.device());
    let gain = ((normal(1)? - 0.4)? * (strength / 4.0))?.exp()?;
    let offset = (normal(1)? * (0.11 * strength))?;
    let tint = (normal(channels)? * (0.03 * strength))?;
    let centre = offset.broadcast_add(&tint)?.affine(1.0, 0.5)?; // (B, 1, 1, C)
    images.affine(1.0, -0.5)?.broadcast_mul(&gain)?.broadcast_add(&centre)?.clamp(0f32, 1f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{formula, numbers};
    use ssdkd_nn::random::stream;

    fn images() -> Tensor {
        (formula(50, &[6, 4, 4, 3], 0.5) + 0.5).unwrap()
    }

    #[test]
    fn off_is_the_images_and_no_draw() {
        let mut rng = stream(0, "test", &[]);
        let before = rng.clone();
        assert_eq!(numbers(&mix_colours(&images(), 0.0, &mut rng).unwrap()), numbers(&images()));
        assert_eq!(numbers(&mix_up(&images(), 0.0, &mut rng).unwrap()), numbers(&images()));
        assert_eq!(numbers(&vary_light(&images(), 0.0, &mut rng).unwrap()), numbers(&images()));
        assert_eq!(rng, before);
    }

    #[test]
    fn a_mixture_lies_between_its_images() {
        let mixed = numbers(&mix_up(&images(), 0.5, &mut stream(1, "test", &[])).unwrap());
        let (plain, size) = (numbers(&images()), 4 * 4 * 3);
        let lies_between = |slot: usize, other: usize| {
            let pixels = (0..size).map(|at| {
                let [x, from, to] = [mixed[slot * size + at], plain[slot * size + at], plain[other * size + at]];
                (x - from) / (to - from)
            });
            let shares = pixels.collect::<Vec<_>>();
            (0.0..=0.5).contains(&shares[0]) && shares.iter().all(|share| (share - shares[0]).abs() < 1e-2)
        };
        for slot in 0..6 {
            let partners = (0..6).filter(|&other| other != slot && lies_between(slot, other)).count();
            assert_eq!(partners, 1, "slot {slot}");
        }
    }

    #[test]
    fn colours_change_and_outlines_stay() {
        let flat = Tensor::full(0.5f32, (2, 4, 4, 3), images().device()).unwrap();
        assert_eq!(numbers(&mix_colours(&flat, 2.0, &mut stream(2, "test", &[])).unwrap()), numbers(&flat));
        let mixed = mix_colours(&images(), 0.5, &mut stream(2, "test", &[])).unwrap();
        assert!(numbers(&mixed).iter().all(|x| (0.0..=1.0).contains(x)));
        assert_ne!(numbers(&mixed), numbers(&images()));
        // Pixels that are alike stay alike.
        let row = images().narrow(1, 0, 1).unwrap().repeat((1, 4, 1, 1)).unwrap();
        let mixed = mix_colours(&row, 0.5, &mut stream(2, "test", &[])).unwrap();
        let rows = [0, 3].map(|at| numbers(&mixed.narrow(1, at, 1).unwrap()));
        assert_eq!(rows[0], rows[1]);
    }

    /// Of (x, y) pairs with y = a + b·x: a and b.
    fn line(pairs: &[(f32, f32)]) -> (f32, f32) {
        let (low, high) = pairs.iter().fold((pairs[0], pairs[0]), |(low, high), &pair| {
            (if pair.0 < low.0 { pair } else { low }, if pair.0 > high.0 { pair } else { high })
        });
        let slope = (high.1 - low.1) / (high.0 - low.0);
        (low.1 - slope * low.0, slope)
    }

    #[test]
    fn light_stays_within_the_range_of_images() {
        let lit = numbers(&vary_light(&images(), 4.0, &mut stream(3, "test", &[])).unwrap());
        assert!(lit.iter().all(|x| (0.0..=1.0).contains(x)));
        assert!(lit.contains(&0.0) || lit.contains(&1.0), "nothing had to be cut");
    }

    #[test]
    fn light_is_one_line_a_channel_with_the_image_s_gain() {
        // Near the middle, so that nothing is cut.
        let plain = (formula(51, &[400, 4, 4, 3], 0.02) + 0.5).unwrap();
        let lit = vary_light(&plain, 1.0, &mut stream(3, "test", &[])).unwrap();
        let (plain, lit) = (numbers(&plain), numbers(&lit));
        let (mut gains, mut offsets, mut tints) = (vec![], vec![], vec![]);
        for (plain, lit) in plain.chunks(48).zip(lit.chunks(48)) {
            let lines = [0, 1, 2].map(|channel| {
                let pairs = plain.iter().copied().zip(lit.iter().copied()).skip(channel).step_by(3).collect::<Vec<_>>();
                let (at, slope) = line(&pairs);
                assert!(pairs.iter().all(|(x, y)| (at + slope * x - y).abs() < 1e-5));
                (at + slope / 2.0 - 0.5, slope)
            });
            assert!(lines.iter().all(|(_, slope)| (slope - lines[0].1).abs() < 1e-3), "{lines:?}");
            gains.push(lines[0].1.ln());
            let offset = (lines[0].0 + lines[1].0 + lines[2].0) / 3.0;
            offsets.push(offset);
            tints.extend(lines.map(|(at, _)| at - offset));
        }
        let moments = |numbers: &[f32]| {
            let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
            [mean, (numbers.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / numbers.len() as f32).sqrt()]
        };
        // An offset also has the mean of three tints, which a tint then lacks.
        let spread = |x: f32, share: f32| (x * x + share * 0.03 * 0.03).sqrt();
        let wanted = [[-0.1, 0.25], [0.0, spread(0.11, 1.0 / 3.0)], [0.0, spread(0.0, 2.0 / 3.0)]];
        for (numbers, wanted) in [gains, offsets, tints].iter().zip(wanted) {
            let found = moments(numbers);
            // Four deviations of a mean of 400, and of a deviation of 400.
            assert!((found[0] - wanted[0]).abs() < 0.2 * wanted[1], "{found:?} {wanted:?}");
            assert!((found[1] / wanted[1] - 1.0).abs() < 0.15, "{found:?} {wanted:?}");
        }
    }
}
