//! Losses over logits (B, K) on a GPU.

use candle_core::{Result, Tensor, bail};

use super::gpu::{BLOCK, Gpu, count};
use super::norm::mean_probabilities;
use super::pointwise::scaled_by;
use super::program::arguments;
use crate::value::Value;

/// Rows of a block: a warp each.
const ROWS: usize = BLOCK as usize / 32;

/// Rows whose blocks the scratch memory has places for.
const MOST_ROWS: usize = 1 << 24;

pub(super) fn blocks_of_rows(operation: &str, rows: usize) -> Result<(u32, u32)> {
    if rows > MOST_ROWS {
        bail!(
            "{operation}: {rows} rows are too many for a GPU, at most {MOST_ROWS}\n\
             hint: take fewer images at a time; where pixels are labelled, each of them is a row"
        );
    }
    Ok((count(rows.div_ceil(ROWS)), 1))
}

/// An optional tensor to be written, and its address, 0 for none.
fn wanted(gpu: &Gpu, wants: bool, like: &Tensor) -> Result<(Option<Tensor>, u64)> {
    if !wants {
        return Ok((None, 0));
    }
    let (tensor, at) = gpu.tensor(like.shape().clone())?;
    Ok((Some(tensor), at))
}

pub(super) fn shape_of(logits: &Tensor) -> (usize, usize) {
    (logits.dims()[0], logits.dims()[1])
}

pub(crate) fn cross_entropy(
    operation: &'static str,
    logits: &Value,
    targets: &Tensor,
    smoothing: f64,
    weights: Option<&Tensor>,
) -> Result<Value> {
    let gpu = Gpu::of(logits.tensor(), operation)?;
    let (rows, classes) = shape_of(logits.tensor());
    let (targets, weights) = (gpu.address::<u32>(targets, operation)?, gpu.at_optional(weights, operation)?);
    let (grad, grad_at) = wanted(&gpu, logits.wants_gradient(), logits.tensor())?;
    let (out, to) = gpu.tensor(())?;
    let arguments = arguments![
        gpu.at(logits.tensor(), operation)?,
        targets,
        weights,
        count(rows),
        count(classes),
        smoothing,
        grad_at,
        gpu.scratch(),
        gpu.counters(),
        to
    ];
    gpu.launch("cross_entropy", blocks_of_rows(operation, rows)?, arguments)?;
    Ok(Value::record1(out, &[logits], move |flow| {
        Ok(vec![grad.as_ref().map(|grad| scaled_by(operation, grad, flow, 1.0)).transpose()?])
    }))
}

pub(crate) fn kl_divergence(
    operation: &'static str,
    target_logits: &Value,
    logits: &Value,
    temperature: f64,
    weights: Option<&Tensor>,
) -> Result<Value> {
    let gpu = Gpu::of(logits.tensor(), operation)?;
    let (rows, classes) = shape_of(logits.tensor());
    let weights = gpu.at_optional(weights, operation)?;
    let (grad, grad_at) = wanted(&gpu, logits.wants_gradient(), logits.tensor())?;
    let (target_grad, target_at) = wanted(&gpu, target_logits.wants_gradient(), logits.tensor())?;
    let (out, to) = gpu.tensor(())?;
    let arguments = arguments![
        gpu.at(target_logits.tensor(), operation)?,
        gpu.at(logits.tensor(), operation)?,
        weights,
        count(rows),
        count(classes),
        temperature,
        grad_at,
        target_at,
        gpu.scratch(),
        gpu.counters(),
        to
    ];
    gpu.launch("kl_divergence", blocks_of_rows(operation, rows)?, arguments)?;
    Ok(Value::record1(out, &[target_logits, logits], move |flow| {
        let scaled =
            |grad: &Option<Tensor>| grad.as_ref().map(|grad| scaled_by(operation, grad, flow, 1.0)).transpose();
        Ok(vec![scaled(&target_grad)?, scaled(&grad)?])
    }))
}

pub(crate) fn softmax(operation: &str, logits: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(logits, operation)?;
    let (rows, classes) = shape_of(logits);
    let (out, to) = gpu.tensor(logits.shape().clone())?;
    let arguments = arguments![gpu.at(logits, operation)?, to, count(rows), count(classes)];
    gpu.launch("softmax", blocks_of_rows(operation, rows)?, arguments)?;
    Ok(out)
}

pub(crate) fn mean_softmax_negentropy(operation: &'static str, logits: &Value) -> Result<Value> {
    let gpu = Gpu::of(logits.tensor(), operation)?;
    let (rows, classes) = shape_of(logits.tensor());
    let probabilities = softmax(operation, logits.tensor())?;
    let (log_mean, log_mean_at) = mean_probabilities(&gpu, operation, &probabilities, (rows, classes))?;
    let (out, to) = gpu.tensor(())?;
    gpu.launch("mean_negentropy", (1, 1), arguments![log_mean_at, count(classes), to])?;
    Ok(Value::record1(out, &[logits], move |flow| {
        let gpu = Gpu::of(flow, operation)?;
        let (out, to) = gpu.tensor((rows, classes))?;
        let (probabilities, flow) = (gpu.at(&probabilities, operation)?, gpu.at(flow, operation)?);
        let log_mean = gpu.address::<f64>(&log_mean, operation)?;
        let arguments = arguments![probabilities, log_mean, flow, to, count(rows), count(classes)];
        gpu.launch("mean_negentropy_backward", blocks_of_rows(operation, rows)?, arguments)?;
        Ok(vec![Some(out)])
    }))
}
