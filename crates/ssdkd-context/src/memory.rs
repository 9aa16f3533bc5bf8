//! What an earlier stage of the same process still has in memory.
//!
//! Everything here is kept under the digest of the file that holds the same numbers. A stage that finds nothing reads the file. So
//! one process or five, the results are the same, and only the time differs.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use candle_core::{Device, Tensor};
use ssdkd_method::{Distiller, Inversion};
use ssdkd_nn::Network;
use ssdkd_shards::ImageShard;

use crate::images;

/// Networks and images of earlier stages.
#[derive(Default)]
pub struct Memory {
    pub(crate) teacher: Slot<Rc<Network>>,
    /// The student after the last round.
    pub student: Slot<Rc<Network>>,
    /// The generator after the last round, with its state.
    pub generator: Slot<Box<dyn Inversion>>,
    /// Student and optimizer after the last round: together, as the optimizer moves that student's weights.
    pub training: Slot<(Rc<Network>, Distiller)>,
    pub(crate) shards: HashMap<u32, Slot<Rc<KeptShard>>>,
    /// The round whose images were made last, until a buffer takes them.
    made: Option<u32>,
}

impl Memory {
    /// Keeps the images that `invert` has made in `round`, which equal the file with this digest. Of those that no buffer has taken yet
    /// only the newest stay.
    pub fn keep_made(&mut self, round: u32, digest: &str, shard: ImageShard) {
        if let Some(before) = self.made.replace(round) {
            self.shards.remove(&before);
        }
        self.shards.entry(round).or_default().put(digest, KeptShard::new(shard));
    }

    /// Drops the images of all rounds but these.
    pub fn retain_shards(&mut self, rounds: &HashSet<u32>) {
        self.made = None;
        self.shards.retain(|round, _| rounds.contains(round));
    }
}

/// A place for one value, which equals the file with the digest that it was put under.
pub struct Slot<T>(Option<(String, T)>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Slot<T> {
    /// Takes the value out, if it equals the file with this digest. Any other value is dropped.
    pub fn take(&mut self, digest: &str) -> Option<T> {
        self.0.take().filter(|(kept, _)| kept == digest).map(|(_, value)| value)
    }

    /// Returns the value, if it equals the file with this digest.
    pub(crate) fn get(&self, digest: &str) -> Option<&T> {
        self.0.as_ref().filter(|(kept, _)| kept == digest).map(|(_, value)| value)
    }

    /// Keeps `value`, and drops the value of before.
    pub fn put(&mut self, digest: &str, value: T) {
        self.0 = Some((digest.into(), value));
    }

    /// Drops the value.
    pub fn clear(&mut self) {
        self.0 = None;
    }
}

/// A shard in memory. On a GPU its images are there, too, in the networks' layout, from the first request on; for
/// the CPU they are converted for each batch, which costs little, while all as `f32` take four times the memory.
pub(crate) struct KeptShard {
    pub(crate) shard: Rc<ImageShard>,
    on_gpu: OnceCell<Tensor>,
}

impl KeptShard {
    pub(crate) fn new(shard: ImageShard) -> Rc<Self> {
        Rc::new(Self { shard: Rc::new(shard), on_gpu: OnceCell::new() })
    }

    /// Returns the images (N, H, W, C) in `[0, 1]` on a GPU.
    pub(crate) fn upload(&self, shape: [usize; 3], device: &Device) -> candle_core::Result<&Tensor> {
        if let Some(images) = self.on_gpu.get() {
            return Ok(images);
        }
        let rows = 0..self.shard.samples.len();
        let images = images::from_shards(rows.map(|row| (&self.shard.pixels, row)), shape, device)?;
        Ok(self.on_gpu.get_or_init(|| images))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssdkd_shards::{ImageInfo, Normalisation, Origin, Pixels};

    #[test]
    fn only_the_right_digest_comes_back() {
        let mut slot = Slot::default();
        slot.put("abc", 7);
        assert_eq!((slot.get("abc"), slot.get("abd")), (Some(&7), None));
        assert_eq!((slot.take("abc"), slot.take("abc")), (Some(7), None), "taken is taken");
        slot.put("abc", 7);
        assert_eq!((slot.take("abd"), slot.take("abc")), (None, None), "a value of another file is of no use later");
    }

    #[test]
    fn of_images_that_no_buffer_took_only_the_newest_stay() {
        let shard = || ImageShard {
            info: ImageInfo {
                origin: Origin { stage: "invert".into(), fingerprint: String::new() },
                shape: [3, 1, 1],
                normalisation: Normalisation { mean: vec![], std: vec![] },
                class_names: vec![],
            },
            samples: vec![],
            pixels: Pixels::U8(vec![]),
            teacher_logits: vec![],
            teacher_masks: None,
        };
        let mut memory = Memory::default();
        memory.keep_made(4, "a", shard());
        memory.retain_shards(&HashSet::from([4]));
        for (round, digest) in [(5, "b"), (6, "c")] {
            memory.keep_made(round, digest, shard());
        }
        let mut rounds = memory.shards.keys().copied().collect::<Vec<_>>();
        rounds.sort_unstable();
        assert_eq!(rounds, [4, 6]);
    }
}
