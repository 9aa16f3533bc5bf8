//! What a classifier says of one image, as JSON and as a table.

use std::path::Path;

use serde::Serialize;
use ssdkd_stage::exit::one_line;
use ssdkd_stage::table::{Align, Table};

/// The prediction for one image.
#[derive(Debug, Serialize)]
pub struct Scores {
    file: String,
    /// In the order of the classes.
    logits: Vec<f32>,
    /// The softmax of the logits.
    probabilities: Vec<f64>,
    /// The most probable classes, the most probable first.
    classes: Vec<Class>,
}

/// One class of the most probable ones.
#[derive(Debug, Serialize)]
struct Class {
    index: usize,
    name: String,
    probability: f64,
}

impl Scores {
    /// Returns the `top` most probable classes of an image with these logits. Of equal logits the earlier class comes first.
    pub fn new(path: &Path, logits: &[f32], names: &[String], top: usize) -> Self {
        let probabilities = softmax(logits);
        let mut order = (0..logits.len()).collect::<Vec<_>>();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let class = |index: usize| Class { index, name: names[index].clone(), probability: probabilities[index] };
        let classes = order.into_iter().take(top).map(class).collect();
        Self { file: path.display().to_string(), logits: logits.to_vec(), probabilities, classes }
    }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers = logits.iter().map(|logit| (f64::from(*logit) - f64::from(largest)).exp()).collect::<Vec<_>>();
    let sum = powers.iter().sum::<f64>();
    powers.into_iter().map(|power| power / sum).collect()
}

/// Returns a line for each class of each image; the file stands in the first of its lines.
pub fn table(scores: &[Scores]) -> String {
    let columns = [("file", Align::Left), ("class", Align::Left), ("probability", Align::Right)];
    let mut table = Table::new(columns);
    for Scores { file, classes, .. } in scores {
        for (at, Class { name, probability, .. }) in classes.iter().enumerate() {
            let file = if at == 0 { one_line(file) } else { String::new() };
            table.row([file, one_line(name), format!("{probability:.4}")]);
        }
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["cat", "dog", "frog"].map(String::from).to_vec()
    }

    #[test]
    fn the_most_probable_classes_come_first() {
        let scores = Scores::new(Path::new("a.png"), &[0.0, 2.0, 2.0], &names(), 2);
        assert_eq!(scores.classes.iter().map(|class| class.index).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn large_logits_have_probabilities_that_sum_to_one() {
        let probabilities = softmax(&[1e4, 1e4, -1e4]);
        assert_eq!(probabilities, [0.5, 0.5, 0.0]);
    }

    #[test]
    fn a_class_cannot_make_a_line_of_its_own() {
        let names = ["cat\n\u{1b}[2Jdog"].map(String::from);
        let table = table(&[Scores::new(Path::new("a.png"), &[0.0], &names, 1)]);
        assert_eq!(table.lines().count(), 2, "{table}");
        assert!(table.contains("cat\u{fffd}\u{fffd}[2Jdog"), "{table}");
    }

    #[test]
    fn a_table_names_each_file_once() {
        let scores = Scores::new(Path::new("a.png"), &[0.0, 0.0, 9.0], &names(), 2);
        assert_eq!(
            table(&[scores]),
            "file   class  probability\na.png  frog        0.9998\n       cat         0.0001\n"
        );
    }
}
