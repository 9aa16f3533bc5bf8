//! The interface between the stages, from outside: what is in the files, who can read them, what is refused.

mod foreign_readers;
mod hostile;
mod images;
mod tables;

use ssdkd_shards::{ImageInfo, ImageShard, Normalisation, Origin, Pixels, SampleRow};

/// Who made the files of these tests.
fn origin() -> Origin {
    Origin { stage: "invert".into(), fingerprint: "f".repeat(64) }
}

/// Values of `rows` images of shape (3, 4, 5); each is different from its neighbors.
fn values(rows: usize) -> Vec<f32> {
    (0..rows * 3 * 4 * 5).map(|i| (i * 37 % 256) as f32 / 255.0).collect()
}

/// A shard of `rows` images for 7 classes, in 256 levels.
fn shard(rows: usize) -> ImageShard {
    let classes = 7;
    let samples = (0..rows).map(|row| SampleRow {
        sample_id: (7 << 32) + row as u64,
        target: (row % classes) as u32,
        teacher_class: (row * 3 % classes) as u32,
        teacher_confidence: 1.0 / (row + 1) as f32,
        loss_batch_norm: Some(4.5),
        loss_class: Some(0.25),
        loss_balance: Some(-2.0),
        loss_activation: None,
        loss_adversarial: Some(-0.125),
        loss_total_variation: None,
        loss_l2: None,
        loss_contrastive: None,
        loss_total: 2.625,
        round: 7,
    });
    ImageShard {
        info: ImageInfo {
            origin: origin(),
            shape: [3, 4, 5],
            normalisation: Normalisation { mean: vec![0.5, 0.4, 0.3], std: vec![0.2, 0.2, 0.1] },
            class_names: (0..classes).map(|class| format!("class \"{class}\" ✓")).collect(),
        },
        samples: samples.collect(),
        pixels: Pixels::rounded(&values(rows)),
        teacher_logits: (0..rows * classes).map(|i| (i as f32).sin() * 10.0).collect(),
        teacher_masks: None,
    }
}

/// The same in floating point.
fn float_shard(rows: usize) -> ImageShard {
    ImageShard { pixels: Pixels::F32(values(rows)), ..shard(rows) }
}
