//! ONNX files, with a small writer of protocol buffers instead of a library.
//!
//! The same network and texts make the same bytes.

mod nodes;
mod values;

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::wire::Message;
use crate::error::{GraphError, clean};
use crate::graph::Graph;
use crate::shape::Shape;
use values::Values;

/// The version of the operations. Every runtime since 2022 has it.
const OPSET: i64 = 17;

/// The version of the file format that belongs to [`OPSET`].
const IR_VERSION: i64 = 8;

/// The name of the input.
const INPUT: &str = "images";

/// The name of the first output.
const OUTPUT: &str = "logits";

/// Most bytes of a message of protocol buffers.
const MOST_BYTES: usize = i32::MAX as usize;

/// What a file says besides the network.
#[derive(Debug, Clone, Default)]
pub struct OnnxTexts {
    /// The version of the program that writes it.
    pub version: String,
    /// Keys and texts for who reads the file.
    pub metadata: Vec<(String, String)>,
}

/// Returns a network as the bytes of an ONNX file with operations of version 17.
///
/// The input `images` is (batch, channels, height, width) for any batch, and the first output is `logits`. Weights have the names of the
/// graph's tensors.
///
/// # Errors
/// If a tensor is missing, the file would have more than 2 GiB, or ONNX has no operation for a node. The error names it.
pub fn to_onnx(graph: &Graph, tensors: &BTreeMap<String, Tensor>, texts: &OnnxTexts) -> Result<Vec<u8>, GraphError> {
    graph.check()?;
    let count = |shape: &[usize]| shape.iter().fold(4_usize, |bytes, &size| bytes.saturating_mul(size));
    let bytes = graph.tensors().values().map(|spec| count(&spec.shape)).fold(0, usize::saturating_add);
    if bytes > MOST_BYTES {
        return Err(GraphError::Graph(format!(
            "the network has {bytes} bytes of weights, and an ONNX file holds at most {MOST_BYTES}"
        )));
    }
    let mut values = Values::new(graph, tensors);
    for id in graph.ids().skip(1) {
        nodes::write(&mut values, id)?;
    }
    let outputs = values.outputs();
    let Values { nodes, initializers, .. } = values;
    let main = Message::default()
        .messages(1, nodes)
        .text(2, "ssdkd")
        .messages(5, initializers)
        .message(11, value_info(INPUT, graph.shape(crate::graph::NodeId(0))));
    let main = outputs
        .iter()
        .zip(graph.outputs())
        .fold(main, |main, (name, id)| main.message(12, value_info(name, graph.shape(*id))));
    if main.len() > MOST_BYTES {
        return Err(GraphError::Graph(format!("the ONNX file would have more than {MOST_BYTES} bytes")));
    }
    let pair = |(key, value): &(String, String)| Message::default().text(1, key).text(2, value);
    let model = Message::default()
        .int(1, IR_VERSION)
        .text(2, "ssdkd")
        .text(3, &clean(&texts.version))
        .message(7, main)
        .message(8, Message::default().int(2, OPSET))
        .messages(14, texts.metadata.iter().map(pair));
    Ok(model.finish())
}

/// A name with its type: numbers of 32 bits, of any batch.
fn value_info(name: &str, shape: Shape) -> Message {
    let sizes = match shape {
        Shape::Map { channels, height, width } => vec![channels, height, width],
        Shape::Rows { features } => vec![features],
    };
    let batch = Message::default().text(2, "batch");
    let sizes = sizes.into_iter().map(|size| Message::default().int(1, size as i64));
    let shape = Message::default().messages(1, [batch].into_iter().chain(sizes));
    let tensor = Message::default().int(1, FLOAT).message(2, shape);
    Message::default().text(1, name).message(2, Message::default().message(1, tensor))
}

/// ONNX's numbers of its types.
const FLOAT: i64 = 1;
const INT64: i64 = 7;
