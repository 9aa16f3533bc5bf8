//! What is measured of a network on labeled images, or on images with labeled pixels.

use std::cmp::Ordering;
use std::fmt::Write as _;

use candle_core::{Result, Tensor, bail};
use serde::Serialize;
use ssdkd_data::{Dataset, UNLABELLED};
use ssdkd_nn::{Architecture, Network, Task, ZooArchitecture};
use ssdkd_stage::exit;
use ssdkd_stage::table::{Align, Table};

use crate::confusion;

/// Logits are looked at this deep for `top5`.
const TOP: usize = 5;

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

/// Checks whether a network of this architecture can learn from a data set, or be measured on it: labels pixels where that has masks, and
/// images where it has none.
///
/// # Errors
/// Where one is of images and the other of pixels; the error names both.
pub fn check_task(architecture: &Architecture, dataset: &Dataset) -> Result<()> {
    check_masks(architecture, dataset.masks().is_some())
}

/// Checks whether a network of this architecture with so many classes can be measured on a data set.
///
/// # Errors
/// As [`check_task`], or if the data set has more classes than the network.
pub fn check_fit(architecture: &Architecture, classes: usize, dataset: &Dataset) -> Result<()> {
    check_task(architecture, dataset)?;
    if dataset.classes() > classes {
        bail!(
            "the data set has {} classes{}, and the network tells only {classes} apart\nhint: measure it on the kind of data it was trained for",
            dataset.classes(),
            dataset.class_names().and_then(<[_]>::first).map(|name| format!(" ({name}, …)")).unwrap_or_default(),
        );
    }
    Ok(())
}

/// The same of a data set of which is known whether it has masks.
pub(crate) fn check_masks(architecture: &Architecture, masked: bool) -> Result<()> {
    match (architecture.task(), masked) {
        (Task::Images, false) | (Task::Pixels, true) => Ok(()),
        (Task::Pixels, false) => bail!(
            "a {architecture} labels pixels, and the data set has no masks to compare with\n\
             hint: take a data set with masks, such as shapes-masks"
        ),
        (Task::Images, true) => {
            let pixels = architecture.zoo().map(|zoo| ZooArchitecture { task: Task::Pixels, ..zoo });
            let name =
                pixels.filter(ZooArchitecture::exists).map_or("fpn-resnet20".into(), |pixels| pixels.to_string());
            bail!(
                "a {architecture} labels images, and the data set has a mask for each\nhint: take a network of pixels, such as {name}"
            )
        }
    }
}

/// Checks whether two networks can be compared: both label images, or both label pixels.
///
/// # Errors
/// If they do not; the error names both.
pub(crate) fn check_same_task(teacher: &Network, network: &Network) -> Result<()> {
    if teacher.rows_per_image() != network.rows_per_image() {
        let (teacher, network) = (&teacher.spec().architecture, &network.spec().architecture);
        bail!("a {teacher} cannot be compared with a {network}: one labels images and the other pixels");
    }
    Ok(())
}

/// Returns the logits of images (B, H, W, C): (B, K), or where the network labels pixels a row for each pixel.
pub(crate) fn logits(network: &Network, images: &Tensor) -> Result<Vec<f32>> {
    network.logits(images)?.flatten_all()?.to_vec1::<f32>()
}

/// Measures `network` on all images of `dataset`, `batch` at a time.
///
/// # Errors
/// If the data set has another shape or more classes than the network or [another task](check_task), or the network gives numbers
/// that are not finite.
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
    check_fit(&network.spec().architecture, network.classes(), dataset)?;
    let mut tally = Tally::new(network.classes(), dataset);
    let rows = network.rows_per_image();
    if let Some(teacher) = teacher {
        check_same_task(teacher, network)?;
    }
    let [channels, height, width] = dataset.shape();
    let indices = (0..dataset.len()).collect::<Vec<_>>();
    for indices in indices.chunks(batch.max(1)) {
        let images = dataset.gather(indices);
        let images = Tensor::from_vec(images, (indices.len(), height, width, channels), network.store().device())?;
        let logits = logits(network, &images)?;
        let teacher_logits = teacher.map(|teacher| self::logits(teacher, &images)).transpose()?;
        let label = |row: usize| match dataset.mask(indices[row / rows]) {
            Some(mask) => Some(mask[row % rows]).filter(|&class| class != UNLABELLED).map(usize::from),
            None => Some(dataset.label(indices[row]) as usize),
        };
        let classes = network.classes();
        for (row, logits) in logits.chunks_exact(classes).enumerate() {
            let teacher_logits = teacher_logits.as_ref().map(|logits| &logits[row * classes..][..classes]);
            if let Some(label) = label(row) {
                tally.add(label, logits, teacher_logits)?;
            }
        }
        tally.images += indices.len();
        after_batch(tally.images)?;
    }
    Ok(tally.finish())
}

/// The sums behind an [`Evaluation`].
struct Tally {
    images: usize,
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
    fn new(classes: usize, dataset: &Dataset) -> Self {
        let mut class_names = dataset.class_names().unwrap_or_default().to_vec();
        class_names.extend((class_names.len()..classes).map(|class| class.to_string()));
        let confusion = vec![vec![0; classes]; classes];
        let pixels = dataset.masks().is_some();
        Self { images: 0, items: 0, pixels, in_top5: 0, loss: 0.0, agreeing: None, class_names, confusion }
    }

    fn add(&mut self, label: usize, logits: &[f32], teacher_logits: Option<&[f32]>) -> Result<()> {
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

    fn finish(self) -> Evaluation {
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
    fn pixels_of_no_class_count_nothing() {
        let spec = ssdkd_nn::NetworkSpec {
            architecture: "fpn-resnet8".parse().unwrap(),
            classes: 2,
            input: [1, 4, 4],
            mean: vec![0.5],
            std: vec![0.5],
            preprocessing: ssdkd_nn::Preprocessing::default(),
        };
        let network = Network::create(&spec, 1, &candle_core::Device::Cpu).unwrap();
        let images = (0..32).map(|at| at * 8).collect::<Vec<u8>>();
        let names = ["a", "b"].map(String::from).to_vec();
        let plain = Dataset::new([1, 4, 4], images, vec![0, 1], names).unwrap();
        let evaluate = |masks: Vec<u8>| evaluate(&network, &plain.clone().with_masks(masks).unwrap(), 1).unwrap();
        let all = evaluate(vec![1; 32]);
        assert_eq!((all.images, all.confusion[1].iter().sum::<u64>()), (2, 32));
        let half = evaluate([vec![UNLABELLED; 16], vec![1; 16]].concat());
        assert_eq!((half.images, half.confusion[1].iter().sum::<u64>()), (2, 16));
        // Against images that are of one class: a network of pixels has nothing to compare with.
        let error = super::evaluate(&network, &plain, 1).unwrap_err().to_string();
        assert!(error.contains("fpn-resnet8 labels pixels") && error.contains("hint:"), "{error}");
    }

    #[test]
    fn masks_of_oblong_images_are_compared_pixel_by_pixel() {
        let spec = ssdkd_nn::NetworkSpec {
            architecture: "fpn-resnet8".parse().unwrap(),
            classes: 3,
            input: [3, 24, 40],
            mean: vec![0.5; 3],
            std: vec![0.5; 3],
            preprocessing: ssdkd_nn::Preprocessing::default(),
        };
        let network = Network::create(&spec, 1, &candle_core::Device::Cpu).unwrap();
        let images = (0..2 * 3 * 24 * 40).map(|at| (at * at / 7 % 256) as u8).collect::<Vec<_>>();
        let names = ["a", "b", "c"].map(String::from).to_vec();
        let data = Dataset::new([3, 24, 40], images, vec![0, 0], names).unwrap();
        let batch = Tensor::from_vec(data.gather(&[0, 1]), (2, 24, 40, 3), &candle_core::Device::Cpu).unwrap();
        let masks =
            logits(&network, &batch).unwrap().chunks_exact(3).map(|logits| largest(logits) as u8).collect::<Vec<_>>();
        let is_varied = masks.iter().any(|class| *class != masks[0]);
        let found = evaluate(&network, &data.with_masks(masks).unwrap(), 1).unwrap();
        assert_eq!((is_varied, found.top1, found.mean_iou), (true, 1.0, Some(1.0)));
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
        let error = check_fit(&"resnet8".parse().unwrap(), 3, &dataset).unwrap_err().to_string();
        assert!(error.contains("4 classes") && error.contains("only 3"), "{error}");
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
