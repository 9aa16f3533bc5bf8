//! What one step of the student showed.

use candle_core::{Result, bail};
use ssdkd_ops::Packed;

/// What one step showed.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// L_S, feature distillation included.
    pub loss: f32,
    /// L_F, before its factor; `None` without feature distillation.
    pub feature_distillation: Option<f32>,
    /// KL(f_t ‖ f_s) in nats at T = 1 of every sample's view, the mean over its pixels where these are labeled, before the step.
    pub disagreement: Vec<f32>,
    /// Share of the views, or of their pixels, that both networks take for the same class.
    pub agreement: f32,
    /// Euclidean norm of the gradient over all parameters, weight decay not included.
    pub gradient_norm: f32,
    /// The learning rate.
    pub lr: f64,
}

impl StepReport {
    /// Reads what [`Distiller::learn`](super::Distiller::learn) packed: L_F, if there is one, then loss, gradient norm, agreement and
    /// disagreement.
    pub(super) fn read(figures: &Packed, has_features: bool, step: u64, lr: f64) -> Result<Self> {
        let mut figures = figures.read()?.into_iter();
        let mut next = || figures.next().unwrap_or_default();
        let mut single = || next().first().copied().unwrap_or(f32::NAN);
        let feature_distillation = has_features.then(&mut single);
        let [loss, gradient_norm, agreement] = [(); 3].map(|()| single());
        let disagreement = next();
        if !loss.is_finite() {
            bail!("the student's loss at step {step} is {loss}\nhint: it has diverged; lower distill.lr");
        }
        Ok(Self { loss, feature_distillation, disagreement, agreement, gradient_norm, lr })
    }
}
