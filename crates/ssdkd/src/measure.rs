//! Measuring a run's students on real data, after the fact: nothing of it flows back into the run.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use ssdkd_context::{Context, SHARD, STUDENT};
use ssdkd_data::{DataError, Dataset, Split};
use ssdkd_method::Diagnostics;
use ssdkd_nn::Network;
use ssdkd_nn::random::stream;
use ssdkd_stage::exit::Code;
use ssdkd_stage::{Progress, StageArgs, StageError, signals, write_file};

/// Images in one forward pass.
const BATCH: usize = 256;

/// Images that are judged of a data set and of each shard, at most.
const JUDGED: usize = 512;

/// `evaluate/students.json`: what was measured, by the digest of the weights.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurements {
    /// What was measured on.
    pub data: String,
    /// Digest of its images and labels.
    pub data_digest: String,
    /// How many images that was.
    pub images: usize,
    /// The teacher's top-1 accuracy.
    pub teacher: f64,
    /// Top-1 accuracy by the digest of the student's weights.
    pub students: BTreeMap<String, f64>,
    /// Whether these images are any good, judged by the teacher as a run's own are: what to compare those with.
    #[serde(default)]
    pub real: Option<Diagnostics>,
    /// The same of the images of a round, by the digest of their shard.
    #[serde(default)]
    pub shards: BTreeMap<String, Diagnostics>,
}

/// `ssdkd evaluate`
pub fn evaluate(arguments: &StageArgs) -> Result<()> {
    let threads = arguments.common.set_up()?;
    let mut context = Context::open(arguments, "ssdkd evaluate", threads)?;
    if arguments.dry_run {
        return Ok(());
    }
    measure(&mut context)
}

/// Where a run's measurements are.
pub fn path(context: &Context) -> PathBuf {
    context.run().evaluate().join("students.json")
}

/// What has been measured of a run; empty if nothing has been.
pub fn read(context: &Context) -> Result<Measurements> {
    let path = path(context);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged\nhint: remove it and run `ssdkd evaluate` again", path.display())),
        Err(_) => Ok(Measurements::default()),
    }
}

/// Measures the teacher and the students of the last rounds, and of every so-manieth before, unless that is done.
pub fn measure(context: &mut Context) -> Result<()> {
    let Some(spec) = data_spec(context) else {
        tracing::warn!("no data to measure on\nhint: DATA=FOLDER, SSDKD_DATA or evaluate.data names a data set");
        return Ok(());
    };
    let settings = context.recipe().evaluate.clone();
    let card = context.teacher_card();
    let mut data = ssdkd_data::open(&spec, Split::Test, Some(card.input)).map_err(data_error)?;
    if settings.limit > 0 {
        data.truncate(settings.limit);
    }
    let data_digest = data.digest().to_hex().to_string();
    let mut measured = read(context)?;
    if measured.data_digest != data_digest {
        let teacher = context.teacher()?;
        let teacher = accuracy(&teacher, &data)?;
        measured = Measurements { data_digest, images: data.len(), teacher, ..Measurements::default() };
    }
    measured.data = spec; // the same data may have moved
    if measured.real.is_none() {
        measured.real = Some(judge_real(context, &data)?);
    }
    let outcome = measure_rounds(context, &data, &mut measured);
    // What was measured before somebody asked to stop is kept.
    let text = serde_json::to_string_pretty(&measured)? + "\n";
    write_file(&path(context), text.as_bytes())?;
    outcome
}

/// Adds what has not been measured of the students and the images.
fn measure_rounds(context: &mut Context, data: &Dataset, measured: &mut Measurements) -> Result<()> {
    let rounds = rounds_to_measure(context)?;
    let progress = Progress::start("evaluate", rounds.len() as u64);
    for round in rounds {
        let digest = context.file_digest("distill", round, STUDENT)?;
        if let Entry::Vacant(place) = measured.students.entry(digest) {
            place.insert(accuracy(&*context.student_after(round)?, data)?);
        }
        let digest = context.file_digest("invert", round, SHARD)?;
        if !context.has_shard(round) {
            // Collected before it was judged.
        } else if let Entry::Vacant(place) = measured.shards.entry(digest) {
            place.insert(judge_shard(context, round)?);
        }
        progress.advance(1, String::new);
    }
    progress.finish();
    Ok(())
}

/// The figures of the first real images.
fn judge_real(context: &mut Context, data: &Dataset) -> Result<Diagnostics> {
    let [channels, height, width] = data.shape();
    let indices = (0..data.len().min(JUDGED)).collect::<Vec<_>>();
    let images = Tensor::from_vec(data.gather(&indices), (indices.len(), height, width, channels), context.device()?)?;
    judge(context, &images)
}

/// The figures of the first images that a round made.
fn judge_shard(context: &mut Context, round: u32) -> Result<Diagnostics> {
    let rows = context.shard(round)?.samples.len().min(JUDGED) as u32;
    let images = context.images(&(0..rows).map(|row| (round, row)).collect::<Vec<_>>())?;
    judge(context, &images)
}

/// The same views every time, so that figures differ by their images alone.
fn judge(context: &mut Context, images: &Tensor) -> Result<Diagnostics> {
    let views = context.recipe().distill.augment;
    Ok(ssdkd_method::diagnose(&*context.teacher()?, images, views, &mut stream(0, "evaluate/views", &[]))?)
}

/// The complete distilling rounds that the recipe wants measured.
pub fn rounds_to_measure(context: &Context) -> Result<Vec<u32>> {
    let settings = &context.recipe().evaluate;
    let mut rounds = context.run().rounds("distill")?;
    rounds.retain(|&round| round < context.recipe().total_rounds());
    let first_of_last = rounds.len().saturating_sub(settings.last as usize);
    let wanted = rounds.iter().enumerate().filter(|&(index, &round)| {
        let every = settings.every > 0
            && context.recipe().distilling_round(round).is_some_and(|round| (round + 1) % settings.every == 0);
        index >= first_of_last || every
    });
    Ok(wanted.map(|(_, &round)| round).collect())
}

/// The recipe's data set, or the environment's.
fn data_spec(context: &Context) -> Option<String> {
    let recipe = context.recipe().evaluate.data.clone();
    let environment = || std::env::var("SSDKD_DATA").ok();
    Some(recipe).filter(|spec| !spec.is_empty()).or_else(environment).filter(|spec| !spec.is_empty())
}

fn accuracy(network: &Network, data: &Dataset) -> Result<f64> {
    let heed = |_| signals::check().map_err(candle_core::Error::wrap);
    let evaluation = ssdkd_evaluate::evaluate_beside(network, None, data, BATCH, heed);
    // A request to stop passes through candle's error type: look at it here, for the right exit code.
    signals::check()?;
    Ok(evaluation?.top1)
}

/// A data set that is not there is a missing input; one that cannot be used is damaged.
pub fn data_error(error: DataError) -> StageError {
    StageError::other(Code::Integrity, error)
}
