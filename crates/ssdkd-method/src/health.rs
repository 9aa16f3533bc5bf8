//! Health checks: they find out during a run that it has gone wrong, not only at its end \[O\].
//!
//! Each check compares a figure that a stage has anyway with a limit that no healthy run of the experiments came near. The caller
//! decides what a failed check leads to: a warning, or the end of the run.

use std::fmt;

use crate::inversion::batch_norm::RELATIVE_FACTOR;
use crate::inversion::{BatchNormForm, LossSettings, Term};
use crate::prior::ClassPrior;

/// A failed health check. Its text says what is wrong and what helps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FailedCheck {
    /// The teacher is not sure of any image.
    FlatTeacher {
        /// Mean top probability of the images of a round.
        confidence: f64,
        /// K.
        classes: usize,
    },
    /// One term of the generator's loss is so large that the others do not count, and the images are not of their classes.
    DrownedTerms {
        /// The large one.
        term: Term,
        /// Its size over that of all others, each times its factor.
        ratio: f64,
        /// Its factor.
        factor: f64,
        /// Whether it is the batch-norm term in its absolute form.
        absolute: bool,
    },
    /// The images of a round are all alike: the mean deviation of a pixel over them.
    OneImage {
        /// In units of the image's range.
        deviation: f64,
    },
    /// The student trains on a buffer that is large enough for every class, and has none of one.
    VanishedClass {
        /// The class's index.
        class: usize,
        /// Images in the buffer.
        members: usize,
    },
    /// The student's mean loss in a round is many times that of the round before.
    ExplodingLoss {
        /// Of the round.
        loss: f64,
        /// Of the round before.
        before: f64,
    },
    /// After many steps the student agrees with the teacher only as often as by guessing.
    Guessing {
        /// Share of the training views.
        agreement: f64,
        /// Steps so far.
        steps: u64,
    },
}

/// Images that the buffer should hold of a class before it is missed.
const ENOUGH: f64 = 20.0;
/// Images that should have been made of a class before it is missed.
const ENOUGH_MADE: f64 = 50.0;
/// Size of a term over that of all others from which on it drowns them: runs that work have 1 to 41 (docs/lab/batch-norm-form.md).
const DROWNING: f64 = 100.0;
/// The ratio that the remedy aims at.
const BALANCED: f64 = 10.0;
/// Confidence in the target class from which on no term is drowned. On images of nothing it is often above one half.
const RIGHT: f64 = 0.9;
/// Factor between the losses of two rounds from which on the loss explodes.
const EXPLOSION: f64 = 5.0;
/// Steps after which a student should know something.
const PATIENCE: u64 = 500;

impl FailedCheck {
    /// Checks the images of a round (N × pixels, in `[0, 1]`) and the teacher's confidence in each.
    pub fn of_images(pixels: &[f32], confidences: &[f32], classes: usize) -> Option<Self> {
        let images = confidences.len();
        if images < 2 || classes < 2 {
            return None;
        }
        let confidence = confidences.iter().map(|&confidence| f64::from(confidence)).sum::<f64>() / images as f64;
        let guess = 1.0 / classes as f64;
        if confidence < guess + 0.05 * (1.0 - guess) {
            return Some(Self::FlatTeacher { confidence, classes });
        }
        let deviation = mean_deviation(pixels, images);
        // Less than one of the 256 levels that images are kept in.
        (deviation < 1.0 / 255.0).then_some(Self::OneImage { deviation })
    }

    /// Checks the buffer's images of each class, once the student trains. `made` images were made so far. A class is missed if the
    /// prior gives it enough of both.
    pub fn of_buffer(counts: &[u64], made: u64, prior: &ClassPrior) -> Option<Self> {
        let members = counts.iter().sum::<u64>();
        let missed = |class: usize| {
            let share = prior.share(class, counts.len());
            counts[class] == 0 && members as f64 * share >= ENOUGH && made as f64 * share >= ENOUGH_MADE
        };
        let class = (0..counts.len()).find(|&class| missed(class))?;
        Some(Self::VanishedClass { class, members: members as usize })
    }

    /// Checks the mean terms of an early round, before their factors, for a teacher of `classes` classes. `right` is the mean over
    /// images of the teacher's confidence in the target class, 0 where it names another.
    pub fn of_terms(terms: &[(Term, f64)], settings: &LossSettings, classes: usize, right: f64) -> Option<Self> {
        let size = |&(term, value): &(Term, f64)| {
            // The balance term is least at −ln K: what counts is how far it is from there.
            let value = if term == Term::Balance { value + (classes as f64).ln() } else { value.abs() };
            (term, settings.factor(term) * value.max(0.0))
        };
        let sizes = terms.iter().map(size).collect::<Vec<_>>();
        let &(term, largest) = sizes.iter().max_by(|(_, a), (_, b)| a.total_cmp(b))?;
        let others = sizes.iter().map(|(_, size)| size).sum::<f64>() - largest;
        let ratio = largest / others;
        let absolute = term == Term::BatchNorm && settings.batch_norm_form == BatchNormForm::Absolute;
        let drowned = others > 0.0 && right < RIGHT && largest > DROWNING * others;
        drowned.then_some(Self::DrownedTerms { term, ratio, factor: settings.factor(term), absolute })
    }

    /// Checks a round of the student: its mean loss and that of the round before; its mean agreement after `steps` in total, and that
    /// of guessing, where it is known.
    pub fn of_student(loss: f64, before: Option<f64>, agreement: f64, steps: u64, guess: Option<f64>) -> Option<Self> {
        if let Some(before) = before.filter(|&before| loss > EXPLOSION * before) {
            return Some(Self::ExplodingLoss { loss, before });
        }
        let guessing = guess.is_some_and(|guess| agreement < 1.1 * guess);
        (steps >= PATIENCE && guessing).then_some(Self::Guessing { agreement, steps })
    }
}

/// Rounds a number above 0 to one digit.
fn one_digit(number: f64) -> f64 {
    format!("{number:.0e}").parse().unwrap_or(number)
}

/// Returns the deviation of each pixel over `images` images, averaged over pixels.
fn mean_deviation(pixels: &[f32], images: usize) -> f64 {
    let size = pixels.len() / images;
    let (mut sums, mut squares) = (vec![0.0; size], vec![0.0; size]);
    for image in pixels.chunks_exact(size.max(1)) {
        for ((sum, square), &pixel) in sums.iter_mut().zip(&mut squares).zip(image) {
            *sum += f64::from(pixel);
            *square += f64::from(pixel).powi(2);
        }
    }
    let count = images as f64;
    let variances = sums.iter().zip(&squares).map(|(sum, square)| (square / count - (sum / count).powi(2)).max(0.0));
    variances.map(f64::sqrt).sum::<f64>() / size.max(1) as f64
}

impl fmt::Display for FailedCheck {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FlatTeacher { confidence, classes } => write!(
                formatter,
                "the teacher is undecided about every image: its mean confidence is {confidence:.3} with {classes} classes\n\
                 hint: check the card's mean, std and input with `ssdkd inspect`; in the warm-up, a higher invert.loss.class or \
                 more run.warmup_rounds"
            ),
            Self::DrownedTerms { term, ratio, factor, absolute } => {
                let name = term.name();
                let lower = one_digit(factor * BALANCED / ratio);
                write!(
                    formatter,
                    "the {name} term is {ratio:.0} times all other terms of the generator's loss, so the images are not of their \
                     classes\nhint: "
                )?;
                if *absolute {
                    write!(
                        formatter,
                        "set invert.loss.batch_norm_form to \"relative\" and invert.loss.batch_norm to {RELATIVE_FACTOR}, or lower \
                         invert.loss.batch_norm from {factor} to {lower}"
                    )
                } else {
                    write!(formatter, "lower invert.loss.{name} from {factor} to {lower}")
                }
            }
            Self::OneImage { deviation } => write!(
                formatter,
                "the images are all alike: a pixel deviates by {deviation:.5} over them\n\
                 hint: the generator has collapsed; lower `lr` in the strategy's section or invert.loss.class, or raise \
                 invert.loss.batch_norm and invert.loss.balance"
            ),
            Self::VanishedClass { class, members } => write!(
                formatter,
                "none of the buffer's {members} images is of class {class}\n\
                 hint: raise invert.loss.balance or, for a classifier, set invert.targets to \"balanced\"; check that balance.eviction \
                 is \"class-balanced-fifo\", and look at the report's buffer.png"
            ),
            Self::ExplodingLoss { loss, before } => write!(
                formatter,
                "the student's loss went from {before:.3} to {loss:.3} within a round\n\
                 hint: lower distill.lr, or raise distill.warmup_steps, or lower distill.feature_distillation"
            ),
            Self::Guessing { agreement, steps } => write!(
                formatter,
                "after {steps} steps the student agrees with the teacher on {:.1} % of its own training views, as often as \
                 by guessing\n\
                 hint: lower distill.lr or invert.loss.adversarial, set distill.feature_distillation, and look at the report's buffer.png",
                100.0 * agreement
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 images of 3 pixels, each pixel `deviation` above or below ½.
    fn pixels(deviation: f32) -> Vec<f32> {
        (0..12).map(|index| 0.5 + if index / 3 % 2 == 0 { deviation } else { -deviation }).collect()
    }

    #[test]
    fn undecided_teachers_are_seen() {
        let confidences = |confidence| FailedCheck::of_images(&pixels(0.2), &[confidence; 4], 10);
        assert_eq!(confidences(0.3), None);
        assert!(matches!(confidences(0.12), Some(FailedCheck::FlatTeacher { classes: 10, .. })));
        // Half is all that an undecided teacher of two classes has.
        assert!(matches!(FailedCheck::of_images(&pixels(0.2), &[0.51; 4], 2), Some(FailedCheck::FlatTeacher { .. })));
        assert_eq!(FailedCheck::of_images(&pixels(0.2), &[0.6; 4], 2), None);
    }

    #[test]
    fn collapsed_generators_are_seen() {
        let Some(FailedCheck::OneImage { deviation }) = FailedCheck::of_images(&pixels(0.001), &[0.9; 4], 10) else {
            panic!("it was not seen");
        };
        assert!((deviation - 0.001).abs() < 1e-6, "{deviation}");
        assert_eq!(FailedCheck::of_images(&pixels(0.01), &[0.9; 4], 10), None);
        assert_eq!(FailedCheck::of_images(&pixels(0.0)[..3], &[0.9], 10), None, "one image is like itself");
    }

    #[test]
    fn vanished_classes_are_seen_in_a_buffer_of_some_size() {
        let check = |counts: &[u64], made| FailedCheck::of_buffer(counts, made, ClassPrior::uniform());
        assert_eq!(check(&[30, 1, 30], 1000), None);
        assert_eq!(check(&[30, 0, 20], 1000), None, "too few to say");
        assert_eq!(check(&[30, 0, 30], 149), None, "too early to say");
        assert_eq!(check(&[30, 0, 30], 150), Some(FailedCheck::VanishedClass { class: 1, members: 60 }));
    }

    #[test]
    fn a_rare_class_is_not_missed_where_its_share_is_less_than_a_few_images() {
        let prior = ClassPrior::new(&[500.0, 499.0, 1.0], 3).unwrap();
        assert_eq!(FailedCheck::of_buffer(&[2500, 2500, 0], 20_000, &prior), None);
        let missed = FailedCheck::of_buffer(&[0, 5000, 0], 20_000, &prior);
        assert_eq!(missed, Some(FailedCheck::VanishedClass { class: 0, members: 5000 }));
    }

    const FACTORS: LossSettings = LossSettings { batch_norm: 1.0, class: 0.5, balance: 10.0, ..LossSettings::NONE };

    /// Terms of a round: L_BN, a class term of 2 and a batch that is 0.2 nats from even.
    fn terms(batch_norm: f64) -> [(Term, f64); 3] {
        [(Term::BatchNorm, batch_norm), (Term::Class, 2.0), (Term::Balance, 0.2 - 10_f64.ln())]
    }

    #[test]
    fn a_term_that_drowns_the_others_is_seen() {
        assert_eq!(FailedCheck::of_terms(&terms(60.0), &FACTORS, 10, 0.2), None);
        assert_eq!(FailedCheck::of_terms(&terms(3000.0), &FACTORS, 10, 0.9), None, "the images are of their classes");
        assert_eq!(FailedCheck::of_terms(&terms(3000.0)[..1], &FACTORS, 10, 0.2), None, "there is no other term");
        let failed = FailedCheck::of_terms(&terms(3000.0), &FACTORS, 10, 0.2).unwrap().to_string();
        for part in ["batch_norm term is 1000 times", "to \"relative\"", "invert.loss.batch_norm from 1 to 0.01"] {
            assert!(failed.contains(part), "{part:?} is not in {failed:?}");
        }
    }

    #[test]
    fn the_remedy_for_a_term_that_has_no_other_form_is_its_factor() {
        let relative = LossSettings { batch_norm: 40.0, batch_norm_form: BatchNormForm::Relative, ..FACTORS };
        let failed = FailedCheck::of_terms(&terms(30.0), &relative, 10, 0.2).unwrap().to_string();
        assert!(failed.ends_with("hint: lower invert.loss.batch_norm from 40 to 1"), "{failed}");
        let activation = LossSettings { activation: 1.0, class: 0.5, ..LossSettings::NONE };
        let terms = [(Term::Activation, -900.0), (Term::Class, 2.0)];
        let failed = FailedCheck::of_terms(&terms, &activation, 10, 0.2).unwrap().to_string();
        assert!(failed.ends_with("hint: lower invert.loss.activation from 1 to 0.01"), "{failed}");
    }

    #[test]
    fn students_that_learn_nothing_are_seen() {
        assert_eq!(FailedCheck::of_student(3.0, Some(2.9), 0.5, 600, Some(0.1)), None);
        assert_eq!(FailedCheck::of_student(3.0, None, 0.1, 100, Some(0.1)), None, "too early to say");
        assert_eq!(FailedCheck::of_student(3.0, None, 0.1, 600, None), None);
        assert!(matches!(
            FailedCheck::of_student(3.0, None, 0.1, 600, Some(0.1)),
            Some(FailedCheck::Guessing { steps: 600, .. })
        ));
        assert!(matches!(
            FailedCheck::of_student(16.0, Some(3.0), 0.5, 1, None),
            Some(FailedCheck::ExplodingLoss { .. })
        ));
    }

    #[test]
    fn every_failed_check_comes_with_a_remedy() {
        for failed in [
            FailedCheck::FlatTeacher { confidence: 0.1, classes: 10 },
            FailedCheck::DrownedTerms { term: Term::Class, ratio: 200.0, factor: 1.0, absolute: false },
            FailedCheck::OneImage { deviation: 0.0 },
            FailedCheck::VanishedClass { class: 1, members: 60 },
            FailedCheck::ExplodingLoss { loss: 9.0, before: 1.0 },
            FailedCheck::Guessing { agreement: 0.1, steps: 600 },
        ] {
            assert!(failed.to_string().contains("\nhint: "), "{failed}");
        }
    }
}
