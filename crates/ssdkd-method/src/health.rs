//! Health checks: they see during a run that it has gone wrong, and not only at its end \[O\].
//!
//! Each check compares a figure that a stage has anyway with a limit that no healthy run of the experiments came near. The caller
//! decides what a failed check leads to: a warning, or the end of the run.

use std::fmt;

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
    /// The images of a round are all alike: the mean deviation of a pixel over them.
    OneImage {
        /// In units of the image's range.
        deviation: f64,
    },
    /// The buffer is large enough for every class, and has none of one.
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

/// Images for each class from which on a class with none has vanished, and is not just late.
const ENOUGH: usize = 20;
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

    /// Checks the buffer's images of each class.
    pub fn of_buffer(counts: &[u64]) -> Option<Self> {
        let members = counts.iter().map(|&count| count as usize).sum::<usize>();
        let class = counts.iter().position(|&count| count == 0)?;
        (members >= ENOUGH * counts.len()).then_some(Self::VanishedClass { class, members })
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

/// The deviation of each pixel over `images` images, averaged over pixels.
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
            Self::OneImage { deviation } => write!(
                formatter,
                "the images are all alike: a pixel deviates by {deviation:.5} over them\n\
                 hint: the generator has collapsed; lower `lr` in the strategy's section or invert.loss.class, or raise \
                 invert.loss.batch_norm and invert.loss.balance"
            ),
            Self::VanishedClass { class, members } => write!(
                formatter,
                "none of the buffer's {members} images is of class {class}\n\
                 hint: raise invert.loss.balance, set balance.eviction to \"class-balanced-fifo\", or check the teacher's head"
            ),
            Self::ExplodingLoss { loss, before } => write!(
                formatter,
                "the student's loss went from {before:.3} to {loss:.3} within a round\n\
                 hint: lower distill.lr, or let it rise over distill.warmup_steps"
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
        assert_eq!(FailedCheck::of_buffer(&[30, 1, 30]), None);
        assert_eq!(FailedCheck::of_buffer(&[30, 0, 20]), None, "too few to say");
        assert_eq!(FailedCheck::of_buffer(&[30, 0, 30]), Some(FailedCheck::VanishedClass { class: 1, members: 60 }));
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
            FailedCheck::OneImage { deviation: 0.0 },
            FailedCheck::VanishedClass { class: 1, members: 60 },
            FailedCheck::ExplodingLoss { loss: 9.0, before: 1.0 },
            FailedCheck::Guessing { agreement: 0.1, steps: 600 },
        ] {
            assert!(failed.to_string().contains("\nhint: "), "{failed}");
        }
    }
}
