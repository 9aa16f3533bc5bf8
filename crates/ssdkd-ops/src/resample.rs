//! Changes of resolution of images (B, H, W, C).

use candle_core::{Result, bail};

use crate::images::{Images, map_images};
use crate::separable::{Axis, Separable};
use crate::value::Value;

/// How a resized image is made of the pixels of the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// Of the pixel at ⌊i · input / output⌋, as PyTorch's `nearest`.
    Nearest,
    /// Of the four pixels around.
    Bilinear {
        /// Whether the middles of the corner pixels lie on one another. Otherwise the corners of both images do
        /// ("half-pixel").
        align_corners: bool,
    },
}

/// Resizes images to any height and width: (B, H, W, C) to (B, height, width, C), as PyTorch's `interpolate` of a size. It
/// averages nothing when it makes images smaller.
///
/// # Errors
/// If `x` is not of rank 4, or a size is 0.
pub fn resize(x: &Value, size: [usize; 2], how: Interpolation) -> Result<Value> {
    let operation = "resize";
    let from = Images::of(operation, x.tensor())?;
    from.resized(operation, size)?;
    let axis = |input: usize, output: usize| Axis::new([input, output], |index| taps(how, input, output, index));
    Separable { rows: axis(from.height, size[0]), columns: axis(from.width, size[1]) }.apply(operation, x)
}

/// The pixels that pixel `index` of the output is made of along one axis; those of no weight are left out.
fn taps(how: Interpolation, input: usize, output: usize, index: usize) -> impl Iterator<Item = (usize, f64)> {
    let (first, second) = match how {
        Interpolation::Nearest => ((index * input / output, 1.0), None),
        Interpolation::Bilinear { align_corners } => {
            let place = match align_corners {
                true if output == 1 => 0.0,
                true => index as f64 * (input - 1) as f64 / (output - 1) as f64,
                false => ((index as f64 + 0.5) * input as f64 / output as f64 - 0.5).max(0.0),
            };
            let below = (place as usize).min(input - 1);
            let share = if below + 1 < input { place - below as f64 } else { 0.0 };
            ((below, 1.0 - share), (share > 0.0).then_some((below + 1, share)))
        }
    };
    [first].into_iter().chain(second)
}

/// Every pixel `factor` times in both directions: (B, H, W, C) to (B, factor·H, factor·W, C).
///
/// # Errors
/// If `x` is not of rank 4, or the factor is 0.
pub fn upsample_nearest(x: &Value, factor: usize) -> Result<Value> {
    let operation = "upsample_nearest";
    if factor == 0 {
        bail!("{operation}: the factor has to be at least 1");
    }
    let from = Images::of(operation, x.tensor())?;
    let to = Images { height: from.height * factor, width: from.width * factor, ..from };
    on_gpu!(x.tensor() => crate::cuda::upsample_nearest(operation, x, (from, to), factor));
    let channels = from.channels;
    let out = map_images(operation, x.tensor(), from, to, |_, x, out| {
        for (x, out) in x.chunks_exact(from.row()).zip(out.chunks_exact_mut(factor * to.row())) {
            let (first, rest) = out.split_at_mut(to.row());
            for (pixel, copies) in x.chunks_exact(channels).zip(first.chunks_exact_mut(factor * channels)) {
                copies.chunks_exact_mut(channels).for_each(|copy| copy.copy_from_slice(pixel));
            }
            rest.chunks_exact_mut(to.row()).for_each(|row| row.copy_from_slice(first));
        }
    })?;
    Ok(Value::record1(out, &[x], move |grad| {
        let grad = map_images(operation, grad, to, from, |_, grad, out| {
            for (grad, out) in grad.chunks_exact(factor * to.row()).zip(out.chunks_exact_mut(from.row())) {
                for (row, grad) in grad.chunks_exact(to.row()).enumerate() {
                    for (copies, out) in grad.chunks_exact(factor * channels).zip(out.chunks_exact_mut(channels)) {
                        for (column, copy) in copies.chunks_exact(channels).enumerate() {
                            if row == 0 && column == 0 {
                                out.copy_from_slice(copy);
                            } else {
                                out.iter_mut().zip(copy).for_each(|(out, &copy)| *out += copy);
                            }
                        }
                    }
                }
            }
        })?;
        Ok(vec![Some(grad)])
    }))
}

/// Every `stride`-th pixel, with `pad_channels_each_side` channels of zeros before and after: (B, H, W, C) to
/// (B, ⌈H/stride⌉, ⌈W/stride⌉, C + 2·pad).
///
/// This is the parameter-free shortcut (option A) of the CIFAR residual networks (He et al. 2016).
///
/// # Errors
/// If `x` is not of rank 4, or the stride is 0.
pub fn subsample_pad(x: &Value, stride: usize, pad_channels_each_side: usize) -> Result<Value> {
    let operation = "subsample_pad";
    if stride == 0 {
        bail!("{operation}: the stride has to be at least 1");
    }
    let from = Images::of(operation, x.tensor())?;
    let to = Images {
        height: from.height.div_ceil(stride),
        width: from.width.div_ceil(stride),
        channels: from.channels + 2 * pad_channels_each_side,
        ..from
    };
    on_gpu!(x.tensor() => crate::cuda::subsample_pad(operation, x, (from, to), stride, pad_channels_each_side));
    let kept = pad_channels_each_side..pad_channels_each_side + from.channels;
    let out = map_images(operation, x.tensor(), from, to, |_, x, out| {
        for (x, out) in x.chunks_exact(from.row()).step_by(stride).zip(out.chunks_exact_mut(to.row())) {
            let pixels = x.chunks_exact(from.channels).step_by(stride).zip(out.chunks_exact_mut(to.channels));
            for (x, out) in pixels {
                out[..kept.start].fill(0.0);
                out[kept.clone()].copy_from_slice(x);
                out[kept.end..].fill(0.0);
            }
        }
    })?;
    let kept = pad_channels_each_side..pad_channels_each_side + from.channels;
    Ok(Value::record1(out, &[x], move |grad| {
        let grad = map_images(operation, grad, to, from, |_, grad, out| {
            out.fill(0.0);
            for (grad, out) in grad.chunks_exact(to.row()).zip(out.chunks_exact_mut(from.row()).step_by(stride)) {
                let pixels = grad.chunks_exact(to.channels).zip(out.chunks_exact_mut(from.channels).step_by(stride));
                pixels.for_each(|(grad, out)| out.copy_from_slice(&grad[kept.clone()]));
            }
        })?;
        Ok(vec![Some(grad)])
    }))
}
