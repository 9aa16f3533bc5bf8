//! One number at a time, on a GPU.

use candle_core::{Result, Tensor};

use super::gpu::{Gpu, count};
use super::program::{Argument, arguments};
use super::settings::Stored;
use crate::activation::Activation;
use crate::value::Value;
use crate::vectorised::{check_same_shape, check_separate};

/// A tensor of `kernel` of every number of `x`, which is stored as the kernel has it.
pub(super) fn map(
    operation: &str,
    kernel: &'static str,
    x: &Tensor,
    stored: Stored,
    more: &[Argument],
) -> Result<Tensor> {
    convert(operation, kernel, x, (stored, stored), stored, more)
}

/// As [`map`], by a kernel of the program for `stored` that reads and writes what is stored so.
fn convert(
    operation: &str,
    kernel: &'static str,
    x: &Tensor,
    (from, to): (Stored, Stored),
    stored: Stored,
    more: &[Argument],
) -> Result<Tensor> {
    let gpu = Gpu::of(x, operation)?;
    let n = x.elem_count();
    let (out, at) = gpu.new_activations(to, x.shape().clone())?;
    let mut arguments = arguments![gpu.activations(x, from, operation)?, at, count(n)].to_vec();
    arguments.extend_from_slice(more);
    gpu.launch_each_for(stored, kernel, n.div_ceil(4), &arguments)?;
    Ok(out)
}

/// A tensor of `kernel` of every pair of numbers of `a` and `b`, which are stored as the kernel has them.
pub(super) fn map_pairs(
    operation: &str,
    kernel: &'static str,
    [a, b]: [&Tensor; 2],
    stored: Stored,
    more: &[Argument],
) -> Result<Tensor> {
    check_same_shape(operation, a, b)?;
    let gpu = Gpu::of(a, operation)?;
    let n = a.elem_count();
    let (out, to) = gpu.new_activations(stored, a.shape().clone())?;
    let [a, b] = [gpu.activations(a, stored, operation)?, gpu.activations(b, stored, operation)?];
    let mut arguments = arguments![a, b, to, count(n)].to_vec();
    arguments.extend_from_slice(more);
    gpu.launch_each_for(stored, kernel, n.div_ceil(4), &arguments)?;
    Ok(out)
}

/// The same numbers in bf16, rounded. Gradients come back in f32.
pub(crate) fn to_bf16(x: &Value) -> Result<Value> {
    let out = narrowed(x.tensor())?;
    Ok(Value::record1(out, &[x], move |grad| Ok(vec![Some(widened(grad)?)])))
}

/// The same numbers in f32. Gradients go back in bf16.
pub(crate) fn to_f32(x: &Value) -> Result<Value> {
    let out = widened(x.tensor())?;
    Ok(Value::record1(out, &[x], move |grad| Ok(vec![Some(narrowed(grad)?)])))
}

pub(super) fn narrowed(x: &Tensor) -> Result<Tensor> {
    convert("to_bf16", "to_real", x, (Stored::F32, Stored::Bf16), Stored::Bf16, &[])
}

fn widened(x: &Tensor) -> Result<Tensor> {
    convert("to_f32", "to_float", x, (Stored::Bf16, Stored::F32), Stored::Bf16, &[])
}

pub(crate) fn activate(operation: &'static str, x: &Value, activation: Activation) -> Result<Value> {
    let out = activated(operation, x.tensor(), activation)?;
    let kept = if activation.needs_input() { x.tensor().clone() } else { out.clone() };
    Ok(Value::record1(out, &[x], move |grad| Ok(vec![Some(activation_gradient(operation, &kept, grad, activation)?)])))
}

/// `activation(x)`.
pub(super) fn activated(operation: &str, x: &Tensor, activation: Activation) -> Result<Tensor> {
    let function = super::Activation::from(activation);
    map(operation, "activate_forward", x, Stored::of(x, operation)?, &[Argument::of(&function)])
}

/// The gradient before an activation, from its input (or, for some, its output) and the gradient behind it.
pub(super) fn activation_gradient(
    operation: &str,
    z: &Tensor,
    grad: &Tensor,
    activation: Activation,
) -> Result<Tensor> {
    let function = super::Activation::from(activation);
    map_pairs(operation, "activate_backward", [z, grad], Stored::of(z, operation)?, &[Argument::of(&function)])
}

pub(crate) fn sigmoid(x: &Value) -> Result<Value> {
    let stored = Stored::of(x.tensor(), "sigmoid")?;
    let out = map("sigmoid", "sigmoid_forward", x.tensor(), stored, &[])?;
    let kept = out.clone();
    Ok(Value::record1(out, &[x], move |grad| {
        Ok(vec![Some(map_pairs("sigmoid", "sigmoid_backward", [&kept, grad], stored, &[])?)])
    }))
}

pub(crate) fn scale(x: &Value, factor: f32) -> Result<Value> {
    let out = map("scale", "scale", x.tensor(), Stored::F32, arguments![factor])?;
    Ok(Value::record1(out, &[x], move |grad| {
        Ok(vec![Some(map("scale", "scale", grad, Stored::F32, arguments![factor])?)])
    }))
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
    map_pairs("add", "add", [a, b], Stored::of(a, "add")?, &[])
}

/// `target` changes in place, each number by `kernel` of it and its partner in `x`.
fn change(
    operation: &'static str,
    kernel: &'static str,
    [target, x]: [&Tensor; 2],
    stored: Stored,
    more: &[Argument],
) -> Result<()> {
    check_same_shape(operation, target, x)?;
    check_separate(operation, &[target, x])?;
    let gpu = Gpu::of(target, operation)?;
    let n = target.elem_count();
    let [x, target] = [gpu.activations(x, stored, operation)?, gpu.activations(target, stored, operation)?];
    let mut arguments = arguments![x, target, count(n)].to_vec();
    arguments.extend_from_slice(more);
    gpu.launch_each_for(stored, kernel, n.div_ceil(4), &arguments)
}

/// `sum += x`.
pub(crate) fn add_assign(sum: &Tensor, x: &Tensor) -> Result<()> {
    change("add_assign", "add_assign", [sum, x], Stored::of(sum, "add_assign")?, &[])
}

/// `target = source`.
pub(crate) fn copy_assign(target: &Tensor, source: &Tensor) -> Result<()> {
    change("copy_assign", "copy_assign", [target, source], Stored::F32, &[])
}

pub(crate) fn lerp_assign(target: &Tensor, source: &Tensor, amount: f32) -> Result<()> {
    change("lerp_assign", "lerp_assign", [target, source], Stored::F32, arguments![amount])
}

pub(crate) fn round_to_u8_levels(x: &Tensor) -> Result<Tensor> {
    map("round_to_u8_levels", "round_to_u8_levels", x, Stored::F32, &[])
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
