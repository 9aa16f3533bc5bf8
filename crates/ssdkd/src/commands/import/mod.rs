//! `ssdkd import`: makes a teacher, with a card, of a trained model.

mod beside;
mod class_names;
mod measure;
pub mod normalization;
pub mod preprocessing;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::{Device, Tensor};
use clap::Args;
use ssdkd_context::preflight::{enforce, preflight_teacher};
use ssdkd_evaluate::SplitChoice;
use ssdkd_nn::weights::{Choice, Import, WeightsError};
use ssdkd_nn::{
    CARD_VERSION, Identity, Network, Preprocessing, TeacherCard, ZooArchitecture, adopt, identify, identify_as, weights,
};
use ssdkd_stage::exit::Code;
use ssdkd_stage::{CommonArgs, StageError, exit, write_file};

use normalization::{NormalizationArgs, Values};
use preprocessing::{PreprocessingArgs, Size};

use crate::network_file::{self, About, FromFile, is_network};

/// The image size of a card, if none was given.
const SIZE: usize = 32;

/// `ssdkd import`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ssdkd import resnet20.pth --out teacher.json --normalization cifar10 --class-names names.txt\n  \
                  ssdkd import model.pt2 --out teacher.json --size 160\n\n\
                  tools/export_teacher.py writes a .pt2 of a network of torchvision, timm or Hugging Face."
)]
pub struct ImportArgs {
    /// The model: a network (.pt2, .onnx), or weights (.pth, .pt, .ckpt or .safetensors with a state_dict)
    file: PathBuf,

    /// The card to write (.json); the weights go into the same folder
    #[arg(long, value_name = "CARD")]
    out: PathBuf,

    /// The architecture of weights [default: identified from the tensors]
    #[arg(long)]
    architecture: Option<ZooArchitecture>,

    /// The size of the images: a side, as in 32, or height and width, as in 160x224 [default: that of --crop, of the network, of the card in the weights' folder, or 32]
    #[arg(long, value_name = "PIXELS", value_parser = preprocessing::size)]
    size: Option<Size>,

    #[command(flatten)]
    normalization: NormalizationArgs,

    #[command(flatten)]
    preprocessing: PreprocessingArgs,

    /// Names of the classes in the order of the outputs, with commas between them; or a file with one name a line
    #[arg(long, value_name = "NAMES")]
    class_names: Option<String>,

    /// Measure the model on this data set with each known normalization, and print which is best
    #[arg(long, value_name = "DATA")]
    data: Option<String>,

    /// The split of --data
    #[arg(long, value_name = "SPLIT", value_enum, default_value_t, requires = "data")]
    split: SplitChoice,

    /// The output of a network that has several, from 0
    #[arg(long, value_name = "N")]
    output: Option<usize>,

    /// The entry of the file that holds the weights, such as state_dict_ema or checkpoint.model [default: found by itself]
    #[arg(long)]
    key: Option<String>,

    /// Take only tensors whose names begin with this, such as encoder_q., and remove it
    #[arg(long)]
    prefix: Option<String>,

    /// Replace another card or other weights at --out
    #[arg(long)]
    force: bool,

    /// Where the model came from, for the card [default: the file's name]
    #[arg(long)]
    source: Option<String>,

    #[command(flatten)]
    common: CommonArgs,
}

/// Imports and checks the model, then writes weights and card.
pub fn import(arguments: &ImportArgs) -> Result<()> {
    arguments.common.set_up()?;
    let path = &arguments.file;
    let weights_path = arguments.out.with_extension("safetensors");
    if weights_path == arguments.out {
        return Err(StageError::Usage("--out names the card: let it end in .json".into()).into());
    }
    let damaged =
        |reason: String| StageError::other(Code::Integrity, format!("{} cannot be imported: {reason}", path.display()));
    let Found { identity, tensors, known, taken, notices } =
        if is_network(path)? { network(arguments)? } else { state_dict(arguments)? };
    let mut card = card_of(arguments, &identity, known)?;
    card.weights = file_name(&weights_path);
    let network =
        Network::load(&card.spec(), tensors.clone(), &Device::Cpu).map_err(|error| damaged(error.to_string()))?;
    card.parameters = network.store().num_parameters();
    let bytes = network.store().state_dict().to_safetensors()?;
    card.digest = blake3::hash(&bytes).to_hex().to_string();
    TeacherCard::parse(card.to_json().as_bytes(), &arguments.out).map_err(|error| damaged(error.to_string()))?;
    let measured = match &arguments.data {
        Some(data) => Some(measure::measure(&card, &tensors, data, arguments.split.into(), &arguments.common)?),
        None => None,
    };
    if let Some(Values { mean, std, source }) = measured.as_ref().and_then(measure::Measured::taken) {
        (card.mean, card.std, card.normalization) = (mean, std, source);
    }
    enforce(&preflight_teacher(&card))?;
    let json = card.to_json();
    refuse_others(arguments, &[(&weights_path, &bytes), (&arguments.out, json.as_bytes())])?;
    write_file(&weights_path, &bytes)?;
    write_file(&arguments.out, json.as_bytes())?;

    if let Some(warning) = card.warning(&arguments.out) {
        tracing::warn!("{}", exit::plain(&warning));
    }
    let text = report::text(&taken, &notices, &card, &arguments.out, measured.as_ref());
    Ok(exit::print_plain(&text)?)
}

/// A model in a file, and all that is known of it without the flags.
struct Found {
    identity: Identity,
    tensors: BTreeMap<String, Tensor>,
    known: Known,
    /// What was taken of the file.
    taken: Vec<report::Line>,
    /// What was changed.
    notices: Vec<String>,
}

/// What the file of a network, or the card in the weights' folder, says.
#[derive(Default)]
struct Known {
    size: Option<[usize; 2]>,
    values: Option<Values>,
    preprocessing: Preprocessing,
    class_names: Vec<String>,
    source: Option<String>,
    license: Option<String>,
}

/// Reads a network from a `.pt2` or ONNX file.
fn network(arguments: &ImportArgs) -> Result<Found, StageError> {
    let path = &arguments.file;
    for (flag, is_given) in [
        ("--architecture", arguments.architecture.is_some()),
        ("--key", arguments.key.is_some()),
        ("--prefix", arguments.prefix.is_some()),
    ] {
        if is_given {
            return Err(StageError::Usage(format!(
                "{flag} is for weights, and {} holds a network\nhint: leave {flag} out",
                path.display()
            )));
        }
    }
    let size = arguments.size.or(arguments.preprocessing.crop).map(|Size(size)| size);
    let file = network_file::load(path, arguments.output, size)?;
    file.check_teacher(path)?;
    let taken = report::taken_network(path, &file)?;
    let FromFile { identity, size, tensors, about, notices, .. } = file;
    let About { values, preprocessing, class_names, source, license } = about;
    let known = Known { size: Some(size), values, preprocessing, class_names, source, license };
    Ok(Found { identity, tensors, known, taken, notices })
}

/// Reads weights, and identifies their network.
fn state_dict(arguments: &ImportArgs) -> Result<Found, StageError> {
    let path = &arguments.file;
    if arguments.output.is_some() {
        let what = format!("--output is for networks, and {} holds weights\nhint: leave --output out", path.display());
        return Err(StageError::Usage(what));
    }
    let choice = Choice { key: arguments.key.as_deref(), prefix: arguments.prefix.as_deref() };
    let imported = weights::import(path, &choice).map_err(weights_error)?;
    let damaged =
        |reason: String| StageError::other(Code::Integrity, format!("{} cannot be imported: {reason}", path.display()));
    let taken = report::taken(path, &imported);
    let Import { tensors, notices: read, .. } = imported;
    let adopted = adopt(tensors).map_err(|error| damaged(error.to_string()))?;
    let (tensors, mut notices) = (adopted.tensors, adopted.notices);
    let identity = identify_tensors(arguments.architecture, &tensors);
    let identity = identity.map_err(|reason| damaged(with_choices(reason, &read)))?;
    let beside = beside::find(path, &identity)?;
    notices.extend(beside.notice);
    let known = beside.card.map(Known::of_card).unwrap_or_default();
    Ok(Found { identity, tensors, known, taken, notices })
}

impl Known {
    fn of_card(card: TeacherCard) -> Self {
        Self {
            size: Some([card.input[1], card.input[2]]),
            values: Some(Values::of(&card)),
            preprocessing: card.preprocessing,
            class_names: card.names_of_classes().to_vec(),
            source: Some(card.source),
            license: card.license,
        }
    }
}

/// Returns the card that flags, the file and defaults give, without weights.
fn card_of(arguments: &ImportArgs, found: &Identity, known: Known) -> Result<TeacherCard, StageError> {
    let given_size = arguments.size.or(arguments.preprocessing.crop).map(|Size(size)| size);
    let [height, width] = given_size.or(known.size).unwrap_or([SIZE, SIZE]);
    let preprocessing = arguments.preprocessing.applied_to(known.preprocessing, found.channels)?;
    let given = arguments.normalization.values(found.channels, &preprocessing)?;
    let assumed = || Values::assumed(found.channels).in_range(preprocessing.range);
    let Values { mean, std, source } = given.or(known.values).unwrap_or_else(assumed);
    let class_names = match &arguments.class_names {
        Some(names) => class_names::read(names, found.classes)?,
        None => known.class_names,
    };
    let source_text = arguments.source.clone().or(known.source);
    Ok(TeacherCard {
        card_version: CARD_VERSION,
        architecture: found.architecture.clone(),
        names: None,
        classes: found.classes,
        input: [found.channels, height, width],
        mean,
        std,
        preprocessing,
        normalization: source,
        class_names,
        weights: String::new(),
        digest: String::new(),
        parameters: 0,
        source: source_text.unwrap_or_else(|| format!("imported from {}", file_name(&arguments.file))),
        license: known.license,
    })
}

fn identify_tensors(
    architecture: Option<ZooArchitecture>,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<Identity, String> {
    let shapes = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
    match architecture {
        Some(architecture) => identify_as(architecture, &shapes),
        None => identify(&shapes),
    }
}

/// Adds what the reader said of other choices, such as `--prefix student.`, to the reason of a refusal.
fn with_choices(mut reason: String, notices: &[String]) -> String {
    for notice in notices.iter().filter(|notice| notice.contains("--prefix")) {
        reason.push_str("\nhint: ");
        reason.push_str(notice);
    }
    reason
}

/// Refuses to replace a file by another without --force.
fn refuse_others(arguments: &ImportArgs, files: &[(&PathBuf, &[u8])]) -> Result<(), StageError> {
    for (path, new) in files {
        if !arguments.force && std::fs::read(path).is_ok_and(|there| there != *new) {
            return Err(StageError::Usage(format!(
                "{} exists and holds something else\nhint: give another --out, or replace it with --force",
                path.display()
            )));
        }
    }
    Ok(())
}

fn weights_error(error: WeightsError) -> StageError {
    let code = match error {
        WeightsError::Read { .. } => Code::MissingInput,
        WeightsError::Choice { .. } => Code::Usage,
        _ => Code::Integrity,
    };
    StageError::other(code, error)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
