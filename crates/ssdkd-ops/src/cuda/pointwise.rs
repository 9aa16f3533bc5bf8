//! One number at a time, on a GPU.

use candle_core::{Result, Tensor};

use super::activation_code;
use super::gpu::{Gpu, count};
use super::program::{Argument, arguments};
use crate::activation::Activation;
use crate::value::Value;
use crate::vectorised::{check_same_shape, check_separate};

/// A tensor of `kernel` of every number of `x`.
fn map(operation: &str, kernel: &'static str, x: &Tensor, more: &[Argument]) -> Result<Tensor> {
    let gpu = Gpu::of(x, operation)?;
    let n = x.elem_count();
    let (out, to) = gpu.tensor(x.shape().clone())?;
    let mut arguments = arguments![gpu.at(x, operation)?, to, count(n)].to_vec();
    arguments.extend_from_slice(more);
    gpu.launch_each(kernel, n.div_ceil(4), &arguments)?;
    Ok(out)
}

/// A tensor of `kernel` of every pair of numbers of `a` and `b`.
fn map_pairs(operation: &str, kernel: &'static str, a: &Tensor, b: &Tensor, more: &[Argument]) -> Result<Tensor> {
    check_same_shape(operation, a, b)?;
    let gpu = Gpu::of(a, operation)?;
    let n = a.elem_count();
    let (out, to) = gpu.tensor(a.shape().clone())?;
    let mut arguments = arguments![gpu.at(a, operation)?, gpu.at(b, operation)?, to, count(n)].to_vec();
    arguments.extend_from_slice(more);
    gpu.launch_each(kernel, n.div_ceil(4), &arguments)?;
    Ok(out)
}

pub(crate) fn rectify(operation: &'static str, x: &Value, activation: Activation) -> Result<Value> {
    let (kind, slope) = activation_code(activation);
    let out = map(operation, "rectify_forward", x.tensor(), arguments![kind, slope])?;
    let kept = out.clone();
    Ok(Value::record1(out, &[x], move |grad| Ok(vec![Some(rectify_gradient(operation, &kept, grad, activation)?)])))
}

/// The gradient before an activation, from its output (or input) and the gradient behind it.
pub(super) fn rectify_gradient(operation: &str, y: &Tensor, grad: &Tensor, activation: Activation) -> Result<Tensor> {
    let (kind, slope) = activation_code(activation);
    map_pairs(operation, "rectify_backward", y, grad, arguments![kind, slope])
}

pub(crate) fn sigmoid(x: &Value) -> Result<Value> {
    let out = map("sigmoid", "sigmoid_forward", x.tensor(), &[])?;
    let kept = out.clone();
    Ok(Value::record1(out, &[x], move |grad| {
        Ok(vec![Some(map_pairs("sigmoid", "sigmoid_backward", &kept, grad, &[])?)])
    }))
}

pub(crate) fn scale(x: &Value, factor: f32) -> Result<Value> {
    let out = map("scale", "scale", x.tensor(), arguments![factor])?;
    Ok(Value::record1(out, &[x], move |grad| Ok(vec![Some(map("scale", "scale", grad, arguments![factor])?)])))
}

/// `x · factor · flow`, where flow has one number.
pub(super) fn scaled_by(operation: &str, x: &Tensor, flow: &Tensor, factor: f64) -> Result<Tensor> {
    let gpu = Gpu::of(x, operation)?;
    let n = x.elem_count();
    let (out, to) = gpu.tensor(x.shape().clone())?;
    let arguments = arguments![gpu.at(x, operation)?, gpu.at(flow, operation)?, to, count(n), factor];
    gpu.launch_each("scale_by", n.div_ceil(4), arguments)?;
    Ok(out)
}

pub(crate) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    map_pairs("add", "add", a, b, &[])
}

/// `target` changes in place, each number by `kernel` of it and its partner in `x`.
fn change(operation: &'static str, kernel: &'static str, target: &Tensor, x: &Tensor, more: &[Argument]) -> Result<()> {
    check_same_shape(operation, target, x)?;
    check_separate(operation, &[target, x])?;
    let gpu = Gpu::of(target, operation)?;
    let n = target.elem_count();
    let mut arguments = arguments![gpu.at(x, operation)?, gpu.at(target, operation)?, count(n)].to_vec();
    arguments.extend_from_slice(more);
    gpu.launch_each(kernel, n.div_ceil(4), &arguments)
}

/// `sum += x`.
pub(crate) fn add_assign(sum: &Tensor, x: &Tensor) -> Result<()> {
    change("add_assign", "add_assign", sum, x, &[])
}

/// `target = source`.
pub(crate) fn copy_assign(target: &Tensor, source: &Tensor) -> Result<()> {
    change("copy_assign", "copy_assign", target, source, &[])
}

pub(crate) fn lerp_assign(target: &Tensor, source: &Tensor, amount: f32) -> Result<()> {
    change("lerp_assign", "lerp_assign", target, source, arguments![amount])
}

pub(crate) fn round_to_u8_levels(x: &Tensor) -> Result<Tensor> {
    map("round_to_u8_levels", "round_to_u8_levels", x, &[])
}

pub(crate) fn affine_channels(x: &Value, scale: &[f32], shift: &[f32]) -> Result<Value> {
    let gpu = Gpu::of(x.tensor(), "affine_channels")?;
    let (scales, _) = gpu.upload(scale)?;
    let (shifts, _) = gpu.upload(shift)?;
    let out = affine(x.tensor(), &scales, Some(&shifts))?;
    Ok(Value::record1(out, &[x], move |grad| Ok(vec![Some(affine(grad, &scales, None)?)])))
}

fn affine(x: &Tensor, scale: &Tensor, shift: Option<&Tensor>) -> Result<Tensor> {
    let operation = "affine_channels";
    let gpu = Gpu::of(x, operation)?;
    let (n, channels) = (x.elem_count(), scale.elem_count());
    let (out, to) = gpu.tensor(x.shape().clone())?;
    let (scale, shift) = (gpu.at(scale, operation)?, gpu.at_optional(shift, operation)?);
    let arguments = arguments![gpu.at(x, operation)?, scale, shift, to, count(n), count(channels)];
    gpu.launch_each("affine", n, arguments)?;
    Ok(out)
}

pub(crate) fn nchw_to_nhwc(x: &Value, [batch, channels, height, width]: [usize; 4]) -> Result<Value> {
    let pixels = height * width;
    let out = turned(x.tensor(), channels, pixels, [batch, height, width, channels])?;
    Ok(Value::record1(out, &[x], move |grad| {
        Ok(vec![Some(turned(grad, pixels, channels, [batch, channels, height, width])?)])
    }))
}

/// Every image of rows × columns numbers, transposed.
fn turned(x: &Tensor, rows: usize, columns: usize, dims: [usize; 4]) -> Result<Tensor> {
    let operation = "nchw_to_nhwc";
    let gpu = Gpu::of(x, operation)?;
    let n = x.elem_count();
    let (out, to) = gpu.tensor(&dims)?;
    let arguments = arguments![gpu.at(x, operation)?, to, count(n), count(rows), count(columns)];
    gpu.launch_each("transpose", n, arguments)?;
    Ok(out)
}
