//! The record of results: a row for each run, which outlives it.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ssdkd_nn::TeacherCard;
use ssdkd_stage::{StageError, quote_path};

use crate::commands::report::{SUMMARY, Summary, one_round};
use crate::report::histogram::Histogram;

/// `results.json`: one of these for each run. Accuracies are shares, times seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `teacher → student on data set`.
    pub pair: String,
    pub method: String,
    pub seed: u64,
    pub teacher: Option<f64>,
    pub last: Option<f64>,
    /// `last` is of the mean of the students of so many last rounds.
    #[serde(default = "one_round")]
    pub averaged_rounds: u32,
    pub last5_mean: Option<f64>,
    pub last5_std: Option<f64>,
    /// Test images.
    pub measured_on: usize,
    pub distinct_images: u64,
    pub buffer: u64,
    pub steps: u64,
    pub synthesis_s: f64,
    pub distillation_s: f64,
    pub total_s: f64,
    pub peak_mib: u64,
    pub command: String,
    /// Its kind: `cpu`, `cuda`; empty if it is not known.
    #[serde(default)]
    pub device: String,
    pub machine: String,
    pub date: String,
    /// Distillation steps, seconds of all stages, accuracy of the student then.
    pub curve: Vec<(u64, f64, f64)>,
    /// What the last rounds made.
    pub made: Histogram,
}

/// `published.json`: figures of papers that rows are compared with.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedFigures {
    /// What a reader should know of all of them, in Markdown.
    pub about: String,
    figures: Vec<Published>,
}

/// A figure of a paper. Accuracies are shares.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// As in [`Row`].
    pub pair: String,
    pub method: String,
    pub teacher: f64,
    pub student: f64,
    /// Distillation steps, and images in each.
    pub steps: u64,
    pub batch: u64,
    /// An address.
    pub source: String,
}

impl PublishedFigures {
    /// Returns those of a pair, the best student first.
    pub fn of(&self, pair: &str) -> Vec<&Published> {
        let mut figures = self.figures.iter().filter(|figure| figure.pair == pair).collect::<Vec<_>>();
        figures.sort_by(|a, b| b.student.total_cmp(&a.student));
        figures
    }
}

/// In the place of the teacher, for a network that saw real images.
const REAL: &str = "real images";

impl Row {
    /// Of a run's folder, or of a card that `ssdkd-teach` wrote.
    pub fn read(path: &Path) -> Result<Self> {
        if path.is_file() { of_card(path) } else { Ok(of_summary(read_summary(path)?)) }
    }

    /// Returns whether this is a network of the pair's student's architecture that saw real images.
    pub fn is_real_student_of(&self, pair: &str) -> bool {
        let student = pair.rsplit(" → ").next().unwrap_or_default(); // and the data set
        self.saw_real_images() && self.pair == format!("{REAL} → {student}")
    }

    /// Returns whether this is a network that saw real images.
    pub fn saw_real_images(&self) -> bool {
        self.pair.starts_with(REAL)
    }

    fn repeats(&self, other: &Self) -> bool {
        let key = |row: &Self| (row.pair.clone(), row.method.clone(), row.device.clone(), row.seed, row.buffer);
        key(self) == key(other)
    }
}

/// Returns what a record holds, rows or published figures; nothing if there is no such file.
pub fn recorded<T: DeserializeOwned + Default>(path: &Path) -> Result<T> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(T::default()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    serde_json::from_slice(&bytes).with_context(|| {
        let name = path.file_name().unwrap_or_default().display();
        format!(
            "{} is damaged or not a {name} of this version\nhint: move it away, or use another --out",
            path.display()
        )
    })
}

/// Replaces the row that this one repeats (pair, method, device, seed and size of the buffer), or at the end.
pub fn record(rows: &mut Vec<Row>, new: Row) {
    match rows.iter_mut().find(|row| row.repeats(&new)) {
        Some(old) => *old = new,
        None => rows.push(new),
    }
}

fn read_summary(run: &Path) -> Result<Summary> {
    let path = run.join("report").join(SUMMARY);
    let bytes = std::fs::read(&path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => {
            let hint = if run.is_dir() {
                format!("`ssdkd report {}` writes it", quote_path(run))
            } else {
                format!("check the path: there is no folder {}", run.display())
            };
            StageError::Missing { what: "the run's summary".into(), path: path.clone(), hint }
        }
        _ => StageError::Read { path: path.clone(), source },
    })?;
    serde_json::from_slice(&bytes).with_context(|| {
        format!(
            "{} is damaged or of another version\nhint: `ssdkd report {}` writes it",
            path.display(),
            quote_path(run)
        )
    })
}

fn of_summary(summary: Summary) -> Row {
    let curve = summary.curve.iter().filter_map(|point| Some((point.steps, point.seconds, point.accuracy?)));
    Row {
        pair: format!("{} → {} on {}", summary.teacher, summary.student, data_name(&summary.evaluated_on)),
        method: summary.method,
        seed: summary.seed,
        teacher: summary.teacher_accuracy,
        last: summary.student_accuracy,
        averaged_rounds: summary.averaged_rounds,
        last5_mean: summary.student_accuracy_last5.map(|spread| spread.mean),
        last5_std: summary.student_accuracy_last5.map(|spread| spread.std),
        measured_on: summary.evaluated_images,
        distinct_images: summary.distinct_images,
        buffer: summary.buffer,
        steps: summary.distillation_steps,
        synthesis_s: summary.seconds.invert,
        distillation_s: summary.seconds.distill,
        total_s: summary.seconds.total,
        peak_mib: summary.peak_mib,
        command: summary.command,
        device: summary.device,
        machine: summary.machine,
        date: summary.date,
        curve: curve.collect(),
        made: summary.made,
    }
}

/// Returns what a data set is called: `shapes` of `shapes:0`, the last part of a path.
fn data_name(spec: &str) -> &str {
    let name = spec.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match name.split(':').next() {
        Some(name) if !name.is_empty() => name,
        _ => "an unnamed data set",
    }
}

/// One line of the training log in a card's folder.
#[derive(Deserialize)]
struct Epoch {
    steps: u64,
    test_accuracy: f64,
    test_mean_iou: Option<f64>,
    seconds: f64,
}

fn of_card(path: &Path) -> Result<Row> {
    let card = TeacherCard::load(path)?;
    let log = path.with_extension("training.jsonl");
    let text = std::fs::read_to_string(&log)
        .with_context(|| format!("cannot read {}: only cards of `ssdkd-teach` have one", log.display()))?;
    let epochs = text.lines().map(serde_json::from_str::<Epoch>).collect::<serde_json::Result<Vec<_>>>();
    let (mut steps, mut seconds, mut curve) = (0, 0.0, Vec::new());
    for epoch in epochs.with_context(|| format!("{} is damaged", log.display()))? {
        (steps, seconds) = (steps + epoch.steps, seconds + epoch.seconds);
        curve.push((steps, seconds, epoch.test_mean_iou.unwrap_or(epoch.test_accuracy)));
    }
    let mut parts = card.source.split(';').map(str::trim);
    let command = parts.next().unwrap_or_default();
    let value_of = |flag: &str| command.split(' ').skip_while(|&word| word != flag).nth(1);
    Ok(Row {
        pair: format!("{REAL} → {} on {}", card.architecture, data_name(value_of("--data").unwrap_or_default())),
        method: "labels".into(),
        seed: value_of("--seed").and_then(|seed| seed.parse().ok()).unwrap_or(0),
        teacher: None,
        last: curve.last().map(|point| point.2),
        averaged_rounds: 1,
        last5_mean: None,
        last5_std: None,
        measured_on: parts.next_back().and_then(|text| text.split(' ').rev().nth(2)?.parse().ok()).unwrap_or(0),
        distinct_images: 0,
        buffer: 0,
        steps,
        synthesis_s: 0.0,
        distillation_s: 0.0,
        total_s: seconds,
        peak_mib: 0,
        command: command.into(),
        device: String::new(),
        machine: String::new(),
        date: String::new(),
        curve,
        made: Histogram::default(),
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn result(method: &str, seed: u64, last: f64) -> Row {
        Row {
            pair: "wrn-40-2 → wrn-16-1 on cifar10".into(),
            method: method.into(),
            seed,
            teacher: Some(0.9),
            last: Some(last),
            averaged_rounds: 1,
            last5_mean: Some(last),
            last5_std: Some(0.0),
            measured_on: 10_000,
            distinct_images: 1,
            buffer: 5120,
            steps: 2,
            synthesis_s: 3.0,
            distillation_s: 4.0,
            total_s: 7.0,
            peak_mib: 5,
            command: "ssdkd run it".into(),
            device: "cpu".into(),
            machine: "a machine".into(),
            date: "2026-01-01".into(),
            curve: vec![(2, 7.0, last)],
            made: Histogram::default(),
        }
    }

    pub fn figure(method: &str, student: f64) -> Published {
        Published {
            pair: "wrn-40-2 → wrn-16-1 on cifar10".into(),
            method: method.into(),
            teacher: 0.9487,
            student,
            steps: 80_000,
            batch: 256,
            source: "https://example.org/table".into(),
        }
    }

    #[test]
    fn published_figures_come_from_a_file() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let published: PublishedFigures = recorded(&docs.join("published.json")).unwrap();
        let figures = published.of("wrn-40-2 → wrn-16-1 on cifar10");
        assert!(figures.is_sorted_by(|a, b| a.student >= b.student) && figures[0].method == "CMI-500", "{figures:?}");
        assert!(published.of("wrn-40-2 → wrn-16-1 on shapes").is_empty() && published.about.contains("teacher"));
        let none: PublishedFigures = recorded(&docs.join("none.json")).unwrap();
        assert!(none.figures.is_empty());
        let error = recorded::<PublishedFigures>(&docs.join("results.json")).unwrap_err();
        assert!(format!("{error:#}").contains("results.json is damaged"), "{error:#}");
    }

    #[test]
    fn a_run_done_again_replaces_its_row() {
        let mut rows = vec![result("ours", 0, 0.5), result("ours", 1, 0.6)];
        record(&mut rows, result("ours", 0, 0.7));
        record(&mut rows, result("theirs", 0, 0.4));
        assert_eq!(rows, [result("ours", 0, 0.7), result("ours", 1, 0.6), result("theirs", 0, 0.4)]);
        record(&mut rows, Row { buffer: 512, ..result("ours", 0, 0.3) });
        record(&mut rows, Row { device: "cuda".into(), ..result("ours", 0, 0.8) });
        assert_eq!(rows.len(), 5);
    }

    #[test]
    fn the_card_of_the_shipped_teacher_is_a_result() {
        let card = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/teachers/shapes-resnet20.json");
        let row = Row::read(&card).unwrap();
        assert!(row.is_real_student_of("resnet56 → resnet20 on shapes"), "{row:?}");
        assert_eq!((row.seed, row.steps, row.measured_on), (0, 5 * 156, 5000));
        assert_eq!((row.last, row.curve.len()), (Some(0.9986), 5));
        assert!(row.command.starts_with("ssdkd-teach --data shapes:0") && row.command.ends_with("--seed 0"), "{row:?}");
        let error = Row::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml").as_path()).unwrap_err();
        assert!(format!("{error:#}").contains("Cargo.toml"), "{error:#}");
    }

    #[test]
    fn data_sets_are_called_by_their_last_name() {
        for (spec, name) in [
            ("shapes:0", "shapes"),
            ("data/cifar10/", "cifar10"),
            ("/x/c.parquet", "c.parquet"),
            ("", "an unnamed data set"),
        ] {
            assert_eq!(data_name(spec), name);
        }
    }

    #[test]
    fn networks_of_real_images_stand_beside_the_students_they_equal() {
        let real = Row { pair: "real images → wrn-16-1 on cifar10".into(), ..result("labels", 0, 0.9) };
        assert!(real.is_real_student_of("wrn-40-2 → wrn-16-1 on cifar10"));
        assert!(!real.is_real_student_of("wrn-40-2 → wrn-16-2 on cifar10"));
        assert!(!result("ours", 0, 0.5).is_real_student_of("wrn-40-2 → wrn-16-1 on cifar10"));
    }
}
