//! What the images of a round depend on: the settings that have an effect, the student, the class prior.

use serde_json::{Value, json};
use ssdkd_nn::DifferentiableViewSettings;

use crate::inversion::loss_settings::{BatchNormForm, LossSettings};
use crate::inversion::persistent::PersistentSettings;
use crate::inversion::settings::InvertSettings;
use crate::inversion::strategy::Strategy;
use crate::inversion::synthesis::TargetRule;
use crate::modulation::{Diversity, ModulationSettings};

impl InvertSettings {
    /// Returns these settings, with those that change nothing in a round as they are by default. `distilling_round` counts from 0
    /// after the warm-up, and is `None` during it.
    ///
    /// Images that were made by other settings are as good where these are the same.
    #[must_use]
    pub fn relevant(&self, distilling_round: Option<u32>) -> Self {
        let mut settings = self.clone();
        if !self.looks_at_student(distilling_round) {
            let LossSettings { adversarial, discrepancy, adversarial_mask, .. } = LossSettings::NONE;
            settings.loss = LossSettings { adversarial, discrepancy, adversarial_mask, ..settings.loss };
        }
        if self.loss.class == 0.0 {
            settings.phi = ModulationSettings::OFF;
        }
        if self.loss.batch_norm == 0.0 {
            settings.loss.batch_norm_form = LossSettings::NONE.batch_norm_form;
        }
        let trains = self.loss.any(self.looks_at_student(distilling_round));
        let resets = (0, u32::from(self.resets(distilling_round)));
        match &mut settings.strategy {
            Strategy::Persistent(own) => {
                let default = PersistentSettings::default();
                (own.reset_round, own.reset_every) = resets;
                if self.targets == TargetRule::Predicted {
                    own.embeddings_per_class = default.embeddings_per_class;
                    own.embedding_scale = default.embedding_scale;
                }
                if !trains {
                    (own.lr, own.beta1, own.beta2) = (default.lr, default.beta1, default.beta2);
                    (settings.steps, settings.views) = (1, DifferentiableViewSettings::OFF);
                }
            }
            Strategy::Meta(own) => (own.reset_round, own.reset_every) = resets,
            Strategy::Pixels(_) | Strategy::Contrastive(_) => {}
        }
        settings
    }

    /// Returns what a stage's fingerprint holds of these settings. A key that came after the first runs is left out where it has no
    /// effect, so that their rounds stay fresh.
    pub fn fingerprint(&self) -> Value {
        let mut settings = json!(self);
        if self.loss.batch_norm_form == BatchNormForm::Absolute
            && let Some(loss) = settings["loss"].as_object_mut()
        {
            loss.remove("batch_norm_form");
        }
        if self.views.color_jitter == 0.0
            && let Some(views) = settings["views"].as_object_mut()
        {
            views.remove("color_jitter");
        }
        settings
    }

    /// Returns whether the images of a round depend on the student.
    pub fn looks_at_student(&self, distilling_round: Option<u32>) -> bool {
        self.loss.adversarial != 0.0 && distilling_round.is_some()
    }

    /// Returns whether a class prior changes the images.
    pub fn looks_at_prior(&self) -> bool {
        let phi = self.loss.class != 0.0 && self.phi.diversity != Diversity::Off;
        self.targets != TargetRule::Predicted || self.loss.balance != 0.0 || phi
    }

    /// Returns whether the generator's first linear layer is re-initialized at the start of this round.
    pub fn resets(&self, distilling_round: Option<u32>) -> bool {
        match &self.strategy {
            Strategy::Persistent(own) => own.resets().is_due(distilling_round),
            Strategy::Meta(own) => own.resets().is_due(distilling_round),
            Strategy::Pixels(_) | Strategy::Contrastive(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_of_runs_from_before_a_key_stays() {
        let absolute = InvertSettings::default();
        assert_eq!(absolute.fingerprint()["loss"].get("batch_norm_form"), None);
        assert_eq!(absolute.fingerprint()["loss"]["batch_norm"], 1.0);
        assert_eq!(absolute.fingerprint()["views"], json!({ "crop_padding": 4, "border": "zeros", "flip": true }));
        let mut relative = absolute;
        relative.loss.batch_norm_form = BatchNormForm::Relative;
        relative.views.color_jitter = 0.5;
        assert_eq!(relative.fingerprint()["loss"]["batch_norm_form"], "relative");
        assert_eq!(relative.fingerprint()["views"]["color_jitter"], 0.5);
    }
}
