//! What is measured of a network on labelled images.

use std::cmp::Ordering;
use std::fmt::Write as _;

use candle_core::{Result, Tensor, bail};
use serde::Serialize;
use ssdkd_data::Dataset;
use ssdkd_nn::Network;

/// Logits are looked at this deep for `top5`.
const TOP: usize = 5;

/// What a network does on a data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Images measured.
    pub images: usize,
    /// Share of them whose label has the largest logit.
    pub top1: f64,
    /// Share of them whose label is among the five largest logits.
    pub top5: f64,
    /// Mean cross-entropy with the labels, nats.
    pub loss: f64,
    /// Share of them that the teacher puts into the same class, right or wrong; `None` if no teacher was given.
    pub agreement: Option<f64>,
    /// What the classes are called.
    pub class_names: Vec<String>,
    /// Images by label (row) and predicted class (column).
    pub confusion: Vec<Vec<u64>>,
}

/// Measures `network` on all images of `dataset`, `batch` at a time.
///
/// # Errors
/// If the data set has another shape or more classes than the network, or the network gives numbers that are not finite.
pub fn evaluate(network: &Network, dataset: &Dataset, batch: usize) -> Result<Evaluation> {
    evaluate_beside(network, None, dataset, batch, |_| Ok(()))
}

/// As [`evaluate`], and how often `teacher` agrees. `after_batch` hears how many images are done, and may end it.
pub fn evaluate_beside(
    network: &Network,
    teacher: Option<&Network>,
    dataset: &Dataset,
    batch: usize,
    mut after_batch: impl FnMut(usize) -> Result<()>,
) -> Result<Evaluation> {
    let mut tally = Tally::new(network.classes(), dataset)?;
    let [channels, height, width] = dataset.shape();
    let indices = (0..dataset.len()).collect::<Vec<_>>();
    for indices in indices.chunks(batch.max(1)) {
        let images = dataset.gather(indices);
        let images = Tensor::from_vec(images, (indices.len(), height, width, channels), network.store().device())?;
        let logits = network.logits(&images)?.to_vec2::<f32>()?; // (B, K)
        let teacher_logits = teacher.map(|teacher| teacher.logits(&images)?.to_vec2::<f32>()).transpose()?;
        for (at, (&index, logits)) in indices.iter().zip(&logits).enumerate() {
            let teacher_logits = teacher_logits.as_ref().map(|logits| logits[at].as_slice());
            tally.add(dataset.label(index) as usize, logits, teacher_logits)?;
        }
        after_batch(tally.images)?;
    }
    Ok(tally.finish())
}

/// The sums behind an [`Evaluation`].
struct Tally {
    images: usize,
    in_top5: u64,
    loss: f64,
    agreeing: Option<u64>,
    class_names: Vec<String>,
    confusion: Vec<Vec<u64>>,
}

impl Tally {
    fn new(classes: usize, dataset: &Dataset) -> Result<Self> {
        if dataset.classes() > classes {
            bail!(
                "the data set has {} classes ({}, …), and the network tells only {classes} apart\nhint: measure it on the kind of data it was trained for",
                dataset.classes(),
                dataset.class_names().first().map_or("", String::as_str),
            );
        }
        let mut class_names = dataset.class_names().to_vec();
        class_names.extend((class_names.len()..classes).map(|class| class.to_string()));
        let confusion = vec![vec![0; classes]; classes];
        Ok(Self { images: 0, in_top5: 0, loss: 0.0, agreeing: None, class_names, confusion })
    }

    fn add(&mut self, label: usize, logits: &[f32], teacher_logits: Option<&[f32]>) -> Result<()> {
        if logits.iter().any(|logit| !logit.is_finite()) {
            bail!("the network gives logits that are not finite on image {}", self.images);
        }
        let predicted = largest(logits);
        self.images += 1;
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

    fn finish(self) -> Evaluation {
        let share = |count: u64| count as f64 / self.images.max(1) as f64;
        let correct = (0..self.confusion.len()).map(|class| self.confusion[class][class]).sum();
        Evaluation {
            images: self.images,
            top1: share(correct),
            top5: share(self.in_top5),
            loss: self.loss / self.images.max(1) as f64,
            agreement: self.agreeing.map(share),
            class_names: self.class_names,
            confusion: self.confusion,
        }
    }
}

/// The first of the largest.
fn largest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (class, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = class;
        }
    }
    best
}

impl Evaluation {
    /// Share of the images of each class that are put into it; `None` for a class without images.
    pub fn class_accuracies(&self) -> Vec<Option<f64>> {
        let accuracy = |(class, row): (usize, &Vec<u64>)| {
            let count = row.iter().sum::<u64>();
            (count > 0).then(|| row[class] as f64 / count as f64)
        };
        self.confusion.iter().enumerate().map(accuracy).collect()
    }

    /// The mistakes made most often: label, predicted class, images; at most `count`, the most frequent first.
    pub fn worst_confusions(&self, count: usize) -> Vec<(usize, usize, u64)> {
        let cells = self.confusion.iter().enumerate().flat_map(|(label, row)| {
            row.iter().enumerate().map(move |(predicted, &images)| (label, predicted, images))
        });
        let mut mistakes = cells.filter(|&(label, predicted, n)| label != predicted && n > 0).collect::<Vec<_>>();
        mistakes.sort_by_key(|&(label, predicted, images)| (std::cmp::Reverse(images), label, predicted));
        mistakes.truncate(count);
        mistakes
    }

    /// A table for people.
    pub fn to_table(&self) -> String {
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        let mut text = String::new();
        let mut line = |what: &str, value: String| writeln!(text, "{what:<24} {value:>10}").expect("a string grows");
        line("images", self.images.to_string());
        line("top-1 accuracy", percent(self.top1));
        if self.class_names.len() > TOP {
            line("top-5 accuracy", percent(self.top5));
        }
        line("cross-entropy", format!("{:.4}", self.loss));
        if let Some(agreement) = self.agreement {
            line("agrees with the teacher", percent(agreement));
        }
        text.push('\n');
        self.write_classes(&mut text);
        let mistakes = self.worst_confusions(5);
        if !mistakes.is_empty() {
            text.push_str("\nmost frequent mistakes\n");
        }
        for (label, predicted, images) in mistakes {
            let (label, predicted) = (&self.class_names[label], &self.class_names[predicted]);
            writeln!(text, "  {images:>5} × {label} taken for {predicted}").expect("a string grows");
        }
        text
    }

    /// Accuracy of each class, with its row of the confusion matrix where that fits a terminal.
    fn write_classes(&self, text: &mut String) {
        const FITS: usize = 12;
        let name = |class: usize| self.class_names[class].chars().take(14).collect::<String>();
        let matrix = self.class_names.len() <= FITS;
        let heading = if matrix { "  label \\ predicted as" } else { "" };
        writeln!(text, "{:<14} {:>9}{heading}", "class", "accuracy").expect("a string grows");
        for (class, accuracy) in self.class_accuracies().into_iter().enumerate() {
            let accuracy = accuracy.map_or("–".into(), |share| format!("{:.2} %", share * 100.0));
            write!(text, "{:<14} {accuracy:>9}", name(class)).expect("a string grows");
            if matrix {
                text.push(' ');
                for count in &self.confusion[class] {
                    write!(text, " {count:>5}").expect("a string grows");
                }
            }
            text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Label, logits and the teacher's logits of one image.
    type Row<'a> = (usize, &'a [f32], Option<&'a [f32]>);

    fn tally(rows: &[Row<'_>], classes: usize) -> Evaluation {
        let names = (0..classes).map(|class| format!("class {class}")).collect();
        let dataset = Dataset::new([1, 1, 1], vec![0], vec![0], names).unwrap();
        let mut tally = Tally::new(classes, &dataset).unwrap();
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
        assert_eq!(found.class_accuracies(), [Some(1.0), Some(0.5), Some(0.0)]);
        assert_eq!(found.worst_confusions(1), [(1, 0, 1)]);
        // −ln softmax: 0.407606, 1.407606, 0.094902, 9.000247.
        assert!((found.loss - 2.727_59).abs() < 1e-5, "{}", found.loss);
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
    fn a_data_set_of_more_classes_and_infinite_logits_are_refused() {
        let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        let dataset = Dataset::new([1, 1, 1], vec![0], vec![0], names(4)).unwrap();
        let error = Tally::new(3, &dataset).err().unwrap().to_string();
        assert!(error.contains("4 classes") && error.contains("only 3"), "{error}");
        let error = Tally::new(4, &dataset).unwrap().add(0, &[f32::NAN, 0.0, 0.0, 0.0], None).unwrap_err().to_string();
        assert!(error.contains("not finite on image 0"), "{error}");
    }

    #[test]
    fn the_table_says_what_was_measured() {
        let table = tally(&[(0, &[2.0, 1.0], None), (1, &[2.0, 1.0], None)], 2).to_table();
        for part in ["images", "top-1 accuracy", "50.00 %", "class 1", "1 × class 1 taken for class 0"] {
            assert!(table.contains(part), "{part:?} is not in\n{table}");
        }
        assert!(!table.contains("top-5") && !table.contains("teacher"), "{table}");
    }
}
