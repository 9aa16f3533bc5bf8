//! How images are spread over classes and over the teacher's confidence.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use ssdkd_context::Reader;

/// Bins of the confidence, from 0 to 1.
pub const BINS: usize = 20;

/// Rounds whose images count as recent.
const RECENT: usize = 10;

/// Numbers of images, by the teacher's class and by its confidence.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    pub classes: Vec<u64>,
    pub confidences: Vec<u64>,
}

impl Histogram {
    /// Of images of `classes` classes: the teacher's class and its confidence of each.
    fn of(classes: usize, images: impl IntoIterator<Item = (u32, f32)>) -> Self {
        let mut counts = Self { classes: vec![0; classes], confidences: vec![0; BINS] };
        for (class, confidence) in images {
            if let Some(count) = counts.classes.get_mut(class as usize) {
                *count += 1;
            }
            counts.confidences[((confidence * BINS as f32) as usize).min(BINS - 1)] += 1;
        }
        counts
    }

    /// Of the buffer of `round`.
    pub fn of_buffer(reader: &mut Reader, round: u32) -> Result<Self> {
        let members = reader.outputs().buffer(round)?;
        let images = members.into_iter().map(|row| (row.teacher_class, row.teacher_confidence));
        Ok(Self::of(reader.teacher_card().classes, images))
    }

    /// Of what the last rounds made, before any of it was evicted.
    pub fn of_recent(reader: &mut Reader) -> Result<Self> {
        let mut images = Vec::new();
        for round in reader.rounds("invert")?.into_iter().rev().take(RECENT) {
            if !reader.outputs().has_shard(round) {
                continue; // collected
            }
            let shard = reader.shard(round)?;
            images.extend(shard.samples.iter().map(|row| (row.teacher_class, row.teacher_confidence)));
        }
        Ok(Self::of(reader.teacher_card().classes, images))
    }

    /// Returns the share of the images of each class, and of each bin of confidence.
    pub fn shares(&self) -> (Vec<f64>, Vec<f64>) {
        let shares = |counts: &[u64]| {
            let all = counts.iter().sum::<u64>().max(1) as f64;
            counts.iter().map(|&count| count as f64 / all).collect()
        };
        (shares(&self.classes), shares(&self.confidences))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_counted_once_in_each() {
        let counts = Histogram::of(3, [(0, 0.0), (2, 0.049), (2, 0.05), (2, 1.0)]);
        assert_eq!(counts.classes, [1, 0, 3]);
        assert_eq!((counts.confidences[0], counts.confidences[1], counts.confidences[BINS - 1]), (2, 1, 1));
        let (classes, confidences) = counts.shares();
        assert_eq!(classes, [0.25, 0.0, 0.75]);
        assert_eq!(confidences.iter().sum::<f64>(), 1.0);
    }
}
