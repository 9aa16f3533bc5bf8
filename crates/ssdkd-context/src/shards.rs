//! The images of a run, of a round or of a buffer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use candle_core::{DType, Tensor};
use ssdkd_shards::{ImageReader, ImageRef, ImageShard, Pixels, Rows};

use crate::images;
use crate::memory::KeptShard;
use crate::output::Output;
use crate::outputs::{SHARD, shard_path};
use crate::reader::Reader;

impl Reader {
    /// Returns the images that `invert` made in `round`.
    pub fn shard(&mut self, round: u32) -> Result<Rc<ImageShard>> {
        Ok(self.find_shard(round)?.shard.clone())
    }

    /// Returns the shard of a round, which stays in memory, as it has images of the buffer.
    fn keep_shard(&mut self, round: u32) -> Result<Rc<KeptShard>> {
        let shard = self.find_shard(round)?;
        let digest = self.outputs.digest(Output::invert(round), SHARD)?;
        self.memory.shards.entry(round).or_default().put(&digest, shard.clone());
        Ok(shard)
    }

    /// Returns the shard of a round, from memory if it is there.
    fn find_shard(&mut self, round: u32) -> Result<Rc<KeptShard>> {
        let digest = self.outputs.digest(Output::invert(round), SHARD)?;
        if let Some(kept) = self.memory.shards.get(&round).and_then(|slot| slot.get(&digest)) {
            return Ok(kept.clone());
        }
        let (bytes, path) = self.outputs.read(Output::invert(round), SHARD)?;
        let shard = ImageReader::open(bytes, &path)?.read(Rows::All)?;
        let (found, wanted) = (shard.info.shape, self.teacher_card().input);
        ensure!(
            found == wanted,
            "{}: images of {found:?} (C, H, W) where the teacher takes {wanted:?}\n\
             hint: `ssdkd run` rebuilds them for this teacher",
            path.display()
        );
        let (found, wanted) = (shard.info.class_names.len(), self.teacher_card().classes);
        ensure!(
            found == wanted,
            "{}: labels of {found} classes where the teacher knows {wanted}\n\
             hint: `ssdkd run` rebuilds them for this teacher",
            path.display()
        );
        Ok(KeptShard::new(shard))
    }

    /// Returns the first `most` images that `invert` made in `round`, as a tensor (B, H, W, C) in `[0, 1]`.
    pub fn first_images(&mut self, round: u32, most: usize) -> Result<Tensor> {
        let shard = self.find_shard(round)?;
        let places =
            (0..shard.shard.samples.len().min(most) as u32).map(|row| ImageRef { round, row }).collect::<Vec<_>>();
        self.stack(&places, &HashMap::from([(round, shard)]))
    }

    /// Returns images of the buffer after `balance` of `buffer`, as a tensor (B, H, W, C) in `[0, 1]`.
    pub fn images(&mut self, buffer: u32, places: &[ImageRef]) -> Result<Tensor> {
        let shards = self.shards_of(buffer, places)?;
        self.stack(places, &shards)
    }

    fn stack(&self, places: &[ImageRef], shards: &HashMap<u32, Rc<KeptShard>>) -> Result<Tensor> {
        let shape = self.teacher_card().input;
        let device = self.device()?;
        if places.is_empty() {
            let [channels, height, width] = shape;
            return Ok(Tensor::zeros((0, height, width, channels), DType::F32, device)?);
        }
        let rows = places.iter().map(|place| (&shards[&place.round], place.row as usize));
        if device.is_cpu() {
            return Ok(images::from_shards(rows.map(|(shard, row)| (&shard.shard.pixels, row)), shape, device)?);
        }
        let rows = rows.map(|(shard, row)| Ok((shard.upload(shape, device)?, row)));
        Ok(ssdkd_ops::gather_images(&rows.collect::<candle_core::Result<Vec<_>>>()?)?)
    }

    /// Returns the pixels of images of the buffer after `balance` of `buffer`, each as bytes in the order C, H, W.
    pub fn pictures(&mut self, buffer: u32, places: &[ImageRef]) -> Result<Vec<Vec<u8>>> {
        let shards = self.shards_of(buffer, places)?;
        let size = self.teacher_card().input.iter().product::<usize>();
        let picture = |&ImageRef { round, row }: &ImageRef| {
            let at = row as usize * size..(row as usize + 1) * size;
            match &shards[&round].shard.pixels {
                Pixels::U8(pixels) => pixels[at].to_vec(),
                Pixels::F32(pixels) => pixels[at].iter().map(|value| (value * 255.0).round() as u8).collect(),
            }
        };
        Ok(places.iter().map(picture).collect())
    }

    /// Returns the teacher's class of each pixel of images of the buffer after `balance` of `buffer`, each in the order H, W.
    pub fn masks(&mut self, buffer: u32, places: &[ImageRef]) -> Result<Vec<Vec<u8>>> {
        let shards = self.shards_of(buffer, places)?;
        let [_, height, width] = self.teacher_card().input;
        let mask = |&ImageRef { round, row }: &ImageRef| {
            let masks = shards[&round].shard.teacher_masks.as_ref();
            let masks = masks.with_context(|| format!("{} holds no masks", shard_path(round)))?;
            Ok(masks[row as usize * height * width..][..height * width].to_vec())
        };
        places.iter().map(mask).collect()
    }

    /// Returns the teacher's logits (B, K) on the clean images of the buffer after `balance` of `buffer`, as the shards
    /// hold them.
    pub fn teacher_logits(&mut self, buffer: u32, places: &[ImageRef]) -> Result<Tensor> {
        let shards = self.shards_of(buffer, places)?;
        let classes = self.teacher_card().classes;
        let mut logits = Vec::with_capacity(places.len() * classes);
        for ImageRef { round, row } in places {
            logits.extend_from_slice(&shards[round].shard.teacher_logits[*row as usize * classes..][..classes]);
        }
        Ok(Tensor::from_vec(logits, (places.len(), classes), self.device()?)?)
    }

    /// Returns the shards that `places` of the buffer after `balance` of `buffer` are in; every row is known to exist, and to be of the
    /// images that this buffer took.
    fn shards_of(&mut self, buffer: u32, places: &[ImageRef]) -> Result<HashMap<u32, Rc<KeptShard>>> {
        let mut shards = HashMap::new();
        for &ImageRef { round, row } in places {
            let shard = match shards.entry(round) {
                Entry::Occupied(shard) => shard.into_mut(),
                Entry::Vacant(place) => {
                    self.outputs.check_taken(round, buffer)?;
                    place.insert(self.keep_shard(round)?)
                }
            };
            shard
                .shard
                .samples
                .get(row as usize)
                .with_context(|| format!("{} has no row {row}, which the buffer refers to", shard_path(round)))?;
        }
        Ok(shards)
    }
}
