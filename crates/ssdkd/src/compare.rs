//! `ssdkd compare`: several runs in one table and one picture.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use ssdkd_stage::{StageError, exit, write_file};

use crate::plot::{self, Line};
use crate::report::{SUMMARY, Summary};

/// `ssdkd compare`
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Folders of runs that `ssdkd report` has looked at
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,

    /// Where to put results.json, results.md and the charts
    #[arg(long, value_name = "DIR", default_value = "comparison")]
    out: PathBuf,
}

/// `results.json`: one of these for each run.
#[derive(Debug, Serialize)]
struct Row<'a> {
    pair: String,
    method: &'a str,
    seed: u64,
    last: Option<f64>,
    last5_mean: Option<f64>,
    last5_std: Option<f64>,
    distinct_images: u64,
    steps: u64,
    synthesis_s: f64,
    distillation_s: f64,
    total_s: f64,
    peak_mib: u64,
    command: &'a str,
}

/// Reads the runs' summaries; writes and prints the table, and draws accuracy over steps and over time.
pub fn compare(arguments: &CompareArgs) -> Result<()> {
    let summaries = arguments.runs.iter().map(|run| read(run)).collect::<Result<Vec<_>>>()?;
    let rows = summaries.iter().map(row).collect::<Vec<_>>();
    let table = table(&rows)?;
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("cannot make {}", arguments.out.display()))?;
    let write = |name: &str, text: &str| write_file(&arguments.out.join(name), text.as_bytes());
    write("results.json", &(serde_json::to_string_pretty(&rows)? + "\n"))?;
    write("results.md", &table)?;
    for (file, x, of) in [
        ("accuracy-over-steps.svg", "distillation steps", steps as fn(&Summary) -> Vec<(f64, f64)>),
        ("accuracy-over-time.svg", "seconds in all", time),
    ] {
        let lines = summaries.iter().map(|summary| Line { name: &summary.run, points: of(summary) });
        let chart = plot::lines("student's accuracy", (x, "accuracy, %"), &lines.collect::<Vec<_>>())?;
        write(file, &chart)?;
    }
    Ok(exit::print(&format!("{table}\nwritten to {}\n", arguments.out.display()))?)
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

fn row(summary: &Summary) -> Row<'_> {
    Row {
        pair: format!("{} → {}", summary.teacher, summary.student),
        method: &summary.method,
        seed: summary.seed,
        last: summary.student_accuracy,
        last5_mean: summary.student_accuracy_last5.map(|spread| spread.mean),
        last5_std: summary.student_accuracy_last5.map(|spread| spread.std),
        distinct_images: summary.distinct_images,
        steps: summary.distillation_steps,
        synthesis_s: summary.seconds.invert,
        distillation_s: summary.seconds.distill,
        total_s: summary.seconds.total,
        peak_mib: summary.peak_mib,
        command: &summary.command,
    }
}

fn table(rows: &[Row]) -> Result<String> {
    let percent = |value: Option<f64>| value.map_or("–".into(), |value| format!("{:.2}", 100.0 * value));
    let mut text = String::from(
        "| pair | method | seed | last, % | last rounds, % | images | steps | synthesis, s | distillation, s | total, s | MiB |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        writeln!(
            text,
            "| {} | {} | {} | {} | {} ± {} | {} | {} | {:.0} | {:.0} | {:.0} | {} |",
            row.pair,
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
    for row in rows {
        writeln!(text, "- {}, seed {}: `{}`", row.method, row.seed, row.command)?;
    }
    Ok(text)
}

fn steps(summary: &Summary) -> Vec<(f64, f64)> {
    let measured = summary.curve.iter().filter_map(|point| Some((point.steps as f64, 100.0 * point.accuracy?)));
    measured.collect()
}

fn time(summary: &Summary) -> Vec<(f64, f64)> {
    let measured = summary.curve.iter().filter_map(|point| Some((point.seconds, 100.0 * point.accuracy?)));
    measured.collect()
}
