//! `ssdkd compare`: many runs in one table, and pictures for each pair of networks.
//!
//! `results.json` is the record: its rows outlive the runs they came from, so that it grows over weeks and machines. The
//! table and the charts are made of it alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use ssdkd_stage::{StageError, exit, write_file};

use crate::histogram::BINS;
use crate::plot::{self, Line};
use crate::results::{Row, record, recorded};

/// `ssdkd compare`
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Folders of runs that `ssdkd report` has looked at, and cards of networks that `ssdkd-teach` trained; none: what
    /// results.json holds
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,

    /// The folder of results.json, to which the runs are added (a row of the same pair, method, seed and size of the buffer is
    /// replaced), and of results.md and the charts, which are made of it
    #[arg(long, value_name = "DIR", default_value = "comparison")]
    out: PathBuf,
}

/// How `results.md` begins.
const HEAD: &str = "# Results\n\n\
    Made by `ssdkd compare` from results.json, which has a row for each run. **last** is the last student's top-1 accuracy;\n\
    beside it mean and deviation over the last rounds that were measured. The test set steers nothing. Times are sums over all\n\
    stages, on the machine and with the threads that the list below the table names.\n";

/// Adds the runs to the record; writes and prints the tables, and draws the charts.
pub fn compare(arguments: &CompareArgs) -> Result<()> {
    let path = arguments.out.join("results.json");
    let mut rows = recorded(&path)?;
    for run in &arguments.runs {
        record(&mut rows, Row::read(run)?);
    }
    if rows.is_empty() {
        let hint = "name the folders of the runs to compare".into();
        return Err(StageError::Missing { what: "a result".into(), path, hint }.into());
    }
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("cannot make {}", arguments.out.display()))?;
    let write = |name: &str, text: &str| write_file(&arguments.out.join(name), text.as_bytes());
    write("results.json", &(serde_json::to_string_pretty(&rows)? + "\n"))?;
    let mut text = String::new();
    for (pair, of_pair) in by_pair(&rows) {
        let real = rows.iter().filter(|row| row.is_real_student_of(pair)).collect::<Vec<_>>();
        describe(&mut text, pair, &of_pair, &real)?;
        for (file, chart) in charts(pair, &of_pair)? {
            write(&file, &chart)?;
            writeln!(text, "![{pair}]({file})")?;
        }
    }
    write("results.md", &format!("{HEAD}{text}"))?;
    Ok(exit::print(&format!("{text}\nwritten to {}\n", arguments.out.display()))?)
}

fn by_pair(rows: &[Row]) -> BTreeMap<&str, Vec<&Row>> {
    let mut pairs = BTreeMap::<&str, Vec<&Row>>::new();
    for row in rows.iter().filter(|row| !row.saw_real_images()) {
        pairs.entry(&row.pair).or_default().push(row);
    }
    pairs
}

/// The section of one pair: a row for each run, the spread over seeds, and how each was made.
fn describe(text: &mut String, pair: &str, rows: &[&Row], real: &[&Row]) -> Result<()> {
    let percent = |value: Option<f64>| value.map_or("–".into(), |value| format!("{:.2}", 100.0 * value));
    writeln!(text, "\n## {pair}\n")?;
    if let Some(teacher) = rows.iter().find_map(|row| row.teacher) {
        writeln!(text, "The teacher: {:.2} %.\n", 100.0 * teacher)?;
    }
    for row in real {
        writeln!(
            text,
            "The student's architecture, trained on real images and their labels: {} % after {} steps (`{}`).\n",
            percent(row.last),
            row.steps,
            row.command
        )?;
    }
    text.push_str(
        "| method | seed | last, % | last rounds, % | buffer | images | steps | synthesis, s | distillation, s | total, s | MiB |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        writeln!(
            text,
            "| {} | {} | {} | {} ± {} | {} | {} | {} | {:.0} | {:.0} | {:.0} | {} |",
            row.method,
            row.seed,
            percent(row.last),
            percent(row.last5_mean),
            percent(row.last5_std),
            row.buffer,
            row.distinct_images,
            row.steps,
            row.synthesis_s,
            row.distillation_s,
            row.total_s,
            row.peak_mib
        )?;
    }
    text.push('\n');
    for (method, buffer) in rows.iter().map(|row| (&row.method, row.buffer)).collect::<BTreeSet<_>>() {
        let same = rows.iter().filter(|row| row.method == *method && row.buffer == buffer);
        let last = same.filter_map(|row| row.last).collect::<Vec<_>>();
        if let [_, _, ..] = last[..] {
            let mean = last.iter().sum::<f64>() / last.len() as f64;
            let variance = last.iter().map(|last| (last - mean).powi(2)).sum::<f64>() / (last.len() - 1) as f64;
            let (mean, deviation) = (100.0 * mean, 100.0 * variance.sqrt());
            writeln!(text, "{method}, the last students of {} seeds: **{mean:.2} ± {deviation:.2} %**\n", last.len())?;
        }
    }
    for row in rows {
        writeln!(
            text,
            "- {}, seed {}: `{}` ({} test images; {}; {})",
            row.method, row.seed, row.command, row.measured_on, row.machine, row.date
        )?;
    }
    text.push('\n');
    Ok(())
}

/// The charts of one pair: file names and SVG.
fn charts(pair: &str, rows: &[&Row]) -> Result<Vec<(String, String)>> {
    let stem = pair.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    let stem = stem.collect::<Vec<_>>().join("-");
    let names = rows.iter().map(|row| format!("{}, seed {}", row.method, row.seed)).collect::<Vec<_>>();
    let of_all = |axes, points: &dyn Fn(&Row) -> Vec<(f64, f64)>| {
        let lines = rows.iter().zip(&names).map(|(row, name)| Line { name, points: points(row) });
        plot::lines(pair, axes, &lines.collect::<Vec<_>>())
    };
    let numbered = |shares: Vec<f64>, width: f64| {
        let percent = |(index, share)| ((index as f64 + 0.5) * width, 100.0 * share);
        shares.into_iter().enumerate().map(percent).collect::<Vec<_>>()
    };
    let accuracy = "accuracy, %";
    let mut charts = vec![
        ("steps", of_all(("distillation steps", accuracy), &|row| curve(row, |point| point.0 as f64))?),
        ("time", of_all(("seconds in all", accuracy), &|row| curve(row, |point| point.1))?),
        ("classes", of_all(("teacher's class", "synthesised images, %"), &|row| numbered(row.made.shares().0, 1.0))?),
        (
            "confidence",
            of_all(("teacher's confidence", "synthesised images, %"), &|row| {
                numbered(row.made.shares().1, 1.0 / BINS as f64)
            })?,
        ),
    ];
    let by_buffer = by_buffer(rows);
    if !by_buffer.is_empty() {
        let lines = by_buffer.iter().map(|(name, points)| Line { name, points: points.clone() });
        charts.push(("buffer", plot::lines(pair, ("images in the buffer", accuracy), &lines.collect::<Vec<_>>())?));
    }
    Ok(charts.into_iter().map(|(over, chart)| (format!("{stem}-over-{over}.svg"), chart)).collect())
}

fn curve(row: &Row, x: fn(&(u64, f64, f64)) -> f64) -> Vec<(f64, f64)> {
    row.curve.iter().map(|point| (x(point), 100.0 * point.2)).collect()
}

/// Size of the buffer and accuracy, of each method and seed that was run with several sizes.
fn by_buffer(rows: &[&Row]) -> BTreeMap<String, Vec<(f64, f64)>> {
    let mut lines = BTreeMap::<String, Vec<(f64, f64)>>::new();
    for row in rows {
        if let Some(last) = row.last {
            let line = lines.entry(format!("{}, seed {}", row.method, row.seed)).or_default();
            line.push((row.buffer as f64, 100.0 * last));
        }
    }
    lines.retain(|_, points| points.len() > 1);
    for points in lines.values_mut() {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::result;

    #[test]
    fn seeds_are_summed_up_by_their_mean_and_sample_deviation() {
        let rows = [result("ours", 0, 0.5), result("ours", 1, 0.6), result("theirs", 0, 0.4)];
        let real = Row { steps: 77, ..result("labels", 0, 0.91) };
        let mut text = String::new();
        describe(&mut text, &rows[0].pair, &rows.iter().collect::<Vec<_>>(), &[&real]).unwrap();
        assert!(text.contains("ours, the last students of 2 seeds: **55.00 ± 7.07 %**"), "{text}");
        assert!(text.contains("91.00 % after 77 steps"), "{text}");
        assert!(!text.contains("theirs, the last"), "{text}");
    }

    #[test]
    fn sizes_of_the_buffer_make_a_line() {
        let small = Row { buffer: 512, ..result("ours", 0, 0.3) };
        let rows = [result("ours", 0, 0.5), small, result("theirs", 0, 0.4)];
        let rows = rows.iter().collect::<Vec<_>>();
        assert_eq!(by_buffer(&rows), BTreeMap::from([("ours, seed 0".into(), vec![(512.0, 30.0), (5120.0, 50.0)])]));
        let files = charts(&rows[0].pair, &rows).unwrap().into_iter().map(|(file, _)| file).collect::<Vec<_>>();
        assert_eq!(files[0], "wrn-40-2-wrn-16-1-on-cifar10-over-steps.svg");
        assert_eq!(files[4], "wrn-40-2-wrn-16-1-on-cifar10-over-buffer.svg");
    }
}
