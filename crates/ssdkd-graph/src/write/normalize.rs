//! A network that takes images as they are: its first nodes normalize them.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::Network;
use crate::error::GraphError;
use crate::graph::{Graph, NodeId};
use crate::op::Op;

/// What images need before the first layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalization {
    /// Whether red and blue change places before everything else.
    pub swaps_red_and_blue: bool,
    /// A factor for each channel.
    pub scale: Vec<f32>,
    /// What is added after that, for each channel.
    pub shift: Vec<f32>,
}

/// Returns the network with nodes that normalize its images. Two tensors are new.
///
/// # Errors
/// If scale or shift do not have a number for each channel.
pub fn with_normalization(
    graph: &Graph,
    tensors: &BTreeMap<String, Tensor>,
    normalization: &Normalization,
) -> Result<Network, GraphError> {
    let Normalization { swaps_red_and_blue, scale, shift } = normalization;
    let [channels, ..] = graph.input();
    let mut tensors = tensors.clone();
    let mut result = Graph::new(&graph.nodes()[0].name, graph.input())?;
    for (name, spec) in graph.tensors() {
        result.declare(name, &spec.shape, spec.trained)?;
    }
    let mut x = NodeId(0);
    if *swaps_red_and_blue {
        let mut parts = Vec::new();
        for channel in (0..channels).rev() {
            let name = unused(graph, &format!("channel{channel}"));
            parts.push(result.push(&name, Op::SliceChannels { start: channel, end: channel + 1 }, &[x])?);
        }
        x = result.push(&unused(graph, "swapped"), Op::Concat, &parts)?;
    }
    let mut named = |what: &str, numbers: &[f32]| -> Result<Option<String>, GraphError> {
        let name = (1..).map(|count| format!("{what}{}", if count > 1 { count.to_string() } else { String::new() }));
        let name = name.into_iter().find(|name| !tensors.contains_key(name)).unwrap_or_default();
        let tensor = Tensor::from_slice(numbers, numbers.len(), &Device::Cpu);
        tensors.insert(name.clone(), tensor.map_err(|error| GraphError::Graph(error.to_string()))?);
        result.declare(&name, &[numbers.len()], false)?;
        Ok(Some(name))
    };
    let op = Op::Affine { scale: named("normalize.scale", scale)?, shift: named("normalize.shift", shift)? };
    x = result.push(&unused(graph, "normalize"), op, &[x])?;
    let mut places = vec![x];
    for node in graph.nodes().iter().skip(1) {
        let inputs = node.inputs.iter().map(|input| places[input.index()]).collect::<Vec<_>>();
        places.push(result.push(&node.name, node.op.clone(), &inputs)?);
    }
    let outputs = graph.outputs().iter().map(|output| places[output.index()]).collect::<Vec<_>>();
    result.set_outputs(&outputs)?;
    Ok((result, tensors))
}

/// `name`, or with underscores where the graph has a node of that name.
fn unused(graph: &Graph, name: &str) -> String {
    let mut name = name.to_string();
    while graph.find(&name).is_some() {
        name.push('_');
    }
    name
}
