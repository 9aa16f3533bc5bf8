//! Batch normalisation with a residual and an activation in the same pass, and the taps that inversion reads.
//!
//! Activations are `(…, C)`, usually (B, H, W, C); every leading dimension counts as rows. A normalisation is bound by
//! memory, so the residual sum, the activation and, for a tapped one, the statistics are computed while the numbers are
//! in the cache, and gradients recompute what is cheaper to recompute than to read.

mod backward;
mod fold;
mod kernels;
mod moments;
mod running;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use self::backward::{GateSource, Saved, Statistics, line_gradient};
use self::kernels::normalise_add;
use self::moments::Moments;
use crate::activation::{Activation, ActivationFunction, with_activation};
use crate::device;
use crate::simd::SimdPath;
use crate::value::Value;
use crate::vectorised::{affine_slice, map, pattern, pattern_piece_rows};
pub use fold::{FrozenNorm, fold_batch_norm};
pub use running::Running;

/// What a normalisation found in its batch.
#[derive(Clone, Debug)]
pub struct BatchMoments {
    /// Mean of each channel (C,).
    pub mean: Tensor,
    /// Biased variance of each channel (C,): divided by `count`, as the normalisation uses it. PyTorch's running
    /// variance takes the unbiased one, `variance · count / (count − 1)`.
    pub variance: Tensor,
    /// Numbers per channel, B·H·W.
    pub count: usize,
}

/// Normalises with the statistics of the batch: `activation(gamma · (x − mean) / √(variance + eps) + beta + residual)`.
///
/// `x` and `residual` are (…, C), `gamma` and `beta` (C,). Gradients flow into all four, through the statistics too.
///
/// # Errors
/// If shapes disagree, or there are fewer than two numbers per channel.
pub fn batch_norm_train(
    x: &Value,
    gamma: &Value,
    beta: &Value,
    eps: f64,
    residual: Option<&Value>,
    activation: Activation,
) -> Result<(Value, BatchMoments)> {
    let operation = "batch_norm_train";
    let layer = Layer { operation, x, gamma, beta, residual, activation };
    let channels = layer.check(eps)?;
    if x.tensor().elem_count() / channels < 2 {
        bail!(
            "{operation}: needs at least two numbers per channel, x has shape {:?}\nhint: use a larger batch, or running statistics",
            x.dims()
        );
    }
    on_gpu!(x.tensor() => crate::cuda::batch_norm_train(layer.on_gpu(eps)));
    let path = SimdPath::current()?;
    let moments = Moments::of(path, channels, &device::slice(x.tensor(), operation)?);
    let variance = (0..channels).map(|c| moments.variance(c)).collect::<Vec<_>>();
    let affine = layer.affine(&moments.mean, &variance, eps)?;
    let (out, gate) = layer.activate(layer.normalise(path, &affine)?)?;

    let (mean, variance) = moments.tensors()?;
    let batch = BatchMoments { mean, variance, count: moments.rows };
    let saved = layer.saved(affine, gate, Statistics::Batch);
    let out = Value::record1(out, &layer.inputs(), move |grad| saved.gradients(Some(grad), None));
    Ok((out, batch))
}

/// Normalises with given statistics, which are constants: as [`batch_norm_train`] otherwise.
///
/// # Errors
/// If shapes disagree, or a variance is negative; on a GPU, a channel of negative variance becomes NaN instead.
#[expect(clippy::too_many_arguments, reason = "the formula has that many symbols")]
pub fn batch_norm_eval(
    x: &Value,
    gamma: &Value,
    beta: &Value,
    running_mean: &Tensor,
    running_variance: &Tensor,
    eps: f64,
    residual: Option<&Value>,
    activation: Activation,
) -> Result<Value> {
    let layer = Layer { operation: "batch_norm_eval", x, gamma, beta, residual, activation };
    layer.check_running(running_mean, running_variance, eps)?;
    on_gpu!(x.tensor() => crate::cuda::batch_norm_eval(layer.on_gpu(eps), running_mean, running_variance));
    let affine = layer.running_affine(running_mean, running_variance, eps)?;
    let (out, gate) = layer.activate(layer.normalise(SimdPath::current()?, &affine)?)?;
    let saved = layer.saved(affine, gate, Statistics::Running);
    Ok(Value::record1(out, &layer.inputs(), move |grad| saved.gradients(Some(grad), None)))
}

/// As [`batch_norm_eval`], and the mean (C,) and the biased variance (C,) of `x`, differentiable, from the same pass.
///
/// Inversion compares them with the running statistics. Their gradients join that of the normalisation in one pass.
///
/// # Errors
/// As [`batch_norm_eval`], and if `x` is empty.
#[expect(clippy::too_many_arguments, reason = "the formula has that many symbols")]
pub fn batch_norm_tapped(
    x: &Value,
    gamma: &Value,
    beta: &Value,
    running_mean: &Tensor,
    running_variance: &Tensor,
    eps: f64,
    residual: Option<&Value>,
    activation: Activation,
) -> Result<(Value, Value, Value)> {
    let operation = "batch_norm_tapped";
    let layer = Layer { operation, x, gamma, beta, residual, activation };
    let channels = layer.check_running(running_mean, running_variance, eps)?;
    if x.tensor().elem_count() == 0 {
        bail!("{operation}: x of shape {:?} has no mean", x.dims());
    }
    on_gpu!(x.tensor() => crate::cuda::batch_norm_tapped(layer.on_gpu(eps), running_mean, running_variance));
    let affine = layer.running_affine(running_mean, running_variance, eps)?;
    let path = SimdPath::current()?;
    let (out, moments) = layer.normalise_with(path, &affine, |piece| Moments::of_piece(path, channels, piece))?;
    let moments = Moments::merged(channels, moments);
    let (mean, variance) = moments.tensors()?;
    let (out, gate) = layer.activate(out)?;
    let tapped = x.wants_gradient();
    let saved = layer.saved(affine, gate, Statistics::Tapped(moments));
    let [out, mean, variance] = Value::record([out, mean, variance], &layer.inputs(), move |grads| {
        let (mean, variance) = (grads[1].as_ref(), grads[2].as_ref());
        let taps = (mean.is_some() || variance.is_some()).then_some((mean, variance));
        saved.gradients(grads[0].as_ref(), taps)
    });
    // The statistics depend on x alone.
    Ok(if tapped { (out, mean, variance) } else { (out, mean.detach(), variance.detach()) })
}

/// Mean (C,) and biased variance (C,) of every channel of `x` (…, C), differentiable.
///
/// # Errors
/// If `x` is empty.
pub fn channel_moments(x: &Value) -> Result<(Value, Value)> {
    let operation = "channel_moments";
    let channels = channels_of(operation, x)?;
    if x.tensor().elem_count() == 0 {
        bail!("{operation}: x of shape {:?} has no mean", x.dims());
    }
    on_gpu!(x.tensor() => crate::cuda::channel_moments(operation, x, channels));
    let moments = Moments::of(SimdPath::current()?, channels, &device::slice(x.tensor(), operation)?);
    let (mean, variance) = moments.tensors()?;
    let kept = x.tensor().clone();
    let [mean, variance] = Value::record([mean, variance], &[x], move |grads| {
        Ok(vec![Some(line_gradient(operation, &kept, &moments, grads[0].as_ref(), grads[1].as_ref())?)])
    });
    Ok((mean, variance))
}

/// The arguments that all normalisations share.
struct Layer<'a> {
    operation: &'static str,
    x: &'a Value,
    gamma: &'a Value,
    beta: &'a Value,
    residual: Option<&'a Value>,
    activation: Activation,
}

/// A normalisation as what it does to a channel: scale · x + shift.
struct Affine {
    /// What is subtracted, and what the difference is multiplied with, before gamma and beta.
    mean: Vec<f64>,
    inverse_deviation: Vec<f64>,
    /// Patterns of gamma / √(variance + eps), and beta − mean · scale.
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Layer<'_> {
    /// The number of channels, when everything fits together.
    fn check(&self, eps: f64) -> Result<usize> {
        let operation = self.operation;
        let channels = channels_of(operation, self.x)?;
        for (name, tensor) in [("gamma", self.gamma), ("beta", self.beta)] {
            check_channels(operation, name, tensor.tensor(), channels)?;
        }
        if let Some(residual) = self.residual
            && residual.dims() != self.x.dims()
        {
            bail!("{operation}: the residual has shape {:?}, x has {:?}", residual.dims(), self.x.dims());
        }
        if !(eps.is_finite() && eps >= 0.0) {
            bail!("{operation}: eps has to be finite and not negative, got {eps}");
        }
        self.activation.check(operation)?;
        Ok(channels)
    }

    /// As [`check`](Self::check), and that there is one running mean and one running variance for each channel.
    fn check_running(&self, mean: &Tensor, variance: &Tensor, eps: f64) -> Result<usize> {
        let channels = self.check(eps)?;
        check_channels(self.operation, "the running mean", mean, channels)?;
        check_channels(self.operation, "the running variance", variance, channels)?;
        Ok(channels)
    }

    #[cfg(feature = "cuda")]
    fn on_gpu(&self, eps: f64) -> crate::cuda::Layer<'_> {
        let Self { operation, x, gamma, beta, residual, activation } = *self;
        crate::cuda::Layer { operation, x, gamma, beta, residual, activation, eps }
    }

    fn affine(&self, mean: &[f64], variance: &[f64], eps: f64) -> Result<Affine> {
        let inverse_deviation = variance.iter().map(|variance| 1.0 / (variance + eps).sqrt()).collect::<Vec<_>>();
        let gamma = device::slice(self.gamma.tensor(), self.operation)?;
        let beta = device::slice(self.beta.tensor(), self.operation)?;
        let scale = |c: usize| f64::from(gamma[c]) * inverse_deviation[c];
        Ok(Affine {
            mean: mean.to_vec(),
            scale: pattern(mean.len(), |c| scale(c) as f32),
            shift: pattern(mean.len(), |c| (f64::from(beta[c]) - mean[c] * scale(c)) as f32),
            inverse_deviation,
        })
    }

    fn running_affine(&self, mean: &Tensor, variance: &Tensor, eps: f64) -> Result<Affine> {
        let operation = self.operation;
        let numbers = |tensor: &Tensor| -> Result<Vec<f64>> {
            Ok(device::slice(tensor, operation)?.iter().copied().map(f64::from).collect())
        };
        let variance = numbers(variance)?;
        if let Some((channel, variance)) = variance.iter().enumerate().find(|(_, variance)| **variance < 0.0) {
            bail!("{operation}: the running variance of channel {channel} is negative ({variance})");
        }
        self.affine(&numbers(mean)?, &variance, eps)
    }

    fn normalise(&self, path: SimdPath, affine: &Affine) -> Result<Tensor> {
        Ok(self.normalise_with(path, affine, |_| ())?.0)
    }

    /// Normalises piece by piece, and calls `look` with each piece of x just before, in order of the results.
    fn normalise_with<T: Send>(
        &self,
        path: SimdPath,
        affine: &Affine,
        look: impl Fn(&[f32]) -> T + Sync + Send,
    ) -> Result<(Tensor, Vec<T>)> {
        let channels = affine.mean.len();
        let x = device::slice(self.x.tensor(), self.operation)?;
        let residual = self.residual.map(|residual| device::slice(residual.tensor(), self.operation)).transpose()?;
        let residual = residual.as_deref();
        let activation = if self.keeps_sum() { Activation::None } else { self.activation };
        let mut out = device::unspecified(x.len());
        let piece = pattern_piece_rows(channels) * channels;
        let looked = x
            .par_chunks(piece)
            .zip(out.par_chunks_mut(piece))
            .enumerate()
            .map(|(index, (x, out))| {
                let looked = look(x);
                let residual = residual.map(|residual| &residual[index * piece..index * piece + x.len()]);
                normalise_piece(path, x, residual, affine, activation, out);
                looked
            })
            .collect();
        Ok((device::tensor(out, self.x.tensor().shape())?, looked))
    }

    /// Whether the sum before the activation is kept for the gradient: where the gradient takes the sum, and the residual
    /// in it would have to be kept otherwise.
    fn keeps_sum(&self) -> bool {
        let takes_sum = self.activation.needs_input() && self.residual.is_some();
        takes_sum && self.inputs().iter().any(|input| input.wants_gradient())
    }

    /// The output, from what [`normalise_with`](Self::normalise_with) made, and what its gradient passes the activation by.
    fn activate(&self, made: Tensor) -> Result<(Tensor, Tensor)> {
        if !self.keeps_sum() {
            return Ok((made.clone(), made));
        }
        let out = with_activation!(self.activation, |f| map(self.operation, &made, |z| f.forward(z)))?;
        Ok((out, made))
    }

    /// What the gradients will need, and no more. `made` is the output, or the sum before the activation.
    fn saved(&self, affine: Affine, made: Tensor, statistics: Statistics) -> Saved {
        let wants_x = self.x.wants_gradient();
        let (wants_gamma, wants_beta) = (self.gamma.wants_gradient(), self.beta.wants_gradient());
        let takes_x = self.activation.needs_input() && self.residual.is_none();
        let keeps_x = match statistics {
            Statistics::Batch | Statistics::Tapped(_) => wants_x || wants_gamma || takes_x,
            Statistics::Running => wants_gamma || takes_x,
        };
        let x = keeps_x.then(|| self.x.tensor().clone());
        let gate = match (self.activation, self.residual) {
            (Activation::None, _) => GateSource::Open,
            (_, None) if keeps_x => GateSource::Input,
            _ => GateSource::Output(made),
        };
        Saved {
            operation: self.operation,
            activation: self.activation,
            affine,
            statistics,
            x,
            gate,
            wants_x,
            wants_gamma,
            wants_beta,
            residual: self.residual.map(Value::wants_gradient),
        }
    }

    fn inputs(&self) -> Vec<&Value> {
        [self.x, self.gamma, self.beta].into_iter().chain(self.residual).collect()
    }
}

fn normalise_piece(
    path: SimdPath,
    x: &[f32],
    residual: Option<&[f32]>,
    affine: &Affine,
    activation: Activation,
    out: &mut [f32],
) {
    with_activation!(activation, |function| match residual {
        Some(residual) => normalise_add(path, x, residual, &affine.scale, &affine.shift, out, function),
        None => affine_slice(path, x, &affine.scale, &affine.shift, out, &|z| function.forward(z)),
    });
}

fn channels_of(operation: &str, x: &Value) -> Result<usize> {
    match *x.dims() {
        [.., channels] if x.dims().len() >= 2 && channels > 0 => Ok(channels),
        _ => bail!("{operation}: takes activations (…, C) of rank 2 or more with C > 0, x has shape {:?}", x.dims()),
    }
}

fn check_channels(operation: &str, name: &str, tensor: &Tensor, channels: usize) -> Result<()> {
    if tensor.dims() != [channels] {
        bail!("{operation}: {name} has shape {:?}, x has {channels} channels: expected [{channels}]", tensor.dims());
    }
    Ok(())
}
