//! Views that are not of one image: mixtures of two, and of an image's own channels \[O\].
//!
//! ```text
//! x ← ½ + A·(x − ½), cut to [0, 1]     A = 1 + colour·N, N a matrix of standard normal numbers, one for each image
//! x ← x + λ·(x' − x)                   x' another image of the batch, λ uniform in [0, mixup], one for each image
//! ```
//!
//! In distillation the teacher labels each view itself, so a view need not look like data: it only has to be a place where
//! the student should agree. A small buffer reaches further this way, at the price of a copy. Mixtures in distillation are
//! those of "function matching" \[C: Beyer et al. 2022\]; random colours answer generators that settle on one palette.

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
}
