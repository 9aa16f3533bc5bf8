//! Convolutions by their definition: for those that cuDNN has no algorithm for, and for depthwise ones, which have no sum
//! over channels that a matrix product could compute.

use candle_core::Result;

use super::gpu::{Gpu, count};
use super::program::{Argument, arguments};
use super::settings::Stored;
use crate::conv::ConvShape;

/// As the kernels have it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Convolution {
    batch: u32,
    input: [u32; 3],
    output: [u32; 3],
    kernel: [u32; 2],
    /// Down, across; zeros above and before.
    stride: [u32; 2],
    padding: [u32; 2],
    dilation: [u32; 2],
    groups: u32,
}

impl Convolution {
    fn of(shape: &ConvShape) -> Self {
        let spec = shape.spec;
        Self {
            batch: count(shape.batch),
            input: shape.input.map(count),
            output: shape.output.map(count),
            kernel: shape.kernel.map(count),
            stride: spec.stride.map(count),
            padding: spec.before().map(count),
            dilation: spec.dilation.map(count),
            groups: count(spec.groups),
        }
    }
}

/// `out` (B, H', W', O) from x and the weight as PyTorch stores it; addresses.
pub(super) fn forward(gpu: &Gpu, shape: &ConvShape, stored: Stored, x: u64, weight: u64, out: u64) -> Result<()> {
    let numbers = shape.batch * shape.output_len();
    let conv = Convolution::of(shape);
    gpu.launch_each_for(
        stored,
        "direct_forward",
        numbers,
        arguments![x, weight, out, count(numbers), Argument::of(&conv)],
    )
}

/// `out` (B, H, W, C) from the output's gradient and the weight.
pub(super) fn input_gradient(
    gpu: &Gpu,
    shape: &ConvShape,
    stored: Stored,
    gradient: u64,
    weight: u64,
    out: u64,
) -> Result<()> {
    let numbers = shape.batch * shape.input_len();
    let conv = Convolution::of(shape);
    gpu.launch_each_for(
        stored,
        "direct_input_gradient",
        numbers,
        arguments![gradient, weight, out, count(numbers), Argument::of(&conv)],
    )
}

/// `out` (O, C/groups, kh, kw) from x and the output's gradient.
pub(super) fn weight_gradient(
    gpu: &Gpu,
    shape: &ConvShape,
    stored: Stored,
    x: u64,
    gradient: u64,
    out: u64,
) -> Result<()> {
    let conv = Convolution::of(shape);
    gpu.launch_for(
        stored,
        "direct_weight_gradient",
        (count(shape.weight_len()), 1),
        arguments![x, gradient, out, Argument::of(&conv)],
    )
}

/// Pixels of the output that one partial sum of a depthwise gradient takes, about, and how many such sums there are at most.
const CHUNK: usize = 2048;
const MAX_CHUNKS: usize = 64;

/// As [`weight_gradient`], of a convolution with one channel a group.
pub(super) fn depthwise_weight_gradient(
    gpu: &Gpu,
    shape: &ConvShape,
    stored: Stored,
    x: u64,
    gradient: u64,
    out: u64,
) -> Result<()> {
    let conv = Convolution::of(shape);
    let (channels, taps) = (shape.output[2], shape.taps());
    let pixels = shape.batch * shape.output[0] * shape.output[1];
    let chunks = (pixels / CHUNK).clamp(1, MAX_CHUNKS);
    let (_sums, sums) = gpu.tensor_of::<f64>((chunks, taps, channels))?;
    let grid = (count(channels.div_ceil(32)), count(chunks * taps));
    let arguments = arguments![x, gradient, sums, count(chunks), Argument::of(&conv)];
    gpu.launch_for(stored, "depthwise_weight_gradient", grid, arguments)?;
    let arguments = arguments![sums, out, count(channels * taps), count(chunks), count(taps)];
    gpu.launch_each("depthwise_weight_total", channels * taps, arguments)
}
