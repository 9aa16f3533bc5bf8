//! `ssdkd compare`: many runs in one table, and pictures for each pair of networks.
//!
//! `results.json` is the record: its rows outlive the runs they came from, so that it grows over weeks and machines. The
//! table and the charts are made of it alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use ssdkd_nn::{Architecture, Task};
use ssdkd_stage::{StageError, exit, write_file};

use crate::report::histogram::BINS;
use crate::report::pictures::STRIP;
use crate::report::plot::{self, Line, Mark};
use crate::report::results::{Published, Row, record, recorded};

/// `ssdkd compare`
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Folders of runs with a report, or cards of `ssdkd-teach` [default: only what results.json holds]
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,

    /// The folder of results.json, results.md and the charts; a run replaces its earlier row in results.json. A published.json there
    /// holds figures of papers to compare with
    #[arg(long, value_name = "DIR", default_value = "comparison")]
    out: PathBuf,
}

/// How `results.md` begins.
const HEAD: &str = "# Results\n\n\
    Made by `ssdkd compare` from results.json, which has a row for each run. **last** is the last student's top-1 accuracy;\n\
    of segmentation networks (fpn-…) it is the mean intersection over union. *(mean of 54)* marks the mean of the students of the\n\
    last 54 rounds. **last rounds** is mean and deviation over the last rounds that were measured. No run sees the test set.\n\
    Times are sums over all stages, on the machine and with the threads that the list below the table names.\n\
    Charts show at most eight methods of a pair, and a method with the best of its buffer sizes; all sizes are in a chart of their own.\n\
    Rings are published figures. Their teachers are others than ours, so compare the gaps to the teacher.\n";

/// Most methods, and most published figures, in a chart of lines.
const LINES: usize = 8;
const MARKS: usize = 4;

/// Adds the runs to the record; writes and prints the tables, and draws the charts.
pub fn compare(arguments: &CompareArgs) -> Result<()> {
    let path = arguments.out.join("results.json");
    let mut rows = recorded(&path)?;
    let published: Vec<Published> = recorded(&arguments.out.join("published.json"))?;
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
        let mut published = published.iter().filter(|figure| figure.pair == *pair).collect::<Vec<_>>();
        published.sort_by(|a, b| b.student.total_cmp(&a.student));
        describe(&mut text, pair, &methods, &real)?;
        describe_published(&mut text, &methods, &published)?;
        for (file, chart) in charts(pair, &methods, &published) {
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

/// The runs of one method on one kind of device with one size of the buffer, by their seeds; there is at least one.
struct Method<'a> {
    /// The method, and the device if the pair's results are of several.
    family: String,
    /// The same, and the size of the buffer if the family was run with several.
    name: String,
    rows: Vec<&'a Row>,
}

impl Method<'_> {
    /// Returns the mean and the sample deviation of the last students; `None` if none was measured.
    fn last(&self) -> Option<(f64, f64)> {
        let last = self.rows.iter().filter_map(|row| row.last).collect::<Vec<_>>();
        let mean = last.iter().sum::<f64>() / last.len() as f64;
        let variance = last.iter().map(|last| (last - mean).powi(2)).sum::<f64>() / (last.len() as f64 - 1.0).max(1.0);
        (!last.is_empty()).then(|| (mean, variance.sqrt()))
    }
}

/// Returns the kinds of device that the rows are of.
fn devices<'a>(rows: &[&'a Row]) -> BTreeSet<&'a str> {
    rows.iter().map(|row| row.device.as_str()).collect()
}

/// Returns the methods of a pair, the best first. One that was run on several kinds of device, or with several sizes of the buffer, is several,
/// and says so.
fn methods<'a>(rows: &[&'a Row]) -> Vec<Method<'a>> {
    let mut groups = BTreeMap::<(&str, &str, u64), Vec<&Row>>::new();
    for row in rows {
        groups.entry((&row.method, &row.device, row.buffer)).or_default().push(row);
    }
    let several = devices(rows).len() > 1;
    let sizes = |of: (&str, &str)| groups.keys().filter(|(method, device, _)| (*method, *device) == of).count();
    let mut methods = groups
        .iter()
        .map(|(&(method, device, buffer), rows)| {
            let family = if several { format!("{method}, {device}") } else { method.into() };
            let name = if sizes((method, device)) > 1 { format!("{family}, {buffer} kept") } else { family.clone() };
            let mut rows = rows.clone();
            rows.sort_by_key(|row| row.seed);
            Method { family, name, rows }
        })
        .collect::<Vec<_>>();
    let last = |method: &Method<'_>| method.last().map_or(0.0, |(mean, _)| mean);
    methods.sort_by(|a, b| last(b).total_cmp(&last(a)));
    methods
}

/// A text of a run within Markdown: neither HTML nor a cell of its own.
fn cell(text: &str) -> String {
    exit::one_line(text).replace('&', "&amp;").replace('<', "&lt;").replace('|', "\\|").replace('`', "\\`")
}

/// A text of a run within backticks.
fn code(text: &str) -> String {
    exit::one_line(text).replace('`', "'")
}

/// The section of one pair: a row for each run, the spread over seeds, and how each was made.
fn describe(text: &mut String, pair: &str, methods: &[Method<'_>], real: &[&Row]) -> Result<()> {
    let rows = || methods.iter().flat_map(|method| method.rows.iter());
    let percent = |value: Option<f64>| value.map_or("–".into(), |value| format!("{:.2}", 100.0 * value));
    let last = |row: &Row| match row.averaged_rounds {
        1 => percent(row.last),
        rounds => format!("{} (mean of {rounds})", percent(row.last)),
    };
    writeln!(text, "\n## {}\n", cell(pair))?;
    if let Some(teacher) = rows().find_map(|row| row.teacher) {
        writeln!(text, "The teacher: {:.2} %.\n", 100.0 * teacher)?;
    }
    for row in real {
        writeln!(
            text,
            "The student's architecture, trained on real images and their labels: {} % after {} steps (`{}`).\n",
            percent(row.last),
            row.steps,
            code(&row.command)
        )?;
    }
    text.push_str(
        "| method | seed | last, % | last rounds, % | buffer | images | steps | device | synthesis, s | distillation, s | total, s | MiB |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows() {
        writeln!(
            text,
            "| {} | {} | {} | {} ± {} | {} | {} | {} | {} | {:.0} | {:.0} | {:.0} | {} |",
            cell(&row.method),
            row.seed,
            last(row),
            percent(row.last5_mean),
            percent(row.last5_std),
            row.buffer,
            row.distinct_images,
            row.steps,
            cell(&row.device),
            row.synthesis_s,
            row.distillation_s,
            row.total_s,
            row.peak_mib
        )?;
    }
    text.push('\n');
    for method in methods.iter().filter(|method| method.rows.len() > 1) {
        if let Some((mean, deviation)) = method.last() {
            let (mean, deviation) = (100.0 * mean, 100.0 * deviation);
            let (name, seeds) = (cell(&method.name), method.rows.iter().filter(|row| row.last.is_some()).count());
            let of = if method.rows.iter().any(|row| row.averaged_rounds > 1) { "results" } else { "last students" };
            writeln!(text, "{name}, the {of} of {seeds} seeds: **{mean:.2} ± {deviation:.2} %**\n")?;
        }
    }
    for row in rows() {
        writeln!(
            text,
            "- {}, seed {}: `{}` ({} test images; {}; {})",
            cell(&row.method),
            row.seed,
            code(&row.command),
            row.measured_on,
            cell(&row.machine),
            cell(&row.date)
        )?;
    }
    text.push('\n');
    Ok(())
}

/// Published figures of the pair, next to the best of ours: gaps to the teacher, in points.
fn describe_published(text: &mut String, methods: &[Method<'_>], published: &[&Published]) -> Result<()> {
    if published.is_empty() {
        return Ok(());
    }
    text.push_str("| | teacher, % | student, % | gap | steps × images |\n|---|---|---|---|---|\n");
    let gap = |teacher: f64, student: f64| {
        format!("{:.2} | {:.2} | {:.2}", 100.0 * teacher, 100.0 * student, 100.0 * (teacher - student))
    };
    let best = methods.first().and_then(|method| Some((method, method.rows[0].teacher?, method.last()?.0)));
    if let Some((method, teacher, student)) = best {
        writeln!(
            text,
            "| {} (here) | {} | {} steps |",
            cell(&method.name),
            gap(teacher, student),
            method.rows[0].steps
        )?;
    }
    for Published { method, teacher, student, steps, batch, source, .. } in published {
        writeln!(text, "| [{}]({source}) | {} | {steps} × {batch} |", cell(method), gap(*teacher, *student))?;
    }
    text.push('\n');
    Ok(())
}

/// Images of each method, as far as they were kept.
fn describe_strips(text: &mut String, strips: &[(&Row, String)]) -> Result<()> {
    if !strips.is_empty() {
        text.push_str("\nThe newest images of the last buffer, two of each class:\n\n| method | images |\n|---|---|\n");
    }
    for (row, file) in strips {
        writeln!(text, "| {0} | ![{0}]({file}) |", cell(&row.method))?;
    }
    Ok(())
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

/// Returns the methods that charts show, at most [`LINES`]: the best first, and variants of a method last. Sizes of the buffer have a chart of
/// their own; elsewhere the best size stands for the method.
fn charted<'a, 'b>(methods: impl Iterator<Item = &'a Method<'b>>) -> Vec<&'a Method<'b>> {
    let mut families = BTreeSet::new();
    let all = methods.filter(|method| families.insert(&method.family)).collect::<Vec<_>>();
    let is_variant = |method: &&Method<'_>| {
        let of = |base: &&Method<'_>| method.rows[0].method.starts_with(&format!("{}, ", base.rows[0].method));
        all.iter().any(|base| of(base) && base.rows[0].device == method.rows[0].device)
    };
    let (variants, others): (Vec<_>, Vec<_>) = all.iter().copied().partition(is_variant);
    others.into_iter().chain(variants).take(LINES).collect()
}

/// Returns the charts of one pair: file names and SVG, or why there is none.
fn charts(pair: &str, methods: &[Method<'_>], published: &[&Published]) -> Vec<(String, Result<String>)> {
    let teacher = pair.split(' ').next().and_then(|name| name.parse::<Architecture>().ok());
    let of_pixels = teacher.is_some_and(|teacher| teacher.task() == Task::Pixels);
    let accuracy = if of_pixels { "mean IoU, %" } else { "accuracy, %" };
    let all = charted(methods.iter());
    let over = |x: &str, methods: &[&Method<'_>], of: fn(&(u64, f64, f64)) -> f64, marks: &[Mark]| {
        let lines = methods.iter().flat_map(|method| {
            let curve = |row: &&Row| row.curve.iter().map(|point| (of(point), 100.0 * point.2)).collect();
            method.rows.iter().map(move |row| Line { name: &method.name, points: curve(row) })
        });
        plot::lines(pair, (x, accuracy), &lines.collect::<Vec<_>>(), marks)
    };
    let shares = |x: &str, width: f64, of: fn(&Row) -> Vec<f64>| {
        let panels = all.iter().map(|method| {
            let percent = of(method.rows[0]).into_iter().map(|share| 100.0 * share).collect();
            (method.name.as_str(), percent)
        });
        plot::panels(&format!("synthesized images: {pair}"), (x, "%"), width, &panels.collect::<Vec<_>>())
    };
    let marks = published.iter().take(MARKS).map(|figure| Mark {
        name: format!("{}, published (teacher {:.2} %)", figure.method, 100.0 * figure.teacher),
        at: (figure.steps as f64, 100.0 * figure.student),
    });
    let over_steps = over("distillation steps", &all, |point| point.0 as f64, &marks.collect::<Vec<_>>());
    let mut charts = vec![("steps".into(), over_steps)];
    // Seconds of a processor and of a GPU say nothing about each other.
    for device in devices(&methods.iter().map(|method| method.rows[0]).collect::<Vec<_>>()) {
        let there = charted(methods.iter().filter(|method| method.rows[0].device == device));
        let seconds = over(&format!("total seconds, {device}"), &there, |point| point.1, &[]);
        charts.push((format!("time-on-{device}"), seconds));
    }
    charts.extend([
        ("classes".into(), shares("teacher's class", 1.0, |row| row.made.shares().0)),
        ("confidence".into(), shares("teacher's confidence", 1.0 / BINS as f64, |row| row.made.shares().1)),
    ]);
    let by_buffer = by_buffer(methods);
    if !by_buffer.is_empty() {
        let lines = by_buffer.iter().map(|(name, points)| Line { name, points: points.clone() });
        let chart = plot::lines(pair, ("images in the buffer", accuracy), &lines.collect::<Vec<_>>(), &[]);
        charts.push(("buffer".into(), chart));
    }
    charts.into_iter().map(|(over, chart)| (format!("{}-over-{over}.svg", slug(pair)), chart)).collect()
}

/// Size of the buffer and mean accuracy, of each method that was run with several sizes.
fn by_buffer<'a>(methods: &'a [Method<'_>]) -> BTreeMap<&'a str, Vec<(f64, f64)>> {
    let mut lines = BTreeMap::<&str, Vec<(f64, f64)>>::new();
    for method in methods {
        if let Some((last, _)) = method.last() {
            let row = method.rows[0];
            lines.entry(&method.family).or_default().push((row.buffer as f64, 100.0 * last));
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
    use crate::report::results::tests::result;

    #[test]
    fn seeds_are_summed_up_by_their_mean_and_sample_deviation() {
        let averaged = |seed| Row { averaged_rounds: 3, ..result("averaged", seed, 0.3) };
        let rows = [result("theirs", 0, 0.4), result("ours", 1, 0.6), result("ours", 0, 0.5), averaged(0), averaged(1)];
        let real = Row { steps: 77, ..result("labels", 0, 0.91) };
        let methods = methods(&rows.iter().collect::<Vec<_>>());
        let mut text = String::new();
        describe(&mut text, &rows[0].pair, &methods, &[&real]).unwrap();
        assert!(text.contains("ours, the last students of 2 seeds: **55.00 ± 7.07 %**"), "{text}");
        assert!(text.contains("91.00 % after 77 steps"), "{text}");
        assert!(!text.contains("theirs, the last"), "{text}");
        assert!(text.contains("| averaged | 0 | 30.00 (mean of 3) |"), "{text}");
        assert!(text.contains("averaged, the results of 2 seeds: **30.00 ± 0.00 %**"), "{text}");
        let order = ["| ours | 0 ", "| ours | 1 ", "| theirs | 0 "].map(|row| text.find(row).expect(row));
        assert!(order.is_sorted(), "the best method first, seeds in order: {text}");
    }

    #[test]
    fn texts_of_a_run_are_neither_html_nor_cells() {
        let hostile = Row { command: "ssdkd run `x`\n# y".into(), ..result("<script>|\u{1b}[31m`x`\n", 0, 0.5) };
        let mut text = String::new();
        describe(&mut text, "<b>", &methods(&[&hostile]), &[]).unwrap();
        assert!(
            text.contains("\n## &lt;b>\n") && text.contains("| &lt;script>\\|\u{fffd}[31m\\`x\\`\u{fffd} | 0 |"),
            "{text}"
        );
        assert!(text.contains("`ssdkd run 'x'\u{fffd}# y`"), "{text}");
    }

    #[test]
    fn sizes_of_the_buffer_make_a_line() {
        let small = Row { buffer: 512, ..result("ours", 0, 0.3) };
        let rows = [result("ours", 0, 0.5), small, result("ours", 1, 0.75), result("theirs", 0, 0.4)];
        let methods = methods(&rows.iter().collect::<Vec<_>>());
        let names = methods.iter().map(|method| method.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names, ["ours, 5120 kept", "theirs", "ours, 512 kept"]);
        assert_eq!(by_buffer(&methods), BTreeMap::from([("ours", vec![(512.0, 30.0), (5120.0, 62.5)])]));
        let files = charts(&rows[0].pair, &methods, &[]).into_iter().map(|(file, _)| file).collect::<Vec<_>>();
        assert_eq!(files[0], "wrn-40-2-wrn-16-1-on-cifar10-over-steps.svg");
        assert_eq!(files[1], "wrn-40-2-wrn-16-1-on-cifar10-over-time-on-cpu.svg");
        assert_eq!(files[4], "wrn-40-2-wrn-16-1-on-cifar10-over-buffer.svg");
    }

    #[test]
    fn charts_show_eight_methods_and_variants_last() {
        let names = ["ours", "ours, faster", "ours, slower", "a", "b", "c", "d", "e", "f", "theirs, faster"];
        let rows = names.iter().enumerate().map(|(at, name)| result(name, 0, 0.9 - 0.01 * at as f64));
        let rows = rows.chain([Row { buffer: 5, ..result("a", 0, 0.1) }]).collect::<Vec<_>>();
        let methods = methods(&rows.iter().collect::<Vec<_>>());
        let charted = |methods: &[Method<'_>]| {
            charted(methods.iter()).iter().map(|method| method.family.clone()).collect::<Vec<_>>()
        };
        assert_eq!(charted(&methods), ["ours", "a", "b", "c", "d", "e", "f", "theirs, faster"]);
        assert_eq!(charted(&methods[..4]), ["ours", "a", "ours, faster", "ours, slower"]);
    }

    #[test]
    fn published_figures_are_rings_and_rows() {
        let rows = [result("ours", 0, 0.85)];
        let methods = methods(&rows.iter().collect::<Vec<_>>());
        let figure = |method: &str, student| Published {
            pair: rows[0].pair.clone(),
            method: method.into(),
            teacher: 0.9487,
            student,
            steps: 80_000,
            batch: 256,
            source: "https://example.org/table".into(),
        };
        let figures = [figure("Fast-10", 0.8929), figure("Fast-5", 0.889)];
        let published = figures.iter().collect::<Vec<_>>();
        let mut text = String::new();
        describe_published(&mut text, &methods, &published).unwrap();
        assert!(text.contains("| ours (here) | 90.00 | 85.00 | 5.00 | 2 steps |"), "{text}");
        let row = "| [Fast-10](https://example.org/table) | 94.87 | 89.29 | 5.58 | 80000 × 256 |";
        assert!(text.contains(row), "{text}");
        let charts = charts(&rows[0].pair, &methods, &published);
        let over_steps = charts[0].1.as_ref().unwrap();
        assert!(over_steps.contains("80000") && over_steps.matches("<circle").count() == 2, "{over_steps}");
        assert!(!charts[1].1.as_ref().unwrap().contains("<circle"), "its seconds are not known");
        text.clear();
        describe_published(&mut text, &methods, &[]).unwrap();
        assert_eq!(text, "");
    }

    #[test]
    fn each_kind_of_device_has_its_own_lines_and_its_own_seconds() {
        let on_cuda = |row| Row { device: "cuda".into(), ..row };
        let small = on_cuda(Row { buffer: 512, ..result("ours", 0, 0.3) });
        let rows = [result("ours", 0, 0.5), on_cuda(result("ours", 0, 0.6)), small, result("theirs", 0, 0.4)];
        let methods = methods(&rows.iter().collect::<Vec<_>>());
        let names = methods.iter().map(|method| method.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names, ["ours, cuda, 5120 kept", "ours, cpu", "theirs, cpu", "ours, cuda, 512 kept"]);
        assert_eq!(by_buffer(&methods), BTreeMap::from([("ours, cuda", vec![(512.0, 30.0), (5120.0, 60.0)])]));
        let charts = charts(&rows[0].pair, &methods, &[]);
        let chart = |end: &str| charts.iter().find(|(file, _)| file.ends_with(end)).expect(end).1.as_ref().unwrap();
        assert!(chart("over-time-on-cpu.svg").contains("theirs, cpu"));
        assert!(!chart("over-time-on-cuda.svg").contains("theirs, cpu"));
    }
}
