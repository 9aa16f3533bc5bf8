//! `ssdkd predict`: what a model says of images.

mod masks;
mod model;
mod scores;

use std::path::PathBuf;

use anyhow::Result;
use candle_core::Device;
use clap::Args;
use ssdkd_evaluate::open_image;
use ssdkd_nn::OPEN_GPU;
use ssdkd_stage::{CommonArgs, Progress, StageError, exit, signals};

use crate::commands::import::normalization::NormalizationArgs;
use crate::commands::import::preprocessing::PreprocessingArgs;
use masks::Masks;
use model::{Kind, Model};

/// `ssdkd predict`
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// A card (.json), an exported model's folder, a run's folder (its last student), or a network (.onnx, .pt2)
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// The image files; they are resized and cropped as the model's card or file says, or resized to its input size
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,

    /// The number of classes to show for each image
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,

    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,

    /// The folder for the masks of a segmentation network: a PNG of class indices for each image, at the network's output size
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// The output of an .onnx or .pt2 network that has several, from 0
    #[arg(long, value_name = "N")]
    output: Option<usize>,

    #[command(flatten)]
    normalization: NormalizationArgs,

    #[command(flatten)]
    preprocessing: PreprocessingArgs,

    #[command(flatten)]
    common: CommonArgs,
}

/// Predicts classes or masks, and prints them.
pub fn predict(arguments: &PredictArgs) -> Result<()> {
    arguments.common.set_up()?;
    let device = arguments.common.device.open(Device::Cpu, OPEN_GPU)?;
    let model = model::load(arguments, &device)?;
    let masks = masks_of(arguments, &model)?;
    let progress = Progress::start("predict", arguments.images.len() as u64);
    let (mut scores, mut written) = (Vec::new(), Vec::new());
    for paths in arguments.images.chunks(model.batch()) {
        let images = paths.iter().map(|path| open_image(path, model.fit())).collect::<Result<Vec<_>, _>>()?;
        let logits = model.logits(&images, &device)?;
        for (path, logits) in paths.iter().zip(logits.chunks_exact(logits.len() / paths.len())) {
            if let Some(bad) = logits.iter().find(|logit| !logit.is_finite()) {
                anyhow::bail!("the model gives a logit of {bad} for {}\nhint: check its weights", path.display());
            }
            match &masks {
                Some(masks) => written.push(masks.write(path, logits)?),
                None => scores.push(scores::Scores::new(path, logits, model.class_names(), arguments.top as usize)),
            }
        }
        progress.advance(paths.len() as u64, String::new);
        signals::check()?;
    }
    progress.finish();
    let text = match (arguments.json, masks.is_some()) {
        (true, true) => serde_json::to_string_pretty(&written)? + "\n",
        (true, false) => serde_json::to_string_pretty(&scores)? + "\n",
        (false, true) => exit::plain(&masks::table(&written)),
        (false, false) => exit::plain(&scores::table(&scores)),
    };
    Ok(exit::print(&text)?)
}

/// Returns the writer of masks; `None` for a classifier.
fn masks_of(arguments: &PredictArgs, model: &Model) -> Result<Option<Masks>, StageError> {
    match (model.kind(), &arguments.out) {
        (Kind::Classifier, None) => Ok(None),
        (Kind::Segmentation(size), Some(folder)) => {
            Masks::new(folder, size, model.classes(), &arguments.images).map(Some)
        }
        (Kind::Classifier, Some(_)) => Err(StageError::Usage(
            "--out is for masks, and the model classifies whole images\nhint: leave --out out".into(),
        )),
        (Kind::Segmentation(_), None) => Err(StageError::Usage(
            "the model is a segmentation network, and its masks need a folder\nhint: add --out DIR".into(),
        )),
    }
}
