//! Measuring a run's students on real data, after the fact: nothing of it flows back into the run.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use ssdkd_context::{Finding, Output, Reader, Recipe, Run, SHARD, quote};
use ssdkd_data::{Dataset, Split};
use ssdkd_evaluate::{check_fit, fit_of, open_data_for};
use ssdkd_method::Diagnostics;
use ssdkd_nn::random::stream;
use ssdkd_nn::{CropFlipSettings, Network};
use ssdkd_stage::{Progress, StageError, signals, write_file};

/// Images in one forward pass.
const BATCH: usize = 256;

/// Most images of a data set, and of each shard, that are evaluated.
const JUDGED: usize = 512;

/// `evaluate/students.json`: what was measured, each with what it depends on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurements {
    /// What was measured on.
    pub data: String,
    /// Digest of its images, labels and masks.
    pub data_digest: String,
    /// How many images that was.
    pub images: usize,
    /// Stands for the teacher that measured and was measured; `None` in a record of an earlier version.
    #[serde(default)]
    pub teacher_digest: Option<String>,
    /// The teacher's top-1 accuracy, or mean IoU where it labels pixels.
    pub teacher: Option<f64>,
    /// Top-1 accuracy or mean IoU by the digest of the student's weights.
    pub students: BTreeMap<String, f64>,
    /// The views of images that the figures below are of; `None` in a record of an earlier version.
    #[serde(default)]
    pub views: Option<CropFlipSettings>,
    /// The same figures of these real images, to compare a run's images with.
    #[serde(default)]
    pub real: Option<Diagnostics>,
    /// The same of the images of a round, by the digest of their shard.
    #[serde(default)]
    pub shards: BTreeMap<String, Diagnostics>,
}

impl Measurements {
    /// Discards figures of another teacher, or of other views. Where the record does not say, `doubt` decides.
    fn forget_others(&mut self, teacher: String, views: CropFlipSettings, doubt: bool) {
        let other_teacher = self.teacher_digest.as_ref().map_or(doubt, |known| *known != teacher);
        let other_views = self.views.map_or(doubt, |known| known != views);
        if other_teacher {
            self.teacher = None;
        }
        if other_teacher || other_views {
            self.real = None;
            self.shards.clear();
        }
        (self.teacher_digest, self.views) = (Some(teacher), Some(views));
    }

    /// Forgets what was measured on other data.
    fn forget_other_data(&mut self, digest: String) {
        if self.data_digest != digest {
            (self.teacher, self.real) = (None, None);
            self.students.clear();
        }
        self.data_digest = digest;
    }
}

/// Has everything measured again.
pub fn forget(reader: &Reader) -> Result<()> {
    let text = serde_json::to_string_pretty(&Measurements::default())? + "\n";
    Ok(write_file(&path(reader), text.as_bytes())?)
}

/// Returns where a run's measurements are.
pub fn path(reader: &Reader) -> PathBuf {
    reader.folder().evaluate().join("students.json")
}

/// Returns what has been measured of a run, but for what is known to be of another teacher or other views; empty if nothing has been.
pub fn read(reader: &Reader) -> Result<Measurements> {
    let mut measured = stored(reader)?;
    let views = reader.recipe().distill.views.crop_flip();
    measured.forget_others(reader.run().cards().teacher_digest().into(), views, false);
    Ok(measured)
}

/// Returns `students.json` as it is.
fn stored(reader: &Reader) -> Result<Measurements> {
    let path = path(reader);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Measurements::default()),
        Err(source) => return Err(StageError::Read { path, source }.into()),
    };
    serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is damaged\nhint: remove it and run `ssdkd evaluate` again", path.display()))
}

/// Measures the teacher and the students of the last rounds, and before them of every `evaluate.every`th round. Skips what is measured already.
pub fn measure(reader: &mut Reader) -> Result<()> {
    let Some(spec) = data_spec(reader.recipe()) else { return Ok(()) }; // said before the run
    let data = open(&spec, reader.run())?;
    let mut measured = stored(reader)?;
    let views = reader.recipe().distill.views.crop_flip();
    measured.forget_others(reader.run().cards().teacher_digest().into(), views, true);
    measured.forget_other_data(data.digest().to_hex().to_string());
    measured.images = data.len();
    measured.data = spec; // the same data may have moved
    if measured.teacher.is_none() {
        measured.teacher = Some(accuracy(&*reader.teacher()?, &data)?);
    }
    if measured.real.is_none() {
        measured.real = Some(judge_real(reader, &data)?);
    }
    let outcome = measure_rounds(reader, &data, &mut measured);
    // What was measured before a request to stop stays.
    let text = serde_json::to_string_pretty(&measured)? + "\n";
    write_file(&path(reader), text.as_bytes())?;
    outcome
}

/// Adds what has not been measured of the students and the images.
fn measure_rounds(reader: &mut Reader, data: &Dataset, measured: &mut Measurements) -> Result<()> {
    let rounds = rounds_to_measure(reader)?;
    let progress = Progress::start("evaluate", rounds.len() as u64);
    for round in rounds {
        let digest = reader.result_digest(round)?;
        if let Entry::Vacant(place) = measured.students.entry(digest) {
            place.insert(accuracy(&*reader.result_after(round)?, data)?);
        }
        let digest = reader.outputs().digest(Output::invert(round), SHARD)?;
        if !reader.outputs().has_shard(round) {
            // Collected before it was evaluated.
        } else if let Entry::Vacant(place) = measured.shards.entry(digest) {
            place.insert(judge_shard(reader, round)?);
        }
        progress.advance(1, String::new);
    }
    progress.finish();
    Ok(())
}

/// Returns the figures of the first real images.
fn judge_real(reader: &mut Reader, data: &Dataset) -> Result<Diagnostics> {
    let [channels, height, width] = data.shape();
    let indices = (0..data.len().min(JUDGED)).collect::<Vec<_>>();
    let images = Tensor::from_vec(data.gather(&indices), (indices.len(), height, width, channels), reader.device()?)?;
    judge(reader, &images)
}

/// Returns the figures of the first images that a round made.
fn judge_shard(reader: &mut Reader, round: u32) -> Result<Diagnostics> {
    let images = reader.first_images(round, JUDGED)?;
    judge(reader, &images)
}

/// Returns the same views every time, so that figures differ by their images alone.
fn judge(reader: &mut Reader, images: &Tensor) -> Result<Diagnostics> {
    let views = reader.recipe().distill.views.crop_flip();
    Ok(ssdkd_method::diagnose(&*reader.teacher()?, images, views, &mut stream(0, "evaluate/views", &[]))?)
}

/// Returns the complete distilling rounds that the recipe wants measured.
pub fn rounds_to_measure(reader: &Reader) -> Result<Vec<u32>> {
    let settings = &reader.recipe().evaluate;
    let rounds = reader.rounds("distill")?;
    let first_of_last = rounds.len().saturating_sub(settings.last as usize);
    let wanted = rounds.iter().enumerate().filter(|&(index, &round)| {
        let every = settings.every > 0
            && reader.recipe().distilling_round(round).is_some_and(|round| (round + 1) % settings.every == 0);
        index >= first_of_last || every
    });
    Ok(wanted.map(|(_, &round)| round).collect())
}

/// Opens the data set to measure on, as far as the recipe wants it.
fn open(spec: &str, run: &Run) -> Result<Dataset, StageError> {
    let (card, limit) = (run.cards().teacher(), run.recipe().evaluate.limit);
    let mut data = open_data_for(spec, Split::Test, fit_of(&card.preprocessing, card.input), card.names_of_classes())?;
    if limit > 0 {
        data.truncate(limit);
    }
    Ok(data)
}

/// Reads what [`measure`] will read, so that a run of hours does not end with the news that it cannot be used.
///
/// # Errors
/// If the data is missing, damaged, or not for the teacher.
pub fn check_data(run: &Run) -> Result<Vec<Finding>, StageError> {
    let Some(spec) = data_spec(run.recipe()) else { return Ok(vec![no_data(run)]) };
    let (card, data) = (run.cards().teacher(), open(&spec, run)?);
    check_fit(&card.architecture, card.classes, &data)
        .map_err(|error| StageError::Usage(format!("{spec} is not for this teacher: {error}")))?;
    let fewer = (data.classes() < card.classes).then(|| {
        Finding::warning(
            format!(
                "{spec} has {} classes, and the teacher {}: the others are not measured",
                data.classes(),
                card.classes
            ),
            "check that the data set is the one that the teacher was trained for",
        )
    });
    Ok(fewer.into_iter().collect())
}

fn no_data(run: &Run) -> Finding {
    let root = quote(&run.folder().root().to_string_lossy());
    Finding::warning(
        "there is no data to measure on: evaluate.data and SSDKD_DATA are empty, so the run will not be measured",
        format!("`ssdkd evaluate {root} --set evaluate.data=FOLDER` measures it later"),
    )
}

/// Looks whether the data set is there and is for the recipe's student, without reading it.
///
/// # Errors
/// If the data is missing, of no known layout, or of another kind.
pub fn look_for_data(run: &Run) -> Result<Vec<Finding>, StageError> {
    let Some(spec) = data_spec(run.recipe()) else { return Ok(vec![no_data(run)]) };
    ssdkd_evaluate::look_for_data(&spec, Split::Test, &run.cards().teacher().architecture)?;
    Ok(Vec::new())
}

/// Returns the recipe's data set, or the environment's.
pub fn data_spec(recipe: &Recipe) -> Option<String> {
    let recipe = recipe.evaluate.data.clone();
    let environment = || std::env::var("SSDKD_DATA").ok();
    Some(recipe).filter(|spec| !spec.is_empty()).or_else(environment).filter(|spec| !spec.is_empty())
}

fn accuracy(network: &Network, data: &Dataset) -> Result<f64> {
    let check = |_| signals::check().map_err(candle_core::Error::wrap);
    let evaluation = ssdkd_evaluate::evaluate_beside(network, None, data, BATCH, check);
    // A request to stop passes through candle's error type: look at it here, for the right exit code.
    signals::check()?;
    Ok(evaluation?.score())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEWS: CropFlipSettings = CropFlipSettings { crop_padding: 4, flip: true, ..CropFlipSettings::OFF };

    /// Returns all there is to measure, of the data `d`, the teacher `t` and [`VIEWS`].
    fn all() -> Measurements {
        let figures = Diagnostics { agreement: 0.5, feature_spread: 0.25, pixel_spread: 0.125 };
        let mut all = Measurements {
            data: "shapes:0".into(),
            images: 40,
            teacher: Some(0.9),
            students: BTreeMap::from([("s".into(), 0.7)]),
            real: Some(figures),
            shards: BTreeMap::from([("i".into(), figures)]),
            data_digest: "d".into(),
            ..Measurements::default()
        };
        all.forget_others("t".into(), VIEWS, false);
        all
    }

    /// Returns what is left: teacher, students, real images, shards.
    fn left(measured: &Measurements) -> [bool; 4] {
        let Measurements { teacher, students, real, shards, .. } = measured;
        [teacher.is_some(), !students.is_empty(), real.is_some(), !shards.is_empty()]
    }

    #[test]
    fn what_was_made_with_something_else_is_forgotten_and_nothing_else() {
        let others = |teacher: &str, views| {
            let mut measured = all();
            measured.forget_others(teacher.into(), views, true);
            left(&measured)
        };
        assert_eq!(others("t", VIEWS), [true; 4]);
        assert_eq!(others("u", VIEWS), [false, true, false, false], "another teacher");
        assert_eq!(others("t", CropFlipSettings::OFF), [true, true, false, false], "other views");
        let data = |digest: &str| {
            let mut measured = all();
            measured.forget_other_data(digest.into());
            left(&measured)
        };
        assert_eq!(data("d"), [true; 4]);
        assert_eq!(data("e"), [false, false, false, true], "other data");
    }

    #[test]
    fn a_record_that_does_not_say_is_believed_by_those_who_cannot_measure() {
        for (doubt, expected) in [(false, [true; 4]), (true, [false, true, false, false])] {
            let mut old = Measurements { teacher_digest: None, views: None, ..all() };
            old.forget_others("t".into(), VIEWS, doubt);
            assert_eq!(left(&old), expected);
            assert_eq!(old.teacher_digest.as_deref(), Some("t"));
        }
        let old = r#"{"data": "shapes:0", "data_digest": "d", "images": 40, "teacher": 0.9, "students": {"s": 0.7}}"#;
        let old: Measurements = serde_json::from_str(old).unwrap();
        assert_eq!(left(&old), [true, true, false, false]);
    }
}
