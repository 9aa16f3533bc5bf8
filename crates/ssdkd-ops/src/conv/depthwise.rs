//! Convolutions of each channel on its own.
//!
//! There is no sum over channels to keep a register tile busy with, so channels themselves fill the registers: for every
//! output pixel, a register of channels is summed over the taps that lie inside of the image. Memory bounds this, not
//! arithmetic.

use super::epilogue::Epilogue;
use super::gather::{Gather, Phase};
use super::shape::ConvShape;
use crate::parallel::{self, SharedMut};
use crate::simd::{SimdPath, Vector, dispatch};

/// Computes `out` from `input`, in either direction; see [`Gather`].
pub(crate) fn apply(
    path: SimdPath,
    gather: &Gather,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    let channels = gather.output[2];
    let taps = weight.len() / channels;
    let packed = transpose(weight, channels, taps);
    let zero = vec![0.0; channels];
    let bias = bias.unwrap_or(&zero);
    let [out_height, out_width, _] = gather.output;
    let out = SharedMut::new(out);
    let rows = gather.rows();
    parallel::for_each_piece(gather.batch * rows, |unit| {
        let (image, row) = (unit / rows, unit % rows);
        let image_len = gather.input.iter().product::<usize>();
        let image_in = &input[image * image_len..(image + 1) * image_len];
        for phase in gather.phases.iter().filter(|phase| row < phase.size[0]) {
            let out_row = image * out_height + row * gather.out_step + phase.start[0];
            // SAFETY: units and phases differ in output rows, or share a row between phases of one unit, one by one.
            let numbers = unsafe { out.part(out_row * out_width * channels..(out_row + 1) * out_width * channels) };
            let (job, out) = (&Job { gather, phase, row, input: image_in, weight: &packed, bias }, &mut *numbers);
            // SAFETY: a path is only obtained where the CPU has its instructions.
            unsafe { dispatch!(path, sum_taps, [], [], [], (job: &Job, out: &mut [f32])) }
            epilogue.finish(path, numbers, out_row * out_width * channels);
        }
    });
}

struct Job<'a> {
    gather: &'a Gather,
    phase: &'a Phase,
    row: usize,
    /// One image.
    input: &'a [f32],
    /// `[tap][channel]`
    weight: &'a [f32],
    bias: &'a [f32],
}

/// # Safety
/// The CPU has the instructions of `V`.
#[inline(always)]
unsafe fn sum_taps<V: Vector>(job: &Job, out_row: &mut [f32]) {
    let gather = job.gather;
    let [height, width, channels] = gather.input;
    let mut reached = Vec::with_capacity(job.phase.taps.len());
    for column in 0..job.phase.size[1] {
        reached.clear();
        for tap in &job.phase.taps {
            let row = (job.row * gather.in_step) as isize + tap.row;
            let column = (column * gather.in_step) as isize + tap.column;
            if (0..height as isize).contains(&row) && (0..width as isize).contains(&column) {
                let at = (row as usize * width + column as usize) * channels;
                let weight = tap.index * channels;
                reached.push((&job.input[at..at + channels], &job.weight[weight..weight + channels]));
            }
        }
        let at = (column * gather.out_step + job.phase.start[1]) * channels;
        let out = &mut out_row[at..at + channels];
        let whole = channels - channels % V::LANES;
        for channel in (0..whole).step_by(V::LANES) {
            // SAFETY: `channel + LANES` is at most `channels`, the length of every slice here.
            unsafe {
                let mut sum = V::load(job.bias.as_ptr().add(channel));
                for (input, weight) in &reached {
                    let input = V::load(input.as_ptr().add(channel));
                    sum = input.multiply_add(V::load(weight.as_ptr().add(channel)), sum);
                }
                sum.store(out.as_mut_ptr().add(channel));
            }
        }
        for channel in whole..channels {
            out[channel] =
                reached.iter().fold(job.bias[channel], |sum, (input, weight)| sum + input[channel] * weight[channel]);
        }
    }
}

/// Images that one partial gradient is summed over.
const IMAGES: usize = 8;

/// Computes the gradient of the weight (C, 1, kh, kw).
pub(crate) fn weight_gradient(path: SimdPath, shape: &ConvShape, input: &[f32], gradient: &[f32], out: &mut [f32]) {
    let (channels, taps) = (shape.input[2], shape.taps());
    let chunks = shape.batch.div_ceil(IMAGES);
    let mut partials = vec![0.0; chunks * taps * channels];
    let shared = SharedMut::new(&mut partials);
    parallel::for_each_piece(chunks, |chunk| {
        // SAFETY: each chunk has its own part.
        let sums = unsafe { shared.part(chunk * taps * channels..(chunk + 1) * taps * channels) };
        for image in chunk * IMAGES..((chunk + 1) * IMAGES).min(shape.batch) {
            let input = &input[image * shape.input_len()..(image + 1) * shape.input_len()];
            let gradient = &gradient[image * shape.output_len()..(image + 1) * shape.output_len()];
            // SAFETY: a path is only obtained where the CPU has its instructions.
            unsafe {
                dispatch!(
                    path,
                    add_products,
                    [],
                    [],
                    [],
                    (shape: &ConvShape, input: &[f32], gradient: &[f32], sums: &mut [f32])
                );
            }
        }
    });
    for channel in 0..channels {
        for tap in 0..taps {
            out[channel * taps + tap] = partials[tap * channels + channel..].iter().step_by(taps * channels).sum();
        }
    }
}

/// Adds the products over one image into `sums` `[tap][channel]`.
///
/// # Safety
/// The CPU has the instructions of `V`.
#[inline(always)]
unsafe fn add_products<V: Vector>(shape: &ConvShape, input: &[f32], gradient: &[f32], sums: &mut [f32]) {
    let [height, width, channels] = shape.input;
    let [out_height, out_width, _] = shape.output;
    let spec = shape.spec;
    let whole = channels - channels % V::LANES;
    for row in 0..out_height {
        for (tap, sums) in sums.chunks_mut(channels).enumerate() {
            let [tap_row, tap_column] = [tap / shape.kernel[1], tap % shape.kernel[1]].map(|tap| tap * spec.dilation);
            let inside = |at: usize, size: usize| at.checked_sub(spec.padding).filter(|at| *at < size);
            let Some(in_row) = inside(row * spec.stride + tap_row, height) else { continue };
            let pairs = (0..out_width).filter_map(|column| {
                let in_column = inside(column * spec.stride + tap_column, width)?;
                Some(((in_row * width + in_column) * channels, (row * out_width + column) * channels))
            });
            for channel in (0..whole).step_by(V::LANES) {
                // SAFETY: `channel + LANES` is at most `channels`, and both pixels lie inside of their images.
                unsafe {
                    let mut sum = V::load(sums.as_ptr().add(channel));
                    for (from, to) in pairs.clone() {
                        let product = V::load(gradient[to..to + channels].as_ptr().add(channel));
                        sum = V::load(input[from..from + channels].as_ptr().add(channel)).multiply_add(product, sum);
                    }
                    sum.store(sums.as_mut_ptr().add(channel));
                }
            }
            for channel in whole..channels {
                for (from, to) in pairs.clone() {
                    sums[channel] += input[from + channel] * gradient[to + channel];
                }
            }
        }
    }
}

/// (C, taps) as `[tap][channel]`.
fn transpose(weight: &[f32], channels: usize, taps: usize) -> Vec<f32> {
    (0..taps * channels).map(|at| weight[at % channels * taps + at / channels]).collect()
}
