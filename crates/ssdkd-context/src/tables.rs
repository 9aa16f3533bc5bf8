//! Where the stages' tables are, and reading them back.

use std::cell::OnceCell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use candle_core::{DType, Device, Tensor};
use ssdkd_shards::{
    BufferRow, ClassRow, DrawRow, ImageReader, ImageShard, ObservedRow, Pixels, PriorityRow, Row, Rows, tables,
};
use ssdkd_stage::{StageError, exit::Code};

use crate::{Context, KeepShards, images};

/// The image shard's path within its stage folder.
pub const SHARD: &str = "samples/part-00000.parquet";

/// Returns the image shard of a round, relative to the run folder: what the buffer's `shard` column says.
pub fn shard_path(round: u32) -> String {
    format!("invert/{round:04}/{SHARD}")
}

/// Returns where a shard is kept in memory.
fn place(round: u32) -> String {
    format!("shard {round}")
}

/// A shard in memory. On a GPU its images are there, too, in the networks' layout, from the first request on; for
/// the CPU they are converted for each batch, which costs little, while all as `f32` take four times the memory.
struct KeptShard {
    shard: Rc<ImageShard>,
    on_gpu: OnceCell<Tensor>,
}

/// The buffers of the rounds `from` to `to`, each known to continue the one before; `digest` is that of the last.
pub(crate) struct Line {
    from: u32,
    to: u32,
    digest: String,
}

impl KeptShard {
    /// Returns the images (N, H, W, C) in `[0, 1]` on a GPU.
    fn upload(&self, shape: [usize; 3], device: &Device) -> candle_core::Result<&Tensor> {
        if let Some(images) = self.on_gpu.get() {
            return Ok(images);
        }
        let rows = 0..self.shard.samples.len();
        let images = images::from_shards(rows.map(|row| (&self.shard.pixels, row)), shape, device)?;
        Ok(self.on_gpu.get_or_init(|| images))
    }
}

impl Context {
    /// Returns the images that `invert` made in `round`.
    pub fn shard(&mut self, round: u32) -> Result<Rc<ImageShard>> {
        Ok(self.kept_shard(round)?.shard.clone())
    }

    fn kept_shard(&mut self, round: u32) -> Result<Rc<KeptShard>> {
        let digest = self.file_digest("invert", round, SHARD)?;
        let kept = if let Some(kept) = self.kept().take::<Rc<KeptShard>>(&place(round), &digest) {
            kept
        } else {
            let (bytes, path) = self.read("invert", round, SHARD)?;
            let shard = Rc::new(ImageReader::open(bytes, &path)?.read(Rows::All)?);
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
            Rc::new(KeptShard { shard, on_gpu: OnceCell::new() })
        };
        self.kept().put(&place(round), &digest, kept.clone());
        Ok(kept)
    }

    /// Drops shards from memory that no member of the buffer is in.
    pub fn forget_shards_outside(&mut self, members: &[BufferRow]) {
        let wanted = members.iter().map(|row| place(row.birth_round)).collect::<HashSet<_>>();
        self.kept().retain(|place| !place.starts_with("shard ") || wanted.contains(place));
    }

    /// Returns whether the shard of a round is still there: old ones may have been collected.
    pub fn has_shard(&self, round: u32) -> bool {
        self.run().file("invert", round, SHARD).exists()
    }

    /// Removes the shards that nothing needs, where the recipe wants that, once `balance` of `round` is done. An older round,
    /// made again, says nothing about what the newest buffer needs.
    pub fn collect_shards(&mut self, round: u32) -> Result<()> {
        if self.recipe().keep.shards == KeepShards::Buffer && self.run().latest_complete("balance")? == Some(round) {
            let wanted = self.wanted_shards(round)?;
            ssdkd_stage::remove(&self.run().unused_shards("invert", &wanted)?)?;
        }
        Ok(())
    }

    /// Rounds whose shard has an image in the buffer after `balance` of `round`, or in those that a run with other settings resumes
    /// from.
    pub fn wanted_shards(&mut self, round: u32) -> Result<HashSet<u32>> {
        let mut wanted = HashSet::new();
        for round in self.recipe().starting_points().into_iter().chain([round]) {
            if self.run().complete("balance", round)?.is_some() {
                wanted.extend(self.buffer(round)?.iter().map(|row| row.birth_round));
            }
        }
        Ok(wanted)
    }

    /// Returns the first `most` images that `invert` made in `round`, as a tensor (B, H, W, C) in `[0, 1]`.
    pub fn first_images(&mut self, round: u32, most: usize) -> Result<Tensor> {
        let shard = self.kept_shard(round)?;
        let places = (0..shard.shard.samples.len().min(most) as u32).map(|row| (round, row)).collect::<Vec<_>>();
        self.stack(&places, &HashMap::from([(round, shard)]))
    }

    /// Images of the buffer after `balance` of `buffer`, by (round, row), as a tensor (B, H, W, C) in `[0, 1]`.
    pub fn images(&mut self, buffer: u32, places: &[(u32, u32)]) -> Result<Tensor> {
        let shards = self.shards_of(buffer, places)?;
        self.stack(places, &shards)
    }

    fn stack(&self, places: &[(u32, u32)], shards: &HashMap<u32, Rc<KeptShard>>) -> Result<Tensor> {
        let shape = self.teacher_card().input;
        let device = self.device()?;
        if places.is_empty() {
            let [channels, height, width] = shape;
            return Ok(Tensor::zeros((0, height, width, channels), DType::F32, device)?);
        }
        let rows = places.iter().map(|(round, row)| (&shards[round], *row as usize));
        if device.is_cpu() {
            return Ok(images::from_shards(rows.map(|(shard, row)| (&shard.shard.pixels, row)), shape, device)?);
        }
        let rows = rows.map(|(shard, row)| Ok((shard.upload(shape, device)?, row)));
        Ok(ssdkd_ops::gather_images(&rows.collect::<candle_core::Result<Vec<_>>>()?)?)
    }

    /// Returns the pixels of images of the buffer after `balance` of `buffer`, each as bytes in the order C, H, W.
    pub fn pictures(&mut self, buffer: u32, places: &[(u32, u32)]) -> Result<Vec<Vec<u8>>> {
        let shards = self.shards_of(buffer, places)?;
        let size = self.teacher_card().input.iter().product::<usize>();
        let picture = |&(round, row): &(u32, u32)| {
            let at = row as usize * size..(row as usize + 1) * size;
            match &shards[&round].shard.pixels {
                Pixels::U8(pixels) => pixels[at].to_vec(),
                Pixels::F32(pixels) => pixels[at].iter().map(|value| (value * 255.0).round() as u8).collect(),
            }
        };
        Ok(places.iter().map(picture).collect())
    }

    /// Returns the teacher's class of each pixel of images of the buffer after `balance` of `buffer`, each in the order H, W.
    pub fn masks(&mut self, buffer: u32, places: &[(u32, u32)]) -> Result<Vec<Vec<u8>>> {
        let shards = self.shards_of(buffer, places)?;
        let [_, height, width] = self.teacher_card().input;
        let mask = |&(round, row): &(u32, u32)| {
            let masks = shards[&round].shard.teacher_masks.as_ref();
            let masks = masks.with_context(|| format!("{} holds no masks", shard_path(round)))?;
            Ok(masks[row as usize * height * width..][..height * width].to_vec())
        };
        places.iter().map(mask).collect()
    }

    /// Returns the teacher's logits (B, K) on the clean images of the buffer after `balance` of `buffer`, by (round, row), as the shards
    /// hold them.
    pub fn teacher_logits(&mut self, buffer: u32, places: &[(u32, u32)]) -> Result<Tensor> {
        let shards = self.shards_of(buffer, places)?;
        let classes = self.teacher_card().classes;
        let mut logits = Vec::with_capacity(places.len() * classes);
        for (round, row) in places {
            logits.extend_from_slice(&shards[round].shard.teacher_logits[*row as usize * classes..][..classes]);
        }
        Ok(Tensor::from_vec(logits, (places.len(), classes), self.device()?)?)
    }

    /// Returns the shards that `places` of the buffer after `balance` of `buffer` are in; every row is known to exist, and to be of the
    /// images that this buffer took.
    fn shards_of(&mut self, buffer: u32, places: &[(u32, u32)]) -> Result<HashMap<u32, Rc<KeptShard>>> {
        let mut shards = HashMap::new();
        for &(round, row) in places {
            let shard = match shards.entry(round) {
                Entry::Occupied(shard) => shard.into_mut(),
                Entry::Vacant(place) => {
                    self.check_taken(round, buffer)?;
                    place.insert(self.kept_shard(round)?)
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

    /// Checks that the images of round `birth` are those that the buffer of `buffer` took, and not rebuilt with other settings
    /// since: it knows them by round and row alone. Each `balance` says which images it took, and which buffer it went on from.
    fn check_taken(&mut self, birth: u32, buffer: u32) -> Result<()> {
        let digest = self.complete("balance", buffer)?.digest.clone();
        let known = self.line().take().filter(|line| (line.to, &line.digest) == (buffer, &digest));
        let mut line = known.unwrap_or(Line { from: buffer, to: buffer, digest });
        while line.from > birth {
            self.check_read(("balance", line.from), ("balance", line.from - 1))?;
            line.from -= 1;
        }
        *self.line() = Some(line);
        self.check_read(("balance", birth), ("invert", birth))
    }

    /// Checks that what a stage read is what is there.
    fn check_read(&mut self, (stage, round): (&str, u32), (input, of): (&str, u32)) -> Result<()> {
        let there = self.complete(input, of)?.digest.clone();
        let read = self.complete(stage, round)?.manifest.inputs.get(&format!("{input}/{of:04}")).cloned();
        if read.as_ref() != Some(&there) {
            let [made, reader] = [(input, of), (stage, round)].map(|(stage, of)| self.run().folder(stage, of));
            let message = format!(
                "{} was rebuilt after {} was made from it\nhint: `ssdkd run` rebuilds what depends on it",
                made.display(),
                reader.display()
            );
            return Err(StageError::other(Code::Integrity, message).into());
        }
        Ok(())
    }

    /// Returns the buffer's members after `balance` of `round`.
    pub fn buffer(&mut self, round: u32) -> Result<Vec<BufferRow>> {
        self.table("balance", round, "buffer.parquet")
    }

    /// Returns how many members of the buffer are of each class after `balance` of `round`.
    pub fn class_counts(&mut self, round: u32) -> Result<Vec<u64>> {
        let classes = self.table::<ClassRow>("balance", round, "classes.parquet")?;
        Ok(classes.into_iter().map(|row| row.count).collect())
    }

    /// Priorities and weights after `sample` of `round`.
    pub fn priorities(&mut self, round: u32) -> Result<Vec<PriorityRow>> {
        self.table("sample", round, "priorities.parquet")
    }

    /// Returns what `sample` drew in `round`.
    pub fn draws(&mut self, round: u32) -> Result<Vec<DrawRow>> {
        self.table("sample", round, "draws.parquet")
    }

    /// Returns the disagreements that `distill` saw in `round`.
    pub fn observed(&mut self, round: u32) -> Result<Vec<ObservedRow>> {
        self.table("distill", round, "observed.parquet")
    }

    fn table<R: Row>(&mut self, stage: &str, round: u32, file: &str) -> Result<Vec<R>> {
        let (bytes, path) = self.read(stage, round, file)?;
        Ok(tables::decode(bytes, &path)?)
    }
}
