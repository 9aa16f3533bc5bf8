//! Seeded randomness: every draw is a pure function of a seed, a purpose and an index.
//!
//! There is no generator that lives on from one draw to the next. So a stage can be resumed, repeated or run on its own,
//! and draws the same numbers; and a new draw somewhere changes no other.

use candle_core::{Device, Result, Shape, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// Returns the stream of numbers for `purpose` at `index`, such as `("draws", &[round, step])`.
pub fn stream(seed: u64, purpose: &str, index: &[u64]) -> ChaCha8Rng {
    // Every part has a fixed length or is preceded by its length, so that no two keys are spelled alike.
    let mut key = blake3::Hasher::new();
    key.update(&seed.to_le_bytes());
    key.update(&(purpose.len() as u64).to_le_bytes());
    key.update(purpose.as_bytes());
    for part in index {
        key.update(&part.to_le_bytes());
    }
    ChaCha8Rng::from_seed(*key.finalize().as_bytes())
}

/// Returns standard normal numbers.
pub fn normal_tensor(rng: &mut ChaCha8Rng, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    let values = (0..shape.elem_count()).map(|_| rng.sample::<f32, _>(StandardNormal)).collect::<Vec<_>>();
    Tensor::from_vec(values, shape, device)
}

/// Numbers uniform in `[low, high)`.
pub fn uniform_tensor(
    rng: &mut ChaCha8Rng,
    (low, high): (f32, f32),
    shape: impl Into<Shape>,
    device: &Device,
) -> Result<Tensor> {
    let shape = shape.into();
    let values = (0..shape.elem_count()).map(|_| low + (high - low) * rng.random::<f32>()).collect::<Vec<_>>();
    Tensor::from_vec(values, shape, device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_in_every_part_of_their_key_and_repeat() {
        let first = |seed, purpose, index: &[u64]| stream(seed, purpose, index).random::<u64>();
        let keys = [
            first(1, "a", &[2, 3]),
            first(2, "a", &[2, 3]),
            first(1, "b", &[2, 3]),
            first(1, "a", &[3, 2]),
            first(1, "a", &[2]),
            first(1, "a", &[]),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(key), "key {at}");
        }
        assert_eq!(keys[0], first(1, "a", &[2, 3]));
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() -> Result<()> {
        let values = normal_tensor(&mut stream(0, "test", &[]), 20_000, &Device::Cpu)?.to_vec1::<f32>()?;
        let mean = values.iter().sum::<f32>() / 20_000.0;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
        Ok(())
    }
}
