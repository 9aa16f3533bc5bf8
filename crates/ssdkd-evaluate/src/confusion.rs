//! What a confusion matrix says: items by label (row) and predicted class (column).
//!
//! In the formulas TP, FP and FN of a class are its true positives, false positives and false negatives. They are the matrix's
//! diagonal entry, the rest of its column and the rest of its row.

/// Returns the recall of each class, TP / (TP + FN); `None` for a class without items.
pub(crate) fn recalls(confusion: &[Vec<u64>]) -> Vec<Option<f64>> {
    counts(confusion).map(|Counts { tp, false_negatives, .. }| ratio(tp, tp + false_negatives)).collect()
}

/// Returns the intersection over union of each class, TP / (TP + FP + FN); `None` for a class that is neither label nor prediction.
pub(crate) fn intersections_over_unions(confusion: &[Vec<u64>]) -> Vec<Option<f64>> {
    let of = |Counts { tp, false_positives, false_negatives }| ratio(tp, tp + false_positives + false_negatives);
    counts(confusion).map(of).collect()
}

/// Returns the balanced accuracy: the mean recall over the classes that occur as labels.
///
/// scikit-learn's `balanced_accuracy_score` also leaves out a class that is only predicted.
pub(crate) fn balanced_accuracy(confusion: &[Vec<u64>]) -> f64 {
    mean(recalls(confusion))
}

/// Returns the macro-F1: the mean of 2 TP / (2 TP + FP + FN) over the classes that occur as labels or as predictions.
///
/// A class that is only predicted counts with F1 = 0, as in scikit-learn's `f1_score(average="macro")`. A class that is neither has no
/// F1 and does not count.
pub(crate) fn macro_f1(confusion: &[Vec<u64>]) -> f64 {
    let of =
        |Counts { tp, false_positives, false_negatives }| ratio(2 * tp, 2 * tp + false_positives + false_negatives);
    mean(counts(confusion).map(of))
}

/// Returns the mean of the values that exist, and 0 if none exists.
pub(crate) fn mean(values: impl IntoIterator<Item = Option<f64>>) -> f64 {
    let (sum, count) = values.into_iter().flatten().fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count.max(1))
}

/// The counts of one class.
struct Counts {
    tp: u64,
    false_positives: u64,
    false_negatives: u64,
}

/// Returns the counts of each class.
fn counts(confusion: &[Vec<u64>]) -> impl Iterator<Item = Counts> + '_ {
    let mut predicted = vec![0; confusion.len()];
    for row in confusion {
        for (sum, count) in predicted.iter_mut().zip(row) {
            *sum += count;
        }
    }
    confusion.iter().zip(predicted).enumerate().map(|(class, (row, predicted))| {
        let tp = row[class];
        Counts { tp, false_positives: predicted - tp, false_negatives: row.iter().sum::<u64>() - tp }
    })
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Class 2 is only predicted. Class 3 is neither label nor prediction.
    fn example() -> Vec<Vec<u64>> {
        vec![vec![6, 1, 1, 0], vec![2, 2, 0, 0], vec![0, 0, 0, 0], vec![0, 0, 0, 0]]
    }

    #[track_caller]
    fn check(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
    }

    #[test]
    fn balanced_accuracy_is_the_mean_recall_of_the_classes_that_occur() {
        assert_eq!(recalls(&example()), [Some(0.75), Some(0.5), None, None]);
        check(balanced_accuracy(&example()), 0.625);
    }

    #[test]
    fn macro_f1_counts_classes_that_occur_or_are_predicted() {
        // 2·6 / (12 + 2 + 2), 2·2 / (4 + 1 + 2), 0 / (0 + 1 + 0), and nothing of class 3.
        check(macro_f1(&example()), (12.0 / 16.0 + 4.0 / 7.0 + 0.0) / 3.0);
    }

    #[test]
    fn intersection_over_union_counts_classes_that_occur_or_are_predicted() {
        assert_eq!(intersections_over_unions(&example()), [Some(0.6), Some(0.4), Some(0.0), None]);
    }

    #[test]
    fn a_matrix_without_items_gives_zero() {
        let nothing = vec![vec![0, 0], vec![0, 0]];
        assert_eq!((balanced_accuracy(&nothing), macro_f1(&nothing)), (0.0, 0.0));
    }
}
