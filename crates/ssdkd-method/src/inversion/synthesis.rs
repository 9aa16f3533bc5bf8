//! One synthesis batch: what every strategy is told, draws and hands back.

use candle_core::{Device, Result, Tensor};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssdkd_nn::random::{normal_tensor, stream};
use ssdkd_nn::{DifferentiableViewSettings, Network, StateDict};
use ssdkd_ops as ops;

use crate::inversion::loss::{Loss, Objective, UnreadLoss};
use crate::predictions::Predictions;
use crate::prior::ClassPrior;

/// One way to make images, with all of its state.
pub trait Inversion {
    /// Makes one batch with a low loss under `objective`, and learns on the way.
    fn synthesize(&mut self, objective: &Objective<'_>, position: Position) -> Result<Synthesis>;

    /// Returns everything that a later round needs to resume to the same bits.
    fn state_dict(&self) -> StateDict;

    /// Restores a saved state. The error names what does not fit.
    fn load_state_dict(&mut self, tensors: StateDict) -> Result<()>;
}

/// The settings of a batch that all strategies share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchSettings {
    /// Images.
    pub batch: usize,
    /// Optimizer steps.
    pub steps: usize,
    /// Which classes the images should be of.
    pub targets: TargetRule,
    /// How images are stored.
    pub image_format: ImageFormat,
    /// What the networks see of the images.
    pub views: DifferentiableViewSettings,
}

/// Which classes the images should be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TargetRule {
    /// The class that the teacher predicts, at each step \[C: DAFL\]. A segmentation teacher predicts one for each pixel \[O\].
    Predicted,
    /// A random class for each image \[C: Fast-Datafree\].
    Random,
    /// Every class equally often \[O\].
    Balanced,
}

/// How images are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// Rounded to 256 levels. The teacher labels the rounded image \[O\].
    U8,
    /// 32-bit floating point, exactly as synthesized.
    F32,
}

/// Where in a run a batch is made. With the seed it determines all random draws of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The run's.
    pub seed: u64,
    /// From 0, warm-up included.
    pub round: u32,
    /// From 0 after the warm-up; `None` during it.
    pub distilling_round: Option<u32>,
    /// From 0 within the round.
    pub batch: u32,
}

impl Position {
    /// Returns the stream of one purpose at one step of this batch.
    pub(crate) fn stream(self, purpose: &str, step: usize) -> ChaCha8Rng {
        stream(self.seed, purpose, &[u64::from(self.round), u64::from(self.batch), step as u64])
    }
}

/// A finished batch.
#[derive(Debug, Clone)]
pub struct Synthesis {
    /// (B, H, W, C) in `[0, 1]`, already rounded if that is the format.
    pub images: Tensor,
    /// The classes the images were made for; under [`TargetRule::Predicted`] the teacher's class of the clean image.
    pub targets: Vec<u32>,
    /// What the teacher predicts for exactly `images`: no augmentation.
    pub predictions: Predictions,
    /// The loss of the iterate that made the images.
    pub loss: Loss,
}

impl BatchSettings {
    /// Draws z (B, `latent_size`), standard normal.
    pub(crate) fn latents(
        &self,
        latent_size: usize,
        position: Position,
        step: usize,
        device: &Device,
    ) -> Result<Tensor> {
        normal_tensor(&mut position.stream("invert/latents", step), (self.batch, latent_size), device)
    }

    /// Draws the classes that the images of a batch should be of, of `classes` with a prior. `None`: whatever the teacher predicts.
    pub(crate) fn targets(&self, position: Position, classes: usize, prior: &ClassPrior) -> Option<Vec<u32>> {
        let mut rng = position.stream("invert/targets", 0);
        let batch = self.batch;
        if let Some(shares) = prior.shares() {
            return self.targets_of(shares, &mut rng);
        }
        match self.targets {
            TargetRule::Predicted => None,
            TargetRule::Random => Some((0..batch).map(|_| rng.random_range(0..classes as u32)).collect()),
            TargetRule::Balanced => {
                // Which classes get the remainder is left to chance.
                let mut order = (0..classes as u32).collect::<Vec<_>>();
                order.shuffle(&mut rng);
                Some(order.into_iter().cycle().take(batch).collect())
            }
        }
    }

    /// Draws classes with these shares: each image's for itself, or as near to the shares as whole images allow.
    fn targets_of(&self, shares: &[f64], rng: &mut ChaCha8Rng) -> Option<Vec<u32>> {
        let mut order = (0..shares.len() as u32).collect::<Vec<_>>();
        // Where in [0, 1) each image falls: the classes' shares lie there end to end.
        let places = match self.targets {
            TargetRule::Predicted => return None,
            TargetRule::Random => (0..self.batch).map(|_| rng.random::<f64>()).collect::<Vec<_>>(),
            TargetRule::Balanced => {
                // Which classes get the remainder is left to chance.
                order.shuffle(rng);
                let start = rng.random::<f64>();
                (0..self.batch).map(|image| (image as f64 + start) / self.batch as f64).collect()
            }
        };
        let ends = order.iter().scan(0.0, |end, &class| {
            *end += shares[class as usize];
            Some(*end)
        });
        let ends = ends.collect::<Vec<_>>();
        // The sum of the shares is 1 but for rounding: what lies behind it is of the last class.
        let class = |place: f64| order[ends.partition_point(|&end| end <= place).min(order.len() - 1)];
        let mut targets = places.into_iter().map(class).collect::<Vec<_>>();
        if self.targets == TargetRule::Balanced {
            targets.shuffle(rng);
        }
        Some(targets)
    }

    /// Rounds the images (B, H, W, C) if that is the format. The teacher labels what will be stored.
    pub(crate) fn finish(
        &self,
        teacher: &Network,
        images: &Tensor,
        targets: Option<Vec<u32>>,
        loss: Loss,
    ) -> Result<Synthesis> {
        let (images, logits) = self.label(teacher, images)?;
        let read = logits.to_device(&Device::Cpu)?;
        Self::finished(teacher, images, &logits, &read, targets, loss)
    }

    /// As [`finish`](Self::finish), of [labeled](Self::label) images, where the loss of the last step is not read yet: both are, at once.
    pub(crate) fn finish_and_read(
        teacher: &Network,
        (images, logits): (Tensor, Tensor),
        targets: Option<Vec<u32>>,
        loss: UnreadLoss,
    ) -> Result<Synthesis> {
        let (loss, read) = loss.read_with(&[&logits])?;
        let read = Tensor::from_vec(read.concat(), logits.shape(), &Device::Cpu)?;
        Self::finished(teacher, images, &logits, &read, targets, loss)
    }

    /// Returns the images as they are stored, and the teacher's logits.
    pub(crate) fn label(&self, teacher: &Network, images: &Tensor) -> Result<(Tensor, Tensor)> {
        let images = match self.image_format {
            ImageFormat::U8 => ops::round_to_u8_levels(images)?,
            ImageFormat::F32 => images.clone(),
        };
        let logits = teacher.logits(&images)?;
        Ok((images, logits))
    }

    /// `read` are the numbers of `logits` on the CPU.
    fn finished(
        teacher: &Network,
        images: Tensor,
        logits: &Tensor,
        read: &Tensor,
        targets: Option<Vec<u32>>,
        loss: Loss,
    ) -> Result<Synthesis> {
        let predictions = Predictions::of_read(logits, read, teacher.rows_per_image())?;
        let targets = targets.unwrap_or_else(|| predictions.classes.clone());
        Ok(Synthesis { images, targets, predictions, loss })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_as_common_as_the_rule_and_the_prior_say() {
        let counts = |targets, batch, prior: &ClassPrior| {
            let (image_format, views) = (ImageFormat::U8, DifferentiableViewSettings::OFF);
            let settings = BatchSettings { batch, steps: 1, targets, image_format, views };
            let position = Position { seed: 9, round: 0, distilling_round: None, batch: 0 };
            let mut counts = [0_i32; 4];
            for class in settings.targets(position, 4, prior).unwrap() {
                counts[class as usize] += 1;
            }
            counts
        };
        let uniform = ClassPrior::uniform();
        assert_eq!(counts(TargetRule::Balanced, 40, uniform), [10; 4]);
        let remainder = counts(TargetRule::Balanced, 42, uniform);
        assert!(remainder.iter().all(|count| (10..=11).contains(count)), "{remainder:?}");
        let random = counts(TargetRule::Random, 4000, uniform);
        assert!(random.iter().all(|count| (900..1100).contains(count)), "{random:?}");
        assert_ne!(random, [1000; 4]);
        // With a prior the classes are as common as it says.
        let prior = ClassPrior::new(&[4.0, 3.0, 2.0, 1.0], 4).unwrap();
        let even = counts(TargetRule::Balanced, 100, &prior);
        assert!(even.iter().zip([40_i32, 30, 20, 10]).all(|(&count, share)| (count - share).abs() <= 1), "{even:?}");
        let random = counts(TargetRule::Random, 4000, &prior);
        let near = |(&count, share): (&i32, i32)| (count - share).abs() < 100;
        assert!(random.iter().zip([1600, 1200, 800, 400]).all(near), "{random:?}");
    }
}
