//! How far a student agrees with its teacher on images without labels.

use candle_core::{Result, Tensor, bail};
use serde::Serialize;
use ssdkd_data::UnlabeledImages;
use ssdkd_nn::Network;

use crate::fit::check_same_task;
use crate::measure::logits;
use crate::tally::largest;

/// What two networks predict for the same images. *Items* are the images, or all pixels where the networks label pixels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    /// Images compared.
    pub images: usize,
    /// Share of the items that both networks put into the same class.
    pub agreement: f64,
    /// Mean over the items of KL(teacher ‖ student) = Σ p (ln p − ln q) in nats, where p and q are the softmax of the teacher's and of the
    /// student's logits at temperature 1.
    pub kl_divergence: f64,
    /// Items that the teacher puts into each class.
    pub teacher_counts: Vec<u64>,
}

/// Compares `student` with `teacher` on all images, `batch` at a time. `after_batch` hears how many images are done, and may end it.
///
/// # Errors
/// If one network labels images and the other pixels, the images have another shape than the networks take, or logits are not finite.
pub fn compare(
    student: &Network,
    teacher: &Network,
    images: &UnlabeledImages,
    batch: usize,
    mut after_batch: impl FnMut(usize) -> Result<()>,
) -> Result<Agreement> {
    check_same_task(teacher, student)?;
    let classes = teacher.classes();
    if student.classes() != classes {
        bail!("the student has {} classes and the teacher {classes}", student.classes());
    }
    let [channels, height, width] = images.shape();
    let mut tally = Tally::new(classes);
    let indices = (0..images.len()).collect::<Vec<_>>();
    for indices in indices.chunks(batch.max(1)) {
        let batch = images.gather(indices);
        let batch = Tensor::from_vec(batch, (indices.len(), height, width, channels), student.store().device())?;
        let (of_teacher, of_student) = (logits(teacher, &batch)?, logits(student, &batch)?);
        for (of_teacher, of_student) in of_teacher.chunks_exact(classes).zip(of_student.chunks_exact(classes)) {
            tally.add(of_teacher, of_student)?;
        }
        tally.images += indices.len();
        after_batch(tally.images)?;
    }
    Ok(tally.finish())
}

/// The sums behind an [`Agreement`].
struct Tally {
    images: usize,
    agreeing: u64,
    divergence: f64,
    teacher_counts: Vec<u64>,
}

impl Tally {
    fn new(classes: usize) -> Self {
        Self { images: 0, agreeing: 0, divergence: 0.0, teacher_counts: vec![0; classes] }
    }

    /// Adds the logits (K,) of one item.
    fn add(&mut self, teacher: &[f32], student: &[f32]) -> Result<()> {
        for (network, logits) in [("teacher", teacher), ("student", student)] {
            if logits.iter().any(|logit| !logit.is_finite()) {
                bail!("the {network} gives logits that are not finite");
            }
        }
        let predicted = largest(teacher);
        self.teacher_counts[predicted] += 1;
        self.agreeing += u64::from(predicted == largest(student));
        self.divergence += kl_divergence(teacher, student);
        Ok(())
    }

    fn finish(self) -> Agreement {
        let items = self.teacher_counts.iter().sum::<u64>().max(1) as f64;
        Agreement {
            images: self.images,
            agreement: self.agreeing as f64 / items,
            kl_divergence: self.divergence / items,
            teacher_counts: self.teacher_counts,
        }
    }
}

/// Returns Σ p (ln p − ln q) of two rows of logits.
fn kl_divergence(teacher: &[f32], student: &[f32]) -> f64 {
    let (p, q) = (log_softmax(teacher), log_softmax(student));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let highest = f64::from(logits[largest(logits)]);
    let sum = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum::<f64>();
    logits.iter().map(|&logit| f64::from(logit) - highest - sum.ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_predictions_and_the_classes_of_the_teacher_are_counted() {
        let mut tally = Tally::new(3);
        tally.add(&[2.0, 1.0, 0.0], &[1.0, 0.0, 0.0]).unwrap();
        tally.add(&[2.0, 1.0, 0.0], &[0.0, 1.0, 0.0]).unwrap();
        tally.add(&[0.0, 1.0, 3.0], &[0.0, 0.0, 9.0]).unwrap();
        tally.add(&[5.0, 1.0, 3.0], &[7.0, 0.0, 0.0]).unwrap();
        let found = tally.finish();
        assert_eq!((found.agreement, found.teacher_counts), (0.75, vec![3, 0, 1]));
    }

    #[test]
    fn the_divergence_is_from_the_teacher_to_the_student() {
        let logits = |probabilities: [f32; 2]| probabilities.map(f32::ln);
        let (teacher, student) = (logits([0.75, 0.25]), logits([0.5, 0.5]));
        let expected = 0.75 * 1.5_f64.ln() + 0.25 * 0.5_f64.ln();
        assert!((kl_divergence(&teacher, &student) - expected).abs() < 1e-6);
        // The other direction: ½ ln (½ / ¾) + ½ ln (½ / ¼).
        let expected = 0.5 * (2.0_f64 / 3.0).ln() + 0.5 * 2.0_f64.ln();
        assert!((kl_divergence(&student, &teacher) - expected).abs() < 1e-6);
        assert!(kl_divergence(&teacher, &teacher).abs() < 1e-12);
    }

    #[test]
    fn large_logits_do_not_overflow() {
        assert!((kl_divergence(&[1000.0, 0.0], &[0.0, 1000.0]) - 1000.0).abs() < 1e-9);
    }

    #[test]
    fn logits_that_are_not_finite_are_refused() {
        let mut tally = Tally::new(2);
        let error = tally.add(&[0.0, 1.0], &[f32::NAN, 0.0]).unwrap_err().to_string();
        assert!(error.contains("the student gives logits that are not finite"), "{error}");
        let error = tally.add(&[f32::INFINITY, 1.0], &[0.0, 0.0]).unwrap_err().to_string();
        assert!(error.contains("the teacher"), "{error}");
    }
}
