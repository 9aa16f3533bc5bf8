//! Sums, products with constants and changes of layout: the glue between the larger operations.

use candle_core::shape::ShapeWithOneHole;
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::simd::SimdPath;
use crate::value::Value;
use crate::vectorised::{affine_slice, map, pattern, pattern_piece_rows, sum_pairs};
use crate::{device, parallel};

/// `factor · x`.
pub fn scale(x: &Value, factor: f64) -> Result<Value> {
    let factor = factor as f32;
    on_gpu!(x.tensor() => crate::cuda::scale(x, factor));
    let out = map("scale", x.tensor(), |x| x * factor)?;
    Ok(Value::record1(out, &[x], move |grad| Ok(vec![Some(map("scale", grad, |grad| grad * factor)?)])))
}

/// The sum of all numbers, added up in f64; a tensor of rank 0.
pub fn sum_all(x: &Value) -> Result<Value> {
    scaled_sum("sum_all", x, 1.0)
}

/// The mean of all numbers, added up in f64; a tensor of rank 0.
///
/// # Errors
/// If there are no numbers.
pub fn mean_all(x: &Value) -> Result<Value> {
    let count = x.tensor().elem_count();
    if count == 0 {
        bail!("mean_all: a tensor of shape {:?} has no mean", x.dims());
    }
    scaled_sum("mean_all", x, 1.0 / count as f64)
}

fn scaled_sum(operation: &'static str, x: &Value, factor: f64) -> Result<Value> {
    on_gpu!(x.tensor() => crate::cuda::sum(operation, x, factor));
    let total = {
        let numbers = device::slice(x.tensor(), operation)?;
        sum_pairs(&numbers, &numbers, |x, _| x)?
    };
    let out = scalar_tensor(total * factor)?;
    let shape = x.tensor().shape().clone();
    Ok(Value::record1(out, &[x], move |grad| {
        let grad = scalar_of(operation, grad)? * factor;
        Ok(vec![Some(device::tensor(vec![grad as f32; shape.elem_count()], shape.clone())?)])
    }))
}

/// `Σ factor · term` over values of one element each, added up in f64; a tensor of rank 0. No terms sum to 0.
///
/// # Errors
/// If a term has more than one element.
pub fn weighted_sum(terms: &[(f64, &Value)]) -> Result<Value> {
    check_single("weighted_sum", terms)?;
    if !terms.is_empty() {
        on_gpu!(terms[0].1.tensor() => crate::cuda::weighted_sum(terms));
    }
    let mut total = 0.0;
    for (factor, term) in terms {
        total += factor * scalar_of("weighted_sum", term.tensor())?;
    }
    let backward = terms
        .iter()
        .map(|(factor, term)| (*factor, term.wants_gradient(), term.tensor().shape().clone()))
        .collect::<Vec<_>>();
    let inputs = terms.iter().map(|(_, term)| *term).collect::<Vec<_>>();
    Ok(Value::record1(scalar_tensor(total)?, &inputs, move |grad| {
        let grad = scalar_of("weighted_sum", grad)?;
        let one = |(factor, wants, shape): &(f64, bool, candle_core::Shape)| {
            wants.then(|| device::tensor(vec![(grad * factor) as f32], shape.clone())).transpose()
        };
        backward.iter().map(one).collect()
    }))
}

fn check_single(operation: &str, terms: &[(f64, &Value)]) -> Result<()> {
    match terms.iter().find(|(_, term)| term.tensor().elem_count() != 1) {
        Some((_, term)) => {
            bail!("{operation}: takes a value of one element, this one has shape {:?}", term.dims())
        }
        None => Ok(()),
    }
}

/// The same numbers in another shape, without a copy. One size may be left open: `reshape(x, (b, ()))`.
///
/// # Errors
/// If the shapes have different numbers of elements.
pub fn reshape(x: &Value, shape: impl ShapeWithOneHole) -> Result<Value> {
    let before = x.tensor().shape().clone();
    let out = x.tensor().detach().reshape(shape)?;
    Ok(Value::record1(out, &[x], move |grad| Ok(vec![Some(grad.reshape(before.clone())?)])))
}

/// From PyTorch's layout to ours: (B, C, H, W) to (B, H, W, C).
///
/// # Errors
/// If `x` is not of rank 4.
pub fn nchw_to_nhwc(x: &Value) -> Result<Value> {
    let [batch, channels, height, width] = *x.dims() else {
        bail!("nchw_to_nhwc: takes images (B, C, H, W), this tensor has shape {:?}", x.dims());
    };
    on_gpu!(x.tensor() => crate::cuda::nchw_to_nhwc(x, [batch, channels, height, width]));
    let pixels = height * width;
    let out = {
        let numbers = device::slice(x.tensor(), "nchw_to_nhwc")?;
        device::tensor(transposed_images(&numbers, channels, pixels), (batch, height, width, channels))?
    };
    Ok(Value::record1(out, &[x], move |grad| {
        let grad = device::slice(grad, "nchw_to_nhwc")?;
        Ok(vec![Some(device::tensor(transposed_images(&grad, pixels, channels), (batch, channels, height, width))?)])
    }))
}

/// Transposes every image of `rows × columns` numbers.
fn transposed_images(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = device::unspecified(x.len());
    if x.is_empty() {
        return out;
    }
    let image = rows * columns;
    parallel::for_each_rows(&mut out, image, |range, out| {
        for (x, out) in x[range.start * image..range.end * image].chunks_exact(image).zip(out.chunks_exact_mut(image)) {
            for (column, out) in out.chunks_exact_mut(rows).enumerate() {
                for (row, out) in out.iter_mut().enumerate() {
                    *out = x[row * columns + column];
                }
            }
        }
    });
    out
}

/// `scale[c] · x + shift[c]` for every channel c, the last dimension of `x` (…, C); the constants get no gradient.
///
/// This is how images in [0, 1] are normalised: scale 1/std, shift −mean/std.
///
/// # Errors
/// If there is not one scale and one shift for each channel, or no channel.
pub fn affine_channels(x: &Value, scale: &[f32], shift: &[f32]) -> Result<Value> {
    let channels = x.dims().last().copied().unwrap_or(0);
    if channels == 0 || scale.len() != channels || shift.len() != channels {
        bail!(
            "affine_channels: takes one scale and one shift for each of the {channels} channels of {:?}, got {} and {}",
            x.dims(),
            scale.len(),
            shift.len()
        );
    }
    on_gpu!(x.tensor() => crate::cuda::affine_channels(x, scale, shift));
    let scale = pattern(channels, |c| scale[c]);
    let shift = pattern(channels, |c| shift[c]);
    let out = affine(x.tensor(), channels, &scale, &shift)?;
    Ok(Value::record1(out, &[x], move |grad| Ok(vec![Some(affine(grad, channels, &scale, &vec![0.0; scale.len()])?)])))
}

fn affine(x: &Tensor, channels: usize, scale: &[f32], shift: &[f32]) -> Result<Tensor> {
    let path = SimdPath::current()?;
    let numbers = device::slice(x, "affine_channels")?;
    let mut out = device::unspecified(numbers.len());
    let piece = pattern_piece_rows(channels) * channels.max(1);
    let pieces = numbers.par_chunks(piece).zip(out.par_chunks_mut(piece));
    pieces.for_each(|(x, out)| affine_slice(path, x, scale, shift, out, &|y| y));
    drop(numbers);
    device::tensor(out, x.shape())
}

/// `round(255 · x) / 255` of images in [0, 1]: the nearest values that 8 bits can hold; what lies outside is clamped.
///
/// No gradient: networks that learn from stored images have to see them as they will be stored.
pub fn round_to_u8_levels(x: &Tensor) -> Result<Tensor> {
    on_gpu!(x => crate::cuda::round_to_u8_levels(x));
    map("round_to_u8_levels", x, |x| (x.clamp(0.0, 1.0) * 255.0).round() / 255.0)
}

/// A tensor of rank 0.
pub(crate) fn scalar_tensor(number: f64) -> Result<Tensor> {
    device::tensor(vec![number as f32], ())
}

/// The number in a tensor of one element.
///
/// # Errors
/// If it has more or fewer elements.
pub(crate) fn scalar_of(operation: &str, x: &Tensor) -> Result<f64> {
    match *device::slice(x, operation)? {
        [number] => Ok(f64::from(number)),
        _ => bail!("{operation}: takes a value of one element, this one has shape {:?}", x.dims()),
    }
}
