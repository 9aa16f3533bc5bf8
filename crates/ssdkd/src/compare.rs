//! `ssdkd compare`: many runs in one table and a picture for each pair of networks.
//!
//! `results.json` is the record: rows outlive the runs they came from, so that it grows over weeks and machines. The table and
//! the charts are made of it alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::{Deserialize, Serialize};
use ssdkd_stage::{StageError, exit, write_file};

use crate::plot::{self, Line};
use crate::report::{SUMMARY, Summary};

/// `ssdkd compare`
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Folders of runs that `ssdkd report` has looked at; none: what results.json holds
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,

    /// The folder of results.json, to which the runs are added (a row of the same pair, method and seed is replaced), and of
    /// results.md and the charts, which are made of it
    #[arg(long, value_name = "DIR", default_value = "comparison")]
    out: PathBuf,
}

const RESULTS: &str = "results.json";

/// `results.json`: one of these for each run. Accuracies are shares, times seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    pair: String,
    method: String,
    seed: u64,
    teacher: Option<f64>,
    last: Option<f64>,
    last5_mean: Option<f64>,
    last5_std: Option<f64>,
    measured_on: usize,
    distinct_images: u64,
    steps: u64,
    synthesis_s: f64,
    distillation_s: f64,
    total_s: f64,
    peak_mib: u64,
    command: String,
    machine: String,
    date: String,
    /// Distillation steps, seconds of all stages, accuracy of the student then.
    curve: Vec<(u64, f64, f64)>,
}

/// Adds the runs to the record; writes and prints the table, and draws accuracy over steps and over time for each pair.
pub fn compare(arguments: &CompareArgs) -> Result<()> {
    let path = arguments.out.join(RESULTS);
    let mut rows = recorded(&path)?;
    for run in &arguments.runs {
        record(&mut rows, row(&read(run)?));
    }
    if rows.is_empty() {
        return Err(StageError::Missing {
            what: "a result".into(),
            path,
            hint: "name the folders of the runs to compare".into(),
        }
        .into());
    }
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("cannot make {}", arguments.out.display()))?;
    let write = |name: &str, text: &str| write_file(&arguments.out.join(name), text.as_bytes());
    let by_pair = by_pair(&rows);
    let mut text = String::new();
    for (pair, rows) in &by_pair {
        describe(&mut text, pair, rows)?;
        for (what, axis, x) in [
            ("steps", "distillation steps", (|point| point.0 as f64) as fn(&(u64, f64, f64)) -> f64),
            ("time", "seconds in all", |point| point.1),
        ] {
            let file = format!("{}-over-{what}.svg", file_name(pair));
            let labels = rows.iter().map(|row| format!("{}, seed {}", row.method, row.seed)).collect::<Vec<_>>();
            let points = |row: &Row| row.curve.iter().map(|point| (x(point), 100.0 * point.2)).collect();
            let lines = rows.iter().zip(&labels).map(|(row, name)| Line { name, points: points(row) });
            write(&file, &plot::lines(pair, (axis, "accuracy, %"), &lines.collect::<Vec<_>>())?)?;
            writeln!(text, "![{pair}: accuracy over {what}]({file})")?;
        }
    }
    write(RESULTS, &(serde_json::to_string_pretty(&rows)? + "\n"))?;
    write("results.md", &format!("{HEAD}{text}"))?;
    Ok(exit::print(&format!("{text}\nwritten to {}\n", arguments.out.display()))?)
}

/// How `results.md` begins.
const HEAD: &str = "# Results\n\n\
    Made by `ssdkd compare` from results.json, which has a row for each run. **last** is the last student's top-1 accuracy on all\n\
    test images; beside it mean and deviation over the last rounds that were measured. The test set steers nothing.\n\n";

/// What the record holds; nothing if there is none yet.
fn recorded(path: &Path) -> Result<Vec<Row>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    serde_json::from_slice(&bytes).with_context(|| {
        format!("{} is damaged or not a record of results\nhint: move it away, or use another --out", path.display())
    })
}

/// Puts a row in the place of the one it repeats, or at the end.
fn record(rows: &mut Vec<Row>, new: Row) {
    let key = |row: &Row| (row.pair.clone(), row.method.clone(), row.seed);
    match rows.iter_mut().find(|row| key(row) == key(&new)) {
        Some(old) => *old = new,
        None => rows.push(new),
    }
}

fn by_pair(rows: &[Row]) -> BTreeMap<&str, Vec<&Row>> {
    let mut pairs = BTreeMap::<&str, Vec<&Row>>::new();
    for row in rows {
        pairs.entry(&row.pair).or_default().push(row);
    }
    pairs
}

fn file_name(pair: &str) -> String {
    pair.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

fn read(run: &Path) -> Result<Summary> {
    let path = run.join("report").join(SUMMARY);
    let bytes = std::fs::read(&path).map_err(|error| StageError::Missing {
        what: "the run's summary".into(),
        path: path.clone(),
        hint: format!("{error}; `ssdkd report {}` writes it", run.display()),
    })?;
    serde_json::from_slice(&bytes).with_context(|| {
        format!("{} is damaged or of another version\nhint: `ssdkd report {}` writes it", path.display(), run.display())
    })
}

fn row(summary: &Summary) -> Row {
    let curve = summary.curve.iter().filter_map(|point| Some((point.steps, point.seconds, point.accuracy?)));
    Row {
        pair: format!("{} → {}", summary.teacher, summary.student),
        method: summary.method.clone(),
        seed: summary.seed,
        teacher: summary.teacher_accuracy,
        last: summary.student_accuracy,
        last5_mean: summary.student_accuracy_last5.map(|spread| spread.mean),
        last5_std: summary.student_accuracy_last5.map(|spread| spread.std),
        measured_on: summary.evaluated_images,
        distinct_images: summary.distinct_images,
        steps: summary.distillation_steps,
        synthesis_s: summary.seconds.invert,
        distillation_s: summary.seconds.distill,
        total_s: summary.seconds.total,
        peak_mib: summary.peak_mib,
        command: summary.command.clone(),
        machine: summary.machine.clone(),
        date: summary.date.clone(),
        curve: curve.collect(),
    }
}

/// The section of one pair: a row for each run, the spread over seeds, and how each was made.
fn describe(text: &mut String, pair: &str, rows: &[&Row]) -> Result<()> {
    let percent = |value: Option<f64>| value.map_or("–".into(), |value| format!("{:.2}", 100.0 * value));
    writeln!(text, "\n## {pair}\n")?;
    if let Some(teacher) = rows.iter().find_map(|row| row.teacher) {
        writeln!(text, "The teacher: {:.2} %.\n", 100.0 * teacher)?;
    }
    text.push_str(
        "| method | seed | last, % | last rounds, % | images | steps | synthesis, s | distillation, s | total, s | MiB |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        writeln!(
            text,
            "| {} | {} | {} | {} ± {} | {} | {} | {:.0} | {:.0} | {:.0} | {} |",
            row.method,
            row.seed,
            percent(row.last),
            percent(row.last5_mean),
            percent(row.last5_std),
            row.distinct_images,
            row.steps,
            row.synthesis_s,
            row.distillation_s,
            row.total_s,
            row.peak_mib
        )?;
    }
    text.push('\n');
    let mut methods = rows.iter().map(|row| &row.method).collect::<Vec<_>>();
    methods.dedup();
    for method in methods {
        let last = rows.iter().filter(|row| row.method == *method).filter_map(|row| row.last).collect::<Vec<_>>();
        if let [_, _, ..] = last[..] {
            let mean = last.iter().sum::<f64>() / last.len() as f64;
            let variance = last.iter().map(|last| (last - mean).powi(2)).sum::<f64>() / (last.len() - 1) as f64;
            let (mean, deviation) = (100.0 * mean, 100.0 * variance.sqrt());
            writeln!(text, "{method}, the last students of {} seeds: **{mean:.2} ± {deviation:.2} %**\n", last.len())?;
        }
    }
    for row in rows {
        writeln!(text, "- {}, seed {}: `{}` ({}, {})", row.method, row.seed, row.command, row.machine, row.date)?;
        if row.measured_on < 10_000 {
            writeln!(text, "  (measured on {} images)", row.measured_on)?;
        }
    }
    text.push('\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(method: &str, seed: u64, last: f64) -> Row {
        Row {
            pair: "wrn-40-2 → wrn-16-1".into(),
            method: method.into(),
            seed,
            teacher: Some(0.9),
            last: Some(last),
            last5_mean: Some(last),
            last5_std: Some(0.0),
            measured_on: 10_000,
            distinct_images: 1,
            steps: 2,
            synthesis_s: 3.0,
            distillation_s: 4.0,
            total_s: 7.0,
            peak_mib: 5,
            command: "ssdkd run it".into(),
            machine: "a machine".into(),
            date: "2026-01-01".into(),
            curve: vec![(2, 7.0, last)],
        }
    }

    #[test]
    fn a_run_done_again_replaces_its_row() {
        let mut rows = vec![result("ours", 0, 0.5), result("ours", 1, 0.6)];
        record(&mut rows, result("ours", 0, 0.7));
        record(&mut rows, result("theirs", 0, 0.4));
        assert_eq!(rows, [result("ours", 0, 0.7), result("ours", 1, 0.6), result("theirs", 0, 0.4)]);
    }

    #[test]
    fn seeds_are_summed_up_by_their_mean_and_sample_deviation() {
        let rows = [result("ours", 0, 0.5), result("ours", 1, 0.6), result("theirs", 0, 0.4)];
        let mut text = String::new();
        describe(&mut text, &rows[0].pair, &rows.iter().collect::<Vec<_>>()).unwrap();
        assert!(text.contains("ours, the last students of 2 seeds: **55.00 ± 7.07 %**"), "{text}");
        assert!(!text.contains("theirs, the last"), "{text}");
    }

    #[test]
    fn pairs_become_file_names() {
        assert_eq!(file_name("wrn-40-2 → wrn-16-1"), "wrn-40-2-wrn-16-1");
    }
}
