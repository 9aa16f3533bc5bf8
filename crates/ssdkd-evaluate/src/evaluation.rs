//! What is measured of a network on labeled images, or on images with labeled pixels.

use std::fmt::Write as _;

use serde::Serialize;
use ssdkd_stage::exit;
use ssdkd_stage::table::{Align, Table};

use crate::confusion;

/// Logits are looked at this deep for `top5`.
pub(crate) const TOP: usize = 5;

/// What a network does on a data set. *Items* are its images, or where the network labels pixels those that are of a class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Images measured.
    pub images: usize,
    /// Share of the items whose label has the largest logit.
    pub top1: f64,
    /// Share of the items whose label is among the five largest logits.
    pub top5: f64,
    /// Mean recall over the classes that occur as labels.
    pub balanced_accuracy: f64,
    /// Mean F1 over the classes that occur as labels or as predictions; a class that is only predicted has F1 = 0.
    pub macro_f1: f64,
    /// Where pixels are labeled, the mean over classes of |label ∩ prediction| / |label ∪ prediction|, pixels of all images
    /// together; a class that neither has does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_iou: Option<f64>,
    /// Mean cross-entropy with the labels, nats.
    pub loss: f64,
    /// Share of the items that the teacher puts into the same class, right or wrong; `None` if no teacher was given.
    pub agreement: Option<f64>,
    /// What the classes are called.
    pub class_names: Vec<String>,
    /// Items by label (row) and predicted class (column).
    pub confusion: Vec<Vec<u64>>,
}

impl Evaluation {
    /// Returns what networks of this kind are compared by: the mean intersection over union where pixels are labeled, else top-1 accuracy.
    pub fn score(&self) -> f64 {
        self.mean_iou.unwrap_or(self.top1)
    }

    /// Returns the share of the items of each class that are put into it; `None` for a class without any.
    pub fn class_accuracies(&self) -> Vec<Option<f64>> {
        confusion::recalls(&self.confusion)
    }

    /// Returns the number of classes that have an item: the others are measured only by what is wrongly taken for them.
    pub fn occurring_classes(&self) -> usize {
        self.confusion.iter().filter(|row| row.iter().any(|&count| count > 0)).count()
    }

    /// Returns the mistakes made most often: label, predicted class, items; at most `count`, the most frequent first.
    pub fn worst_confusions(&self, count: usize) -> Vec<(usize, usize, u64)> {
        let cells = self.confusion.iter().enumerate().flat_map(|(label, row)| {
            row.iter().enumerate().map(move |(predicted, &images)| (label, predicted, images))
        });
        let mut mistakes = cells.filter(|&(label, predicted, n)| label != predicted && n > 0).collect::<Vec<_>>();
        mistakes.sort_by_key(|&(label, predicted, images)| (std::cmp::Reverse(images), label, predicted));
        mistakes.truncate(count);
        mistakes
    }

    /// Returns a table for people.
    pub fn to_table(&self) -> String {
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        let mut text = String::new();
        let mut line = |what: &str, value: String| writeln!(text, "{what:<24} {value:>10}").expect("a string grows");
        line("images", self.images.to_string());
        if let Some(mean_iou) = self.mean_iou {
            line("mean IoU", percent(mean_iou));
        }
        let (occurring, classes) = (self.occurring_classes(), self.confusion.len());
        if occurring < classes {
            line("classes that occur", format!("{occurring} of {classes}"));
        }
        line(if self.mean_iou.is_some() { "pixel accuracy" } else { "top-1 accuracy" }, percent(self.top1));
        if self.class_names.len() > TOP && self.mean_iou.is_none() {
            line("top-5 accuracy", percent(self.top5));
        }
        line("balanced accuracy", percent(self.balanced_accuracy));
        line("macro-F1", percent(self.macro_f1));
        line("cross-entropy", format!("{:.4}", self.loss));
        if let Some(agreement) = self.agreement {
            line("agrees with the teacher", percent(agreement));
        }
        text.push('\n');
        text.push_str(&self.classes().to_string());
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

    /// Returns accuracy or IoU of each class, with its row of the confusion matrix where that fits a terminal.
    fn classes(&self) -> Table {
        const FITS: usize = 12;
        // Pixels are counted in millions.
        let matrix = self.class_names.len() <= FITS && self.mean_iou.is_none();
        let (what, shares) = match self.mean_iou {
            Some(_) => ("IoU", confusion::intersections_over_unions(&self.confusion)),
            None => ("accuracy", self.class_accuracies()),
        };
        let predicted = if matrix { self.class_names.as_slice() } else { &[] };
        let predicted = predicted.iter().enumerate().map(|(class, _)| format!("as {class}")).collect::<Vec<_>>();
        let columns = [("class", Align::Left), (what, Align::Right)].into_iter();
        let mut table = Table::new(columns.chain(predicted.iter().map(|name| (name.as_str(), Align::Right))));
        for (class, accuracy) in shares.into_iter().enumerate() {
            let accuracy = accuracy.map_or("–".into(), |share| format!("{:.2} %", share * 100.0));
            let counts = if matrix { self.confusion[class].as_slice() } else { &[] };
            let counts = counts.iter().map(ToString::to_string);
            table.row([label(&self.class_names[class]), accuracy].into_iter().chain(counts));
        }
        table
    }
}

/// Returns the name of a class as it stands in a table.
pub(crate) fn label(class_name: &str) -> String {
    exit::one_line(class_name).chars().take(24).collect()
}
