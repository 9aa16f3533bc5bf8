//! The command `ssdkd-teach`.

use std::path::PathBuf;
use std::time::Instant;

use candle_core::Device;
use clap::Parser;
use ssdkd_data::{Dataset, Fit, Split};
use ssdkd_evaluate::{check_task, evaluate, open_data};
use ssdkd_nn::OPEN_GPU;
use ssdkd_stage::exit::Code;
use ssdkd_stage::{CommonArgs, Progress, StageError, remove_unfinished, signals};

use crate::checkpoint::{self, Description};
use crate::checks::{check_classes, check_count, check_masks, warn_of_common_images};
use crate::files::{Files, is_there, kept_of, refuse_other_checkpoint};
use crate::log::{log_line, read_log, running, tell, write_log};
use crate::settings::TeachSettings;
use crate::teacher::write_teacher;
use crate::trainer::Trainer;

/// Images in one pass when the teacher is measured.
const MEASURING_BATCH: usize = 256;

/// Train a teacher on real data: write its weights, its card and a log; a stopped training resumes
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  ssdkd-teach --data shapes:0 --architecture resnet8 --out data/teachers --epochs 5\n\n\
                  Exit codes: 0 done or fresh, 1 failed, 2 usage, 3 missing input, 4 unusable file, 130/143 signals"
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
