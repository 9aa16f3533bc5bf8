//! The command `ssdkd-teach`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Device;
use clap::Parser;
use serde::{Deserialize, Serialize};
use ssdkd_data::{BINARY_MASKS, Dataset, Fit, MaskPixels, Split};
use ssdkd_evaluate::{Evaluation, check_task, evaluate, open_data};
use ssdkd_nn::{CARD_VERSION, Normalization, OPEN_GPU, Preprocessing, TeacherCard};
use ssdkd_stage::exit::Code;
use ssdkd_stage::{CommonArgs, Progress, StageError, remove_unfinished, signals, write_file};

use crate::checkpoint::{self, Checkpoint, Description};
use crate::settings::TeachSettings;
use crate::trainer::{EpochReport, Trainer};

/// Images in one pass when the teacher is measured.
const MEASURING_BATCH: usize = 256;

/// Train a teacher on real data: write its weights, its card and a log; a stopped training resumes
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  ssdkd-teach --data shapes:0 --architecture resnet8 --out data/teachers --epochs 5\n\n\
                  Exit codes: 0 done or fresh, 1 failed, 2 usage, 3 missing input, 4 integrity, 130/143 signals"
)]
pub struct TeachArgs {
    /// The training data: shapes:SEED, shapes-masks:SEED, or a data set's folder or file (data/README.md)
    #[arg(long, env = "SSDKD_DATA", value_name = "DATA")]
    pub data: String,

    /// The folder for NAME.json (the card), NAME.safetensors and NAME.training.jsonl
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,

    /// The files' name [default: the architecture, with - for /, * and .]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Resize the images to this shape [default: the shape they have]
    #[arg(long, value_name = "C,H,W", value_delimiter = ',', num_args = 1)]
    pub input: Option<Vec<usize>>,

    /// Replace what is there by a new training; a stopped training with the same settings resumes
    #[arg(long)]
    pub force: bool,

    /// How to train.
    #[command(flatten)]
    pub settings: TeachSettings,

    /// What every program understands.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// One line of the log.
#[derive(Serialize, Deserialize)]
struct LogLine {
    epoch: u32,
    steps: u64,
    lr: f64,
    loss: f64,
    train_accuracy: f64,
    /// Where pixels are labeled, of those.
    test_accuracy: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    test_mean_iou: Option<f64>,
    test_loss: f64,
    /// Training, without the measuring.
    seconds: f64,
}

/// Where everything is.
struct Files {
    card: PathBuf,
    weights: PathBuf,
    log: PathBuf,
    checkpoint: PathBuf,
}

impl Files {
    fn new(folder: &Path, name: &str) -> Result<Self, StageError> {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
            return Err(StageError::Usage(format!("--name is {name:?}; it names files: letters, digits, `-`, `_`")));
        }
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        Ok(Self {
            card: file("json"),
            weights: file("safetensors"),
            log: file("training.jsonl"),
            checkpoint: file("checkpoint.safetensors"),
        })
    }

    fn all(&self) -> [&Path; 4] {
        [&self.card, &self.weights, &self.log, &self.checkpoint]
    }

    /// Weights or a log without a card are not of a finished training, and without a checkpoint of none that was begun.
    fn refuse_others(&self) -> Result<(), StageError> {
        if self.card.exists() || self.checkpoint.exists() {
            return Ok(()); // those say themselves whose they are
        }
        let other = [&self.weights, &self.log].into_iter().find(|path| path.exists());
        other.map_or(Ok(()), |path| {
            let path = path.display();
            let hint = "choose another --name or --out, or replace it with --force";
            Err(StageError::Usage(format!("{path} is there, and belongs to no teacher\nhint: {hint}")))
        })
    }

    /// Removes the checkpoint: a finished training needs none.
    fn remove_checkpoint(&self) -> Result<(), StageError> {
        match std::fs::remove_file(&self.checkpoint) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(StageError::Write { action: "remove", path: self.checkpoint.clone(), source })
            }
            _ => Ok(()),
        }
    }
}

/// Trains, measures, and writes the teacher.
pub fn run(arguments: &TeachArgs) -> Result<(), StageError> {
    arguments.common.set_up()?;
    arguments.common.device.check(OPEN_GPU.is_some())?;
    let settings = &arguments.settings;
    let of_architecture =
        || settings.architecture.to_string().replace(|sign: char| !sign.is_alphanumeric() && sign != '_', "-");
    let name = arguments.name.clone().unwrap_or_else(of_architecture);
    let files = Files::new(&arguments.out, &name)?;
    let input = arguments.input.as_deref().map(|sides| {
        <[usize; 3]>::try_from(sides)
            .map_err(|_| StageError::Usage("--input must be channels,height,width, as in 3,32,32".into()))
    });
    let train = open_data(&arguments.data, Split::Train, input.transpose()?.map(Fit::from))?;
    check_count(&arguments.data, &train)?;
    check_masks(&arguments.data, &train)?;
    let test = open_data(&arguments.data, Split::Test, Some(train.shape().into()))?;
    let test = match train.class_names() {
        Some(names) => test.numbered_as(names),
        None => test,
    };
    check_classes(&arguments.data, &train, &test)?;
    for data in [&train, &test] {
        let fits = check_task(&settings.architecture, data);
        fits.map_err(|error| StageError::Usage(format!("{}: {error}", arguments.data)))?;
    }
    warn_of_common_images(&train, &test);

    let data = train.digest().to_hex().to_string();
    let origin = origin(arguments, &train, &data);
    let kept = kept_of(&files, settings, &data);
    let there = !arguments.force
        && match is_there(&files.card, &origin) {
            // Only --force replaces another teacher. A training that resumes has had it before.
            Err(_) if kept.is_some() => false,
            there => there?,
        };
    if !arguments.force {
        files.refuse_others()?;
    }
    // What a killed process left; two trainings of one name would be in each other's way in any case.
    files.all().into_iter().try_for_each(remove_unfinished)?;
    if there {
        tracing::info!("{} is there already: nothing to do", files.card.display());
        // A process that was killed after its last act but one left its checkpoint; another training's is not ours to remove.
        return if kept.is_some() { files.remove_checkpoint() } else { Ok(()) };
    }
    let device = arguments.common.device.open(Device::Cpu, OPEN_GPU)?;
    let failed = |what: &str, error: candle_core::Error| StageError::other(Code::Failed, format!("{what}: {error}"));
    let fresh = || {
        Trainer::new(settings, &train, &device).map_err(|error| {
            StageError::other(Code::Usage, format!("cannot train a {}: {error}", settings.architecture))
        })
    };
    let mut trainer = fresh()?;
    let description = Description { settings: settings.clone(), data, position: trainer.position() };
    let mut log = Vec::new();
    match kept.map(|(found, tensors)| trainer.load_state_dict(found.position, tensors)) {
        Some(Ok(())) => {
            log = read_log(&files.log, trainer.position().epoch)?;
            tracing::info!("going on at epoch {}, step {}", trainer.position().epoch + 1, trainer.position().step);
        }
        Some(Err(error)) if !arguments.force => return Err(checkpoint::unusable(&files.checkpoint, error)),
        Some(Err(_)) => trainer = fresh()?, // half of the state is none
        None if !arguments.force => refuse_other_checkpoint(&files.checkpoint, &description)?,
        None => {}
    }

    let save = |trainer: &Trainer<'_>| {
        let description = Description { position: trainer.position(), ..description.clone() };
        checkpoint::save(&files.checkpoint, &description, trainer)
    };
    let measure = |trainer: &Trainer<'_>| {
        evaluate(trainer.result(), &test, MEASURING_BATCH).map_err(|error| failed("cannot measure the teacher", error))
    };
    // From now on the files of that name are this training's.
    save(&trainer)?;
    let progress = Progress::start(format!("teach {name}"), trainer.total_steps());
    progress.skip(trainer.steps_done());
    while !trainer.is_done() {
        let epoch = trainer.step().map_err(|error| failed("training stopped", error))?;
        let Some(epoch) = epoch else {
            progress.advance(1, || running(&trainer, settings));
            if signals::interrupted().is_some() {
                save(&trainer)?;
                signals::check()?;
            }
            continue;
        };
        progress.advance(1, String::new);
        let started = Instant::now();
        let measured = measure(&trainer)?;
        tell(&epoch, settings.epochs, &measured, started.elapsed().as_secs_f64());
        log.push(log_line(&epoch, &measured));
        write_log(&files.log, &log)?;
        save(&trainer)?;
        signals::check()?;
    }
    progress.finish();

    write_teacher(&files, &trainer, &train, &measure(&trainer)?, &origin)?;
    files.remove_checkpoint()
}

/// Refuses a data set of one class: every network would be right of all of its images.
fn check_count(spec: &str, train: &Dataset) -> Result<(), StageError> {
    if train.classes() > 1 {
        return Ok(());
    }
    let what = format!("{spec}: the data has one class, {}", train.class_name(0));
    let hint = "a teacher needs at least two classes: check that each class has its own folder, label or number";
    Err(StageError::other(Code::Integrity, format!("{what}\nhint: {hint}")))
}

/// Refuses masks of two classes that were saved as 0 and 255: every pixel of the second class would count as unlabeled, and a
/// network that knows the first class alone would be perfect.
fn check_masks(spec: &str, train: &Dataset) -> Result<(), StageError> {
    let Some(pixels) = train.mask_pixels().filter(MaskPixels::are_binary_with_255) else { return Ok(()) };
    let names = pixels.missing().into_iter().map(|class| train.class_name(class)).collect::<Vec<_>>().join(" or ");
    let what = format!(
        "{spec}: no pixel of the training masks is of class {names}, and {:.1} % are of no class\nhint: {BINARY_MASKS}",
        100.0 * pixels.unlabelled_share()
    );
    Err(StageError::other(Code::Integrity, what))
}

/// Refuses splits with different classes. What has no names is compared by number.
fn check_classes(spec: &str, train: &Dataset, test: &Dataset) -> Result<(), StageError> {
    const HINT: &str = "both splits need the same classes";
    let refuse = |what: String| Err(StageError::other(Code::Integrity, format!("{spec}: {what}\nhint: {HINT}")));
    if test.classes() > train.classes() {
        let (test, train) = (test.classes(), train.classes());
        return refuse(format!("the test images are of {test} classes, and the training images of {train}"));
    }
    if let (Some(names), Some(others)) = (train.class_names(), test.class_names())
        && let Some(other) = others.iter().find(|other| !names.contains(other))
    {
        return refuse(format!("the test split has the class {other}, and the training split does not"));
    }
    Ok(())
}

/// Says how many of the test images were trained on.
fn warn_of_common_images(train: &Dataset, test: &Dataset) {
    let common = test.images_also_in(train);
    if common == test.len() {
        tracing::warn!("the data set has one part only: the test accuracy is that on the training images");
    } else if common > 0 {
        let (images, percent) = (test.len(), 100.0 * common as f64 / test.len() as f64);
        tracing::warn!(
            "{common} of {images} test images ({percent:.1} %) are training images too: the test accuracy is too high"
        );
    }
}

/// Returns the command that makes the same teacher, and the data it learned from.
fn origin(arguments: &TeachArgs, train: &Dataset, digest: &str) -> String {
    let input = arguments.input.as_ref().map(|sides| {
        let sides = sides.iter().map(usize::to_string).collect::<Vec<_>>();
        format!(" --input {}", sides.join(","))
    });
    format!(
        "ssdkd-teach --data {}{} {}; {} training images, blake3 {}",
        arguments.data,
        input.unwrap_or_default(),
        arguments.settings.to_flags(),
        train.len(),
        &digest[..16]
    )
}

/// Returns whether the card of exactly this training is there. Another teacher's card is an error: it would be overwritten.
fn is_there(card: &Path, origin: &str) -> Result<bool, StageError> {
    if !card.exists() {
        return Ok(false);
    }
    let other = |what: &str| {
        let path = card.display();
        StageError::Usage(format!("{path} {what}\nhint: choose another --name or --out, or replace it with --force"))
    };
    let found = TeacherCard::load(card).map_err(|_| other("exists and is no teacher's card"))?;
    if !found.source.starts_with(origin) {
        return Err(other(&format!("is another teacher, made by: {}", found.source)));
    }
    // A damaged teacher is made again.
    Ok(found.read_weights(card).is_ok())
}

/// Returns the checkpoint, if there is one and it is of exactly this training.
fn kept_of(files: &Files, settings: &TeachSettings, data: &str) -> Option<Checkpoint> {
    let (found, tensors) = checkpoint::load(&files.checkpoint).ok().flatten()?;
    ((&found.settings, found.data.as_str()) == (settings, data)).then_some((found, tensors))
}

/// Returns the checkpoint's contents. One that cannot be used is an error: it would be overwritten.
fn refuse_other_checkpoint(path: &Path, wanted: &Description) -> Result<(), StageError> {
    let Some((found, _)) = checkpoint::load(path)? else { return Ok(()) };
    let why = if found.settings == wanted.settings {
        "the training images are others".into()
    } else {
        format!("it was made with {}", found.settings.to_flags())
    };
    Err(StageError::Usage(format!(
        "the checkpoint {} belongs to another training: {why}\nhint: use the same flags, another --name, or --force",
        path.display()
    )))
}

/// Returns the lines of the epochs that are complete; the log may be ahead of the checkpoint.
fn read_log(path: &Path, epochs: u32) -> Result<Vec<LogLine>, StageError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(StageError::Read { path: path.into(), source }),
    };
    let lines = text.lines().map_while(|line| serde_json::from_str::<LogLine>(line).ok());
    Ok(lines.take_while(|line| line.epoch <= epochs).collect())
}

fn write_log(path: &Path, log: &[LogLine]) -> Result<(), StageError> {
    let lines = log.iter().map(|line| serde_json::to_string(line).expect("a line is plain data") + "\n");
    write_file(path, lines.collect::<String>().as_bytes())
}

fn log_line(epoch: &EpochReport, measured: &Evaluation) -> LogLine {
    LogLine {
        epoch: epoch.epoch,
        steps: epoch.steps,
        lr: epoch.lr,
        loss: epoch.loss,
        train_accuracy: epoch.accuracy,
        test_accuracy: measured.top1,
        test_mean_iou: measured.mean_iou,
        test_loss: measured.loss,
        seconds: epoch.seconds,
    }
}

/// Returns the progress within the epoch, next to the bar.
fn running(trainer: &Trainer<'_>, settings: &TeachSettings) -> String {
    let at = trainer.position();
    format!("epoch {}/{}, loss {:.3}", at.epoch + 1, settings.epochs, at.loss / at.step.max(1) as f64)
}

fn tell(epoch: &EpochReport, epochs: u32, measured: &Evaluation, measuring: f64) {
    let percent = |share: f64| share * 100.0;
    tracing::info!(
        "epoch {}/{epochs}: loss {:.3}, accuracy {:.2} % in training, {:.2} % on the test images{}; {:.1} s + {measuring:.1} s",
        epoch.epoch,
        epoch.loss,
        percent(epoch.accuracy),
        percent(measured.top1),
        measured.mean_iou.map(|iou| format!(", mean IoU {:.2} %", percent(iou))).unwrap_or_default(),
        epoch.seconds
    );
}

/// Weights first, then the card: a card says that the teacher is complete.
fn write_teacher(
    files: &Files,
    trainer: &Trainer<'_>,
    train: &Dataset,
    measured: &Evaluation,
    origin: &str,
) -> Result<(), StageError> {
    let network = trainer.result();
    let bytes = network
        .store()
        .state_dict()
        .to_safetensors()
        .map_err(|error| StageError::other(Code::Failed, format!("cannot write the weights: {error}")))?;
    let spec = network.spec();
    let card = TeacherCard {
        card_version: CARD_VERSION,
        architecture: spec.architecture.clone(),
        names: None,
        classes: spec.classes,
        input: spec.input,
        mean: spec.mean.clone(),
        std: spec.std.clone(),
        preprocessing: Preprocessing::default(),
        normalization: Normalization::Given,
        class_names: train.class_names().unwrap_or_default().to_vec(),
        weights: files.weights.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        digest: blake3::hash(&bytes).to_hex().to_string(),
        parameters: network.store().num_parameters(),
        source: format!("{origin}; {}", score(measured)),
        license: None,
    };
    write_file(&files.weights, &bytes)?;
    write_file(&files.card, card.to_json().as_bytes())?;
    tracing::info!("{}: {}", files.card.display(), score(measured));
    Ok(())
}

/// Returns what the teacher came to, in words.
fn score(measured: &Evaluation) -> String {
    let (percent, images) = (100.0 * measured.score(), measured.images);
    match measured.mean_iou {
        Some(_) => {
            let (occurring, classes) = (measured.occurring_classes(), measured.confusion.len());
            let of = if occurring < classes { format!(" of {occurring} of {classes} classes") } else { String::new() };
            format!("mean IoU {percent:.2} %{of} on {images} test images")
        }
        None => format!("{percent:.2} % of {images} test images"),
    }
}
