//! Weight files: PyTorch checkpoints in, safetensors in and out.
//!
//! A weight file comes from strangers. Reading one runs no code, allocates no more than a small multiple of its size,
//! and answers whatever is in it with tensors or an error.

mod encode;
mod torch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Result, Tensor, bail};

pub use encode::{to_safetensors_bytes, to_safetensors_bytes_with};

/// Why a weight file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// It is not there, or not readable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is damaged, or something else.
    #[error(
        "{path} is no usable weight file: {reason}\n\
         hint: PyTorch checkpoints (.pth, .pt, .th, .pth.tar) and .safetensors with a state_dict can be read"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Reads a `state_dict` from a PyTorch checkpoint or a safetensors file; the contents decide which, not the name.
///
/// In a checkpoint the `state_dict` is the whole file or the entry `state_dict`, `model_state_dict`, `model` or `net`.
/// The prefix `module.`, which `DataParallel` leaves, is taken off. Tensors keep their type, on the CPU.
///
/// # Errors
/// If the file cannot be read, is damaged, or is something else. The error names the file and what is wrong with it.
pub fn import(path: &Path) -> std::result::Result<BTreeMap<String, Tensor>, WeightsError> {
    parse(&std::fs::read(path).map_err(|source| WeightsError::Read { path: path.into(), source })?, path)
}

/// As [`import`], from the file's bytes; `path` is for errors.
///
/// # Errors
/// If the bytes are damaged or something else than weights.
pub fn parse(bytes: &[u8], path: &Path) -> std::result::Result<BTreeMap<String, Tensor>, WeightsError> {
    let tensors = if torch::is_checkpoint(bytes) {
        torch::read(bytes)
    } else if let Some(reason) = other_kind(bytes) {
        Err(reason.into())
    } else {
        from_safetensors_bytes(bytes, &Device::Cpu).map_err(|error| error.to_string())
    };
    let tensors = tensors.map_err(|reason| WeightsError::Damaged { path: path.into(), reason })?;
    let strip = tensors.keys().all(|name| name.starts_with(DATA_PARALLEL));
    let renamed = |(name, tensor): (String, Tensor)| match name.strip_prefix(DATA_PARALLEL).filter(|_| strip) {
        Some(bare) => (bare.to_string(), tensor),
        None => (name, tensor),
    };
    Ok(tensors.into_iter().map(renamed).collect())
}

/// What `torch.nn.DataParallel` puts before every name.
const DATA_PARALLEL: &str = "module.";

/// What people hand over by mistake.
fn other_kind(bytes: &[u8]) -> Option<&'static str> {
    let starts = |prefix: &[u8]| bytes.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if bytes.is_empty() {
        Some("it is empty")
    } else if starts(b"<!doctype") || starts(b"<html") {
        Some("it is a web page: the download went wrong")
    } else if starts(b"version https://git-lfs") {
        Some("it is a pointer of Git LFS, not the file it stands for: run `git lfs pull`")
    } else if starts(b"\x1f\x8b") || starts(b"\xfd7zXZ") || starts(b"\x28\xb5\x2f\xfd") {
        Some("it is compressed: unpack it first")
    } else if bytes.get(257..262) == Some(b"ustar") {
        Some(
            "it is a tar archive: unpack it, or if PyTorch wrote it before version 0.2, save it again with a newer one",
        )
    } else if starts(b"\x80") && bytes.get(1).is_some_and(|version| *version <= 5) && bytes.get(8) != Some(&b'{') {
        // A safetensors file whose header is that long has a brace there, behind the length.
        Some("it is a Python pickle that PyTorch did not write: save the state_dict with torch.save")
    } else if starts(b"\x89HDF") {
        Some("it is an HDF5 file of Keras, not of PyTorch")
    } else {
        None
    }
}

/// The tensors of a safetensors file.
///
/// # Errors
/// If the bytes are no such file, or are cut short.
pub fn from_safetensors_bytes(bytes: &[u8], device: &Device) -> Result<BTreeMap<String, Tensor>> {
    match candle_core::safetensors::load_buffer(bytes, device) {
        Ok(tensors) => Ok(tensors.into_iter().collect()),
        Err(error) => bail!("its {} bytes are no complete safetensors file: {error}", bytes.len()),
    }
}
