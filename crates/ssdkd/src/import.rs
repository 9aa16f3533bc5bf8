//! `ssdkd import`: a trained model becomes a teacher with a card.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::Device;
use clap::Args;
use ssdkd_nn::weights::{Choice, WeightsError};
use ssdkd_nn::{Architecture, CARD_VERSION, Network, Normalization, Task, TeacherCard, identify, weights};
use ssdkd_stage::exit::Code;
use ssdkd_stage::{StageError, exit, write_file};

const CIFAR10: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// `ssdkd import`
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A .pth, .th, .pt or .safetensors file with a state_dict
    file: PathBuf,

    /// The card to write (.json); the weights go beside it
    #[arg(long, value_name = "CARD")]
    out: PathBuf,

    /// What the network is [default: recognised from its tensors]
    #[arg(long)]
    architecture: Option<Architecture>,

    /// Height and width of its images
    #[arg(long, default_value_t = 32)]
    size: usize,

    /// Mean of each channel that its training subtracted, such as 0.485,0.456,0.406
    #[arg(long, value_delimiter = ',', default_value = "0.485,0.456,0.406")]
    mean: Vec<f32>,

    /// Deviation of each channel that its training divided by
    #[arg(long, value_delimiter = ',', default_value = "0.229,0.224,0.225")]
    std: Vec<f32>,

    /// The entry of the file that holds the weights, such as state_dict_ema or checkpoint.model [default: found by itself]
    #[arg(long)]
    key: Option<String>,

    /// Take only tensors whose names begin with this, such as encoder_q., and remove it
    #[arg(long)]
    prefix: Option<String>,

    /// Names of its classes, in order [default: CIFAR-10's for ten classes, otherwise numbers]
    #[arg(long, value_delimiter = ',')]
    class_names: Vec<String>,

    /// Replace another card or other weights that are there
    #[arg(long)]
    force: bool,

    /// Where it came from, for the card [default: the file's name]
    #[arg(long)]
    source: Option<String>,
}

/// Imports and checks the model, then writes weights and card.
pub fn import(arguments: &ImportArgs) -> Result<()> {
    let path = &arguments.file;
    let choice = Choice { key: arguments.key.as_deref(), prefix: arguments.prefix.as_deref() };
    let imported = weights::import(path, &choice).map_err(|error| {
        let code = match error {
            WeightsError::Read { .. } => Code::MissingInput,
            WeightsError::Choice { .. } => Code::Usage,
            _ => Code::Integrity,
        };
        StageError::other(code, error)
    })?;
    let taken = imported.describe();
    let tensors = imported.tensors;
    let damaged =
        |reason: String| StageError::other(Code::Integrity, format!("{} cannot be imported: {reason}", path.display()));
    let shapes = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec()));
    let found = identify(&shapes.collect::<BTreeMap<_, _>>()).map_err(damaged)?;
    let file_name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let weights_path = arguments.out.with_extension("safetensors");
    if weights_path == arguments.out {
        return Err(StageError::Usage("--out names the card: let it end in .json".into()).into());
    }
    let mut card = TeacherCard {
        card_version: CARD_VERSION,
        architecture: arguments.architecture.unwrap_or(found.architecture),
        names: found.names,
        classes: found.classes,
        input: [found.channels, arguments.size, arguments.size],
        mean: arguments.mean.clone(),
        std: arguments.std.clone(),
        normalization: Normalization::Given,
        class_names: class_names(arguments, found.classes, found.architecture.task)?,
        weights: file_name(&weights_path),
        digest: String::new(),
        parameters: 0,
        source: arguments.source.clone().unwrap_or_else(|| format!("imported from {}", file_name(path))),
    };
    for (flag, given) in [("--mean", &arguments.mean), ("--std", &arguments.std)] {
        if given.len() != found.channels {
            let (given, channels) = (given.len(), found.channels);
            let message = format!(
                "{flag} has {given} numbers, and the network's images have {channels} channels\nhint: give one for each channel, as in {flag} 0.5,0.5,0.5 for three"
            );
            return Err(StageError::Usage(message).into());
        }
    }
    let network = Network::load(&card.spec(), tensors, &Device::Cpu).map_err(|error| damaged(error.to_string()))?;
    card.parameters = network.store().num_parameters();
    let bytes = weights::to_safetensors_bytes(&network.store().to_tensors())?;
    card.digest = blake3::hash(&bytes).to_hex().to_string();
    let json = card.to_json();
    TeacherCard::parse(json.as_bytes(), &arguments.out).map_err(|error| damaged(error.to_string()))?;
    for (path, new) in [(&weights_path, &bytes[..]), (&arguments.out, json.as_bytes())] {
        if !arguments.force && std::fs::read(path).is_ok_and(|there| there != new) {
            let path = path.display();
            let message =
                format!("{path} is there, and is something else\nhint: another --out, or --force to replace it");
            return Err(StageError::Usage(message).into());
        }
    }
    write_file(&weights_path, &bytes)?;
    write_file(&arguments.out, json.as_bytes())?;
    let taken = taken.iter().map(|line| exit::plain(line) + "\n").collect::<String>();
    Ok(exit::print(&format!(
        "{taken}{}: {} with {} classes and {} parameters\nmean {:?}, std {:?} (--mean, --std; wrong ones cost accuracy: check with `ssdkd-evaluate`)\n",
        arguments.out.display(),
        card.architecture,
        card.classes,
        card.parameters,
        card.mean,
        card.std
    ))?)
}

fn class_names(arguments: &ImportArgs, classes: usize, task: Task) -> Result<Vec<String>, StageError> {
    match arguments.class_names.len() {
        0 if classes == 10 && task == Task::Images => Ok(CIFAR10.map(String::from).into()),
        0 => Ok((0..classes).map(|class| class.to_string()).collect()),
        given if given == classes => Ok(arguments.class_names.clone()),
        given => Err(StageError::Usage(format!("--class-names has {given} names, the model has {classes} classes"))),
    }
}
