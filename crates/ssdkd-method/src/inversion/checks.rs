//! Which settings of `[invert]` are refused.

use ssdkd_nn::{Architecture, Task};

use crate::inversion::loss_settings::Discrepancy;
use crate::inversion::settings::InvertSettings;
use crate::inversion::strategy::StrategyName;
use crate::inversion::synthesis::TargetRule;
use crate::modulation::Diversity;
use crate::range;

impl InvertSettings {
    /// Checks every value; the error names the recipe's key.
    pub fn validate(&self) -> Result<(), String> {
        range::check("invert", self)?;
        let name = self.strategy.name();
        if !self.loss.any(true) {
            return Err(
                "batch_norm, class, balance, activation and adversarial in [invert.loss] are all 0; one of them must be above 0"
                    .into(),
            );
        }
        if name != StrategyName::Persistent && !self.loss.any(false) {
            return Err(
                "batch_norm, class, balance and activation in [invert.loss] are all 0; the warm-up needs one of \
                        them above 0"
                    .into(),
            );
        }
        if self.loss.adversarial_mask && self.loss.discrepancy != Discrepancy::Kl {
            return Err(
                "invert.loss.adversarial_mask is true; it must be false unless invert.loss.discrepancy is \"kl\""
                    .into(),
            );
        }
        if matches!(name, StrategyName::Pixels | StrategyName::Contrastive) && self.targets == TargetRule::Predicted {
            // What starts as noise would stay what the teacher takes noise for.
            return Err(format!(
                "invert.targets is \"predicted\"; strategy \"{}\" needs \"random\" or \"balanced\"",
                name.as_str()
            ));
        }
        Ok(())
    }

    /// Checks whether images can be made so for a teacher of this architecture; the error names the recipe's key.
    pub fn check_teacher(&self, teacher: &Architecture) -> Result<(), String> {
        if teacher.task() == Task::Images {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inversion::loss_settings::LossSettings;
    use crate::inversion::persistent::PersistentSettings;
    use crate::inversion::strategy::Strategy;

    #[track_caller]
    fn check_refused(name: StrategyName, change: impl FnOnce(&mut InvertSettings), message: &str) {
        let mut settings = InvertSettings::of(name);
        assert_eq!(settings.validate(), Ok(()));
        change(&mut settings);
        let error = settings.validate().unwrap_err();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn impossible_settings_are_refused_by_name() {
        use StrategyName::{Meta, Persistent, Pixels};
        let batch = "invert.batch is 1; it must be a whole number from 2 to 4096";
        check_refused(Persistent, |s| s.batch = 1, batch);
        check_refused(
            Persistent,
            |s| s.strategy = Strategy::Persistent(PersistentSettings { lr: 0.0, ..Default::default() }),
            "invert.persistent.lr is 0; it must be a number above 0",
        );
        check_refused(Persistent, |s| s.loss.batch_norm_momentum = 1.0, "invert.loss.batch_norm_momentum is 1");
        check_refused(Persistent, |s| s.phi.gamma = -0.5, "invert.phi.gamma is -0.5");
        check_refused(Persistent, |s| s.views.crop_padding = 513, "invert.views.crop_padding is 513");
        check_refused(Pixels, |s| s.targets = TargetRule::Predicted, "needs \"random\" or \"balanced\"");
        check_refused(Persistent, |s| s.loss = LossSettings::NONE, "are all 0; one of them");
        let follower = LossSettings { adversarial: 1.0, ..LossSettings::NONE };
        check_refused(Meta, |s| s.loss = follower, "the warm-up needs one of them");
        check_refused(Meta, |s| s.loss.discrepancy = Discrepancy::L1, "invert.loss.adversarial_mask is true");
    }
}
