//! Batch normalisation of a network that is only used: one convolution with another weight and bias.

use candle_core::{Result, Tensor, bail};

use super::{Layer, check_channels};
use crate::activation::Activation;
use crate::device;
use crate::value::Value;

/// The running statistics and constants of a batch normalisation over O channels: four tensors (O,).
#[derive(Clone, Copy)]
pub struct FrozenNorm<'a> {
    /// What the normalised number is multiplied with.
    pub gamma: &'a Tensor,
    /// What is added to it.
    pub beta: &'a Tensor,
    /// Running mean.
    pub mean: &'a Tensor,
    /// Running variance.
    pub variance: &'a Tensor,
    /// Added to the variance.
    pub eps: f64,
}

/// Weight (O, …) and bias (O,) of the layer that does what one with `weight` and `bias` and then the normalisation do:
/// with s = γ / √(variance + eps), they are s · weight and s · (bias − mean) + β.
///
/// # Errors
/// If shapes disagree, or a variance is negative; on a GPU, what comes of a negative one is NaN instead.
pub fn fold_batch_norm(weight: &Tensor, bias: Option<&Tensor>, norm: FrozenNorm) -> Result<(Tensor, Tensor)> {
    let operation = "fold_batch_norm";
    let Some(&outputs) = weight.dims().first().filter(|outputs| **outputs > 0) else {
        bail!("{operation}: the weight must be (O, …), this one has shape {:?}", weight.dims());
    };
    check_channels(operation, "gamma", norm.gamma, outputs)?;
    check_channels(operation, "beta", norm.beta, outputs)?;
    check_channels(operation, "the running mean", norm.mean, outputs)?;
    check_channels(operation, "the running variance", norm.variance, outputs)?;
    if let Some(bias) = bias {
        check_channels(operation, "the bias", bias, outputs)?;
    }
    on_gpu!(weight => crate::cuda::fold(weight, bias, norm, outputs));
    let [gamma, beta] = [norm.gamma, norm.beta].map(|tensor| Value::constant(tensor.clone()));
    let x = Value::constant(weight.reshape(((), outputs))?);
    let layer = Layer { operation, x: &x, gamma: &gamma, beta: &beta, residual: None, activation: Activation::None };
    let affine = layer.running_affine(norm.mean, norm.variance, norm.eps)?;

    let numbers = device::slice(weight, operation)?;
    let per_output = numbers.len() / outputs;
    let mut folded = Vec::with_capacity(numbers.len());
    for (kernel, scale) in numbers.chunks(per_output.max(1)).zip(&affine.scale) {
        folded.extend(kernel.iter().map(|number| number * scale));
    }
    let mut shift = affine.shift[..outputs].to_vec();
    if let Some(bias) = bias {
        let bias = device::slice(bias, operation)?;
        for ((shift, bias), scale) in shift.iter_mut().zip(&*bias).zip(&affine.scale) {
            *shift += bias * scale;
        }
    }
    Ok((device::tensor(folded, weight.shape())?, device::tensor(shift, outputs)?))
}
