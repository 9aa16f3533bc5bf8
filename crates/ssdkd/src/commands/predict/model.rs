//! The model of a prediction: one with a card, the student of a run, or a network's file.

use std::path::Path;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use candle_core::{Device, Tensor};
use ssdkd_context::Reader;
use ssdkd_data::Fit;
use ssdkd_evaluate::{fit_of, load_card};
use ssdkd_nn::{Identity, Network, NetworkSpec, Task};
use ssdkd_stage::exit::Code;
use ssdkd_stage::{RunArgs, RunFolder, StageError, exit, quote_path};

use super::PredictArgs;
use crate::commands::export::CARD;
use crate::commands::import::normalization::Values;
use crate::current::count_only_current;
use crate::network_file::{self, is_network};

/// Pixels in one forward pass: bounds the memory.
const PIXELS: usize = 256 * 32 * 32;
/// Most images in one forward pass.
const IMAGES: usize = 256;
/// The card of a student that was exported before models had the card `card.json`.
const OLDER_CARD: &str = "student.json";

/// What a model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A class of each image.
    Classifier,
    /// A class of each pixel, of masks of this height and width.
    Segmentation([usize; 2]),
}

/// A model that predicts.
pub struct Model {
    network: Rc<Network>,
    fit: Fit,
    class_names: Vec<String>,
}

/// Loads the model that the command line names.
///
/// # Errors
/// If the file or folder holds no model, or flags do not fit it.
pub fn load(arguments: &PredictArgs, device: &Device) -> Result<Model> {
    let path = &arguments.model;
    let is_card = path.extension().is_some_and(|ending| ending == "json");
    if !path.is_dir() && !is_card && is_network(path)? {
        return from_file(arguments, device);
    }
    if arguments.normalization.is_given() || arguments.preprocessing.is_given() || arguments.output.is_some() {
        return Err(StageError::Usage(format!(
            "{} has a card, which says how images are preprocessed\n\
             hint: leave out --normalization, --mean, --std, --channel-order, --range, --resize, --interpolation, --crop and --output, \
             which are for .onnx and .pt2 files",
            path.display()
        ))
        .into());
    }
    if !path.is_dir() {
        return from_card(path, device);
    }
    let card = path.join(CARD);
    if let Some(card) = [&card, &path.join(OLDER_CARD)].into_iter().find(|card| card.is_file()) {
        return from_card(card, device);
    }
    if RunFolder::at(path).recipe().is_file() {
        return from_run(arguments);
    }
    let hint = "name a card, the folder of an exported model (`ssdkd export`), or the folder of a run".into();
    Err(StageError::Missing { what: "a model".into(), path: card, hint }.into())
}

/// Returns a network from an `.onnx` or `.pt2` file.
fn from_file(arguments: &PredictArgs, device: &Device) -> Result<Model> {
    let path = &arguments.model;
    let file = network_file::load(path, arguments.output, None)?;
    for notice in &file.notices {
        tracing::warn!("{}", exit::plain(notice));
    }
    let Identity { architecture, classes, channels } = file.identity;
    let preprocessing = arguments.preprocessing.applied_to(file.about.preprocessing, channels)?;
    let values = arguments.normalization.values(channels, &preprocessing)?.or(file.about.values);
    let Some(Values { mean, std, .. }) = values else {
        return Err(StageError::Usage(format!(
            "{} does not say how images are normalized\n\
             hint: add --normalization imagenet, cifar10, cifar100, half or none, or --mean and --std",
            path.display()
        ))
        .into());
    };
    let [height, width] = file.size;
    let input = [channels, height, width];
    let fit = fit_of(&preprocessing, input);
    let spec = NetworkSpec { architecture, classes, input, mean, std, preprocessing };
    let network = Network::load(&spec, file.tensors, device)
        .map_err(|error| StageError::other(Code::Integrity, format!("{} cannot be used: {error}", path.display())))?;
    let class_names = match file.about.class_names {
        names if names.is_empty() => (0..classes).map(|class| class.to_string()).collect(),
        names => names,
    };
    Ok(Model { network: Rc::new(network.frozen()), fit, class_names })
}

fn from_card(path: &Path, device: &Device) -> Result<Model> {
    let (card, network) = load_card(path, device)?;
    if let Some(warning) = card.warning(path) {
        tracing::warn!("{}", exit::plain(&warning));
    }
    let fit = fit_of(&card.preprocessing, card.input);
    Ok(Model { network: Rc::new(network), fit, class_names: card.class_labels() })
}

/// Returns the last student of a run.
fn from_run(arguments: &PredictArgs) -> Result<Model> {
    let run = RunArgs { recipe: arguments.model.clone(), common: arguments.common.clone(), ..RunArgs::default() };
    let mut reader = Reader::existing(&run)?;
    count_only_current(&mut reader)?;
    let round = reader.last_round("distill")?;
    let round = round.with_context(|| {
        let root = reader.folder().root();
        format!("the run {} has no student yet\nhint: `ssdkd run {}` makes one", root.display(), quote_path(root))
    })?;
    tracing::info!("{}", reader.describe_result(round));
    let card = reader.teacher_card();
    let (fit, class_names) = (fit_of(&card.preprocessing, card.input), card.class_labels());
    Ok(Model { network: reader.result_after(round)?, fit, class_names })
}

impl Model {
    /// Returns how image files become its images.
    pub fn fit(&self) -> &Fit {
        &self.fit
    }

    /// Channels, height and width of its images.
    fn input(&self) -> [usize; 3] {
        self.network.spec().input
    }

    /// Returns what it predicts.
    pub fn kind(&self) -> Kind {
        match (self.network.spec().architecture.task(), self.input()) {
            (Task::Images, _) => Kind::Classifier,
            (Task::Pixels, [_, height, width]) => Kind::Segmentation([height, width]),
        }
    }

    /// Returns the number of classes.
    pub fn classes(&self) -> usize {
        self.class_names.len()
    }

    /// Returns a word for each class: its name, or its index.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Images in one forward pass.
    pub fn batch(&self) -> usize {
        let [_, height, width] = self.input();
        (PIXELS / (height * width).max(1)).clamp(1, IMAGES)
    }

    /// Returns the logits of images of bytes (C, H, W): K for each image, or for each pixel of each image.
    ///
    /// # Errors
    /// If the network cannot be computed.
    pub fn logits(&self, images: &[Vec<u8>], device: &Device) -> Result<Vec<f32>> {
        let [channels, height, width] = self.input();
        let pixels = height * width;
        let mut batch = Vec::with_capacity(images.len() * channels * pixels);
        for image in images {
            for pixel in 0..pixels {
                batch.extend((0..channels).map(|channel| f32::from(image[channel * pixels + pixel]) / 255.0));
            }
        }
        let batch = Tensor::from_vec(batch, (images.len(), height, width, channels), device)?;
        Ok(self.network.logits(&batch)?.flatten_all()?.to_vec1()?)
    }
}
