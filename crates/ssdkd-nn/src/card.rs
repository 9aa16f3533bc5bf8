//! The card of a model: what must be known besides its weights to use it.

use std::path::{Path, PathBuf};

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, Names, Task};
use crate::network::{Network, NetworkSpec};
use crate::weights;

/// The layout of this file.
pub const CARD_VERSION: u32 = 1;

/// Most classes of pixels: masks have eight bits, and one number is for none.
const MOST_OF_PIXELS: usize = 255;

/// What must be known of a model besides its weights. Lies beside them, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherCard {
    /// [`CARD_VERSION`]
    pub card_version: u32,
    /// Such as `resnet20`.
    pub architecture: Architecture,
    /// How the file names head and shortcuts.
    #[serde(default)]
    pub names: Names,
    /// Number of classes.
    pub classes: usize,
    /// Channels, height, width.
    pub input: [usize; 3],
    /// Subtracted from an image in `[0, 1]`, for each channel.
    pub mean: Vec<f32>,
    /// Divided by after that.
    pub std: Vec<f32>,
    /// In the order of the logits.
    pub class_names: Vec<String>,
    /// File name of the weights, a safetensors file beside the card.
    pub weights: String,
    /// BLAKE3 of that file.
    pub digest: String,
    /// Numbers that are trained.
    pub parameters: usize,
    /// Where the model came from.
    pub source: String,
}

/// Why a card, or what it names, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// A file is not there, or not readable.
    #[error(
        "cannot read {path}: {source}\nhint: `ssdkd import FILE` or `ssdkd-teach` makes a teacher's card and weights"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
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
    pub fn load(path: &Path) -> Result<Self, CardError> {
        Self::parse(&std::fs::read(path).map_err(|source| CardError::Read { path: path.into(), source })?, path)
    }

    /// As [`load`](Self::load), from the file's bytes; `path` is for errors.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, CardError> {
        let unusable = |reason: String| CardError::Card { path: path.into(), reason };
        let card: Self = serde_json::from_slice(text).map_err(|error| unusable(error.to_string()))?;
        if card.card_version != CARD_VERSION {
            return Err(unusable(format!("it has version {}, this program knows {CARD_VERSION}", card.card_version)));
        }
        if card.class_names.len() != card.classes || card.classes == 0 {
            return Err(unusable(format!("{} class names for {} classes", card.class_names.len(), card.classes)));
        }
        if card.architecture.task == Task::Pixels && card.classes > MOST_OF_PIXELS {
            let reason = format!("{} classes of pixels; masks have numbers for {MOST_OF_PIXELS}", card.classes);
            return Err(unusable(reason));
        }
        if card.weights.is_empty() || card.weights.contains(['/', '\\']) {
            return Err(unusable(format!("the weights {:?} must be a file beside the card", card.weights)));
        }
        if card.input.iter().any(|&side| side == 0 || side > 4096) {
            return Err(unusable(format!("an input of {:?} is out of range", card.input)));
        }
        Ok(card)
    }

    /// The card as the text of a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a card is plain data") + "\n"
    }

    /// The network that the card speaks of.
    pub fn spec(&self) -> NetworkSpec {
        NetworkSpec {
            architecture: self.architecture,
            names: self.names.clone(),
            classes: self.classes,
            input: self.input,
            mean: self.mean.clone(),
            std: self.std.clone(),
        }
    }

    /// The bytes of the weights beside the card at `card_path`, checked against the digest.
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

    /// The network with its weights.
    pub fn network(&self, card_path: &Path, device: &Device) -> Result<Network, CardError> {
        let bytes = self.read_weights(card_path)?;
        let unusable = |reason| CardError::Weights { path: card_path.with_file_name(&self.weights), reason };
        let network = weights::from_safetensors_bytes(&bytes, device)
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
