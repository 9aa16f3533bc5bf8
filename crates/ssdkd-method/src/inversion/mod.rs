//! Inversion: from the teacher alone to a batch of labeled images.
//!
//! Images are made to have a low [loss]. There are four strategies:
//!
//! - [`persistent`]: one generator is trained for the whole run, with fresh latents each step, so
//!   that it follows the student's mistakes \[O\]\[C: DAFL, ZSKT, DFAD, DFQ and DDAD work this way\].
//! - [`meta`]: the generator is a starting point. For each batch a clone of it *and* the latents are
//!   trained for some steps; the generator itself takes one step towards where clones go \[C: Fast-Datafree\].
//! - [`pixels`]: no generator; the pixels themselves are trained \[C: DeepInversion\].
//! - [`contrastive`]: a fresh generator for each batch, whose images should differ from those before \[C: CMI\].
//!
//! A file of this folder uses only files above it in this list: `loss_settings`, `batch_norm`, `loss`, `synthesis`, `generator`, the
//! strategies, `strategy`, `settings`, `checks` and `relevance`.

pub mod batch_norm;
mod checks;
pub mod contrastive;
mod generator;
pub mod loss;
mod loss_settings;
pub mod meta;
pub mod persistent;
pub mod pixels;
mod relevance;
mod settings;
mod strategy;
mod synthesis;
#[cfg(test)]
mod tests;

use candle_core::{Device, Result};
use ssdkd_nn::Network;

pub use batch_norm::BatchNormMomentum;
pub use loss::{Evaluated, Loss, Objective, Term, Terms, UnreadLoss};
pub use loss_settings::{BatchNormForm, Discrepancy, LossSettings};
pub use settings::InvertSettings;
pub use strategy::{Strategy, StrategyName, strategies_of};
pub use synthesis::{BatchSettings, ImageFormat, Inversion, Position, Synthesis, TargetRule};

/// Starts the strategy of `settings` for a teacher's images; what is drawn is a function of `seed`.
pub fn start(settings: &InvertSettings, teacher: &Network, seed: u64, device: &Device) -> Result<Box<dyn Inversion>> {
    settings.check_teacher(&teacher.spec().architecture).map_err(candle_core::Error::msg)?;
    let (batch, averages) = (settings.batch_settings(), BatchNormMomentum::of(&settings.loss));
    Ok(match settings.strategy.clone() {
        Strategy::Persistent(own) => {
            Box::new(persistent::PersistentGenerator::new(own, batch, averages, teacher, seed, device)?)
        }
        Strategy::Meta(own) => Box::new(meta::MetaGenerator::new(own, batch, averages, teacher, seed, device)?),
        Strategy::Pixels(own) => Box::new(pixels::PixelOptimization::new(own, batch, device)),
        Strategy::Contrastive(own) => {
            Box::new(contrastive::ContrastiveInversion::new(own, batch, teacher, seed, device)?)
        }
    })
}
