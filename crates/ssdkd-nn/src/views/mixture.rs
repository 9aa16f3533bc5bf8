//! Views with a part of another image of the batch.

use candle_core::{Result, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::random::uniform_tensor;

/// The batch turned on by a random number of images: each image gets another one as its partner, and each is the partner of one.
fn partners(images: &Tensor, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let batch = images.dim(0)?;
    let turn = rng.random_range(1..batch.max(2)) % batch;
    Tensor::cat(&[images.narrow(0, turn, batch - turn)?, images.narrow(0, 0, turn)?], 0)
}

/// Covers a random rectangle of each image (B, H, W, C) with the same part of another one of the batch: up to a share `most` of the
/// pixels. At `most` 0 images stay as they are.
pub fn cut_and_paste(images: &Tensor, most: f64, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    if most == 0.0 {
        return Ok(images.clone());
    }
    let (batch, height, width, _) = images.dims4()?;
    let partners = partners(images, rng)?;
    let mut covered = vec![0f32; batch * height * width];
    for mask in covered.chunks_exact_mut(height * width) {
        // Height and width of the rectangle have the image's proportions.
        let side = (most * rng.random::<f64>()).sqrt();
        let [rows, columns] = [height, width].map(|size| ((size as f64 * side).round() as usize).min(size));
        let (top, left) = (rng.random_range(0..=height - rows), rng.random_range(0..=width - columns));
        for row in mask.chunks_exact_mut(width).skip(top).take(rows) {
            row[left..left + columns].fill(1.0);
        }
    }
    let covered = Tensor::from_vec(covered, (batch, height, width, 1), images.device())?;
    images + (partners - images)?.broadcast_mul(&covered)?
}

/// Adds to each image (B, H, W, C) up to a share `most` of another one of the batch. At `most` 0 images stay as they are.
pub fn mix_up(images: &Tensor, most: f64, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    if most == 0.0 {
        return Ok(images.clone());
    }
    let (batch, device) = (images.dim(0)?, images.device());
    let partners = partners(images, rng)?;
    let shares = uniform_tensor(rng, (0.0, most as f32), (batch, 1, 1, 1), device)?;
    images + (partners - images)?.broadcast_mul(&shares)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::fixtures::{images, numbers, rng};
    use crate::views::place;

    #[test]
    fn a_pasted_rectangle_is_of_one_other_image_and_not_too_large() {
        let flat = (0..6).map(|image| vec![image as f32; 10 * 20]).collect::<Vec<_>>().concat();
        let images = Tensor::from_vec(flat, (6, 10, 20, 1), &place::device()).unwrap();
        let pasted = numbers(&cut_and_paste(&images, 0.5, &mut rng(10)).unwrap());
        let mut covered = 0;
        for (image, pixels) in pasted.chunks(200).enumerate() {
            let foreign = pixels.iter().filter(|pixel| **pixel != image as f32).collect::<Vec<_>>();
            assert!(foreign.len() <= 110 && foreign.iter().all(|pixel| *pixel == foreign[0]), "{foreign:?}");
            covered += foreign.len();
        }
        assert!(covered > 100, "{covered}");
    }

    #[test]
    fn a_mixture_lies_between_its_images() {
        let mixed = numbers(&mix_up(&images(), 0.5, &mut rng(1)).unwrap());
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
}
