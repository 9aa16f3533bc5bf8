//! Networks for other programs: ONNX files and PyTorch modules.
//!
//! A file says in standard operations what a graph computes. Names come from strangers' files. In ONNX they are data, and in Python they
//! are literals of letters, digits and escapes alone.

mod fold;
mod normalize;
mod onnx;
mod python;
mod windows;
mod wire;

use std::collections::BTreeMap;

use candle_core::Tensor;

pub use fold::with_folded_norms;
pub use normalize::{Normalization, with_normalization};
pub use onnx::{OnnxTexts, to_onnx};
pub use python::{PythonTexts, to_python};

use crate::error::{GraphError, clean};
use crate::graph::{Graph, Node};

/// A network with its numbers.
pub type Network = (Graph, BTreeMap<String, Tensor>);

/// Why a node cannot be written.
fn refused(node: &Node, reason: impl Into<String>) -> GraphError {
    GraphError::Node { node: node.name.clone(), op: node.op.kind(), reason: reason.into() }
}

/// The numbers of a tensor, in PyTorch's order.
fn numbers(tensors: &BTreeMap<String, Tensor>, name: &str) -> Result<Vec<f32>, GraphError> {
    let Some(tensor) = tensors.get(name) else {
        return Err(GraphError::Graph(format!("the tensor {} is missing", clean(name))));
    };
    let numbers = tensor.flatten_all().and_then(|tensor| tensor.to_vec1::<f32>());
    numbers.map_err(|error| GraphError::Graph(format!("the tensor {} cannot be written: {error}", clean(name))))
}
