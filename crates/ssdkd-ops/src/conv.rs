//! Two-dimensional convolution on channels-last images.
//!
//! | file | what it decides |
//! |---|---|
//! | `shape` | which sizes fit together |
//! | `gather` | which input pixels make an output pixel, forward and in the input's gradient |
//! | `pack` | the order of the weights |
//! | `apply` | how a convolution is cut into units of work |
//! | `tile` | the loop in registers |
//! | `weight_gradient` | the same three questions for the gradient of the weight |
//! | `depthwise` | convolutions without a sum over channels |
//! | `winograd` | 3×3 convolutions with stride 1, by fewer multiplications |

mod apply;
mod depthwise;
mod gather;
mod pack;
mod shape;
mod tile;
mod weight_gradient;
mod winograd;

use candle_core::{Result, Tensor};

use crate::device;
use crate::parallel;
use crate::simd::SimdPath;
use crate::value::Value;
use gather::Gather;
pub use shape::Conv2dSpec;
pub(crate) use shape::ConvShape;

/// Cross-correlation, as every deep-learning library calls convolution.
///
/// `x` (B, H, W, C), `weight` (O, C/groups, kh, kw) as PyTorch stores it, `bias` (O,); the result is (B, H', W', O) with
/// H' = ⌊(H + 2·padding − dilation·(kh − 1) − 1) / stride⌋ + 1. Gradients flow into each input that wants one; none of
/// the others is computed.
///
/// # Errors
/// If the shapes do not fit together, or a tensor is not contiguous `f32` on the CPU.
pub fn conv2d(x: &Value, weight: &Value, bias: Option<&Value>, spec: Conv2dSpec) -> Result<Value> {
    let shape = ConvShape::new(x.dims(), weight.dims(), bias.map(Value::dims), spec)?;
    record(x, weight, bias, shape, "conv2d", &shape.output_dims())
}

/// Records a convolution of `shape` whose result has dimensions `dims` (which may be written with fewer axes).
pub(crate) fn record(
    x: &Value,
    weight: &Value,
    bias: Option<&Value>,
    shape: ConvShape,
    name: &'static str,
    dims: &[usize],
) -> Result<Value> {
    let out = {
        let bias = bias.map(|bias| device::slice(bias.tensor(), name)).transpose()?;
        let (x, weight) = (device::slice(x.tensor(), name)?, device::slice(weight.tensor(), name)?);
        forward(&shape, &x, &weight, bias.as_deref())?
    };
    let out = device::tensor(out, dims)?;

    let wants_bias = bias.is_some_and(Value::wants_gradient);
    // Each gradient needs the other factor, and no gradient needs its own.
    let kept_weight = x.wants_gradient().then(|| weight.tensor().clone());
    let kept_x = weight.wants_gradient().then(|| x.tensor().clone());
    let (x_dims, weight_dims) = (x.dims().to_vec(), weight.dims().to_vec());
    let inputs = [Some(x), Some(weight), bias].into_iter().flatten().collect::<Vec<_>>();
    let has_bias = bias.is_some();
    Ok(Value::record1(out, &inputs, move |gradient: &Tensor| {
        let gradient = device::slice(gradient, name)?;
        let to_x = match &kept_weight {
            Some(weight) => {
                let weight = device::slice(weight, name)?;
                Some(device::tensor(input_gradient(&shape, &gradient, &weight)?, &*x_dims)?)
            }
            None => None,
        };
        let to_weight = match &kept_x {
            Some(x) => {
                let x = device::slice(x, name)?;
                Some(device::tensor(weight_gradient(&shape, &x, &gradient)?, &*weight_dims)?)
            }
            None => None,
        };
        let mut gradients = vec![to_x, to_weight];
        if has_bias {
            let to_bias = wants_bias.then(|| device::tensor(bias_gradient(&shape, &gradient), shape.output[2]));
            gradients.push(to_bias.transpose()?);
        }
        Ok(gradients)
    }))
}

fn forward(shape: &ConvShape, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Result<Vec<f32>> {
    let path = SimdPath::current()?;
    let mut out = device::unspecified(shape.batch * shape.output_len());
    if winograd::suits(shape) {
        winograd::forward(path, shape, x, weight, bias, &mut out);
        return Ok(out);
    }
    gather(path, shape, &Gather::forward(shape), x, weight, bias, &mut out);
    Ok(out)
}

fn input_gradient(shape: &ConvShape, gradient: &[f32], weight: &[f32]) -> Result<Vec<f32>> {
    let path = SimdPath::current()?;
    let mut out = device::unspecified(shape.batch * shape.input_len());
    if winograd::suits(shape) {
        winograd::input_gradient(path, shape, gradient, weight, &mut out);
        return Ok(out);
    }
    gather(path, shape, &Gather::input_gradient(shape), gradient, weight, None, &mut out);
    Ok(out)
}

fn gather(
    path: SimdPath,
    shape: &ConvShape,
    gather: &Gather,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    if shape.is_depthwise() {
        depthwise::apply(path, gather, x, weight, bias, out);
    } else {
        apply::apply(path, gather, x, weight, bias, out);
    }
}

fn weight_gradient(shape: &ConvShape, x: &[f32], gradient: &[f32]) -> Result<Vec<f32>> {
    let path = SimdPath::current()?;
    let mut out = device::unspecified(shape.weight_len());
    if winograd::suits(shape) {
        winograd::weight_gradient(path, shape, x, gradient, &mut out);
    } else if shape.is_depthwise() {
        depthwise::weight_gradient(path, shape, x, gradient, &mut out);
    } else {
        weight_gradient::weight_gradient(path, shape, x, gradient, &mut out);
    }
    Ok(out)
}

/// The sum of the gradient over all pixels, by channel.
fn bias_gradient(shape: &ConvShape, gradient: &[f32]) -> Vec<f32> {
    let channels = shape.output[2];
    parallel::sum_over_rows(gradient.len() / channels, channels, channels, |rows, sums| {
        for pixel in gradient[rows.start * channels..rows.end * channels].chunks(channels) {
            for (sum, number) in sums.iter_mut().zip(pixel) {
                *sum += number;
            }
        }
    })
}
