//! Batch norms as part of the layers before them.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};

use super::{Network, numbers};
use crate::error::GraphError;
use crate::graph::Graph;
use crate::op::{BatchNorm, Conv2d, Op};
use crate::simplify::{Edit, apply};

/// Returns the network with batch norms folded into the convolutions and linear layers before them.
///
/// A norm stays where other nodes need what it normalizes, or share the weights. Products are computed in f64.
///
/// # Errors
/// If a tensor is missing.
pub fn with_folded_norms(graph: &Graph, tensors: &BTreeMap<String, Tensor>) -> Result<Network, GraphError> {
    let mut folded = graph.clone();
    let mut tensors = tensors.clone();
    let mut edits = HashMap::new();
    let users = graph.users();
    let mut uses = HashMap::<&str, usize>::new();
    for node in graph.nodes() {
        node.op.tensors().into_iter().for_each(|(name, _)| *uses.entry(name).or_default() += 1);
    }
    for id in graph.ids() {
        let Op::BatchNorm(norm) = &graph.node(id).op else { continue };
        let before = graph.node(id).inputs[0];
        let is_private = users[before.index()] == [id] && !graph.outputs().contains(&before);
        let source = graph.node(before);
        let is_shared = source.op.tensors().iter().any(|(name, _)| uses[name] > 1);
        if !is_private || is_shared || edits.contains_key(&before) {
            continue;
        }
        let Some((weight, bias)) = layer(&source.op) else { continue };
        let bias_name = bias.map_or_else(|| unused(&tensors, weight), str::to_string);
        let shape = &graph.tensors()[weight].shape;
        let (weights, biases) = product(&tensors, weight, bias, norm)?;
        let tensor = |numbers: Vec<f32>, shape: &[usize]| {
            Tensor::from_vec(numbers, shape, &Device::Cpu).map_err(|error| GraphError::Graph(error.to_string()))
        };
        if bias.is_none() {
            folded.declare(&bias_name, &[biases.len()], true)?;
        }
        tensors.insert(bias_name.clone(), tensor(biases, &shape[..1])?);
        tensors.insert(weight.to_string(), tensor(weights, shape)?);
        let mut node = source.clone();
        match &mut node.op {
            Op::Conv2d(Conv2d { bias, .. }) | Op::Linear { bias, .. } => *bias = Some(bias_name),
            _ => continue,
        }
        edits.insert(before, Edit::Become(node));
        edits.insert(id, Edit::Vanish(before));
    }
    let folded = apply(&folded, &edits)?;
    tensors.retain(|name, _| folded.tensors().contains_key(name));
    Ok((folded, tensors))
}

/// Weight and bias of a layer whose first dimension is that of its outputs.
fn layer(op: &Op) -> Option<(&str, Option<&str>)> {
    match op {
        Op::Conv2d(Conv2d { weight, bias, .. }) | Op::Linear { weight, bias } => Some((weight, bias.as_deref())),
        _ => None,
    }
}

/// The weights and the biases with the norm in them.
fn product(
    tensors: &BTreeMap<String, Tensor>,
    weight: &str,
    bias: Option<&str>,
    norm: &BatchNorm,
) -> Result<(Vec<f32>, Vec<f32>), GraphError> {
    let [gamma, beta, mean, variance] =
        [&norm.weight, &norm.bias, &norm.running_mean, &norm.running_var].map(|name| numbers(tensors, name));
    let (gamma, beta, mean, variance) = (gamma?, beta?, mean?, variance?);
    let channels = gamma.len();
    let old = bias.map_or_else(|| Ok(vec![0.0; channels]), |name| numbers(tensors, name))?;
    let factor = |channel: usize| f64::from(gamma[channel]) / (f64::from(variance[channel]) + norm.eps).sqrt();
    let mut weights = numbers(tensors, weight)?;
    let each = weights.len() / channels.max(1);
    for (channel, kernel) in weights.chunks_exact_mut(each.max(1)).enumerate() {
        let factor = factor(channel);
        for number in kernel {
            *number = (f64::from(*number) * factor) as f32;
        }
    }
    let bias = |channel: usize| {
        let difference = f64::from(old[channel]) - f64::from(mean[channel]);
        (f64::from(beta[channel]) + difference * factor(channel)) as f32
    };
    Ok((weights, (0..channels).map(bias).collect()))
}

/// The name of a new bias: that of the weight with `bias` at its end.
fn unused(tensors: &BTreeMap<String, Tensor>, weight: &str) -> String {
    let mut name = format!("{}bias", weight.strip_suffix("weight").unwrap_or(weight));
    while tensors.contains_key(&name) {
        name.push('_');
    }
    name
}
