//! The card of a model: what must be known besides its weights to use it.
//!
//! Version 2 says where mean and standard deviation come from, and has no class names if none were given. Version 3 says how images
//! are preprocessed, and has networks that came as graphs. A card of version 1 opens as one whose normalization was given, and cards before
//! version 3 as those of networks of RGB images that are resized to the input.

use std::fmt;
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::StateDict;
use crate::architecture::{Architecture, Names, Task};
use crate::network::{Network, NetworkSpec};
use crate::preprocessing::Preprocessing;

/// The layout of this file; older ones can be read.
pub const CARD_VERSION: u32 = 3;

/// Most classes of pixels: masks have eight bits, and one number is for none.
const MOST_OF_PIXELS: usize = 255;

/// What must be known of a model besides its weights. A JSON file in the same folder as the weights.
///
/// ```
/// use candle_core::Device;
/// use ssdkd_nn::TeacherCard;
///
/// let path = "../../data/teachers/shapes-resnet20.json".as_ref();
/// let card = TeacherCard::load(path)?;
/// assert_eq!((card.architecture.to_string().as_str(), card.classes), ("resnet20", 10));
/// let teacher = card.network(path, &Device::Cpu)?.frozen();
/// assert_eq!(teacher.store().num_parameters(), card.parameters);
/// # Ok::<(), ssdkd_nn::CardError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherCard {
    /// [`CARD_VERSION`]
    pub card_version: u32,
    /// Such as `resnet20`, or a graph.
    pub architecture: Architecture,
    /// How the file names head and shortcuts. Only in cards before version 3, where [`architecture`](Self::architecture) does not say.
    #[serde(default, skip_serializing)]
    pub names: Option<Names>,
    /// Number of classes.
    pub classes: usize,
    /// Channels, height, width.
    pub input: [usize; 3],
    /// Subtracted from an image in the [range](Preprocessing::range) of the network, for each channel in the network's order.
    pub mean: Vec<f32>,
    /// Divided by after that.
    pub std: Vec<f32>,
    /// What else happens to an image file before the first layer. Not in cards before version 3.
    #[serde(default)]
    pub preprocessing: Preprocessing,
    /// Where mean and std come from. Not in a card of version 1, where they count as given.
    #[serde(default)]
    pub normalization: Normalization,
    /// In the order of the logits; empty where the classes have no names. [`class_labels`](Self::class_labels) has a word for each.
    pub class_names: Vec<String>,
    /// File name of the weights, a safetensors file in the card's folder.
    pub weights: String,
    /// BLAKE3 of that file.
    pub digest: String,
    /// Numbers that are trained.
    pub parameters: usize,
    /// Where the model came from.
    pub source: String,
    /// The license of the model, as it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
}

/// Where the mean and the standard deviation of a card come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// They were given with the model.
    #[default]
    Given,
    /// They were not given: they are a guess.
    Assumed,
    /// They gave the best score on this data set.
    Measured(String),
}

impl fmt::Display for Normalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => f.write_str("given"),
            Self::Assumed => f.write_str("assumed"),
            Self::Measured(data) => write!(f, "measured on {data}"),
        }
    }
}

/// Why a card, or what it names, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// A file is not there, or not readable.
    #[error(
        "cannot read {path}: {source}\nhint: check the path; `ssdkd import FILE` or `ssdkd-teach` makes a card and its weights"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Weights were given where a card is wanted.
    #[error("{path} is a weight file, not a card\nhint: {hint}")]
    NotACard {
        /// The file.
        path: PathBuf,
        /// Where its card is, or how to make one.
        hint: String,
    },
    /// The card is not what it should be.
    #[error("{path} is no usable card: {reason}\nhint: `ssdkd import FILE` or `ssdkd-teach` makes a card")]
    Card {
        /// The card.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The weights are not those the card was made for.
    #[error(
        "{path} has the digest {found}, but its card says {expected}\nhint: the weights were changed or damaged; import them again"
    )]
    Digest {
        /// The weights.
        path: PathBuf,
        /// What they have.
        found: String,
        /// What the card says.
        expected: String,
    },
    /// The weights do not fit the card.
    #[error("{path} cannot be used: {reason}")]
    Weights {
        /// The weights.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl TeacherCard {
    /// Reads a card.
    ///
    /// # Errors
    /// If the file cannot be read or is no usable card. The error for a weight file says where its card is, or how to make one.
    pub fn load(path: &Path) -> Result<Self, CardError> {
        let bytes = std::fs::read(path).map_err(|source| CardError::Read { path: path.into(), source })?;
        Self::parse(&bytes, path).map_err(|error| {
            if is_weight_file(path) { CardError::NotACard { path: path.into(), hint: card_hint(path) } } else { error }
        })
    }

    /// As [`load`](Self::load), from the file's bytes; `path` is for errors.
    ///
    /// # Errors
    /// If the text is no card, or one of an unknown version, or holds values out of range.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, CardError> {
        let unusable = |reason: String| CardError::Card { path: path.into(), reason };
        let mut card: Self = serde_json::from_slice(text).map_err(|error| unusable(error.to_string()))?;
        if let (Some(found), Architecture::Zoo { names, .. }) = (card.names.take(), &mut card.architecture) {
            *names = found;
        }
        if !(1..=CARD_VERSION).contains(&card.card_version) {
            let reason = format!("it has version {}, this program knows 1 to {CARD_VERSION}", card.card_version);
            return Err(unusable(reason));
        }
        let unnamed = card.class_names.is_empty() && card.card_version > 1;
        if card.class_names.len() != card.classes && !unnamed || card.classes == 0 {
            return Err(unusable(format!("{} class names for {} classes", card.class_names.len(), card.classes)));
        }
        if card.architecture.task() == Task::Pixels && card.classes > MOST_OF_PIXELS {
            let reason = format!("{} classes of pixels; masks have numbers for {MOST_OF_PIXELS}", card.classes);
            return Err(unusable(reason));
        }
        if card.weights.is_empty() || card.weights.contains(['/', '\\']) {
            return Err(unusable(format!("the weights {:?} must be a file in the card's folder", card.weights)));
        }
        if card.input.iter().any(|&side| side == 0 || side > 4096) {
            return Err(unusable(format!("an input of {:?} is out of range", card.input)));
        }
        card.preprocessing.check(card.input[0]).map_err(unusable)?;
        Ok(card)
    }

    /// Returns the text of the card's file.
    pub fn to_json(&self) -> String {
        ssdkd_graph::to_lines(self, 4).expect("a card is plain data")
    }

    /// Returns the names of the classes, or an empty list where they have none.
    ///
    /// A card of version 1 has numbers for unnamed classes: those are no names.
    pub fn names_of_classes(&self) -> &[String] {
        let numbered = || self.class_names.iter().enumerate().all(|(class, name)| *name == class.to_string());
        if self.card_version == 1 && numbered() { &[] } else { &self.class_names }
    }

    /// Returns a word for each class, in the order of the logits: its name, or its index where the classes have no names.
    pub fn class_labels(&self) -> Vec<String> {
        if self.class_names.is_empty() {
            (0..self.classes).map(|class| class.to_string()).collect()
        } else {
            self.class_names.clone()
        }
    }

    /// Returns what a user must know before relying on this card; `path` is the card's.
    pub fn warning(&self, path: &Path) -> Option<String> {
        let Self { normalization: Normalization::Assumed, mean, std, .. } = self else { return None };
        Some(format!(
            "the normalization of {} is assumed: mean {mean:?} and std {std:?} were not given. A wrong one costs accuracy\nhint: \
             import the model again with --normalization or with --mean and --std, or let --data DATA find the best",
            path.display()
        ))
    }

    /// Returns what the network is, without its weights.
    pub fn spec(&self) -> NetworkSpec {
        NetworkSpec {
            architecture: self.architecture.clone(),
            classes: self.classes,
            input: self.input,
            mean: self.mean.clone(),
            std: self.std.clone(),
            preprocessing: self.preprocessing,
        }
    }

    /// Reads the weights of the card at `card_path`, and checks them against the digest.
    pub fn read_weights(&self, card_path: &Path) -> Result<Vec<u8>, CardError> {
        let path = card_path.with_file_name(&self.weights);
        let bytes = std::fs::read(&path).map_err(|source| CardError::Read { path: path.clone(), source })?;
        let found = blake3::hash(&bytes).to_hex().to_string();
        if found == self.digest {
            Ok(bytes)
        } else {
            Err(CardError::Digest { path, found, expected: self.digest.clone() })
        }
    }

    /// Builds the network with its weights.
    pub fn network(&self, card_path: &Path, device: &Device) -> Result<Network, CardError> {
        let bytes = self.read_weights(card_path)?;
        let unusable = |reason| CardError::Weights { path: card_path.with_file_name(&self.weights), reason };
        let network = StateDict::from_safetensors(&bytes, device)
            .and_then(|tensors| Network::load(&self.spec(), tensors, device))
            .map_err(|error| unusable(error.to_string()))?;
        let parameters = network.store().num_parameters();
        if parameters == self.parameters {
            Ok(network)
        } else {
            Err(unusable(format!("it has {parameters} parameters, but its card says {} parameters", self.parameters)))
        }
    }
}

/// Whether a file's name is one of a weight file.
fn is_weight_file(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    ending.is_some_and(|ending| ["safetensors", "pth", "pt", "th", "tar", "ckpt", "bin", "pkl"].contains(&&*ending))
}

/// Says where the card of a weight file is, or how to make one.
fn card_hint(weights: &Path) -> String {
    let beside = weights.with_extension("json");
    if TeacherCard::load(&beside).is_ok() {
        format!("its card is {}: give that instead", beside.display())
    } else {
        format!("make its card with `ssdkd import {} --out teacher.json`", weights.display())
    }
}
