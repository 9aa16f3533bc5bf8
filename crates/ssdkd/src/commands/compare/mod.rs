//! `ssdkd compare`: many runs in one table, and pictures for each pair of networks.
//!
//! `results.json` is the record: its rows outlive the runs they came from, so that it grows over weeks and machines. The
//! table and the charts are made of it alone.

mod charts;
mod methods;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use ssdkd_stage::{StageError, exit, write_file};

use crate::report::pictures::STRIP;
use crate::report::results::{PublishedFigures, Row, record, recorded};
use charts::charts;
use methods::methods;
use tables::{cell, describe, describe_published, describe_strips};

/// `ssdkd compare`
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Folders of runs with a report, or cards of `ssdkd-teach` [default: only what results.json holds]
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,

    /// The folder of results.json, results.md and the charts; a run replaces its earlier row in results.json. A published.json there, such as
    /// docs/published.json, holds figures of papers to compare with
    #[arg(long, value_name = "DIR", default_value = "comparison")]
    out: PathBuf,
}

/// How `results.md` begins.
const HEAD: &str = "# Results\n\n\
    Made by `ssdkd compare` from results.json, which has a row for each run. **last** is the last student's top-1 accuracy;\n\
    of segmentation networks (fpn-…) it is the mean intersection over union. *(mean of 54)* marks the mean of the students of the\n\
    last 54 rounds. **last rounds** is mean and deviation over the last rounds that were measured. No run sees the test set.\n\
    Times are sums over all stages, on the machine and with the threads that the list below the table names.\n\
    Charts show at most eight methods of a pair, and a method with the best of its buffer sizes; all sizes are in a chart of their own.\n";

/// Adds the runs to the record; writes and prints the tables, and draws the charts.
pub fn compare(arguments: &CompareArgs) -> Result<()> {
    let path = arguments.out.join("results.json");
    let mut rows = recorded(&path)?;
    let published: PublishedFigures = recorded(&arguments.out.join("published.json"))?;
    let mut strips = BTreeMap::new(); // the first run of a method that is named stands for it
    for run in &arguments.runs {
        let row = Row::read(run)?;
        if let Ok(strip) = std::fs::read(run.join("report").join(STRIP)) {
            strips.entry(strip_name(&row)).or_insert(strip);
        }
        record(&mut rows, row);
    }
    if rows.is_empty() {
        let hint = "name the folders of runs, such as runs/shapes, or the folder of a results.json with --out".into();
        return Err(StageError::Missing { what: "a result".into(), path, hint }.into());
    }
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("cannot make {}", arguments.out.display()))?;
    let write = |name: &str, bytes: &[u8]| write_file(&arguments.out.join(name), bytes);
    write("results.json", (serde_json::to_string_pretty(&rows)? + "\n").as_bytes())?;
    for (name, strip) in &strips {
        write(name, strip)?;
    }
    let mut text = String::new();
    for (pair, of_pair) in by_pair(&rows) {
        let methods = methods(&of_pair);
        let real = rows.iter().filter(|row| row.is_real_student_of(pair)).collect::<Vec<_>>();
        let figures = published.of(pair);
        describe(&mut text, pair, &methods, &real)?;
        describe_published(&mut text, &methods, &figures, &published.about)?;
        for (file, chart) in charts(pair, &methods, &figures) {
            match chart {
                Ok(chart) => {
                    write(&file, chart.as_bytes())?;
                    writeln!(text, "![{}]({file})", cell(pair))?;
                }
                Err(error) => tracing::warn!("there is no {file}: {error:#}"),
            }
        }
        let mut strips = methods.iter().map(|method| (method.rows[0], strip_name(method.rows[0]))).collect::<Vec<_>>();
        let mut seen = BTreeSet::new();
        strips.retain(|(_, file)| arguments.out.join(file).exists() && seen.insert(file.clone()));
        describe_strips(&mut text, &strips)?;
    }
    write("results.md", format!("{HEAD}{text}").as_bytes())?;
    Ok(exit::print_plain(&format!("{text}\nwritten to {}\n", arguments.out.display()))?)
}

fn by_pair(rows: &[Row]) -> BTreeMap<&str, Vec<&Row>> {
    let mut pairs = BTreeMap::<&str, Vec<&Row>>::new();
    for row in rows.iter().filter(|row| !row.saw_real_images()) {
        pairs.entry(&row.pair).or_default().push(row);
    }
    pairs
}

/// Letters and digits of a text, with dashes between.
fn slug(text: &str) -> String {
    let parts = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}

/// Returns the file name of the images of a row's method, in the table's folder.
fn strip_name(row: &Row) -> String {
    format!("{}-images-{}.png", slug(&row.pair), slug(&row.method).to_lowercase())
}
