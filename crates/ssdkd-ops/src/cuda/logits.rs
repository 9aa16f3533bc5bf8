//! What is read off logits (B, K) on a GPU: it stays there.

use candle_core::{Result, Tensor};

use super::gpu::{Gpu, count};
use super::loss::{blocks_of_rows, shape_of};
use super::program::arguments;

pub(crate) fn argmax_rows(operation: &str, logits: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(logits, operation)?;
    let (rows, classes) = shape_of(logits);
    let (out, to) = gpu.tensor_of::<u32>(rows)?;
    let arguments = arguments![gpu.at(logits, operation)?, to, count(rows), count(classes)];
    gpu.launch("argmax_rows", blocks_of_rows(operation, rows)?, arguments)?;
    Ok(out)
}

pub(crate) fn same_argmax(operation: &str, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(a, operation)?;
    let (rows, classes) = shape_of(a);
    let (out, to) = gpu.tensor(rows)?;
    let arguments = arguments![gpu.at(a, operation)?, gpu.at(b, operation)?, to, count(rows), count(classes)];
    gpu.launch("same_argmax", blocks_of_rows(operation, rows)?, arguments)?;
    Ok(out)
}

pub(crate) fn kl_per_sample(operation: &str, target: &Tensor, logits: &Tensor, temperature: f64) -> Result<Tensor> {
    let gpu = Gpu::of(logits, operation)?;
    let (rows, classes) = shape_of(logits);
    let (out, to) = gpu.tensor(rows)?;
    let (target, logits) = (gpu.at(target, operation)?, gpu.at(logits, operation)?);
    let arguments = arguments![target, logits, to, count(rows), count(classes), temperature];
    gpu.launch("kl_per_sample", blocks_of_rows(operation, rows)?, arguments)?;
    Ok(out)
}

pub(crate) fn focal_weights(operation: &str, logits: &Tensor, of_class: &Tensor, gamma: f64) -> Result<Tensor> {
    let gpu = Gpu::of(logits, operation)?;
    let (rows, classes) = shape_of(logits);
    let (out, to) = gpu.tensor(rows)?;
    let (logits, of_class) = (gpu.at(logits, operation)?, gpu.at(of_class, operation)?);
    let arguments = arguments![logits, of_class, to, count(rows), count(classes), gamma];
    gpu.launch("focal_weights", blocks_of_rows(operation, rows)?, arguments)?;
    Ok(out)
}

pub(crate) fn group_means(operation: &str, x: &Tensor, size: usize) -> Result<Tensor> {
    let gpu = Gpu::of(x, operation)?;
    let groups = x.elem_count() / size;
    let (out, to) = gpu.tensor(groups)?;
    let arguments = arguments![gpu.at(x, operation)?, to, count(groups), count(size)];
    gpu.launch("group_means", blocks_of_rows(operation, groups)?, arguments)?;
    Ok(out)
}
