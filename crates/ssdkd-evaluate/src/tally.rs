//! The sums behind an [`Evaluation`].

use std::cmp::Ordering;

use candle_core::{Result, bail};
use ssdkd_data::Dataset;

use crate::confusion;
use crate::evaluation::{Evaluation, TOP};

/// The sums behind an [`Evaluation`].
pub(crate) struct Tally {
    pub(crate) images: usize,
    items: u64,
    /// Whether these are pixels.
    pixels: bool,
    in_top5: u64,
    loss: f64,
    agreeing: Option<u64>,
    class_names: Vec<String>,
    confusion: Vec<Vec<u64>>,
}

impl Tally {
    pub(crate) fn new(classes: usize, dataset: &Dataset) -> Self {
        let mut class_names = dataset.class_names().unwrap_or_default().to_vec();
        class_names.extend((class_names.len()..classes).map(|class| class.to_string()));
        let confusion = vec![vec![0; classes]; classes];
        let pixels = dataset.masks().is_some();
        Self { images: 0, items: 0, pixels, in_top5: 0, loss: 0.0, agreeing: None, class_names, confusion }
    }

    pub(crate) fn add(&mut self, label: usize, logits: &[f32], teacher_logits: Option<&[f32]>) -> Result<()> {
        if logits.iter().any(|logit| !logit.is_finite()) {
            let item = if self.pixels { "pixel" } else { "image" };
            bail!("the network gives logits that are not finite on {item} {}", self.items);
        }
        let predicted = largest(logits);
        self.items += 1;
        self.confusion[label][predicted] += 1;
        // Of equal logits the earlier class comes first, as in `largest`.
        let above = |class: usize| match logits[class].partial_cmp(&logits[label]) {
            Some(Ordering::Equal) => class < label,
            order => order == Some(Ordering::Greater),
        };
        self.in_top5 += u64::from((0..logits.len()).filter(|&class| above(class)).count() < TOP);
        let highest = f64::from(logits[predicted]);
        let sum = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum::<f64>();
        self.loss += highest + sum.ln() - f64::from(logits[label]);
        if let Some(teacher_logits) = teacher_logits {
            *self.agreeing.get_or_insert(0) += u64::from(largest(teacher_logits) == predicted);
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Evaluation {
        let items = self.items.max(1) as f64;
        let share = |count: u64| count as f64 / items;
        let correct = (0..self.confusion.len()).map(|class| self.confusion[class][class]).sum();
        Evaluation {
            images: self.images,
            top1: share(correct),
            top5: share(self.in_top5),
            balanced_accuracy: confusion::balanced_accuracy(&self.confusion),
            macro_f1: confusion::macro_f1(&self.confusion),
            mean_iou: self.pixels.then(|| confusion::mean(confusion::intersections_over_unions(&self.confusion))),
            loss: self.loss / items,
            agreement: self.agreeing.map(share),
            class_names: self.class_names,
            confusion: self.confusion,
        }
    }
}

/// Returns the first of the largest.
pub(crate) fn largest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (class, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = class;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Label, logits and the teacher's logits of one image.
    type Row<'a> = (usize, &'a [f32], Option<&'a [f32]>);

    fn tally(rows: &[Row<'_>], classes: usize) -> Evaluation {
        let names = (0..classes).map(|class| format!("class {class}")).collect();
        let dataset = Dataset::new([1, 1, 1], vec![0; rows.len()], vec![0; rows.len()], names).unwrap();
        tally_on(&dataset, rows, classes)
    }

    fn tally_on(dataset: &Dataset, rows: &[Row<'_>], classes: usize) -> Evaluation {
        let mut tally = Tally::new(classes, dataset);
        tally.images = dataset.len();
        for (label, logits, teacher) in rows {
            tally.add(*label, logits, *teacher).unwrap();
        }
        tally.finish()
    }

    #[test]
    fn counts_hits_mistakes_and_agreement() {
        let found = tally(
            &[
                (0, &[2.0, 1.0, 0.0], Some(&[1.0, 0.0, 0.0])),
                (1, &[2.0, 1.0, 0.0], Some(&[0.0, 1.0, 0.0])),
                (1, &[0.0, 3.0, 0.0], Some(&[0.0, 1.0, 0.0])),
                (2, &[9.0, 0.0, 0.0], Some(&[5.0, 1.0, 0.0])),
            ],
            3,
        );
        assert_eq!((found.images, found.top1, found.top5, found.agreement), (4, 0.5, 1.0, Some(0.75)));
        assert_eq!(found.confusion, [[1, 0, 0], [1, 1, 0], [1, 0, 0]]);
        // Recalls 1, 1/2, 0; F1 2/4, 2/3, 0.
        assert!(
            (found.balanced_accuracy - 0.5).abs() < 1e-12 && (found.macro_f1 - 7.0 / 18.0).abs() < 1e-12,
            "{found:?}"
        );
        assert_eq!(found.class_accuracies(), [Some(1.0), Some(0.5), Some(0.0)]);
        assert_eq!(found.worst_confusions(1), [(1, 0, 1)]);
        // −ln softmax: 0.407606, 1.407606, 0.094902, 9.000247.
        assert!((found.loss - 2.727_59).abs() < 1e-5, "{}", found.loss);
    }

    #[test]
    fn pixels_are_counted_as_intersections_over_unions() {
        let names = ["sky", "road", "car", "tree"].map(String::from).to_vec();
        let dataset = Dataset::new([1, 2, 2], vec![0; 4], vec![0], names).unwrap();
        let dataset = dataset.with_masks(vec![0, 0, 1, 2]).unwrap();
        let sky: &[f32] = &[1.0, 0.0, 0.0, 0.0];
        let road: &[f32] = &[0.0, 1.0, 0.0, 0.0];
        let found = tally_on(&dataset, &[(0, sky, None), (0, road, None), (1, road, None), (2, sky, None)], 4);
        // Sky 1 of 3, road 1 of 2, car 0 of 1; trees are nowhere.
        assert!((found.score() - (1.0 / 3.0 + 0.5) / 3.0).abs() < 1e-12, "{found:?}");
        assert_eq!((found.images, found.top1), (1, 0.5));
        let table = found.to_table();
        for part in ["mean IoU", "pixel accuracy", "33.33 %", "3 of 4", "1 × sky taken for road"] {
            assert!(table.contains(part), "{part:?} is not in\n{table}");
        }
        assert!(!table.contains("top-1") && !table.contains("predicted as"), "{table}");
    }

    #[test]
    fn a_label_behind_five_others_is_not_in_the_top_five() {
        let logits = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0];
        let found = tally(&[(4, &logits, None), (5, &logits, None)], 7);
        assert!((found.top5 - 0.5).abs() < 1e-12, "{}", found.top5);
        // All equal: the first five come first, and the first is the prediction.
        let equal = tally(&[(0, &[0.0; 7], None), (4, &[0.0; 7], None), (5, &[0.0; 7], None)], 7);
        assert!((equal.top5 - 2.0 / 3.0).abs() < 1e-12 && (equal.top1 - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn infinite_logits_are_refused() {
        let names = (0..4).map(|n| n.to_string()).collect();
        let dataset = Dataset::new([1, 1, 1], vec![0], vec![0], names).unwrap();
        let error = Tally::new(4, &dataset).add(0, &[f32::NAN, 0.0, 0.0, 0.0], None).unwrap_err().to_string();
        assert!(error.contains("not finite on image 0"), "{error}");
    }

    #[test]
    fn the_table_says_what_was_measured() {
        let table = tally(&[(0, &[2.0, 1.0], None), (1, &[2.0, 1.0], None)], 2).to_table();
        for part in [
            "images",
            "top-1 accuracy",
            "50.00 %",
            "balanced accuracy",
            "macro-F1",
            "33.33 %",
            "class 1",
            "1 × class 1 taken for class 0",
        ] {
            assert!(table.contains(part), "{part:?} is not in\n{table}");
        }
        assert!(!table.contains("top-5") && !table.contains("teacher"), "{table}");
    }
}
