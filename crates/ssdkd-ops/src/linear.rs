//! The fully connected layer: a 1×1 convolution on an image that is one pixel wide and as many pixels tall as there are
//! samples, computed by the kernels of [`conv2d`](crate::conv2d).

use candle_core::{Result, bail};

use crate::activation::Activation;
use crate::conv::{Conv2dSpec, ConvShape, Convolution};
use crate::value::Value;

/// `x · weightᵀ + bias`: `x` (B, I), `weight` (O, I) as PyTorch stores it, `bias` (O,); the result is (B, O).
///
/// # Errors
/// If the shapes do not fit together, or a tensor is not contiguous `f32`.
pub fn linear(x: &Value, weight: &Value, bias: Option<&Value>) -> Result<Value> {
    let (&[batch, inputs], &[outputs, expected]) = (x.dims(), weight.dims()) else {
        bail!("linear: takes x (B, I) and a weight (O, I), these have shapes {:?} and {:?}", x.dims(), weight.dims());
    };
    if inputs != expected {
        bail!("linear: x {:?} has {inputs} features, the weight {:?} takes {expected}", x.dims(), weight.dims());
    }
    if let Some(bias) = bias
        && bias.dims() != [outputs]
    {
        bail!("linear: the bias has shape {:?}, the weight asks for [{outputs}]", bias.dims());
    }
    let shape = ConvShape::new(&[1, batch, 1, inputs], &[outputs, inputs, 1, 1], None, Conv2dSpec::default())?;
    let activation = Activation::None;
    Convolution { x, weight, packed: None, bias, residual: None, activation, shape, name: "linear" }
        .record(&[batch, outputs])
}
