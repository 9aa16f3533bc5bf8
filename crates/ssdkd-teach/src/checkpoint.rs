//! The file that training resumes from: one safetensors file with the tensors, the position and what it belongs to.

use std::path::Path;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use ssdkd_nn::StateDict;
use ssdkd_stage::exit::Code;
use ssdkd_stage::{StageError, write_file};

use crate::settings::TeachSettings;
use crate::trainer::{Position, Trainer};

/// The name of the tensor of bytes that holds the JSON of [`Description`].
const DESCRIPTION: &str = "description";

/// What a checkpoint belongs to, and where it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    pub(crate) settings: TeachSettings,
    /// Digest of the training images.
    pub(crate) data: String,
    pub(crate) position: Position,
}

/// Saves the state of `trainer`.
pub(crate) fn save(path: &Path, description: &Description, trainer: &Trainer<'_>) -> Result<(), StageError> {
    let json = serde_json::to_vec(description).expect("a description is plain data");
    let bytes = Tensor::new(json, &Device::Cpu).and_then(|json| {
        let mut tensors = trainer.state_dict();
        tensors.insert(DESCRIPTION.into(), json);
        tensors.to_safetensors()
    });
    let bytes = bytes.map_err(|error| StageError::other(Code::Failed, format!("cannot make a checkpoint: {error}")))?;
    write_file(path, &bytes)
}

/// What a checkpoint holds: what it belongs to, and the trainer's state.
pub(crate) type Checkpoint = (Description, StateDict);

/// Reads a checkpoint, if there is one.
pub(crate) fn load(path: &Path) -> Result<Option<Checkpoint>, StageError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StageError::Read { path: path.into(), source }),
    };
    let mut tensors = StateDict::from_safetensors(&bytes, &Device::Cpu).map_err(|error| unusable(path, error))?;
    let json = tensors.remove(DESCRIPTION).ok_or_else(|| unusable(path, "it does not say what it belongs to"))?;
    let json = json.flatten_all().and_then(|json| json.to_vec1::<u8>()).map_err(|error| unusable(path, error))?;
    let description = serde_json::from_slice(&json).map_err(|error| unusable(path, error))?;
    Ok(Some((description, tensors)))
}

/// Returns a checkpoint that cannot be used.
pub(crate) fn unusable(path: &Path, reason: impl std::fmt::Display) -> StageError {
    let what =
        format!("cannot resume from the checkpoint {}: {reason}\nhint: --force restarts the training", path.display());
    StageError::other(Code::Integrity, what)
}
