//! The report of a run: the summary with its curve. Its pictures are in `pictures.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use candle_core::Device;
use clap::Args;
use serde::{Deserialize, Serialize};
use ssdkd_context::{Output, Reader, SHARD};
use ssdkd_method::Diagnostics;
use ssdkd_nn::{Network, Task};
use ssdkd_shards::Timing;
use ssdkd_shards::manifest::TIMING_FILE;
use ssdkd_stage::{AskArgs, RunArgs, exit, write_file};

use crate::asked::only_asked;
use crate::current::count_only_current;
use crate::measure;
use crate::report::histogram::Histogram;
use crate::report::pictures;

/// The file name of [`Summary`].
pub const SUMMARY: &str = "summary.json";

/// `report/summary.json`
#[derive(Debug, Serialize, Deserialize)]
pub struct Summary {
    pub run: String,
    pub method: String,
    pub seed: u64,
    pub command: String,
    pub teacher: String,
    pub student: String,
    /// Whether they label pixels: accuracies are mean IoU then.
    #[serde(default)]
    labels_pixels: bool,
    teacher_parameters: usize,
    student_parameters: usize,
    pub evaluated_on: String,
    pub evaluated_images: usize,
    pub teacher_accuracy: Option<f64>,
    pub student_accuracy: Option<f64>,
    /// The student is the mean of those of so many last rounds.
    #[serde(default = "one_round")]
    pub averaged_rounds: u32,
    pub student_accuracy_last5: Option<Spread>,
    real_images: Option<Diagnostics>,
    pub distinct_images: u64,
    /// Images in the last buffer.
    pub buffer: u64,
    /// What the last rounds made.
    pub made: Histogram,
    pub distillation_steps: u64,
    pub peak_mib: u64,
    /// The kind of device that it ran on: `cpu`, `cuda`, or both.
    pub device: String,
    /// What that was exactly in the end, and when (UTC).
    pub machine: String,
    pub date: String,
    pub seconds: Seconds,
    pub curve: Vec<Point>,
}

/// What a summary or a row without [`Summary::averaged_rounds`] means: the last student alone.
pub fn one_round() -> u32 {
    1
}

/// Over the last rounds measured (`evaluate.last`, five by default).
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Spread {
    pub mean: f64,
    pub std: f64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Seconds {
    pub invert: f64,
    balance: f64,
    sample: f64,
    pub distill: f64,
    pub total: f64,
}

/// One distilling round: its losses, and accuracy where it was measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Point {
    round: u32,
    pub steps: u64,
    /// What all stages up to here cost.
    pub seconds: f64,
    loss: Option<f64>,
    agreement: Option<f64>,
    pub accuracy: Option<f64>,
    smallest_class: Option<f64>,
    largest_class: Option<f64>,
    images: Option<Diagnostics>,
}

/// `ssdkd report`
#[derive(Debug, Args)]
pub struct ReportArgs {
    #[command(flatten)]
    run: RunArgs,

    #[command(flatten)]
    ask: AskArgs,
}

/// Writes the report of a run and prints it.
pub fn report(arguments: &ReportArgs) -> Result<()> {
    arguments.run.common.set_up()?;
    if only_asked(&arguments.run, &arguments.ask, "write the run's report")? {
        return Ok(());
    }
    let mut reader = Reader::existing(&arguments.run)?;
    count_only_current(&mut reader)?;
    write(&mut reader)
}

/// Writes the summary, then the pictures, and prints the summary.
pub fn write(reader: &mut Reader) -> Result<()> {
    let summary = summarise(reader)?;
    let file = reader.folder().report().join(SUMMARY);
    write_file(&file, (serde_json::to_string_pretty(&summary)? + "\n").as_bytes())?;
    let mut files = vec![file];
    files.extend(pictures::draw(reader)?);
    let mut text = describe(&summary)?;
    let files = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
    writeln!(text, "look at    {}", files.join(", "))?;
    Ok(exit::print_plain(&text)?)
}

/// Prints the summary of a run, and writes nothing.
pub fn show(reader: &mut Reader) -> Result<()> {
    Ok(exit::print(exit::plain(&describe(&summarise(reader)?)?).trim_start())?)
}

/// Returns the command that makes the run from nothing. Of runs of earlier versions their last summary knows that.
fn command(reader: &Reader) -> String {
    let before = || {
        let bytes = std::fs::read(reader.folder().report().join(SUMMARY)).ok()?;
        let summary = serde_json::from_slice::<serde_json::Value>(&bytes).ok()?;
        summary["command"].as_str().map(String::from)
    };
    reader.run().command().or_else(before).unwrap_or_default()
}

fn summarise(reader: &mut Reader) -> Result<Summary> {
    let measured = measure::read(reader)?;
    let (mut images, mut steps, mut peak, mut seconds) = (0, 0, 0, Seconds::default());
    let (mut devices, mut machine, mut started_at) = (BTreeSet::new(), String::new(), String::new());
    for round in reader.rounds("invert")? {
        images += reader.outputs().metric(Output::invert(round), "images")?.unwrap_or(0.0) as u64;
    }
    let mut by_round = BTreeMap::<u32, f64>::new();
    for (stage, sum) in [
        ("invert", &mut seconds.invert),
        ("balance", &mut seconds.balance),
        ("sample", &mut seconds.sample),
        ("distill", &mut seconds.distill),
    ] {
        for round in reader.rounds(stage)? {
            let timing = timing(reader, stage, round)?;
            *sum += timing.seconds;
            *by_round.entry(round).or_default() += timing.seconds;
            peak = peak.max(timing.peak_bytes);
            if matches!(stage, "balance" | "sample") {
                continue; // they say nothing of where the work was done
            }
            devices.insert(timing.device.split(':').next().unwrap_or_default().to_string()); // without its number
            if timing.started_at > started_at {
                let name = if timing.machine.is_empty() { "a processor without a name" } else { &timing.machine };
                machine = format!("{name}, threads: {}, device: {}", timing.threads, timing.device);
                started_at = timing.started_at;
            }
        }
    }
    seconds.total = seconds.invert + seconds.balance + seconds.sample + seconds.distill;
    let mut curve = Vec::new();
    for round in reader.rounds("distill")? {
        steps += reader.outputs().metric(Output::distill(round), "steps")?.unwrap_or(0.0) as u64;
        let digest = reader.result_digest(round)?;
        let shard = reader.outputs().digest(Output::invert(round), SHARD)?;
        curve.push(Point {
            round,
            steps,
            seconds: by_round.range(..=round).map(|(_, seconds)| seconds).sum(),
            loss: reader.outputs().metric(Output::distill(round), "loss")?,
            agreement: reader.outputs().metric(Output::distill(round), "agreement")?,
            accuracy: measured.students.get(&digest).copied(),
            smallest_class: reader.outputs().metric(Output::balance(round), "smallest_class")?,
            largest_class: reader.outputs().metric(Output::balance(round), "largest_class")?,
            images: measured.shards.get(&shard).copied(),
        });
    }
    let last = curve.iter().rev().take(reader.recipe().evaluate.last as usize).filter_map(|point| point.accuracy);
    let buffer = match reader.last_round("balance")? {
        Some(round) => reader.outputs().metric(Output::balance(round), "members")?.unwrap_or(0.0) as u64,
        None => 0,
    };
    let student = Network::create(reader.run().cards().student(), 0, &Device::Cpu)?;
    let made = Histogram::of_recent(reader)?;
    let card = reader.teacher_card();
    Ok(Summary {
        run: reader.recipe().run.name.clone(),
        method: reader.recipe().run.method.clone(),
        seed: reader.recipe().run.seed,
        command: command(reader),
        teacher: card.architecture.to_string(),
        student: reader.run().cards().student().architecture.to_string(),
        labels_pixels: card.architecture.task() == Task::Pixels,
        teacher_parameters: card.parameters,
        student_parameters: student.store().num_parameters(),
        evaluated_on: measured.data.clone(),
        evaluated_images: measured.images,
        teacher_accuracy: measured.teacher,
        student_accuracy: curve.last().and_then(|point| point.accuracy),
        averaged_rounds: curve.last().map_or(1, |point| reader.recipe().averaged_rounds(point.round).count() as u32),
        student_accuracy_last5: spread(&last.collect::<Vec<_>>()),
        real_images: measured.real,
        distinct_images: images,
        buffer,
        made,
        distillation_steps: steps,
        peak_mib: peak >> 20,
        device: devices.into_iter().collect::<Vec<_>>().join(" and "),
        machine,
        date: started_at.chars().take("2026-01-01".len()).collect(),
        seconds,
        curve,
    })
}

fn timing(reader: &Reader, stage: &str, round: u32) -> Result<Timing> {
    let path = reader.folder().file(stage, round, TIMING_FILE);
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))
}

/// Returns the mean and the standard deviation (of the population); nothing for fewer than two values, which have no spread.
fn spread(values: &[f64]) -> Option<Spread> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (values.len() > 1).then_some(Spread { mean, std: variance.sqrt() })
}

fn describe(summary: &Summary) -> Result<String> {
    let what = if summary.labels_pixels { "mean IoU " } else { "" };
    let percent =
        |value: Option<f64>| value.map_or("not measured".into(), |value| format!("{what}{:.2} %", 100.0 * value));
    let mut text = String::new();
    writeln!(text, "\nrun        {} (seed {})", summary.run, summary.seed)?;
    writeln!(
        text,
        "teacher    {} with {} parameters: {}",
        summary.teacher,
        summary.teacher_parameters,
        percent(summary.teacher_accuracy)
    )?;
    writeln!(
        text,
        "student    {} with {} parameters: {} ({})",
        summary.student,
        summary.student_parameters,
        percent(summary.student_accuracy),
        match summary.averaged_rounds {
            1 => "last round".into(),
            rounds => format!("mean of the students of the last {rounds} rounds"),
        }
    )?;
    if let Some(spread) = summary.student_accuracy_last5 {
        writeln!(text, "           {:.2} ± {:.2} % over the last rounds", 100.0 * spread.mean, 100.0 * spread.std)?;
    }
    if summary.evaluated_images > 0 {
        writeln!(text, "           measured on {} images of {}", summary.evaluated_images, summary.evaluated_on)?;
    }
    writeln!(text, "images     {} distinct, synthesized", summary.distinct_images)?;
    let newest = summary.curve.iter().rev().find_map(|point| point.images);
    for (which, figures) in [("the newest", newest), ("real ones", summary.real_images)] {
        if let Some(Diagnostics { agreement, feature_spread, pixel_spread }) = figures {
            writeln!(
                text,
                "           {which}: class survives a view {:.0} %, spread within class {feature_spread:.3} in features, {pixel_spread:.3} in pixels",
                100.0 * agreement
            )?;
        }
    }
    writeln!(text, "steps      {} of distillation", summary.distillation_steps)?;
    writeln!(text, "memory     {} MiB at most", summary.peak_mib)?;
    let Seconds { invert, balance, sample, distill, total } = summary.seconds;
    writeln!(
        text,
        "seconds    {invert:.0} synthesis, {balance:.1} balancing, {sample:.0} sampling, {distill:.0} distillation, {total:.0} total"
    )?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_mean_and_deviation() {
        let Spread { mean, std } = spread(&[1.0, 3.0]).unwrap();
        assert!((mean - 2.0).abs() < 1e-12 && (std - 1.0).abs() < 1e-12);
        assert!(spread(&[]).is_none() && spread(&[1.0]).is_none());
    }
}
