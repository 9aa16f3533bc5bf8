//! The network that is exported: a card's, or a run's student.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use candle_core::Device;
use ssdkd_context::Reader;
use ssdkd_evaluate::load_card;
use ssdkd_nn::{CARD_VERSION, Network, Preprocessing, TeacherCard};
use ssdkd_stage::{RunArgs, RunFolder, StageError, exit, quote_path};

use super::CARD;
use crate::current::count_only_current;

/// What is exported.
pub struct Source {
    /// In words, such as `the student of round 3`.
    pub what: String,
    /// Its card, but for the file of the weights.
    pub card: TeacherCard,
    /// The network.
    pub network: Rc<Network>,
}

/// The card that a path names: a `.json`, or one in the folder of an exported model.
pub fn card_of(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        let card = path.join(CARD);
        return (!RunFolder::at(path).recipe().is_file() && card.is_file()).then_some(card);
    }
    path.extension().is_some_and(|ending| ending == "json").then(|| path.to_path_buf())
}

/// Refuses files that are neither a recipe nor a card, with how to make a card of them.
pub fn refuse_file(path: &Path) -> Result<(), StageError> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let models = ["pt2", "onnx", "safetensors", "pth", "pt", "th", "ckpt", "bin", "pkl"];
    if !path.is_file() || !models.contains(&&*ending) {
        return Ok(());
    }
    Err(StageError::Usage(format!(
        "{} has no card\nhint: `ssdkd import {} --out teacher.json` makes one; then export teacher.json",
        path.display(),
        quote_path(path)
    )))
}

/// The network of a card.
pub fn of_card(path: &Path) -> Result<Source> {
    let (card, network) = load_card(path, &Device::Cpu)?;
    if let Some(warning) = card.warning(path) {
        tracing::warn!("{}", exit::plain(&warning));
    }
    Ok(Source { what: format!("the network of {}", path.display()), card, network: Rc::new(network) })
}

/// The run's result after a round, or after the last one.
pub fn of_run(run: &RunArgs, round: Option<u32>) -> Result<Source> {
    let mut reader = Reader::existing(run)?;
    count_only_current(&mut reader)?;
    if let Some(round) = round {
        reader.recipe().distilling_round_of("distill", round)?;
        ensure!(
            reader.rounds("distill")?.contains(&round),
            "the run has no student of round {round}\nhint: `ssdkd run {}` makes it",
            quote_path(reader.folder().root())
        );
    }
    let last = reader.last_round("distill")?;
    let round = round.or(last).context("the run has no student yet\nhint: `ssdkd run RECIPE` first")?;
    let (network, what) = (reader.result_after(round)?, reader.describe_result(round));
    let spec = reader.run().cards().student().clone();
    let teacher = reader.teacher_card();
    let Preprocessing { channels, range, .. } = spec.preprocessing;
    let card = TeacherCard {
        card_version: CARD_VERSION,
        architecture: spec.architecture,
        names: None,
        classes: spec.classes,
        input: spec.input,
        mean: spec.mean,
        std: spec.std,
        // A student with a card of its own may have another order and range; files are brought to the teacher's size.
        preprocessing: Preprocessing { channels, range, ..teacher.preprocessing },
        normalization: teacher.normalization.clone(),
        class_names: teacher.names_of_classes().to_vec(),
        weights: String::new(),
        digest: String::new(),
        parameters: network.store().num_parameters(),
        source: format!(
            "distilled without data from {} by ssdkd {}, run {}, seed {}: {what}",
            teacher.architecture,
            env!("CARGO_PKG_VERSION"),
            reader.recipe().run.name,
            reader.recipe().run.seed
        ),
        license: None,
    };
    Ok(Source { what, card, network })
}
