//! Weight files: PyTorch checkpoints in, safetensors in and out.
//!
//! A weight file comes from strangers. Reading one runs no code, allocates no more than a small multiple of its size,
//! and answers whatever is in it with tensors or an error.

mod build;
mod choose;
mod counts;
mod encode;
mod entries;
mod foreign;
mod modules;
mod names;
mod naming;
mod normalization;
mod refusal;
mod reparametrized;
mod roles;
mod tensors;
mod torch;
mod wrappers;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use candle_core::{Device, Result, Tensor, bail};

use refusal::{Refusal, listed, short};
use torch::Checkpoint;

pub(crate) use encode::to_safetensors_bytes;

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
    /// The other networks of the file.
    pub also: Vec<Entry>,
    /// The other keys of the file, such as `epoch` and `args`.
    pub others: Vec<String>,
    /// Whether the file holds the state of an optimizer, which was left out.
    pub has_optimizer: bool,
}

/// An entry of a checkpoint that holds the tensors of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is: keys from the root, with dots between them. Empty for the whole file.
    pub key: String,
    /// How many tensors it has.
    pub tensors: usize,
    /// The number of parameters together.
    pub parameters: usize,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if self.key.is_empty() { "the file itself".into() } else { short(&self.key) };
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
                "weights from the entry {}: {} tensors, {} parameters",
                short(entry),
                self.tensors.len(),
                self.parameters()
            ));
        }
        if !self.also.is_empty() {
            let also = listed(self.also.iter().map(Entry::to_string));
            lines.push(format!("the file also holds {also}; --key chooses"));
        }
        if !self.prefix.is_empty() {
            lines.push(format!("removed the prefix {} from every name", short(&self.prefix)));
        }
        lines.extend(self.notices.iter().cloned());
        if !self.dropped.is_empty() {
            let mut counts = BTreeMap::<_, usize>::new();
            for name in &self.dropped {
                *counts.entry(name.rsplit('.').next().unwrap_or(name)).or_default() += 1;
            }
            let counts = listed(counts.iter().map(|(name, count)| format!("{name} ({count})")));
            lines.push(format!("left out {} tensors of tools: {counts}", self.dropped.len()));
        }
        lines
    }
}

/// Reads the weights of a network from a PyTorch checkpoint or a safetensors file; the contents decide which, not the name.
///
/// Every dictionary with tensors in a checkpoint is a network, at any depth. Of several, the averaged weights (EMA) come
/// before those that they are the average of, and `state_dict`, `model` and their like before other entries. What all
/// names begin with is removed, such as `module.`. [`Import`] says what was taken, and what was left out.
///
/// # Errors
/// If the file cannot be read, is damaged, or is something else. The error names the file and what is wrong with it.
/// Also if it holds several networks, and `choice` says of none that it is wanted; then the error lists them.
pub fn import(path: &Path, choice: &Choice<'_>) -> std::result::Result<Import, WeightsError> {
    if path.is_dir() {
        return Err(foreign::refuse_folder(path).of(path));
    }
    parse(&std::fs::read(path).map_err(|source| WeightsError::Read { path: path.into(), source })?, path, choice)
}

/// As [`import`], from the file's bytes; `path` is for errors.
///
/// # Errors
/// If the bytes are damaged or something else than weights, or hold several networks.
pub fn parse(bytes: &[u8], path: &Path, choice: &Choice<'_>) -> std::result::Result<Import, WeightsError> {
    read(bytes, path, choice).map_err(|refusal| refusal.of(path))
}

fn read(bytes: &[u8], path: &Path, choice: &Choice<'_>) -> refusal::Result<Import> {
    if torch::is_checkpoint(bytes) {
        return from_checkpoint(bytes, path, choice);
    }
    if let Some(refusal) = foreign::refuse(bytes, path) {
        return Err(refusal);
    }
    let mut tensors = from_safetensors_bytes(bytes, &Device::Cpu).map_err(|error| {
        Refusal::new(error.to_string(), format!("fetch or copy the file again; {}", refusal::READABLE))
    })?;
    if choice.key.is_some() {
        return Err(Refusal::choice("a safetensors file has no entries", "leave --key out; --prefix chooses tensors"));
    }
    let shapes = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
    let names = names::clean(&shapes, choice.prefix)?;
    finish(names, |name| tensors.remove(name).ok_or_else(|| "a tensor is missing".into()))
}

fn from_checkpoint(bytes: &[u8], path: &Path, choice: &Choice<'_>) -> refusal::Result<Import> {
    let Checkpoint { pickle, big_endian, source } = torch::open(bytes, path)?;
    let root = pickle.root();
    if root.get("StructuredToParameterName@@").is_some() {
        return Err(foreign::paddle());
    }
    let mut found = entries::find(&pickle);
    if found.networks.is_empty() {
        return Err(choose::nothing(&found, root, path));
    }
    let chosen = choose::network(&found, root, choice.key)?;
    let others = found.others(root);
    let chosen = found.networks.remove(chosen);
    let names = names::clean(&chosen.shapes(), choice.prefix)?;
    let stored = names.kept.keys().filter_map(|name| chosen.tensors.get(name)?.storage());
    let storages = source.storages(&pickle, stored.map(|storage| (storage.key, storage.bytes())))?;
    let expression = chosen.python(path);
    let mut maker = build::Maker::new(storages, big_endian, bytes.len(), &expression);
    let mut import = finish(names, |name| match chosen.tensors.get(name) {
        Some(source) => maker.make(name, source),
        None => Err("a tensor is missing".into()),
    })?;
    if let Some(class) = chosen.class {
        import.notices.insert(0, format!("read the parameters and buffers of a whole model object (class {class})"));
    }
    import.entry = Some(chosen.key).filter(|key| !key.is_empty());
    (import.others, import.has_optimizer) = (others, found.has_optimizer);
    import.also = found.networks.iter().map(entries::Candidate::entry).collect();
    Ok(import)
}

/// Makes the tensors under their new names, and puts those together that are stored in parts.
fn finish(names: naming::Names, mut make: impl FnMut(&str) -> refusal::Result<Tensor>) -> refusal::Result<Import> {
    let naming::Names { kept, prefix, dropped, mut notices } = names;
    let mut tensors = BTreeMap::new();
    for (old, new) in kept {
        tensors.insert(new, make(&old)?);
    }
    notices.extend(reparametrized::resolve(&mut tensors)?);
    notices.extend(normalization::take(&mut tensors));
    counts::restore(&mut tensors).map_err(|error| format!("a num_batches_tracked is unusable: {error}"))?;
    Ok(Import {
        tensors,
        entry: None,
        prefix,
        dropped,
        notices,
        also: Vec::new(),
        others: Vec::new(),
        has_optimizer: false,
    })
}

/// Returns the tensors of a safetensors file.
///
/// # Errors
/// If the bytes are no such file, or are cut short.
pub(crate) fn from_safetensors_bytes(bytes: &[u8], device: &Device) -> Result<BTreeMap<String, Tensor>> {
    match candle_core::safetensors::load_buffer(bytes, device) {
        Ok(tensors) => Ok(tensors.into_iter().collect()),
        Err(error) => bail!("its {} bytes are no complete safetensors file: {error}", bytes.len()),
    }
}
