//! Networks in foreign formats: PyTorch's `.pt2` and ONNX.
//!
//! A file comes from strangers. Reading one runs no code, takes memory in proportion to the file, and answers whatever is in
//! it with a network or one error.

mod build;
mod constant;
mod frozen;
mod layers;
mod meaning;
mod onnx;
mod pt2;
mod views;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use crate::error::{GraphError, clean};
use crate::graph::Graph;
use crate::simplify;

use build::Builder;

/// A network from a file.
#[derive(Debug, Clone)]
pub struct Imported {
    /// What it computes, simplified.
    pub graph: Graph,
    /// Its tensors by name: exactly those of the graph, on the CPU.
    pub tensors: BTreeMap<String, Tensor>,
    /// Texts that came with the network, by name: `extra_files` of a `.pt2`, the metadata of an ONNX file.
    pub extra: BTreeMap<String, Vec<u8>>,
    /// The program that wrote the file; empty where the file does not say.
    pub producer: String,
    /// Why the network has no batch normalization, where the file says that they were folded into convolutions.
    pub folded: Option<String>,
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file is not there, or not readable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is damaged, or something else.
    #[error("{path} holds no network that can be read: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The network uses operations that are not supported.
    #[error("{path} uses operations that are not supported:{}", list(.operations))]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// All of them.
        operations: Vec<Unsupported>,
    },
}

/// An operation that is not supported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    /// The operation, as the file calls it.
    pub op: String,
    /// The node, as the file calls it.
    pub node: String,
    /// What about it is not supported.
    pub reason: String,
}

/// The lines that export a network so that this program can read it.
pub const EXPORT_HINT: &str = "hint: export the network with PyTorch 2.9 or newer:\n\
    \x20 program = torch.export.export(model.eval(), (images,), dynamic_shapes=({0: torch.export.Dim(\"batch\")},))\n\
    \x20 torch.export.save(program, \"model.pt2\")";

/// Most kinds of operations, and nodes of each, that an error shows.
const SHOWN: usize = 24;
const SHOWN_NODES: usize = 4;

fn list(operations: &[Unsupported]) -> String {
    let mut kinds = BTreeMap::<(&str, &str), Vec<&str>>::new();
    for Unsupported { op, node, reason } in operations {
        kinds.entry((op, reason)).or_default().push(node);
    }
    let mut text = String::new();
    for ((op, reason), nodes) in kinds.iter().take(SHOWN) {
        let shown = nodes.iter().take(SHOWN_NODES).map(|node| clean(node)).collect::<Vec<_>>().join(", ");
        let more = match nodes.len().saturating_sub(SHOWN_NODES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let _ = write!(text, "\n  {} at {shown}{more}: {}", clean(op), clean(reason)); // writing to a String cannot fail
    }
    if kinds.len() > SHOWN {
        let _ = write!(text, "\n  and {} more kinds", kinds.len() - SHOWN);
    }
    text
}

/// Reads a network from a `.pt2` or `.onnx` file. The contents decide which it is, not the name.
///
/// # Errors
/// If the file cannot be read, is damaged, is something else, or uses operations that are not supported.
pub fn import(path: &Path) -> Result<Imported, ReadError> {
    let bytes = std::fs::read(path).map_err(|source| ReadError::Read { path: path.into(), source })?;
    let folder = path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    parse_in(&bytes, path, folder)
}

/// As [`import`], from the file's bytes; `path` is for errors. Tensors in other files cannot be read.
///
/// # Errors
/// As [`import`].
pub fn parse(bytes: &[u8], path: &Path) -> Result<Imported, ReadError> {
    parse_in(bytes, path, None)
}

fn parse_in(bytes: &[u8], path: &Path, folder: Option<&Path>) -> Result<Imported, ReadError> {
    let raw = if bytes.starts_with(b"PK\x03\x04") {
        pt2::read(bytes)
    } else if let Some(reason) = other_kind(bytes) {
        Err(reason.into())
    } else {
        onnx::read(bytes, folder)
    };
    raw.and_then(Raw::finish).map_err(|problem| match problem {
        Problem::Unusable(reason) => ReadError::Unusable { path: path.into(), reason },
        Problem::Unsupported(operations) => ReadError::Unsupported { path: path.into(), operations },
    })
}

/// Returns the error for files that people give by mistake.
fn other_kind(bytes: &[u8]) -> Option<String> {
    let starts = |prefix: &[u8]| bytes.starts_with(prefix);
    let what = if bytes.is_empty() {
        "it is empty"
    } else if starts(b"\x89HDF") {
        "it is an HDF5 file of Keras"
    } else if bytes.get(4..8) == Some(b"TFL3") {
        "it is a TFLite file"
    } else if starts(b"version https://git-lfs") {
        "it is a pointer of Git LFS: run `git lfs pull`"
    } else if starts(b"<!doctype") || starts(b"<!DOCTYPE") || starts(b"<html") {
        "it is a web page: the download went wrong"
    } else if bytes.get(8) == Some(&b'{') {
        "it is a safetensors file, which has tensors but no network"
    } else if starts(b"\x80") {
        "it is a Python pickle, which has no network that can be read without running its code"
    } else {
        return None;
    };
    Some(format!("{what}\n{EXPORT_HINT}"))
}

/// Why a reader gives up.
#[derive(Debug)]
pub(crate) enum Problem {
    Unusable(String),
    Unsupported(Vec<Unsupported>),
}

impl From<String> for Problem {
    fn from(reason: String) -> Self {
        Self::Unusable(reason)
    }
}

impl From<&str> for Problem {
    fn from(reason: &str) -> Self {
        Self::Unusable(reason.into())
    }
}

impl From<GraphError> for Problem {
    fn from(error: GraphError) -> Self {
        Self::Unusable(error.to_string())
    }
}

/// A network as a reader leaves it.
pub(crate) struct Raw {
    builder: Builder,
    extra: BTreeMap<String, Vec<u8>>,
    producer: String,
    folded: Option<String>,
}

impl Raw {
    fn finish(self) -> Result<Imported, Problem> {
        let Self { builder, extra, producer, folded } = self;
        let (graph, numbers) = builder.finish();
        let graph = simplify::simplify(&graph)?;
        let mut tensors = BTreeMap::new();
        for (name, spec) in graph.tensors() {
            let tensor = match numbers.get(name) {
                // Numbers that several names share are copied here, and only here.
                Some(numbers) => Tensor::from_slice(numbers, &*spec.shape, &Device::Cpu),
                // A count of batches, which no file needs.
                None if spec.shape.is_empty() => Tensor::zeros((), DType::I64, &Device::Cpu),
                None => return Err(format!("the tensor {} has no numbers", clean(name)).into()),
            };
            tensors.insert(
                name.clone(),
                tensor.map_err(|error| format!("the tensor {} is unusable: {error}", clean(name)))?,
            );
        }
        Ok(Imported { graph, tensors, extra, producer, folded })
    }
}
