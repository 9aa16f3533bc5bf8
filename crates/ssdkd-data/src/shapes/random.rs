//! Random numbers for one image, spelled out down to the bits, so that no library update can change the data set.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::Split;

/// The stream of one image.
pub(super) struct Draw(ChaCha8Rng);

impl Draw {
    pub(super) fn new(seed: u64, split: Split, index: u64) -> Self {
        let mut key = blake3::Hasher::new_derive_key("ssdkd shapes data set v1");
        for part in [seed, split as u64, index] {
            key.update(&part.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(*key.finalize().as_bytes()))
    }

    /// Returns a number that is uniform in `[0, 1)`, 24 bits.
    pub(super) fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Returns a number that is uniform in `[low, high)`.
    pub(super) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Returns a number that is uniform in `0..count`.
    pub(super) fn below(&mut self, count: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(count)) >> 32) as u32
    }

    pub(super) fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// Returns a random direction, without `sin` and `cos`: a point of the unit disc, pushed to its rim.
    pub(super) fn direction(&mut self) -> [f32; 2] {
        loop {
            let (x, y) = (self.between(-1.0, 1.0), self.between(-1.0, 1.0));
            let squared = x * x + y * y;
            if (0.01..=1.0).contains(&squared) {
                let length = squared.sqrt();
                return [x / length, y / length];
            }
        }
    }

    /// Returns a direction near (1, 0): its second number is within ±`most`.
    pub(super) fn lean(&mut self, most: f32) -> [f32; 2] {
        let sin = self.between(-most, most);
        [(1.0 - sin * sin).sqrt(), sin]
    }

    /// Bell-shaped, mean 0, variance 1: the sum of four uniform bytes, which is normal enough for sensor noise.
    pub(super) fn bell(&mut self) -> f32 {
        let sum: u32 = self.0.next_u32().to_le_bytes().map(u32::from).iter().sum();
        // Four bytes: mean 4·127.5, variance 4·(256² − 1)/12.
        (sum as f32 - 510.0) * (1.0 / 147.799)
    }
}
