//! Two-dimensional convolution on channels-last images.
//!
//! | file | what it decides |
//! |---|---|
//! | `shape` | which sizes fit together |
//! | `gather` | which input pixels make an output pixel, forward and in the input's gradient |
//! | `pack` | the order of the weights |
//! | `apply` | how a convolution is cut into units of work |
//! | `tile` | the loop in registers |
//! | `epilogue` | what is done to an output before it is written |
//! | `weight_gradient` | the same three questions for the gradient of the weight |
//! | `depthwise` | convolutions without a sum over channels |
//! | `winograd` | 3×3 convolutions with stride 1, by fewer multiplications |
//! | `transposed` | the input's gradient as a layer |

mod apply;
mod depthwise;
mod epilogue;
mod gather;
mod pack;
mod shape;
mod tile;
mod transposed;
mod weight_gradient;
mod winograd;

use candle_core::{DType, Result, Tensor, bail};

use crate::activation::{Activation, ActivationFunction, activate_in_place, with_activation};
use crate::device;
use crate::norm::{FrozenNorm, fold_batch_norm};
use crate::parallel;
use crate::simd::SimdPath;
use crate::value::Value;
use crate::vectorised::{map, map_pairs};
use epilogue::Epilogue;
use gather::Gather;
pub use shape::Conv2dSpec;
pub(crate) use shape::ConvShape;
#[cfg(feature = "cuda")]
pub(crate) use transposed::Transposed;
pub use transposed::conv_transpose2d;
pub use winograd::with_direct_convolutions;

/// Cross-correlation, as every deep-learning library calls convolution.
///
/// `x` (B, H, W, C), `weight` (O, C/groups, kh, kw) as PyTorch stores it, `bias` (O,); the result is (B, H', W', O) with
/// H' = ⌊(H + top + bottom − dilation·(kh − 1) − 1) / stride⌋ + 1, and W' from left and right in the same way. Gradients flow
/// into each input that wants one; none of the others is computed.
///
/// # Errors
/// If the shapes do not fit together, or a tensor is not contiguous `f32`.
pub fn conv2d(x: &Value, weight: &Value, bias: Option<&Value>, spec: Conv2dSpec) -> Result<Value> {
    conv2d_then(x, weight, bias, spec, None, Activation::None)
}

/// `activation(conv2d(x) + residual)`: the residual is added, and a ReLU or a clip taken, while the numbers are in registers.
/// The `residual` has the shape of the result.
///
/// For the gradient it keeps the output, or what lies before the activation where the gradient of that takes it: one tensor
/// in either case.
///
/// # Errors
/// As [`conv2d`], and if the residual has another shape.
pub fn conv2d_then(
    x: &Value,
    weight: &Value,
    bias: Option<&Value>,
    spec: Conv2dSpec,
    residual: Option<&Value>,
    activation: Activation,
) -> Result<Value> {
    let shape = ConvShape::new(x.dims(), weight.dims(), bias.map(Value::dims), spec)?;
    Convolution { x, weight, packed: None, bias, residual, activation, shape, name: "conv2d" }.checked()
}

/// The weight and bias of a convolution that do not move, with all that can be worked out about them for every call.
pub struct PreparedConvolution {
    weight: Value,
    /// The weight in the order in which a GPU takes it, where that is another. The CPU's kernels pack for each call.
    packed: Option<Tensor>,
    bias: Option<Value>,
}

/// `weight` (O, C/groups, kh, kw) and `bias` (O,) for [`conv2d_prepared`], and what `norm` does after them [folded
/// in](fold_batch_norm). It will be of inputs of type `of`. Without `norm` the weight is not copied, but shared.
///
/// # Errors
/// As [`fold_batch_norm`], and if the weight has other dimensions.
pub fn prepare_convolution(
    weight: &Tensor,
    bias: Option<&Tensor>,
    norm: Option<FrozenNorm>,
    of: DType,
) -> Result<PreparedConvolution> {
    let (weight, bias) = match norm {
        Some(norm) => {
            let (weight, bias) = fold_batch_norm(weight, bias, norm)?;
            (weight, Some(bias))
        }
        None => (weight.clone(), bias.cloned()),
    };
    let packed = packed(&weight, of)?;
    Ok(PreparedConvolution { weight: Value::constant(weight), packed, bias: bias.map(Value::constant) })
}

#[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "the CPU's kernels pack for each call"))]
fn packed(weight: &Tensor, of: DType) -> Result<Option<Tensor>> {
    on_gpu!(weight => crate::cuda::pack_weight(weight, of));
    weight.dims4().map(|_| None)
}

/// As [`conv2d_then`], with the same numbers.
///
/// # Errors
/// As [`conv2d_then`].
pub fn conv2d_prepared(
    x: &Value,
    prepared: &PreparedConvolution,
    spec: Conv2dSpec,
    residual: Option<&Value>,
    activation: Activation,
) -> Result<Value> {
    let PreparedConvolution { weight, packed, bias } = prepared;
    let (packed, bias) = (packed.as_ref(), bias.as_ref());
    let shape = ConvShape::new(x.dims(), weight.dims(), bias.map(Value::dims), spec)?;
    Convolution { x, weight, packed, bias, residual, activation, shape, name: "conv2d" }.checked()
}

/// A convolution of known sizes, and what follows it.
pub(crate) struct Convolution<'a> {
    pub x: &'a Value,
    pub weight: &'a Value,
    /// See [`PreparedConvolution`].
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the CPU's kernels pack for each call"))]
    pub packed: Option<&'a Tensor>,
    pub bias: Option<&'a Value>,
    pub residual: Option<&'a Value>,
    pub activation: Activation,
    pub shape: ConvShape,
    pub name: &'static str,
}

impl Convolution<'_> {
    /// As [`record`](Self::record), after what comes from outside was looked at.
    fn checked(&self) -> Result<Value> {
        let dims = self.shape.output_dims();
        if let Some(residual) = self.residual
            && residual.dims() != dims
        {
            bail!("conv2d: the residual has shape {:?}, the result has {dims:?}", residual.dims());
        }
        self.activation.check(self.name)?;
        self.record(&dims)
    }

    /// Computes and records it; the result has dimensions `dims` (which may be written with fewer axes than the shape's).
    pub fn record(&self, dims: &[usize]) -> Result<Value> {
        let Self { x, weight, bias, residual, activation, shape, name, .. } = *self;
        on_gpu!(x.tensor() => crate::cuda::convolution(self, dims));
        let inputs = [Some(x), Some(weight), bias, residual].into_iter().flatten().collect::<Vec<_>>();
        // What the activation's gradient takes: its output, or its input.
        let (out, kept_out) = if activation.needs_input() && inputs.iter().any(|input| input.wants_gradient()) {
            let before = device::tensor(self.forward(Activation::None)?, dims)?;
            let out = with_activation!(activation, |function| map(name, &before, |z| function.forward(z)))?;
            (out, Some(before))
        } else {
            let out = device::tensor(self.forward(activation)?, dims)?;
            (out.clone(), (activation != Activation::None).then_some(out))
        };

        // Each gradient needs the other factor, and no gradient needs its own.
        let kept_weight = x.wants_gradient().then(|| weight.tensor().clone());
        let kept_x = weight.wants_gradient().then(|| x.tensor().clone());
        let (x_dims, weight_dims) = (x.dims().to_vec(), weight.dims().to_vec());
        let (wants_bias, wants_residual) = (bias.map(Value::wants_gradient), residual.map(Value::wants_gradient));
        Ok(Value::record1(out, &inputs, move |gradient: &Tensor| {
            let before = match &kept_out {
                Some(z) => with_activation!(activation, |f| map_pairs(name, z, gradient, |z, g| f.backward(z, g)))?,
                None => gradient.clone(),
            };
            let gradient = device::slice(&before, name)?;
            let to_x = match &kept_weight {
                Some(weight) => {
                    let weight = device::slice(weight, name)?;
                    Some(device::tensor(input_gradient(&shape, &gradient, &weight, None)?, &*x_dims)?)
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
            if let Some(wants) = wants_bias {
                let to_bias = wants.then(|| device::tensor(bias_gradient(shape.output[2], &gradient), shape.output[2]));
                gradients.push(to_bias.transpose()?);
            }
            drop(gradient);
            if let Some(wants) = wants_residual {
                gradients.push(wants.then_some(before));
            }
            Ok(gradients)
        }))
    }

    fn forward(&self, activation: Activation) -> Result<Vec<f32>> {
        let (shape, name) = (&self.shape, self.name);
        let path = SimdPath::current()?;
        let (x, weight) = (device::slice(self.x.tensor(), name)?, device::slice(self.weight.tensor(), name)?);
        let bias = self.bias.map(|bias| device::slice(bias.tensor(), name)).transpose()?;
        let residual = self.residual.map(|residual| device::slice(residual.tensor(), name)).transpose()?;
        let fused = Epilogue::fuses(activation) || !winograd::suits(shape)?;
        let epilogue =
            Epilogue { residual: residual.as_deref(), activation: if fused { activation } else { Activation::None } };
        let mut out = output(shape, &x, &weight, bias.as_deref(), epilogue)?;
        if !fused {
            with_activation!(activation, |function| {
                parallel::for_each_rows(&mut out, 1, |_, out| activate_in_place(path, out, function));
            });
        }
        Ok(out)
    }
}

fn output(shape: &ConvShape, x: &[f32], weight: &[f32], bias: Option<&[f32]>, epilogue: Epilogue) -> Result<Vec<f32>> {
    let path = SimdPath::current()?;
    let mut out = device::unspecified(shape.batch * shape.output_len());
    if winograd::suits(shape)? {
        winograd::forward(path, shape, x, weight, bias, epilogue, &mut out);
    } else {
        gather(path, shape, &Gather::forward(shape), x, weight, bias, epilogue, &mut out);
    }
    Ok(out)
}

/// The gradient of the input, and a bias on top for a transposed convolution.
fn input_gradient(shape: &ConvShape, gradient: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Result<Vec<f32>> {
    let path = SimdPath::current()?;
    let mut out = device::unspecified(shape.batch * shape.input_len());
    if winograd::suits(shape)? {
        winograd::input_gradient(path, shape, gradient, weight, bias, &mut out);
    } else {
        gather(path, shape, &Gather::input_gradient(shape), gradient, weight, bias, Epilogue::default(), &mut out);
    }
    Ok(out)
}

#[expect(clippy::too_many_arguments, reason = "one call for both directions")]
fn gather(
    path: SimdPath,
    shape: &ConvShape,
    gather: &Gather,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    if shape.is_depthwise() {
        depthwise::apply(path, gather, x, weight, bias, epilogue, out);
    } else {
        apply::apply(path, gather, x, weight, bias, epilogue, out);
    }
}

fn weight_gradient(shape: &ConvShape, x: &[f32], gradient: &[f32]) -> Result<Vec<f32>> {
    let path = SimdPath::current()?;
    let mut out = device::unspecified(shape.weight_len());
    if winograd::suits(shape)? {
        winograd::weight_gradient(path, shape, x, gradient, &mut out);
    } else if shape.is_depthwise() {
        depthwise::weight_gradient(path, shape, x, gradient, &mut out);
    } else {
        weight_gradient::weight_gradient(path, shape, x, gradient, &mut out);
    }
    Ok(out)
}

/// The sum of the gradient over all pixels, by channel.
fn bias_gradient(channels: usize, gradient: &[f32]) -> Vec<f32> {
    parallel::sum_over_rows(gradient.len() / channels, channels, channels, |rows, sums| {
        for pixel in gradient[rows.start * channels..rows.end * channels].chunks(channels) {
            for (sum, number) in sums.iter_mut().zip(pixel) {
                *sum += number;
            }
        }
    })
}
