//! The priority sampling function δ: which samples of the buffer the student sees.
//!
//! Prioritized experience replay with the disagreement of teacher and student instead of the temporal-difference
//! error: this is what the abstract's "reinforcement learning strategy" means \[S\]\[R\]. For a buffer of N samples:
//!
//! ```text
//! δ_i(x) = w_{i−1}(x) · KL( f_t(x) ‖ f_s(x) )                      priority; w = 1 at first                        [R]
//! P_i(x) = (|δ_i(x)| + ε)^α / Σ_{x' in B} (|δ_i(x')| + ε)^α        probability of a draw                           [R]
//! w_i(x) = (N · P_i(x))^{−β} / scale                               importance weight                         [R][C: PER]
//! ```
//!
//! The previous weight inside δ damps what was drawn too often. Open in the paper, hence settings \[O\]: whether it does
//! so at all, whether w also scales the student's loss, and whether the priorities of samples that were not drawn are
//! measured again. Draws are stratified: a batch of k cuts the cumulative P into k equal parts and takes one sample from
//! each \[C: PER\], which leaves every expectation as it is and lowers the variance.
//!
//! α = 0 gives uniform draws and w = 1; β = 0 gives w = 1.
//!
//! **The scale.** Prioritized experience replay divides by the largest w in the buffer, so that weights only shrink a step.
//! Disagreements span orders of magnitude, and the largest w belongs to the sample that disagrees least: at β = 1 the
//! drawn samples then have a mean weight of N · min P, a hundredth or less, and the student learns ever less as β rises.
//! So the default divides by the mean weight of a draw, Σ P·w, which keeps the size of the loss whatever α and β \[O\].

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::range;

/// Priority sampling: which images of the buffer the student sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SampleSettings {
    /// Draw by priority. `false` gives uniform draws and weight 1, whatever the other keys say.
    pub enabled: bool,
    /// How strongly priorities steer the draws: 0 not at all, 1 in proportion \[O\].
    #[schemars(range(min = 0.0, max = 1.0))]
    pub alpha: f64,
    /// Exponent β of the importance weights in the first distilling round \[C: PER\].
    #[schemars(range(min = 0.0, max = 1.0))]
    pub beta_start: f64,
    /// β in the last distilling round. It rises linearly \[C: PER\].
    #[schemars(range(min = 0.0, max = 1.0))]
    pub beta_end: f64,
    /// Added to every priority, in nats, so that no image is lost for good \[O\].
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub epsilon: f64,
    /// Which images' disagreement is updated each round.
    pub refresh: Refresh,
    /// What importance weights are divided by.
    pub scale: Scale,
    /// Scale the student's loss by the importance weights \[O\].
    pub weight_loss: bool,
    /// Multiply a priority by the image's previous importance weight, so that an image drawn often is drawn less \[R\].
    pub damping: bool,
}

impl Default for SampleSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            alpha: 1.0,
            beta_start: 0.4,
            beta_end: 1.0,
            epsilon: 1e-6,
            refresh: Refresh::All,
            scale: Scale::Mean,
            weight_loss: true,
            damping: true,
        }
    }
}

/// Which images' disagreement is updated each round \[O\].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Refresh {
    /// All of the buffer, by one pass of the student over it.
    All,
    /// Images drawn in the last round, as observed in training. The others keep their priority.
    Drawn,
}

/// What importance weights are divided by; see the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// The mean weight of a draw: the loss keeps its size \[O\].
    Mean,
    /// The largest weight in the buffer \[C: PER\].
    Largest,
    /// Nothing: w = (N·P)^−β as it is \[R\].
    One,
}

impl SampleSettings {
    /// Checks every value; the error names the recipe's key.
    pub fn validate(&self) -> Result<(), String> {
        range::check("sample", self)
    }

    /// Returns these settings; those that change nothing have their defaults: all but `enabled`, if that is off.
    #[must_use]
    pub fn relevant(&self) -> Self {
        if self.enabled { self.clone() } else { Self { enabled: false, ..Self::default() } }
    }

    /// Returns β in distilling round `round` (from 0) of `rounds`.
    pub fn beta(&self, round: u32, rounds: u32) -> f64 {
        let progress = (f64::from(round) / f64::from(rounds.saturating_sub(1).max(1))).min(1.0);
        self.beta_start + (self.beta_end - self.beta_start) * progress
    }

    /// Returns whether this round needs a pass of the student over the whole buffer.
    pub fn needs_measuring(&self) -> bool {
        self.enabled && self.refresh == Refresh::All
    }
}

/// What `[sample]` knows of one member.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prioritised {
    /// δ, 0 or above.
    pub priority: f64,
    /// P, the probability of one draw.
    pub probability: f64,
    /// w, above 0; 1 is the weight of an unweighted sample, except under [`Scale::Largest`], where it is the largest.
    pub weight: f64,
}

/// Why priorities cannot be computed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PriorityError {
    /// The inputs do not belong together.
    #[error("{measured} measured disagreements for {members} members of the buffer")]
    Length {
        /// Disagreements.
        measured: usize,
        /// Members.
        members: usize,
    },
    /// Nothing to draw from.
    #[error("the replay buffer is empty\nhint: run at least one warm-up round of invert and balance first")]
    Empty,
    /// A network has diverged.
    #[error(
        "the disagreement on member {index} of the buffer is {value}\nhint: the student has diverged; lower distill.lr"
    )]
    NotFinite {
        /// Its index.
        index: usize,
        /// The number.
        value: f64,
    },
}

/// Computes δ, P and w of every member.
///
/// ```
/// use ssdkd_method::{SampleSettings, priority::prioritise};
///
/// // Two new images, whose priority was 0 and whose weight was 1. The student disagrees more on the second.
/// let settings = SampleSettings { alpha: 1.0, ..Default::default() };
/// let members = prioritise(&settings, 0.4, &[(0.0, 1.0); 2], &[Some(0.5), Some(1.5)])?;
/// assert!((members[1].probability - 0.75).abs() < 1e-6);
/// assert!(members[1].weight < members[0].weight);
/// # Ok::<(), ssdkd_method::priority::PriorityError>(())
/// ```
///
/// `previous` holds each member's priority and weight so far; `disagreements` holds KL(f_t ‖ f_s) in nats where it was
/// measured this round, and `None` where the member keeps its priority.
pub fn prioritise(
    settings: &SampleSettings,
    beta: f64,
    previous: &[(f64, f64)],
    disagreements: &[Option<f32>],
) -> Result<Vec<Prioritised>, PriorityError> {
    if previous.len() != disagreements.len() {
        return Err(PriorityError::Length { measured: disagreements.len(), members: previous.len() });
    }
    if previous.is_empty() {
        return Err(PriorityError::Empty);
    }
    let mut priorities = Vec::with_capacity(previous.len());
    for (index, (&(priority, weight), disagreement)) in previous.iter().zip(disagreements).enumerate() {
        let priority = match disagreement {
            // KL is never negative; in floating point it may miss zero by a rounding error.
            Some(kl) => f64::from(*kl).abs() * if settings.damping { weight } else { 1.0 },
            None => priority,
        };
        if !priority.is_finite() {
            return Err(PriorityError::NotFinite { index, value: priority });
        }
        priorities.push(priority);
    }
    let (probabilities, weights) = if settings.enabled {
        let probabilities = probabilities(&priorities, settings.alpha, settings.epsilon);
        let weights = importance_weights(&probabilities, beta, settings.scale);
        (probabilities, weights)
    } else {
        (vec![1.0 / priorities.len() as f64; priorities.len()], vec![1.0; priorities.len()])
    };
    let columns = priorities.into_iter().zip(probabilities).zip(weights);
    Ok(columns.map(|((priority, probability), weight)| Prioritised { priority, probability, weight }).collect())
}

/// P from δ.
fn probabilities(priorities: &[f64], alpha: f64, epsilon: f64) -> Vec<f64> {
    let powers = priorities.iter().map(|priority| (priority.abs() + epsilon).powf(alpha)).collect::<Vec<_>>();
    let total = powers.iter().sum::<f64>();
    powers.into_iter().map(|power| power / total).collect()
}

/// w from P.
fn importance_weights(probabilities: &[f64], beta: f64, scale: Scale) -> Vec<f64> {
    let n = probabilities.len() as f64;
    let weights = probabilities.iter().map(|probability| (n * probability).powf(-beta)).collect::<Vec<_>>();
    let scale = match scale {
        Scale::Mean => probabilities.iter().zip(&weights).map(|(probability, weight)| probability * weight).sum(),
        Scale::Largest => weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max),
        Scale::One => 1.0,
    };
    weights.into_iter().map(|weight| weight / scale).collect()
}

/// The cumulative P of a buffer, to draw from.
#[derive(Debug, Clone)]
pub struct Cumulative(Vec<f64>);

impl Cumulative {
    /// Sums up the probabilities, which need not be normalized.
    pub fn new(members: &[Prioritised]) -> Self {
        let mut sum = 0.0;
        Self(
            members
                .iter()
                .map(|member| {
                    sum += member.probability;
                    sum
                })
                .collect(),
        )
    }

    /// Draws the indices of one training batch, one from each of `batch` equal parts of the cumulative P.
    ///
    /// Sampling is with replacement; indices ascend. Empty when there are no members.
    pub fn draw(&self, batch: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let Some(total) = self.0.last() else { return Vec::new() };
        (0..batch)
            .map(|part| {
                let at = total * ((part as f64 + rng.random::<f64>()) / batch as f64);
                // Rounding may reach the total itself, where no member begins.
                self.0.partition_point(|&sum| sum <= at).min(self.0.len() - 1)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ssdkd_nn::random::stream;

    fn settings(alpha: f64, damping: bool) -> SampleSettings {
        SampleSettings { alpha, damping, ..Default::default() }
    }

    fn measured(kl: &[f32]) -> Vec<Option<f32>> {
        kl.iter().copied().map(Some).collect()
    }

    proptest! {
        #[test]
        fn probabilities_sum_to_one_and_grow_with_the_disagreement(
            kl in prop::collection::vec(0.0_f32..20.0, 1..60),
            alpha in 0.01_f64..1.0,
            beta in 0.0_f64..1.0,
        ) {
            let rows = prioritise(&settings(alpha, false), beta, &vec![(0.0, 1.0); kl.len()], &measured(&kl)).unwrap();
            prop_assert!((rows.iter().map(|row| row.probability).sum::<f64>() - 1.0).abs() < 1e-9);
            for (row, &a) in rows.iter().zip(&kl) {
                prop_assert!(row.weight > 0.0 && row.weight.is_finite());
                for (other, &b) in rows.iter().zip(&kl) {
                    if a > b {
                        prop_assert!(row.probability > other.probability && row.weight <= other.weight);
                    }
                }
            }
        }

        #[test]
        fn the_scale_fixes_the_mean_of_a_draw_or_the_largest_weight(
            kl in prop::collection::vec(0.0_f32..20.0, 1..60),
            alpha in 0.0_f64..1.0,
            beta in 0.0_f64..1.0,
        ) {
            let rows = |scale| {
                let settings = SampleSettings { alpha, scale, damping: false, ..Default::default() };
                prioritise(&settings, beta, &vec![(0.0, 1.0); kl.len()], &measured(&kl)).unwrap()
            };
            let mean = rows(Scale::Mean).iter().map(|row| row.probability * row.weight).sum::<f64>();
            prop_assert!((mean - 1.0).abs() < 1e-9);
            let largest = rows(Scale::Largest).iter().map(|row| row.weight).fold(0.0, f64::max);
            prop_assert_eq!(largest, 1.0);
        }

        #[test]
        fn without_alpha_draws_are_uniform_and_weights_one(
            kl in prop::collection::vec(0.0_f32..20.0, 1..60),
            beta in 0.0_f64..1.0,
        ) {
            let rows = prioritise(&settings(0.0, true), beta, &vec![(0.0, 0.7); kl.len()], &measured(&kl)).unwrap();
            let even = 1.0 / kl.len() as f64;
            prop_assert!(rows.iter().all(|row| row.probability == even && (row.weight - 1.0).abs() < 1e-12));
        }

        #[test]
        fn without_beta_weights_are_one(kl in prop::collection::vec(0.0_f32..20.0, 1..60)) {
            let rows = prioritise(&settings(1.0, true), 0.0, &vec![(0.0, 0.7); kl.len()], &measured(&kl)).unwrap();
            prop_assert!(rows.iter().all(|row| (row.weight - 1.0).abs() < 1e-12));
        }
    }

    #[test]
    fn disabled_is_uniform_but_still_knows_the_priorities() {
        let off = SampleSettings { enabled: false, ..Default::default() };
        let rows = prioritise(&off, 0.7, &[(3.0, 0.5); 4], &measured(&[1.0, 2.0, 0.0, 4.0])).unwrap();
        assert!(rows.iter().all(|row| row.probability == 0.25 && row.weight == 1.0));
        assert_eq!(rows[3].priority, 2.0);
        assert!(!off.needs_measuring() && SampleSettings::default().needs_measuring());
    }

    #[track_caller]
    fn check_by_hand(scale: Scale, expected: [f64; 2]) {
        let settings = SampleSettings { alpha: 0.5, epsilon: 1e-12, scale, ..Default::default() };
        let rows = prioritise(&settings, 0.5, &[(9.0, 0.5), (4.0, 0.1)], &[Some(2.0), None]).unwrap();
        // δ = (0.5·2, 4); powers (1, 2); P = (1/3, 2/3).
        assert!((rows[0].priority - 1.0).abs() < 1e-9 && (rows[1].priority - 4.0).abs() < 1e-9);
        assert!((rows[0].probability - 1.0 / 3.0).abs() < 1e-9);
        for (row, expected) in rows.iter().zip(expected) {
            assert!((row.weight - expected).abs() < 1e-9, "{scale:?}: {rows:?}");
        }
    }

    #[test]
    fn the_formula_by_hand() {
        // (N·P)^−β
        let (first, second) = (1.5_f64.sqrt(), 0.75_f64.sqrt());
        check_by_hand(Scale::One, [first, second]);
        check_by_hand(Scale::Largest, [1.0, second / first]);
        let mean = (first + 2.0 * second) / 3.0;
        check_by_hand(Scale::Mean, [first / mean, second / mean]);
    }

    #[test]
    fn damping_holds_back_what_was_drawn_often() {
        let priority =
            |damping| prioritise(&settings(1.0, damping), 0.4, &[(0.0, 0.25)], &[Some(2.0)]).unwrap()[0].priority;
        assert_eq!((priority(true), priority(false)), (0.5, 2.0));
    }

    #[test]
    fn beta_rises_on_a_straight_line() {
        let settings = SampleSettings::default();
        for (round, expected) in [(0, 0.4), (5, 0.7), (10, 1.0), (99, 1.0)] {
            assert!((settings.beta(round, 11) - expected).abs() < 1e-12);
        }
        assert_eq!(settings.beta(0, 1), 0.4);
    }

    #[test]
    fn draws_follow_the_probabilities_in_every_batch() {
        let members =
            [0.5, 0.25, 0.125, 0.125].map(|probability| Prioritised { priority: 0.0, probability, weight: 1.0 });
        let cumulative = Cumulative::new(&members);
        let mut rng = stream(3, "test", &[]);
        for _ in 0..20 {
            let mut counts = [0; 4];
            for index in cumulative.draw(16, &mut rng) {
                counts[index] += 1;
            }
            assert_eq!(counts, [8, 4, 2, 2], "parts of the cumulative P that fall inside one member are its own");
        }
        // Where a part spans members, they share it in proportion.
        let mut first = 0;
        for _ in 0..8000 {
            first += u32::from(cumulative.draw(1, &mut rng)[0] == 0);
        }
        assert!((3800..4200).contains(&first), "{first}");
        assert!(Cumulative::new(&[]).draw(3, &mut rng).is_empty());
    }

    #[test]
    fn what_cannot_be_is_named() {
        let settings = SampleSettings::default();
        assert_eq!(prioritise(&settings, 1.0, &[], &[]), Err(PriorityError::Empty));
        assert_eq!(
            prioritise(&settings, 1.0, &[(1.0, 1.0)], &[]),
            Err(PriorityError::Length { measured: 0, members: 1 })
        );
        let diverged = prioritise(&settings, 1.0, &[(1.0, 1.0); 2], &[Some(0.0), Some(f32::NAN)]).unwrap_err();
        assert!(diverged.to_string().contains("member 1"), "{diverged}");
        let wrong = SampleSettings { beta_end: 1.5, ..Default::default() };
        assert_eq!(wrong.validate().unwrap_err(), "sample.beta_end is 1.5; it must be a number from 0 to 1");
    }
}
