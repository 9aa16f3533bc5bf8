//! Operations of two tensors on a GPU; see [`crate::arithmetic`].

use candle_core::{DType, Result, Tensor};

use super::gpu::{Gpu, count};
use super::pointwise::{map, map_pairs, narrowed};
use super::program::{Argument, arguments};
use super::settings::Stored;
use crate::arithmetic::{Operation, Pair};

/// A [`Pair`] as the kernels have it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Spread {
    pixels: u32,
    channels: u32,
    steps: [u32; 3],
    operation: i32,
    swapped: i32,
}

impl From<&Pair> for Spread {
    fn from(pair: &Pair) -> Self {
        Self {
            pixels: count(pair.spread.pixels),
            channels: count(pair.spread.channels),
            steps: pair.spread.steps.map(count),
            operation: code(pair.operation),
            swapped: i32::from(pair.swapped),
        }
    }
}

/// How the kernels number operations.
fn code(operation: Operation) -> i32 {
    match operation {
        Operation::Add => 0,
        Operation::Subtract => 1,
        Operation::Multiply => 2,
        Operation::Divide => 3,
        Operation::Prelu => 4,
    }
}

/// The smaller tensor, stored as the larger one is. A parameter is `f32` beside activations in bf16.
fn stored_as(stored: Stored, small: &Tensor) -> Result<Tensor> {
    if stored == Stored::Bf16 && small.dtype() == DType::F32 { narrowed(small) } else { Ok(small.clone()) }
}

pub(crate) fn elementwise(name: &str, operation: Operation, pair: [&Tensor; 2]) -> Result<Tensor> {
    map_pairs(name, "elementwise", pair, Stored::of(pair[0], name)?, arguments![code(operation)])
}

pub(crate) fn negative(name: &str, x: &Tensor) -> Result<Tensor> {
    map(name, "negative", x, Stored::of(x, name)?, &[])
}

pub(crate) fn pair_forward(pair: &Pair, large: &Tensor, small: &Tensor) -> Result<Tensor> {
    each(pair, "pair_forward", large, large, Some(small))
}

pub(crate) fn pair_to_large(pair: &Pair, grad: &Tensor, large: &Tensor, small: Option<&Tensor>) -> Result<Tensor> {
    each(pair, "pair_to_large", grad, large, small)
}

fn each(pair: &Pair, kernel: &'static str, grad: &Tensor, large: &Tensor, small: Option<&Tensor>) -> Result<Tensor> {
    let (gpu, stored) = (Gpu::of(large, pair.name)?, Stored::of(grad, pair.name)?);
    let small = small.map(|small| stored_as(stored, small)).transpose()?;
    let small_at = gpu.optional_activations(small.as_ref(), stored, pair.name)?;
    let [grad_at, large] = [grad, large].map(|tensor| gpu.activations(tensor, stored, pair.name));
    let (out, to) = gpu.new_activations(stored, grad.shape().clone())?;
    let (numbers, spread) = (out.elem_count(), Spread::from(pair));
    let arguments = arguments![grad_at?, large?, small_at, to, count(numbers), Argument::of(&spread)];
    gpu.launch_each_for(stored, kernel, numbers, arguments)?;
    Ok(out)
}

/// The gradient of the smaller tensor, `f32` as that of a parameter or stored as the activations.
pub(crate) fn pair_to_small(pair: &Pair, grad: &Tensor, large: &Tensor, small: Option<&Tensor>) -> Result<Tensor> {
    let (gpu, stored) = (Gpu::of(large, pair.name)?, Stored::of(grad, pair.name)?);
    let small = small.map(|small| stored_as(stored, small)).transpose()?;
    let small_at = gpu.optional_activations(small.as_ref(), stored, pair.name)?;
    let [grad_at, large] = [grad, large].map(|tensor| gpu.activations(tensor, stored, pair.name));
    let (grad_at, large, spread) = (grad_at?, large?, pair.spread);
    let given = Spread::from(pair);
    let len = spread.small_len();
    let (out, to) = gpu.tensor(len)?;
    if spread.steps[1] != 0 {
        let arguments =
            arguments![grad_at, large, small_at, to, count(len), count(spread.images), Argument::of(&given)];
        gpu.launch_each_for(stored, "pair_sums_by_pixel", len, arguments)?;
    } else {
        // By image and channel, and then over those that take the same number.
        let (sums, sums_at) = gpu.tensor_of::<f64>((spread.images, spread.channels))?;
        let grid = (count(spread.channels.div_ceil(32)), count(spread.images));
        let arguments = arguments![grad_at, large, small_at, sums_at, Argument::of(&given)];
        gpu.launch_for(stored, "pair_sums", grid, arguments)?;
        let arguments = arguments![sums_at, to, count(spread.images), Argument::of(&given)];
        gpu.launch("pair_total", (count(len), 1), arguments)?;
        drop(sums);
    }
    if pair.small_stored == DType::BF16 { narrowed(&out) } else { Ok(out) }
}
