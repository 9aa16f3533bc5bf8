//! `[invert.loss]`: the factors of the loss and what belongs to them. Their defaults depend on the strategy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Declares settings whose defaults depend on something else, and a table of the same keys in which each may be left out.
macro_rules! settings_with_defaults {
    (
        $(#[doc = $of_all:literal])*
        pub struct $settings:ident, read as $table:ident {
            $($(#[doc = $doc:literal])* $(#[schemars($($range:tt)*)])? pub $field:ident: $kind:ty,)*
        }
    ) => {
        $(#[doc = $of_all])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct $settings {
            $($(#[doc = $doc])* pub $field: $kind,)*
        }

        $(#[doc = $of_all])*
        #[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct $table {
            $(
                $(#[doc = $doc])*
                #[serde(skip_serializing_if = "Option::is_none")]
                $(#[schemars($($range)*)])?
                pub(crate) $field: Option<$kind>,
            )*
        }

        impl $table {
            /// Returns what the table says, and `defaults` for the rest.
            pub(crate) fn over(self, defaults: $settings) -> $settings {
                $settings { $($field: self.$field.unwrap_or(defaults.$field),)* }
            }
        }

        impl From<$settings> for $table {
            fn from(settings: $settings) -> Self {
                Self { $($field: Some(settings.$field),)* }
            }
        }
    };
}

settings_with_defaults! {
    /// The terms of the generator's loss: the factor of each, and their switches. A term with factor 0 is not computed.
    pub struct LossSettings, read as LossTable {
        /// Factor of the batch-norm term: the distance between batch statistics and the teacher's running statistics \[O: 1\] \[C: 10\].
        /// In the relative form the default is 100 times as large \[O\].
        #[schemars(range(min = 0.0))]
        pub batch_norm: f64,
        /// What the batch-norm term measures distances in.
        pub batch_norm_form: BatchNormForm,
        /// Factor of the class term: cross-entropy with the target classes, weighted by φ \[O: 0.5\] \[C: 0.4 or 0.5\].
        #[schemars(range(min = 0.0))]
        pub class: f64,
        /// Factor of the balance term: it spreads each batch over the classes \[C: DAFL\].
        #[schemars(range(min = 0.0))]
        pub balance: f64,
        /// Factor of the activation term: it rewards strong features of the teacher \[C: DAFL: 1e-3\].
        #[schemars(range(min = 0.0))]
        pub activation: f64,
        /// Factor of the adversarial term: it rewards disagreement of teacher and student, after the warm-up \[C: 1 to 1.33\].
        #[schemars(range(min = 0.0))]
        pub adversarial: f64,
        /// How the adversarial term measures disagreement.
        pub discrepancy: Discrepancy,
        /// Count in the adversarial term only images on which teacher and student name the same class \[C\]. Needs discrepancy "kl".
        pub adversarial_mask: bool,
        /// Momentum of the averaged batch statistics in the batch-norm term; 0 switches averaging off \[C: 0.9\]. It scales that term's
        /// gradient by one minus itself: factor 10 at 0.9 pulls like factor 1 at 0.
        #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
        pub batch_norm_momentum: f64,
        /// Factor of the total variation of the pixels \[C: DeepInversion: 2.5e-5 and more\].
        #[schemars(range(min = 0.0))]
        pub total_variation: f64,
        /// Factor of the distance of all pixels from mid-gray \[C: DeepInversion: 3e-8 and more\].
        #[schemars(range(min = 0.0))]
        pub l2: f64,
        /// Factor of the contrastive term: it rewards images that differ from those before \[C: CMI: 0.8\].
        #[schemars(range(min = 0.0))]
        pub contrastive: f64,
    }
}

/// What the batch-norm term measures distances in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BatchNormForm {
    /// The teacher's activations, summed over layers \[R\]\[C\]. The factor depends on the teacher.
    Absolute,
    /// Deviations of the teacher's channels, as a mean over channels and layers \[O\]. The factor is the same for any teacher.
    Relative,
}

/// What two networks disagree in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Discrepancy {
    /// KL divergence of the probabilities.
    Kl,
    /// Mean absolute difference of the logits \[C: DFAD\].
    L1,
}

impl LossSettings {
    /// No term.
    pub const NONE: Self = Self {
        batch_norm: 0.0,
        batch_norm_form: BatchNormForm::Absolute,
        class: 0.0,
        balance: 0.0,
        activation: 0.0,
        adversarial: 0.0,
        discrepancy: Discrepancy::Kl,
        adversarial_mask: false,
        batch_norm_momentum: 0.0,
        total_variation: 0.0,
        l2: 0.0,
        contrastive: 0.0,
    };
}
