//! The command `ssdkd-evaluate`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use candle_core::Device;
use clap::{Parser, ValueEnum};
use serde::Serialize;
use ssdkd_data::Split;
use ssdkd_nn::{Network, OPEN_GPU, TeacherCard};
use ssdkd_stage::exit::{self, Code};
use ssdkd_stage::table::{Align, Table};
use ssdkd_stage::{CommonArgs, Progress, StageError, signals, write_file};

use crate::agreement::{Agreement, compare};
use crate::evaluation::{Evaluation, label};
use crate::inputs::{Model, load_card, load_model, open_data_for, open_unlabeled};
use crate::measure::evaluate_beside;

/// Measure a model on real data: accuracy or mean IoU, cross-entropy, confusion matrix, agreement with the teacher
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  \
                  ssdkd-evaluate data/teachers/shapes-resnet20.json --data shapes:0\n  \
                  ssdkd-evaluate student/card.json --teacher teacher.json --unlabelled photos\n\n\
                  Exit codes: 0 done, 1 failed, 2 usage, 3 missing input, 4 unusable file, 130/143 signals"
)]
pub struct EvaluateArgs {
    /// A model's card (.json), or a student's weights (.safetensors, .pth) with --teacher
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,

    /// The data set: a folder or a file (data/README.md), or drawn images: shapes:SEED, shapes-masks:SEED [env: SSDKD_DATA]
    #[arg(long, value_name = "DATA")]
    pub data: Option<String>,

    /// Compare the model with its teacher on the images of a folder that have no labels; needs --teacher
    ///
    /// The program reads all image files of the folder and of the folders below it. It prints the share of images that both networks
    /// put into the same class, the mean KL divergence, and how many images the teacher puts into each class.
    #[arg(long = "unlabelled", alias = "unlabeled", value_name = "FOLDER", conflicts_with_all = ["data", "split"])]
    pub unlabeled: Option<PathBuf>,

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
    architecture: String,
    parameters: usize,
    data: &'a str,
    split: String,
    #[serde(flatten)]
    evaluation: &'a Evaluation,
    class_accuracies: Vec<Option<f64>>,
}

/// The JSON of a comparison on images without labels.
#[derive(Serialize)]
struct Comparison<'a> {
    model: String,
    architecture: String,
    parameters: usize,
    teacher: String,
    unlabelled: String,
    #[serde(flatten)]
    agreement: &'a Agreement,
    class_names: Vec<String>,
}

/// What the command line asks for.
enum Task<'a> {
    /// Measure the model on a data set.
    Measure { data: String },
    /// Compare the model with its teacher on a folder of images.
    Compare { folder: &'a Path },
}

impl<'a> Task<'a> {
    fn of(arguments: &'a EvaluateArgs) -> Result<Self, StageError> {
        if let Some(folder) = &arguments.unlabeled {
            if arguments.teacher.is_none() {
                return Err(teacher_missing());
            }
            return Ok(Self::Compare { folder });
        }
        // clap would count the variable as a flag that excludes --unlabeled.
        let data = arguments.data.clone().or_else(|| std::env::var("SSDKD_DATA").ok().filter(|data| !data.is_empty()));
        let data = data.ok_or_else(|| {
            let what = "there is no data to measure on: --data is missing and SSDKD_DATA is empty\n\
                        hint: add --data DATA, or --teacher CARD --unlabelled FOLDER for images without labels";
            StageError::Usage(what.into())
        })?;
        Ok(Self::Measure { data })
    }
}

/// Returns the error of a comparison without a teacher.
fn teacher_missing() -> StageError {
    let what = "--unlabelled compares the model with its teacher, and --teacher is missing\n\
                hint: add --teacher CARD, the card of the teacher that the model was distilled from";
    StageError::Usage(what.into())
}

/// Measures, and prints what was found.
pub fn run(arguments: &EvaluateArgs) -> Result<(), StageError> {
    arguments.common.set_up()?;
    let task = Task::of(arguments)?;
    let device = arguments.common.device.open(Device::Cpu, OPEN_GPU)?;
    let teacher = arguments.teacher.as_deref().map(|path| load_card(path, &device)).transpose()?;
    let model = load_model(&arguments.model, teacher.as_ref().map(|(card, _)| card), &device)?;
    let of_teacher =
        teacher.as_ref().zip(arguments.teacher.as_deref()).and_then(|((card, _), path)| card.warning(path));
    for warning in model.warning.iter().chain(&of_teacher) {
        tracing::warn!("{}", exit::plain(warning));
    }
    if let Some((_, teacher)) = &teacher {
        check_teacher(&task, teacher, &model.network)?;
    }
    match (task, &teacher) {
        (Task::Compare { folder }, Some((card, teacher))) => compare_on(arguments, folder, &model, card, teacher),
        (Task::Compare { .. }, None) => Err(teacher_missing()),
        (Task::Measure { data }, _) => {
            measure_on(arguments, &data, &model, teacher.as_ref().map(|(_, network)| network))
        }
    }
}

/// Refuses a teacher of other images or classes than the model's.
fn check_teacher(task: &Task<'_>, teacher: &Network, network: &Network) -> Result<(), StageError> {
    if (teacher.spec().input, teacher.classes()) == (network.spec().input, network.classes()) {
        return Ok(());
    }
    let hint = match task {
        Task::Measure { .. } => "leave --teacher out",
        Task::Compare { .. } => "give the card of the teacher that the model was distilled from",
    };
    Err(StageError::Usage(format!(
        "the teacher takes images of {:?} (channels, height, width) and knows {} classes, the model {:?} and {}\n\
         hint: {hint}",
        teacher.spec().input,
        teacher.classes(),
        network.spec().input,
        network.classes()
    )))
}

/// Measures the model on a data set.
fn measure_on(
    arguments: &EvaluateArgs,
    data: &str,
    model: &Model,
    teacher: Option<&Network>,
) -> Result<(), StageError> {
    let Model { network, class_names, fit, .. } = model;
    let split = Split::from(arguments.split);
    let mut dataset = open_data_for(data, split, *fit, class_names)?;
    if let Some(limit) = arguments.limit {
        dataset.truncate(limit as usize);
    }
    let evaluation = with_progress(arguments, dataset.len(), data, |after_batch| {
        evaluate_beside(network, teacher, &dataset, arguments.batch as usize, after_batch)
    })?;
    let report = Report {
        model: arguments.model.display().to_string(),
        architecture: network.spec().architecture.to_string(),
        parameters: network.store().num_parameters(),
        data,
        split: split.to_string(),
        evaluation: &evaluation,
        class_accuracies: evaluation.class_accuracies(),
    };
    print(arguments, &report, || {
        format!(
            "{} ({}, {} parameters) on {data} ({split})\n\n{}",
            report.model,
            report.architecture,
            report.parameters,
            evaluation.to_table()
        )
    })
}

/// Compares the model with its teacher on images without labels.
fn compare_on(
    arguments: &EvaluateArgs,
    folder: &Path,
    model: &Model,
    card: &TeacherCard,
    teacher: &Network,
) -> Result<(), StageError> {
    let Model { network, class_names, fit, .. } = model;
    if let ([own, ..], [other, ..]) = (&class_names[..], card.names_of_classes())
        && class_names != card.names_of_classes()
    {
        let what = format!(
            "the model's classes ({own}, …) are not called as the teacher's are ({other}, …): they are compared by their indices"
        );
        tracing::warn!("{}", exit::plain(&what));
    }
    let mut images = open_unlabeled(folder, *fit)?;
    if let Some(limit) = arguments.limit {
        images.truncate(limit as usize);
    }
    let unlabelled = folder.display().to_string();
    let agreement = with_progress(arguments, images.len(), &unlabelled, |after_batch| {
        compare(network, teacher, &images, arguments.batch as usize, after_batch)
    })?;
    let comparison = Comparison {
        model: arguments.model.display().to_string(),
        architecture: network.spec().architecture.to_string(),
        parameters: network.store().num_parameters(),
        teacher: arguments.teacher.as_deref().unwrap_or(Path::new("")).display().to_string(),
        unlabelled,
        agreement: &agreement,
        class_names: card.class_labels(),
    };
    print(arguments, &comparison, || {
        let Comparison { model, architecture, parameters, teacher, unlabelled, .. } = &comparison;
        let mut text =
            format!("{model} ({architecture}, {parameters} parameters) and {teacher} on {unlabelled} (no labels)\n\n");
        let mut line = |what: &str, value: String| writeln!(text, "{what:<24} {value:>10}").expect("a string grows");
        line("images", agreement.images.to_string());
        line("agrees with the teacher", format!("{:.2} %", agreement.agreement * 100.0));
        line("KL(teacher ‖ student)", format!("{:.4}", agreement.kl_divergence));
        let items = if network.rows_per_image() == 1 { "images" } else { "pixels" };
        let mut classes = Table::new([("class, by the teacher", Align::Left), (items, Align::Right)]);
        for (name, count) in comparison.class_names.iter().zip(&agreement.teacher_counts) {
            classes.row([label(name), count.to_string()]);
        }
        format!("{text}\n{classes}")
    })
}

/// Runs `work` over so many images, shows its progress, and stops it when a signal asks for that.
fn with_progress<T>(
    arguments: &EvaluateArgs,
    images: usize,
    on: &str,
    work: impl FnOnce(&mut dyn FnMut(usize) -> candle_core::Result<()>) -> candle_core::Result<T>,
) -> Result<T, StageError> {
    let progress = Progress::start("evaluate", images as u64);
    let mut done = 0;
    let result = work(&mut |images| {
        progress.advance((images - done) as u64, String::new);
        done = images;
        signals::check().map_err(candle_core::Error::wrap)
    });
    progress.finish();
    // A request to stop passes through candle's error type: look at it here, for the right exit code.
    signals::check()?;
    result.map_err(|error| {
        let what = format!("cannot measure {} on {on}: {error}", arguments.model.display());
        StageError::other(Code::Failed, what)
    })
}

/// Prints the JSON or the text, and writes the JSON to the file of `--out`.
fn print(arguments: &EvaluateArgs, report: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), StageError> {
    let json = serde_json::to_string_pretty(report).expect("a report is plain data") + "\n";
    if let Some(path) = &arguments.out {
        write_file(path, json.as_bytes())?;
    }
    if arguments.json {
        return exit::print(&json);
    }
    // The names of classes come from strangers' files.
    exit::print_plain(&text())
}
