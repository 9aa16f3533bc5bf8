//! Weight files: PyTorch checkpoints in, safetensors in and out.
//!
//! A weight file comes from strangers. Reading one runs no code, allocates no more than a small multiple of its size,
//! and answers whatever is in it with tensors or an error.

mod encode;
mod torch;

use std::collections::BTreeMap;
use std::fmt;
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
    #[error("{path} is no usable weight file: {reason}\nhint: {hint}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// It holds several networks, or not the one that was asked for.
    #[error("{path}: {reason}\nhint: {hint}")]
    Choice {
        /// The file.
        path: PathBuf,
        /// Why, and what there is.
        reason: String,
        /// What to do.
        hint: String,
    },
}

/// What to take of a weight file that holds more than one network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Choice<'a> {
    /// The entry with the weights, such as `state_dict_ema` or `checkpoint.model` (`--key`).
    pub key: Option<&'a str>,
    /// What the names of the wanted tensors begin with, such as `encoder_q.` (`--prefix`).
    pub prefix: Option<&'a str>,
}

/// The tensors of a weight file, and what was done to get at them.
#[derive(Debug, Clone)]
pub struct Import {
    /// Tensors by name, with their type, on the CPU.
    pub tensors: BTreeMap<String, Tensor>,
    /// The entry they were in; `None` where they are the whole file.
    pub entry: Option<String>,
    /// What was taken off the front of every name, such as `module.`; empty if nothing was.
    pub prefix: String,
    /// Names of tensors that belong to no network, and were left out.
    pub dropped: Vec<String>,
    /// What was changed, in sentences, such as that pruning masks were applied.
    pub notices: Vec<String>,
    /// What else the file holds.
    pub also: Vec<Entry>,
}

/// An entry of a checkpoint that holds the tensors of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is: keys from the root, with dots between them. Empty for the whole file.
    pub key: String,
    /// How many tensors it has.
    pub tensors: usize,
    /// How many numbers these have in all.
    pub parameters: usize,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if self.key.is_empty() { "the file itself" } else { &self.key };
        write!(f, "{key} ({} tensors, {} parameters)", self.tensors, self.parameters)
    }
}

impl Import {
    /// Returns the number of numbers in its tensors.
    pub fn parameters(&self) -> usize {
        self.tensors.values().map(Tensor::elem_count).sum()
    }

    /// Says in sentences, a line each, what was taken and what was left out; nothing for a plain `state_dict`.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(entry) = &self.entry {
            lines.push(format!(
                "weights from the entry {entry}: {} tensors, {} parameters",
                self.tensors.len(),
                self.parameters()
            ));
        }
        if !self.also.is_empty() {
            let also = self.also.iter().map(Entry::to_string).collect::<Vec<_>>().join(", ");
            lines.push(format!("the file also holds {also}; --key chooses"));
        }
        if !self.prefix.is_empty() {
            lines.push(format!("removed the prefix {} from every name", self.prefix));
        }
        lines.extend(self.notices.iter().cloned());
        if !self.dropped.is_empty() {
            lines.push(format!("left out {}, which belong to no network", listed(&self.dropped)));
        }
        lines
    }
}

/// Most names in one message.
const MOST_LISTED: usize = 8;

/// The names with commas between them, the first few if there are many.
fn listed<T: AsRef<str>>(names: &[T]) -> String {
    let mut text = names.iter().take(MOST_LISTED).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if names.len() > MOST_LISTED {
        text += &format!(" and {} more", names.len() - MOST_LISTED);
    }
    text
}

/// Reads the weights of a network from a PyTorch checkpoint or a safetensors file; the contents decide which, not the name.
///
/// # Errors
/// If the file cannot be read, is damaged, or is something else. The error names the file and what is wrong with it.
/// Also if it holds several networks, and `choice` says of none that it is wanted; then the error lists them.
pub fn import(path: &Path, choice: &Choice<'_>) -> std::result::Result<Import, WeightsError> {
    parse(&std::fs::read(path).map_err(|source| WeightsError::Read { path: path.into(), source })?, path, choice)
}

/// As [`import`], from the file's bytes; `path` is for errors.
///
/// # Errors
/// If the bytes are damaged or something else than weights, or hold several networks.
pub fn parse(bytes: &[u8], path: &Path, _choice: &Choice<'_>) -> std::result::Result<Import, WeightsError> {
    let tensors = if torch::is_checkpoint(bytes) {
        torch::read(bytes)
    } else if let Some(reason) = other_kind(bytes) {
        Err(reason.into())
    } else {
        from_safetensors_bytes(bytes, &Device::Cpu).map_err(|error| error.to_string())
    };
    let hint = "PyTorch checkpoints (.pth, .pt, .th, .pth.tar) and .safetensors with a state_dict can be read";
    let tensors = tensors.map_err(|reason| WeightsError::Damaged { path: path.into(), reason, hint: hint.into() })?;
    let strip = tensors.keys().all(|name| name.starts_with(DATA_PARALLEL));
    let renamed = |(name, tensor): (String, Tensor)| match name.strip_prefix(DATA_PARALLEL).filter(|_| strip) {
        Some(bare) => (bare.to_string(), tensor),
        None => (name, tensor),
    };
    Ok(Import {
        tensors: tensors.into_iter().map(renamed).collect(),
        entry: None,
        prefix: if strip { DATA_PARALLEL.into() } else { String::new() },
        dropped: Vec::new(),
        notices: Vec::new(),
        also: Vec::new(),
    })
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
