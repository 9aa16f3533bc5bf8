//! Inversion: from the teacher alone to a batch of labelled images.
//!
//! Images are made to score well in the [loss of the inversion](crate::inversion_loss). There are four ways to make them:
//!
//! - [`persistent`](crate::persistent_generator): one generator is trained all along, with fresh latents each step, so
//!   that it follows the student's mistakes \[O\]\[C: DAFL, ZSKT, DFAD, DFQ and DDAD work this way\].
//! - [`meta`](crate::meta_generator): the generator is a starting point. For each batch a clone of it *and* the latents are
//!   trained for some steps; the generator itself takes one step towards where clones go \[C: Fast-Datafree\].
//! - [`pixels`](crate::pixel_optimisation): no generator; the pixels themselves are trained \[C: DeepInversion\].
//! - [`contrastive`](crate::contrastive_inversion): a fresh generator for each batch, whose images are to differ from those
//!   before \[C: CMI\].
//!
//! They share everything else, and that is here: settings, draws, the finished batch, saving and restoring.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};
use serde::{Deserialize, Serialize};
use ssdkd_nn::{Architecture, Network, Task};

use crate::answers::Answers;
use crate::augment::AugmentSettings;
use crate::check;
use crate::contrastive_inversion::ContrastiveInversion;
use crate::inversion_loss::{Discrepancy, InversionTerms, LossWeights, Objective};
use crate::meta_generator::MetaGenerator;
use crate::modulation::{Diversity, ModulationSettings};
use crate::persistent_generator::PersistentGenerator;
use crate::pixel_optimisation::PixelOptimisation;

/// `[invert]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InvertSettings {
    /// How images are made.
    pub strategy: Strategy,
    /// Length of z \[C: 256\].
    pub latent: usize,
    /// Channels of the generator's last hidden layer; the first has twice as many \[C: 64\].
    pub width: usize,
    /// Images in a batch, 2–4096 \[C: 256\].
    pub batch: usize,
    /// Batches synthesised in a round.
    pub batches: usize,
    /// Steps for each batch: of the generator; for `meta` of the clone \[C: 2, 5 or 10\]; for `pixels` of the images \[C: 2000\];
    /// for `contrastive` of the batch's generator \[C: 200 or 500\].
    pub steps: usize,
    /// Adam's learning rate for the generator. `persistent`: 1e-3 \[O\]; `meta`: 5e-3, 3e-3, 2e-3 for 2, 5, 10 steps \[C\].
    pub lr_g: f64,
    /// Adam's learning rate for what is trained beside the generator. `meta` and `contrastive`: the latents, 0.015, 0.01, 0.01 for
    /// 2, 5, 10 steps \[C\]; `pixels`: the pixels, 0.05 in units of the image's range \[C: DeepInversion, in normalised units\].
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
    /// Factor of the activation of the teacher's features: 0; DAFL: 1e-3 \[C\].
    pub act: f64,
    /// Factor of the adversarial term: 1 \[O\]; 1, 1.1 or 1.33 \[C\].
    pub adv: f64,
    /// What the adversarial term measures: "kl", or "l1" of the logits \[C: DFAD\].
    pub discrepancy: Discrepancy,
    /// Whether the adversarial term counts only images on which teacher and student agree: no \[O\], yes \[C\].
    pub adv_mask: bool,
    /// `persistent` and `meta` only: momentum of the averaged batch-norm statistics, in `[0, 1)`; 0 switches averaging off. `persistent`: 0 \[O\];
    /// `meta`: 0.9 \[C\].
    ///
    /// It scales the gradient of L_BN by one minus itself: bn = 10 at 0.9 pulls like bn = 1 at 0.
    pub bn_momentum: f64,
    /// Which classes the images should be of; "predicted" is not for `pixels` and `contrastive`, and with the others `persistent` tells
    /// the generator.
    pub targets: TargetRule,
    /// `persistent` only, where targets are not "predicted": the length of the [class code](crate::persistent_generator) \[O\].
    pub class_code: f64,
    /// `persistent` only, likewise: how many codes a class has, 1–1000; one of them is drawn for each image \[O\].
    pub codes_per_class: usize,
    /// `pixels` only: factor of the total variation \[C: DeepInversion: 2.5e-5 and more\].
    pub tv: f64,
    /// `pixels` only: factor of the norm of all pixels, seen from mid-grey \[C: DeepInversion: 3e-8 and more\].
    pub l2: f64,
    /// `contrastive` only: factor of the contrastive term \[C: CMI: 0.8\].
    pub cr: f64,
    /// `contrastive` only: its temperature \[C: CMI: 0.1\].
    pub cr_temperature: f64,
    /// `contrastive` only: images whose features are remembered \[C: CMI: 4096\].
    pub cr_bank: usize,
    /// `persistent` and `meta` only: draw the first linear layer anew, once, at the start of the so-manieth round after the warm-up (from 1);
    /// 0: never \[C: 120 for `meta`\].
    pub reset_round: u32,
    /// Likewise: draw it anew again and again, at the start of every so-manieth round after the warm-up; 0: never \[O; C: NAYER, Tran et al. 2024,
    /// for each batch\].
    pub reset_every: u32,
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
            act: 0.0,
            adv: 1.0,
            discrepancy: Discrepancy::Kl,
            adv_mask: false,
            bn_momentum: 0.0,
            targets: TargetRule::Predicted,
            class_code: 4.0,
            codes_per_class: 1,
            tv: 0.0,
            l2: 0.0,
            cr: 0.8,
            cr_temperature: 0.1,
            cr_bank: 4096,
            reset_round: 0,
            reset_every: 0,
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
        check::positive("invert.class_code", self.class_code)?;
        check::count("invert.codes_per_class", self.codes_per_class, 1..=1000)?;
        check::not_negative("invert.act", self.act)?;
        check::not_negative("invert.tv", self.tv)?;
        check::not_negative("invert.l2", self.l2)?;
        check::not_negative("invert.cr", self.cr)?;
        check::positive("invert.cr_temperature", self.cr_temperature)?;
        check::count("invert.cr_bank", self.cr_bank, 0..=1_000_000)?;
        if !self.loss_weights().any(true) {
            return Err("invert.bn, oh, bal, act and adv are all 0; one of them must be above 0".into());
        }
        if self.strategy != Strategy::Persistent && !self.loss_weights().any(false) {
            return Err("invert.bn, oh, bal and act are all 0; the warm-up needs one of them above 0".into());
        }
        if self.adv_mask && self.discrepancy != Discrepancy::Kl {
            return Err("invert.adv_mask is true; it must be false unless invert.discrepancy is \"kl\"".into());
        }
        if matches!(self.strategy, Strategy::Pixels | Strategy::Contrastive) && self.targets == TargetRule::Predicted {
            // What starts as noise would stay what the teacher takes noise for.
            return Err("invert.targets is \"predicted\"; this invert.strategy needs \"random\" or \"balanced\"".into());
        }
        if self.strategy == Strategy::Pixels && self.lr_z == 0.0 {
            return Err("invert.lr_z is 0; it is what \"pixels\" moves its images by, and must be above 0".into());
        }
        self.augment.validate("invert")?;
        self.phi.validate()
    }

    /// Whether images can be made so for a teacher of this architecture; the error names the recipe's key.
    pub fn check_teacher(&self, teacher: Architecture) -> std::result::Result<(), String> {
        if teacher.task == Task::Images {
            return Ok(());
        }
        if self.phi.diversity != Diversity::Off {
            return Err(format!(
                "invert.phi.diversity must be \"off\" for a {teacher}: it labels pixels, and the buffer counts images\n\
                 hint: set it so; invert.phi.gamma weighs each pixel by the teacher's doubt"
            ));
        }
        if self.targets != TargetRule::Predicted {
            return Err(format!(
                "invert.targets must be \"predicted\" for a {teacher}: it labels pixels, and nothing says where in an image a class \
                 is to be\nhint: set it so, with invert.strategy \"persistent\" or \"meta\""
            ));
        }
        Ok(())
    }

    /// These settings, with those that change nothing in a round as they are by default. `distilling_round` counts from 0 after
    /// the warm-up, and is `None` during it.
    ///
    /// Images that were made by other settings are as good where these are the same.
    #[must_use]
    pub fn relevant(&self, distilling_round: Option<u32>) -> Self {
        let default = Self::default();
        let mut settings = self.clone();
        if !self.looks_at_student(distilling_round) {
            (settings.adv, settings.discrepancy, settings.adv_mask) = (0.0, default.discrepancy, default.adv_mask);
        }
        if self.oh == 0.0 {
            settings.phi = ModulationSettings::OFF;
        }
        if self.strategy == Strategy::Persistent {
            settings.lr_z = default.lr_z;
        }
        if self.strategy == Strategy::Pixels {
            (settings.latent, settings.width, settings.lr_g) = (default.latent, default.width, default.lr_g);
        } else {
            (settings.tv, settings.l2) = (default.tv, default.l2);
        }
        if self.strategy != Strategy::Contrastive {
            settings.cr = default.cr;
        }
        if self.strategy != Strategy::Contrastive || self.cr == 0.0 {
            (settings.cr_temperature, settings.cr_bank) = (default.cr_temperature, default.cr_bank);
        }
        if matches!(self.strategy, Strategy::Pixels | Strategy::Contrastive) || self.bn == 0.0 {
            settings.bn_momentum = default.bn_momentum;
        }
        if self.strategy == Strategy::Persistent && !self.loss_weights().any(self.looks_at_student(distilling_round)) {
            // Nothing is trained.
            (settings.lr_g, settings.steps, settings.augment) = (default.lr_g, default.steps, default.augment);
            (settings.beta1, settings.beta2) = (default.beta1, default.beta2);
        }
        if !self.knows_classes() {
            (settings.class_code, settings.codes_per_class) = (default.class_code, default.codes_per_class);
        }
        (settings.reset_round, settings.reset_every) = (0, u32::from(self.resets(distilling_round)));
        settings
    }

    /// Whether the images of a round depend on the student.
    pub fn looks_at_student(&self, distilling_round: Option<u32>) -> bool {
        self.adv != 0.0 && distilling_round.is_some()
    }

    /// Whether the generator's first linear layer is drawn anew at the start of this round.
    pub fn resets(&self, distilling_round: Option<u32>) -> bool {
        let lasts = matches!(self.strategy, Strategy::Persistent | Strategy::Meta);
        let due =
            |round: u32| round == self.reset_round || (self.reset_every > 0 && round.is_multiple_of(self.reset_every));
        lasts && distilling_round.is_some_and(|round| due(round + 1))
    }

    /// Whether the generator is told which class an image should be of.
    pub fn knows_classes(&self) -> bool {
        self.strategy == Strategy::Persistent && self.targets != TargetRule::Predicted
    }

    /// The factors of the loss.
    pub fn loss_weights(&self) -> LossWeights {
        let Self { bn, oh, bal, act, adv, discrepancy, adv_mask, .. } = *self;
        LossWeights { bn, oh, bal, act, adv, discrepancy, adv_mask }
    }
}

/// How images are made; see the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// One generator, trained all along.
    Persistent,
    /// A meta-learnt starting point, cloned for each batch.
    Meta,
    /// No generator: the pixels are trained.
    Pixels,
    /// A fresh generator for each batch, against the images before.
    Contrastive,
}

/// Which classes the images should be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetRule {
    /// Whatever the teacher takes them for, at each step \[C: DAFL\]; where it labels pixels, each of these \[O\].
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
    /// What the teacher says of exactly `images`: no augmentation.
    pub answers: Answers,
    /// The loss of the iterate that made the images.
    pub terms: InversionTerms,
}

/// One way to make images, with all of its state.
pub trait Inversion {
    /// Makes one batch that `objective` likes, learning on the way.
    fn synthesize(&mut self, objective: &Objective<'_>, position: Position) -> Result<Synthesis>;

    /// Everything that a later round needs to go on to the same bits.
    fn state_tensors(&self) -> BTreeMap<String, Tensor>;

    /// Takes up a saved state; the error names what does not fit.
    fn load_state(&mut self, tensors: BTreeMap<String, Tensor>) -> Result<()>;
}

impl Strategy {
    /// A fresh start for a teacher's images; what is drawn is a function of `seed`.
    pub fn start(
        settings: &InvertSettings,
        teacher: &Network,
        seed: u64,
        device: &Device,
    ) -> Result<Box<dyn Inversion>> {
        settings.check_teacher(teacher.spec().architecture).map_err(candle_core::Error::msg)?;
        let owned = settings.clone();
        Ok(match settings.strategy {
            Self::Persistent => Box::new(PersistentGenerator::new(owned, teacher, seed, device)?),
            Self::Meta => Box::new(MetaGenerator::new(owned, teacher, seed, device)?),
            Self::Pixels => Box::new(PixelOptimisation::new(owned, device)),
            Self::Contrastive => Box::new(ContrastiveInversion::new(owned, teacher, seed, device)?),
        })
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
        check_refused(
            |s| (s.strategy, s.targets, s.lr_z) = (Strategy::Pixels, TargetRule::Random, 0.0),
            "invert.lr_z is 0",
        );
        check_refused(|s| s.bn_momentum = 1.0, "invert.bn_momentum is 1");
        check_refused(|s| s.phi.gamma = -0.5, "invert.phi.gamma is -0.5");
        check_refused(|s| s.augment.crop_padding = 65, "invert.augment.crop_padding is 65");
        check_refused(|s| s.class_code = 0.0, "invert.class_code is 0");
        check_refused(|s| s.codes_per_class = 0, "invert.codes_per_class is 0");
        check_refused(|s| s.strategy = Strategy::Pixels, "needs \"random\" or \"balanced\"");
        check_refused(|s| (s.bn, s.oh, s.bal, s.adv) = (0.0, 0.0, 0.0, 0.0), "are all 0; one of them");
        check_refused(
            |s| (s.bn, s.oh, s.bal, s.strategy) = (0.0, 0.0, 0.0, Strategy::Meta),
            "the warm-up needs one of them",
        );
        check_refused(|s| (s.adv_mask, s.discrepancy) = (true, Discrepancy::L1), "invert.adv_mask is true");
    }
}
