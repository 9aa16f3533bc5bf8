//! The command `ssdkd-evaluate`.

use std::path::PathBuf;

use candle_core::Device;
use clap::{Parser, ValueEnum};
use serde::Serialize;
use ssdkd_data::Split;
use ssdkd_nn::{Architecture, OPEN_GPU};
use ssdkd_stage::exit::{self, Code};
use ssdkd_stage::{CommonArgs, Progress, StageError, signals, write_file};

use crate::evaluation::{Evaluation, evaluate_beside};
use crate::inputs::{Model, load_card, load_model, open_data_for};

/// Measure a model on real data: accuracy or mean IoU, cross-entropy, confusion matrix, agreement with the teacher
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  ssdkd-evaluate data/teachers/shapes-resnet20.json --data shapes:0\n\n\
                  Exit codes: 0 done, 1 failed, 2 usage, 3 missing input, 4 integrity, 130/143 signals"
)]
pub struct EvaluateArgs {
    /// A model's card (.json), or a student's weights (.safetensors, .pth) with --teacher
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,

    /// The data set: a folder or a file (data/README.md), or drawn images: shapes:SEED, shapes-masks:SEED
    #[arg(long, env = "SSDKD_DATA", value_name = "DATA")]
    pub data: String,

    /// The split of the data set
    #[arg(long, value_name = "SPLIT", value_enum, default_value_t)]
    pub split: SplitChoice,

    /// The teacher's card, to measure how often the two agree
    #[arg(long, value_name = "CARD")]
    pub teacher: Option<PathBuf>,

    /// Measure on the first N images only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,

    /// Images in one forward pass; the results are the same for any number
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,

    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,

    /// Write the JSON to a file too
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// What every program understands.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// The part of a data set, as the command line names it.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum SplitChoice {
    /// The training images.
    Train,
    /// The test images.
    #[default]
    Test,
}

impl From<SplitChoice> for Split {
    fn from(choice: SplitChoice) -> Self {
        match choice {
            SplitChoice::Train => Self::Train,
            SplitChoice::Test => Self::Test,
        }
    }
}

/// The JSON: what was measured on what, and the numbers.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    architecture: Architecture,
    parameters: usize,
    data: &'a str,
    split: String,
    #[serde(flatten)]
    evaluation: &'a Evaluation,
    class_accuracies: Vec<Option<f64>>,
}

/// Measures, and prints what was found.
pub fn run(arguments: &EvaluateArgs) -> Result<(), StageError> {
    arguments.common.set_up()?;
    let device = arguments.common.device.open(Device::Cpu, OPEN_GPU)?;
    let teacher = arguments.teacher.as_deref().map(|path| load_card(path, &device)).transpose()?;
    let model = load_model(&arguments.model, teacher.as_ref().map(|(card, _)| card), &device)?;
    let of_teacher =
        teacher.as_ref().zip(arguments.teacher.as_deref()).and_then(|((card, _), path)| card.warning(path));
    for warning in model.warning.iter().chain(&of_teacher) {
        tracing::warn!("{}", exit::plain(warning));
    }
    let Model { network, class_names, .. } = model;
    let split = Split::from(arguments.split);
    let mut dataset = open_data_for(&arguments.data, split, network.spec().input, &class_names)?;
    if let Some(limit) = arguments.limit {
        dataset.truncate(limit as usize);
    }

    let teacher = teacher.as_ref().map(|(_, network)| network);
    if let Some(teacher) = teacher
        && (teacher.spec().input, teacher.classes()) != (network.spec().input, network.classes())
    {
        return Err(StageError::Usage(format!(
            "the teacher takes images of {:?} (channels, height, width) and knows {} classes, the model {:?} and {}\n\
             hint: leave --teacher out",
            teacher.spec().input,
            teacher.classes(),
            network.spec().input,
            network.classes()
        )));
    }
    let progress = Progress::start("evaluate", dataset.len() as u64);
    let mut done = 0;
    let evaluation = evaluate_beside(&network, teacher, &dataset, arguments.batch as usize, |images| {
        progress.advance((images - done) as u64, String::new);
        done = images;
        signals::check().map_err(candle_core::Error::wrap)
    });
    progress.finish();
    // A request to stop passes through candle's error type: look at it here, for the right exit code.
    signals::check()?;
    let evaluation = evaluation.map_err(|error| {
        let what = format!("cannot measure {} on {}: {error}", arguments.model.display(), arguments.data);
        StageError::other(Code::Failed, what)
    })?;

    let report = Report {
        model: arguments.model.display().to_string(),
        architecture: network.spec().architecture,
        parameters: network.store().num_parameters(),
        data: &arguments.data,
        split: split.to_string(),
        evaluation: &evaluation,
        class_accuracies: evaluation.class_accuracies(),
    };
    let json = serde_json::to_string_pretty(&report).expect("a report is plain data") + "\n";
    if let Some(path) = &arguments.out {
        write_file(path, json.as_bytes())?;
    }
    if arguments.json {
        return exit::print(&json);
    }
    // Classes are called what a stranger's data calls them.
    exit::print(&exit::plain(&format!(
        "{} ({}, {} parameters) on {} ({split})\n\n{}",
        report.model,
        report.architecture,
        report.parameters,
        report.data,
        evaluation.to_table()
    )))
}
