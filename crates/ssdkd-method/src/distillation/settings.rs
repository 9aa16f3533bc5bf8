//! `[distill]`: the settings of the student's training.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssdkd_nn::{ViewSettings, schedule};

use crate::inversion::Discrepancy;
use crate::range;

/// Distillation: the student's training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DistillSettings {
    /// Student steps in a round \[C: 400\].
    #[schemars(range(min = 1, max = 1_000_000))]
    pub steps: usize,
    /// Images in a step \[C: 256\].
    #[schemars(range(min = 2, max = 65_536))]
    pub batch: usize,
    /// How often the student sees each view of a round. The teacher labels a view once. `steps` must be a multiple of it \[O\].
    #[schemars(range(min = 1))]
    pub passes: usize,
    /// The loss on the logits: "kl", or "l1", which uses neither temperature nor importance weights \[C: DFAD\].
    pub loss: Discrepancy,
    /// Softmax temperature of the "kl" loss \[C: 20\].
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub temperature: f64,
    /// Factor of feature distillation, the distance between the feature maps of student and teacher; 0: logits alone \[O\].
    #[schemars(range(min = 0.0))]
    pub feature_distillation: f64,
    /// The student's optimizer.
    pub optimizer: OptimizerKind,
    /// Highest learning rate \[C: 0.2\].
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub lr: f64,
    /// Learning rate at the last step of the run. It falls to it along a cosine \[C: 2e-4\].
    #[schemars(range(min = 0.0))]
    pub lr_min: f64,
    /// Steps, counted over the whole run, in which the learning rate rises linearly to `lr` \[C: 0\].
    #[schemars(range(min = 0, max = 100_000_000))]
    pub warmup_steps: usize,
    /// Momentum of SGD \[C: 0.9\].
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub momentum: f64,
    /// Use Nesterov momentum in SGD \[C: no\].
    pub nesterov: bool,
    /// L2 penalty on every trained parameter \[C: 1e-4\].
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// The views of the images that the teacher labels and the student learns from.
    pub views: ViewSettings,
}

impl Default for DistillSettings {
    fn default() -> Self {
        Self {
            steps: 40,
            batch: 128,
            passes: 1,
            loss: Discrepancy::Kl,
            temperature: 4.0,
            feature_distillation: 0.0,
            optimizer: OptimizerKind::Sgd,
            lr: 0.1,
            lr_min: 1e-4,
            warmup_steps: 0,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 5e-4,
            views: ViewSettings::default(),
        }
    }
}

impl DistillSettings {
    /// Checks every value; the error names the recipe's key.
    pub fn validate(&self) -> std::result::Result<(), String> {
        range::check("distill", self)?;
        let Self { steps, passes, .. } = *self;
        if passes > steps {
            return Err(format!(
                "distill.passes is {passes}; it must be a whole number from 1 to distill.steps, {steps}"
            ));
        }
        if !steps.is_multiple_of(passes) {
            return Err(format!("distill.steps is {steps}; it must be a multiple of distill.passes, {passes}"));
        }
        if self.lr_min > self.lr {
            return Err(format!("distill.lr_min is {}; it must not be above distill.lr, {}", self.lr_min, self.lr));
        }
        if self.nesterov && self.momentum == 0.0 {
            return Err("distill.nesterov is true; it must be false while distill.momentum is 0".into());
        }
        Ok(())
    }

    /// Returns these settings; those that change nothing have their defaults.
    #[must_use]
    pub fn relevant(&self) -> Self {
        let default = Self::default();
        let mut settings = self.clone();
        if self.loss == Discrepancy::L1 {
            settings.temperature = default.temperature;
        }
        if self.optimizer == OptimizerKind::Adam {
            (settings.momentum, settings.nesterov) = (default.momentum, default.nesterov);
        }
        settings
    }

    /// Images drawn for a round: those of the steps of one pass.
    pub fn draws(&self) -> usize {
        self.steps / self.passes * self.batch
    }

    /// Returns the learning rate of step `step` (from 0) of `total` in the run.
    pub fn learning_rate(&self, step: u64, total: u64) -> f64 {
        let warmup = self.warmup_steps as u64;
        if step < warmup {
            return self.lr * (step + 1) as f64 / warmup as f64;
        }
        schedule::cosine(self.lr, self.lr_min, step - warmup, total.saturating_sub(warmup))
    }
}

/// The student's optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Adam with decays 0.9 and 0.999.
    Adam,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let settings = DistillSettings { lr: 0.2, lr_min: 2e-4, warmup_steps: 4, ..Default::default() };
        for (step, expected) in [(0, 0.05), (3, 0.2), (4, 0.2), (54, 0.1001), (104, 2e-4), (999, 2e-4)] {
            let lr = settings.learning_rate(step, 105);
            assert!((lr - expected).abs() < 1e-12, "at step {step} it is {lr}");
        }
    }

    #[test]
    fn impossible_settings_are_refused_by_name() {
        let check = |settings: DistillSettings, message: &str| {
            let error = settings.validate().unwrap_err();
            assert!(error.contains(message), "{error}");
        };
        assert_eq!(DistillSettings::default().validate(), Ok(()));
        check(DistillSettings { lr_min: 1.0, ..Default::default() }, "distill.lr_min is 1");
        check(DistillSettings { nesterov: true, momentum: 0.0, ..Default::default() }, "distill.nesterov");
        check(DistillSettings { passes: 3, ..Default::default() }, "distill.steps is 40; it must be a multiple");
        check(DistillSettings { passes: 0, ..Default::default() }, "distill.passes is 0");
        let views = |views| DistillSettings { views, ..Default::default() };
        check(views(ViewSettings { mixup: 1.5, ..ViewSettings::OFF }), "distill.views.mixup is 1.5");
        check(views(ViewSettings { color_jitter: -0.5, ..ViewSettings::OFF }), "distill.views.color_jitter is -0.5");
        check(DistillSettings { temperature: 0.0, ..Default::default() }, "distill.temperature is 0");
    }
}
