//! Inversion: from the teacher alone to a batch of labelled images.
//!
//! A generator g turns latents z ~ N(0, 1) into images that score well in the [loss of the inversion](crate::inversion_loss).
//! There are two ways to spend the generator steps \[O\]:
//!
//! - [`meta`](crate::meta_generator): g is a starting point. For each batch a clone of it *and* the latents are trained
//!   for some steps; g itself takes one step towards where clones go \[C: Fast-Datafree\].
//! - [`persistent`](crate::persistent_generator): one generator is trained all along, with fresh latents each step, so
//!   that it follows the student's mistakes \[C: DAFL and DFAD work this way\].
//!
//! The two share everything else, and that is here: settings, draws, the finished batch, saving and restoring.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};
use serde::{Deserialize, Serialize};
use ssdkd_nn::Network;

use crate::augment::AugmentSettings;
use crate::check;
use crate::inversion_loss::{InversionTerms, LossWeights};
use crate::meta_generator::MetaGenerator;
use crate::modulation::{Modulation, ModulationSettings};
use crate::persistent_generator::PersistentGenerator;

/// `[invert]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InvertSettings {
    /// How generator steps are spent.
    pub strategy: Strategy,
    /// Length of z \[C: 256\].
    pub latent: usize,
    /// Channels of the generator's last hidden layer; the first has twice as many \[C: 64\].
    pub width: usize,
    /// Images in a batch, 2–4096 \[C: 256\].
    pub batch: usize,
    /// Batches synthesised in a round.
    pub batches: usize,
    /// Generator steps for each batch; for `meta` the inner steps of the clone \[C: 2, 5 or 10\].
    pub steps: usize,
    /// Adam's learning rate for the generator. `persistent`: 1e-3 \[O\]; `meta`: 5e-3, 3e-3, 2e-3 for 2, 5, 10 steps \[C\].
    pub lr_g: f64,
    /// `meta` only: Adam's learning rate for the latents, 0.015, 0.01, 0.01 for 2, 5, 10 steps \[C\].
    pub lr_z: f64,
    /// Adam's first decay, in `[0, 1)` \[C: 0.5\].
    pub beta1: f64,
    /// Adam's second decay, in `[0, 1)` \[C: 0.999\].
    pub beta2: f64,
    /// Factor of the batch-norm statistics. `persistent`: 1 \[O\]; `meta`: 10 \[C\].
    pub bn: f64,
    /// Factor of the task term: 0.5 \[O\], 0.4 or 0.5 \[C\].
    pub oh: f64,
    /// Factor of the class balance within a batch. `persistent`: 10 \[O\]; `meta`: 0 \[C\].
    pub bal: f64,
    /// Factor of the adversarial term: 1 \[O\]; 1, 1.1 or 1.33 \[C\].
    pub adv: f64,
    /// Whether the adversarial term counts only images on which teacher and student agree: no \[O\], yes \[C\].
    pub adv_mask: bool,
    /// Momentum of the averaged batch-norm statistics, in `[0, 1)`; 0 switches averaging off. `persistent`: 0 \[O\];
    /// `meta`: 0.9 \[C\].
    ///
    /// It scales the gradient of L_BN by one minus itself: bn = 10 at 0.9 pulls like bn = 1 at 0.
    pub bn_momentum: f64,
    /// Which classes the images should be of; `persistent` knows only "predicted".
    pub targets: TargetRule,
    /// Draw the first linear layer anew, once, at the start of the so-manieth round after the warm-up (from 1);
    /// 0: never \[C: 120 for `meta`\].
    pub reset_round: u32,
    /// How images are kept.
    pub image_format: ImageFormat,
    /// The views of the images that the networks judge.
    pub augment: AugmentSettings,
    /// φ.
    pub phi: ModulationSettings,
}

impl Default for InvertSettings {
    fn default() -> Self {
        Self {
            strategy: Strategy::Persistent,
            latent: 256,
            width: 64,
            batch: 128,
            batches: 8,
            steps: 1,
            lr_g: 1e-3,
            lr_z: 0.01,
            beta1: 0.5,
            beta2: 0.999,
            bn: 1.0,
            oh: 0.5,
            bal: 10.0,
            adv: 1.0,
            adv_mask: false,
            bn_momentum: 0.0,
            targets: TargetRule::Predicted,
            reset_round: 0,
            image_format: ImageFormat::U8,
            augment: AugmentSettings::default(),
            phi: ModulationSettings::default(),
        }
    }
}

impl InvertSettings {
    /// Checks every value; the error names the recipe's key.
    pub fn validate(&self) -> std::result::Result<(), String> {
        check::count("invert.latent", self.latent, 1..=65_536)?;
        check::count("invert.width", self.width, 1..=4096)?;
        check::count("invert.batch", self.batch, 2..=4096)?;
        check::count("invert.batches", self.batches, 1..=10_000)?;
        check::count("invert.steps", self.steps, 1..=100_000)?;
        check::positive("invert.lr_g", self.lr_g)?;
        check::not_negative("invert.lr_z", self.lr_z)?;
        check::decay("invert.beta1", self.beta1)?;
        check::decay("invert.beta2", self.beta2)?;
        check::not_negative("invert.bn", self.bn)?;
        check::not_negative("invert.oh", self.oh)?;
        check::not_negative("invert.bal", self.bal)?;
        check::not_negative("invert.adv", self.adv)?;
        check::decay("invert.bn_momentum", self.bn_momentum)?;
        if self.bn == 0.0 && self.oh == 0.0 && self.bal == 0.0 {
            // `adv` alone would leave the warm-up without a loss.
            return Err("invert.bn, invert.oh and invert.bal are all 0; the warm-up needs one of them above 0".into());
        }
        if self.strategy == Strategy::Persistent && self.targets != TargetRule::Predicted {
            // Its latents are drawn afresh each step and know nothing of a class.
            return Err("invert.targets is not \"predicted\"; the others need invert.strategy = \"meta\"".into());
        }
        self.augment.validate("invert")?;
        self.phi.validate()
    }

    /// The factors of the loss.
    pub fn loss_weights(&self) -> LossWeights {
        LossWeights { bn: self.bn, oh: self.oh, bal: self.bal, adv: self.adv, adv_mask: self.adv_mask }
    }
}

/// How generator steps are spent; see the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// One generator, trained all along.
    Persistent,
    /// A meta-learnt starting point, cloned for each batch.
    Meta,
}

/// Which classes the images should be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetRule {
    /// Whatever the teacher takes them for, at each step \[C: DAFL\].
    Predicted,
    /// One class for each image, drawn uniformly \[C: Fast-Datafree\].
    Random,
    /// Every class as often as any other, but for the remainder \[O\].
    Balanced,
}

/// How images are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// Rounded to the 256 levels of eight bits; the teacher's labels are those of the rounded image \[O\].
    U8,
    /// As the generator made them.
    F32,
}

/// Where in a run a batch is made: together with the seed, all that its random draws depend on.
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

/// A finished batch.
#[derive(Debug, Clone)]
pub struct Synthesis {
    /// (B, H, W, C) in `[0, 1]`, already rounded if that is the format.
    pub images: Tensor,
    /// The classes the images were made for; under [`TargetRule::Predicted`] the teacher's class of the clean image.
    pub targets: Vec<u32>,
    /// The teacher's logits (B, K) of exactly `images`: no augmentation.
    pub teacher_logits: Tensor,
    /// The loss of the iterate that made the images.
    pub terms: InversionTerms,
}

/// The generator in whichever way it is trained, with all of its state.
pub enum Synthesizer {
    /// [`Strategy::Meta`].
    Meta(MetaGenerator),
    /// [`Strategy::Persistent`].
    Persistent(PersistentGenerator),
}

impl Synthesizer {
    /// A fresh generator for a teacher's images, its weights a function of `seed`.
    pub fn new(settings: &InvertSettings, teacher: &Network, seed: u64, device: &Device) -> Result<Self> {
        Ok(match settings.strategy {
            Strategy::Meta => Self::Meta(MetaGenerator::new(settings.clone(), teacher, seed, device)?),
            Strategy::Persistent => {
                Self::Persistent(PersistentGenerator::new(settings.clone(), teacher, seed, device)?)
            }
        })
    }

    /// Makes one batch, learning on the way. `student` is `None` during the warm-up.
    pub fn synthesize(
        &mut self,
        teacher: &Network,
        student: Option<&Network>,
        modulation: &Modulation,
        position: Position,
    ) -> Result<Synthesis> {
        match self {
            Self::Meta(generator) => generator.synthesize(teacher, student, modulation, position),
            Self::Persistent(generator) => generator.synthesize(teacher, student, modulation, position),
        }
    }

    /// Everything that a later round needs to go on to the same bits.
    pub fn state_tensors(&self) -> BTreeMap<String, Tensor> {
        match self {
            Self::Meta(generator) => generator.state_tensors(),
            Self::Persistent(generator) => generator.state_tensors(),
        }
    }

    /// Takes up a saved state.
    pub fn load_state(&mut self, tensors: BTreeMap<String, Tensor>) -> Result<()> {
        match self {
            Self::Meta(generator) => generator.load_state(tensors),
            Self::Persistent(generator) => generator.load_state(tensors),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(change: impl FnOnce(&mut InvertSettings), message: &str) {
        let mut settings = InvertSettings::default();
        assert_eq!(settings.validate(), Ok(()));
        change(&mut settings);
        let error = settings.validate().unwrap_err();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn impossible_settings_are_refused_by_name() {
        check_refused(|s| s.batch = 1, "invert.batch is 1; it must be a whole number from 2 to 4096");
        check_refused(|s| s.lr_g = f64::NAN, "invert.lr_g is NaN");
        check_refused(|s| s.bn_momentum = 1.0, "invert.bn_momentum is 1");
        check_refused(|s| s.phi.gamma = -0.5, "invert.phi.gamma is -0.5");
        check_refused(|s| s.augment.crop_padding = 65, "invert.augment.crop_padding is 65");
        check_refused(|s| s.targets = TargetRule::Balanced, "invert.strategy = \"meta\"");
        check_refused(|s| (s.bn, s.oh, s.bal) = (0.0, 0.0, 0.0), "invert.bn, invert.oh and invert.bal are all 0");
    }
}
