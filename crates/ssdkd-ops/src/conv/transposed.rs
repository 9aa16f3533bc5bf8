//! Transposed convolution: the input's gradient of a convolution, as a layer.

use candle_core::{Result, Tensor, bail};

use super::epilogue::Epilogue;
use super::{Conv2dSpec, ConvShape, bias_gradient, input_gradient, output, weight_gradient};
use crate::device;
use crate::value::Value;

/// Transposed convolution, as PyTorch's `ConvTranspose2d`.
///
/// `x` (B, H, W, I), `weight` (I, O/groups, kh, kw) as PyTorch stores it, `bias` (O,); the result is (B, H', W', O) with
/// H' = (H − 1)·stride − top − bottom + dilation·(kh − 1) + `output_padding` + 1. Gradients flow into each input that wants one.
///
/// # Errors
/// If the shapes do not fit together, or `output_padding` (down, across) is not below the stride.
pub fn conv_transpose2d(
    x: &Value,
    weight: &Value,
    bias: Option<&Value>,
    spec: Conv2dSpec,
    output_padding: [usize; 2],
) -> Result<Value> {
    let name = "conv_transpose2d";
    let shape = shape(x.dims(), weight.dims(), bias.map(Value::dims), spec, output_padding)?;
    Transposed { x, weight, bias, shape, name }.record()
}

/// The convolution whose input's gradient this is.
fn shape(
    x: &[usize],
    weight: &[usize],
    bias: Option<&[usize]>,
    spec: Conv2dSpec,
    output_padding: [usize; 2],
) -> Result<ConvShape> {
    let (&[batch, height, width, inputs], &[expected, per_group, kernel_height, kernel_width]) = (x, weight) else {
        bail!("conv_transpose2d: takes x (B, H, W, I) and a weight (I, O/groups, kh, kw), got {x:?} and {weight:?}");
    };
    if inputs != expected {
        bail!(
            "conv_transpose2d: the input has {inputs} channels, the weight {weight:?} takes {expected}\n\
             hint: inputs are channels-last, (B, H, W, C)"
        );
    }
    let outputs = per_group.saturating_mul(spec.groups);
    if let Some(bias) = bias
        && bias != [outputs]
    {
        bail!("conv_transpose2d: the bias has shape {bias:?}, the weight asks for [{outputs}]");
    }
    if (0..2).any(|axis| output_padding[axis] >= spec.stride[axis]) {
        bail!("conv_transpose2d: the output padding {output_padding:?} has to be below the stride {:?}", spec.stride);
    }
    let size = |size: usize, kernel: usize, axis: usize| {
        let reach = kernel.checked_sub(1)?.checked_mul(spec.dilation[axis])?;
        let whole = size.checked_sub(1)?.checked_mul(spec.stride[axis])?.checked_add(reach)?.checked_add(1)?;
        let size = whole.checked_add(output_padding[axis])?.checked_sub(spec.before()[axis])?;
        size.checked_sub(spec.after()[axis]).filter(|size| *size > 0)
    };
    let (Some(out_height), Some(out_width)) = (size(height, kernel_height, 0), size(width, kernel_width, 1)) else {
        bail!(
            "conv_transpose2d: padding {:?} leaves nothing of an output of {x:?} with a weight {weight:?}",
            spec.padding
        );
    };
    let shape = ConvShape::new(&[batch, out_height, out_width, outputs], weight, None, spec)?;
    debug_assert_eq!(shape.output, [height, width, inputs]);
    Ok(shape)
}

/// A transposed convolution of known sizes.
pub(crate) struct Transposed<'a> {
    pub x: &'a Value,
    pub weight: &'a Value,
    pub bias: Option<&'a Value>,
    /// Of the convolution: its input is the result here, its output is `x`.
    pub shape: ConvShape,
    pub name: &'static str,
}

impl Transposed<'_> {
    /// (B, H', W', O) of the result.
    pub fn dims(&self) -> [usize; 4] {
        let [height, width, channels] = self.shape.input;
        [self.shape.batch, height, width, channels]
    }

    fn record(&self) -> Result<Value> {
        let Self { x, weight, bias, shape, name } = *self;
        on_gpu!(x.tensor() => crate::cuda::transposed_convolution(self));
        let out = {
            let (x, weight) = (device::slice(x.tensor(), name)?, device::slice(weight.tensor(), name)?);
            let bias = bias.map(|bias| device::slice(bias.tensor(), name)).transpose()?;
            device::tensor(input_gradient(&shape, &x, &weight, bias.as_deref())?, &self.dims())?
        };
        // Each gradient needs the other factor, and no gradient needs its own.
        let kept_weight = x.wants_gradient().then(|| weight.tensor().clone());
        let kept_x = weight.wants_gradient().then(|| x.tensor().clone());
        let (x_dims, weight_dims) = (x.dims().to_vec(), weight.dims().to_vec());
        let inputs = [Some(x), Some(weight), bias].into_iter().flatten().collect::<Vec<_>>();
        let wants_bias = bias.map(Value::wants_gradient);
        Ok(Value::record1(out, &inputs, move |gradient: &Tensor| {
            let gradient = device::slice(gradient, name)?;
            let to_x = |weight: &Tensor| {
                let weight = device::slice(weight, name)?;
                device::tensor(output(&shape, &gradient, &weight, None, Epilogue::default())?, &*x_dims)
            };
            let to_weight = |x: &Tensor| {
                let x = device::slice(x, name)?;
                device::tensor(weight_gradient(&shape, &gradient, &x)?, &*weight_dims)
            };
            let mut gradients =
                vec![kept_weight.as_ref().map(to_x).transpose()?, kept_x.as_ref().map(to_weight).transpose()?];
            if let Some(wants) = wants_bias {
                let channels = shape.input[2];
                let to_bias = wants.then(|| device::tensor(bias_gradient(channels, &gradient), channels));
                gradients.push(to_bias.transpose()?);
            }
            Ok(gradients)
        }))
    }
}
