//! The modulating function φ: how much an image counts in the class term of the generator's loss.
//!
//! A small synthetic set suffers where a large one does not: some classes crowd out others, and easy images crowd out
//! hard ones \[S\]. φ gives weight to images whose class is rare in the replay buffer and of which the teacher is
//! not yet sure:
//!
//! ```text
//! φ(x)          = diversity(x) · difficulty(x)                                                                    [R]
//! diversity(x)  = 1 − (1/|B|) · #{ x' in B : argmax f_t(x') = argmax f_t(x) }                          "share"    [R]
//!               = 1 / (1 + n_c · C / |B|)            n_c of the buffer's images are of x's class c     "ratio"    [O]
//!               = 1                                                                                    "off"
//! difficulty(x) = (1 − p_T(x))^γ                     p_T: the teacher's top probability, as in focal loss         [R]
//! ```
//!
//! In a balanced buffer of ten classes every share is 0.90, of a hundred classes 0.99: little contrast. "ratio" gives
//! 0.5 in a balanced buffer, 1 to an absent class and 1/3 to one that is twice too common.
//!
//! φ is a constant weight: no gradient flows through it \[O\]. An empty buffer has diversity 1, and γ = 0 has
//! difficulty exactly 1, so that `diversity = "off"` with γ = 0 is the unmodulated baseline, bit for bit.

use candle_core::{Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::prior::ClassPrior;

/// φ: how much an image counts in the class term.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModulationSettings {
    /// The form of the diversity factor: it weighs images up whose class is rare in the buffer.
    pub diversity: Diversity,
    /// Exponent of the difficulty factor: it weighs images up of which the teacher is not sure. 0 switches it off \[O: focal loss's 2\].
    #[schemars(range(min = 0.0))]
    pub gamma: f64,
}

impl Default for ModulationSettings {
    fn default() -> Self {
        Self { diversity: Diversity::Share, gamma: 2.0 }
    }
}

impl ModulationSettings {
    /// φ = 1 everywhere.
    pub const OFF: Self = Self { diversity: Diversity::Off, gamma: 0.0 };
}

/// The forms of the diversity factor; see the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Diversity {
    /// One minus the class's share of the buffer \[R\].
    Share,
    /// Inverse of one plus the class's count over the even count \[O\].
    Ratio,
    /// Always 1.
    Off,
}

/// φ's two factors for one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factors {
    /// In `[0, 1]`; high for a class that is rare in the buffer.
    pub diversity: f32,
    /// In `[0, 1]`; high for an image of which the teacher is unsure.
    pub difficulty: f32,
}

impl Factors {
    /// Returns φ, their product.
    pub fn phi(self) -> f32 {
        self.diversity * self.difficulty
    }
}

/// φ, given what the buffer holds.
///
/// ```
/// use ssdkd_method::{Diversity, Modulation, ModulationSettings};
///
/// let settings = ModulationSettings { diversity: Diversity::Share, gamma: 2.0 };
/// let phi = Modulation::new(settings, &[30, 10]);
/// let (common, rare) = (phi.factors(0, 0.5), phi.factors(1, 0.5));
/// assert_eq!((common.diversity, rare.diversity), (0.25, 0.75));
/// assert_eq!(rare.phi(), 0.75 * 0.5 * 0.5);
/// ```
#[derive(Debug, Clone)]
pub struct Modulation {
    settings: ModulationSettings,
    /// Whole numbers, unless a prior scales them.
    class_counts: Vec<f64>,
    total: f64,
}

impl Modulation {
    /// φ for a buffer that holds `class_counts[c]` images of teacher class `c`; an empty slice is an empty buffer.
    pub fn new(settings: ModulationSettings, class_counts: &[u64]) -> Self {
        let class_counts = class_counts.iter().map(|&count| count as f64).collect::<Vec<_>>();
        Self { settings, total: class_counts.iter().sum(), class_counts }
    }

    /// Returns the same where the classes are not equally common: see [`prior`](crate::prior).
    #[must_use]
    pub fn with_prior(mut self, prior: &ClassPrior) -> Self {
        if !prior.is_uniform() {
            for (class, count) in self.class_counts.iter_mut().enumerate() {
                *count /= prior.relative(class);
            }
            self.total = self.class_counts.iter().sum();
        }
        self
    }

    /// Returns the factors of an image that the teacher takes for `class` with probability `confidence`.
    pub fn factors(&self, class: u32, confidence: f32) -> Factors {
        let doubt = f64::from(1.0 - confidence).max(0.0);
        Factors { diversity: self.diversity(class), difficulty: doubt.powf(self.settings.gamma) as f32 }
    }

    fn diversity(&self, class: u32) -> f32 {
        let of_class = self.class_counts.get(class as usize).copied().unwrap_or(0.0);
        let diversity = match self.settings.diversity {
            _ if self.total == 0.0 => 1.0,
            Diversity::Share => 1.0 - of_class / self.total,
            Diversity::Ratio => 1.0 / (1.0 + of_class * self.class_counts.len() as f64 / self.total),
            Diversity::Off => 1.0,
        };
        diversity as f32
    }

    /// Returns the diversity of an image of each of `classes` classes.
    pub(crate) fn diversities(&self, classes: usize) -> Vec<f32> {
        (0..classes as u32).map(|class| self.diversity(class)).collect()
    }

    /// Returns φ of every image of a batch (B,), the weights of the class term, from the teacher's logits (B, K) and the
    /// [diversities](Self::diversities) on their device.
    pub(crate) fn weights(&self, teacher_logits: &Tensor, diversities: &Tensor) -> Result<Tensor> {
        ssdkd_ops::focal_weights(teacher_logits, diversities, self.settings.gamma)
    }

    /// Returns γ.
    pub(crate) fn gamma(&self) -> f64 {
        self.settings.gamma
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{assert_repeated, formula, numbers};

    #[track_caller]
    fn check(diversity: Diversity, gamma: f64, counts: &[u64], class: u32, confidence: f32, expected: (f32, f32)) {
        let factors = Modulation::new(ModulationSettings { diversity, gamma }, counts).factors(class, confidence);
        assert!((factors.diversity - expected.0).abs() < 1e-6, "{factors:?} is not {expected:?}");
        assert!((factors.difficulty - expected.1).abs() < 1e-6, "{factors:?} is not {expected:?}");
    }

    #[test]
    fn each_form_weighs_rare_classes_up() {
        check(Diversity::Share, 1.0, &[10; 10], 3, 0.75, (0.9, 0.25));
        check(Diversity::Share, 2.0, &[1; 100], 99, 0.5, (0.99, 0.25));
        check(Diversity::Share, 0.5, &[0, 10], 1, 0.75, (0.0, 0.5));
        check(Diversity::Ratio, 1.0, &[10; 10], 3, 0.0, (0.5, 1.0));
        check(Diversity::Ratio, 1.0, &[0, 10, 10], 0, 0.0, (1.0, 1.0));
        check(Diversity::Ratio, 1.0, &[20, 5, 5], 0, 1.0, (1.0 / 3.0, 0.0));
        check(Diversity::Off, 1.0, &[20, 5, 5], 0, 0.4, (1.0, 0.6));
    }

    #[test]
    fn weights_of_a_batch_are_the_products_of_the_factors() {
        let modulation = Modulation::new(ModulationSettings::default(), &[5, 0, 12, 3]);
        let logits = formula(3, &[9, 4], 3.0);
        let (classes, confidences) = (ssdkd_ops::argmax(&logits).unwrap(), ssdkd_ops::confidence(&logits).unwrap());
        let expected = classes.into_iter().zip(confidences).map(|(class, p)| modulation.factors(class, p).phi());
        let diversities = Tensor::new(modulation.diversities(4), logits.device()).unwrap();
        let weights = modulation.weights(&logits, &diversities).unwrap();
        assert_repeated("φ", &numbers(&weights), &expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_prior_makes_a_class_with_its_share_as_common_as_any_other() {
        let prior = ClassPrior::new(&[6.0, 3.0, 1.0], 3).unwrap();
        for diversity in [Diversity::Share, Diversity::Ratio] {
            let settings = ModulationSettings { diversity, gamma: 0.0 };
            let of = |counts: &[u64], class| Modulation::new(settings, counts).with_prior(&prior).factors(class, 0.5);
            let even = Modulation::new(settings, &[10; 3]).factors(0, 0.5);
            for class in 0..3 {
                assert!((of(&[60, 30, 10], class).diversity - even.diversity).abs() < 1e-6);
            }
            assert!(of(&[60, 30, 20], 2).diversity < even.diversity, "twice too common");
        }
    }

    #[test]
    fn an_empty_buffer_has_full_diversity() {
        for diversity in [Diversity::Share, Diversity::Ratio, Diversity::Off] {
            check(diversity, 1.0, &[], 7, 0.5, (1.0, 0.5));
            check(diversity, 1.0, &[0; 10], 7, 0.5, (1.0, 0.5));
        }
    }

    #[test]
    fn off_is_exactly_one() {
        let modulation = Modulation::new(ModulationSettings::OFF, &[7, 1, 0]);
        for confidence in [0.0, 0.3, 0.999_999_94, 1.0, 1.000_000_1] {
            assert_eq!(modulation.factors(0, confidence).phi().to_bits(), 1.0_f32.to_bits());
        }
    }
}
