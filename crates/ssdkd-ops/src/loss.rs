//! Losses over logits (B, K). What else is read off logits is in `logits.rs`.
//!
//! The numbers are few and decide everything, so they are computed in f64, through log-sum-exp, and rounded once. The
//! gradient of a loss is computed with the loss and only scaled on the way back.

use candle_core::{Result, Tensor, bail};

use crate::elementwise::{scalar_of, scalar_tensor, weighted_sum};
use crate::simd::SimdPath;
use crate::softmax::{Pair, Softmax};
use crate::table::Table;
use crate::value::Value;
use crate::vectorised::{check_same_shape, map, map_pairs, sum_pairs};
use crate::{device, parallel};

/// `(1/B) Σ wᵢ · CE(softmax(logitsᵢ), targetsᵢ)` of logits (B, K); without weights, all of them are 1.
///
/// # Errors
/// If there is not one target in 0..K, and one finite weight, for each row.
pub fn cross_entropy(logits: &Value, targets: &[u32], weights: Option<&[f32]>) -> Result<Value> {
    smoothed("cross_entropy", logits, targets, 0.0, weights)
}

/// Cross entropy with smoothed targets: `1 − smoothing` on the target and `smoothing / K` on every class, the target
/// included, as in PyTorch. `(1/B) Σ wᵢ ·` over logits (B, K); without weights, all of them are 1.
///
/// # Errors
/// If there is not one target in 0..K, and one finite weight, for each row, or the smoothing is not in 0..=1.
pub fn cross_entropy_smoothed(
    logits: &Value,
    targets: &[u32],
    smoothing: f64,
    weights: Option<&[f32]>,
) -> Result<Value> {
    let operation = "cross_entropy_smoothed";
    if !(0.0..=1.0).contains(&smoothing) {
        bail!("{operation}: the smoothing has to be in 0..=1, got {smoothing}");
    }
    smoothed(operation, logits, targets, smoothing, weights)
}

/// As [`cross_entropy`], where targets (B,), `u32` in 0..K, and weights (B,) are tensors on the device of the logits.
///
/// # Errors
/// If there is not one target, and one weight, for each row; on the CPU also if one is not in 0..K or not finite. On a GPU the
/// caller answers for that.
pub fn cross_entropy_of(logits: &Value, targets: &Tensor, weights: Option<&Tensor>) -> Result<Value> {
    of_tensors("cross_entropy", logits, targets, 0.0, weights)
}

fn smoothed(
    operation: &'static str,
    logits: &Value,
    targets: &[u32],
    smoothing: f64,
    weights: Option<&[f32]>,
) -> Result<Value> {
    let table = Table::of(operation, logits.tensor())?;
    table.check_count(operation, "target", targets.len())?;
    table.check_targets(operation, targets)?;
    let device = logits.tensor().device();
    check_row_weights(operation, weights.unwrap_or_default())?;
    let weights = weights.map(|weights| Tensor::from_slice(weights, weights.len(), device)).transpose()?;
    let targets = Tensor::from_slice(targets, targets.len(), device)?;
    of_tensors(operation, logits, &targets, smoothing, weights.as_ref())
}

fn of_tensors(
    operation: &'static str,
    logits: &Value,
    targets: &Tensor,
    smoothing: f64,
    weights: Option<&Tensor>,
) -> Result<Value> {
    let table = Table::of(operation, logits.tensor())?;
    table.check_count(operation, "target", targets.elem_count())?;
    table.check_weights(operation, weights)?;
    on_gpu!(logits.tensor() => crate::cuda::cross_entropy(operation, logits, targets, smoothing, weights));
    let targets = targets.flatten_all()?.to_vec1::<u32>()?;
    table.check_targets(operation, &targets)?;
    let weights = weights.map(|weights| device::slice(weights, operation)).transpose()?;
    let weights = Weights::new(operation, weights.as_deref())?;
    let spread = smoothing / table.classes as f64;
    let (loss, grad) = table.sum_rows(operation, logits, |[softmax, _], row, logits, grad| {
        softmax.set(logits, 1.0);
        let log_sum = softmax.log_sum();
        let target = targets[row] as usize;
        let factor = weights.of(row) / table.rows as f64;
        for (class, (grad, &p)) in grad.iter_mut().zip(softmax.probabilities()).enumerate() {
            let wanted = spread + if class == target { 1.0 - smoothing } else { 0.0 };
            *grad = (factor * (p - wanted)) as f32;
        }
        let mut loss = (1.0 - smoothing) * (log_sum - f64::from(logits[target]));
        if smoothing > 0.0 {
            loss += spread * logits.iter().map(|&logit| log_sum - f64::from(logit)).sum::<f64>();
        }
        factor * loss
    })?;
    let loss = scalar_tensor(loss)?;
    Ok(Value::record1(loss, &[logits], move |flow| Ok(vec![grad.as_ref().map(|grad| scaled(grad, flow)).transpose()?])))
}

/// `(1/B) Σ wᵢ · KL(softmax(target_logitsᵢ / T) ‖ softmax(logitsᵢ / T))` of logits (B, K), T the temperature; without
/// weights (B,), all of them are 1. Not multiplied with T². Gradients flow into both.
///
/// # Errors
/// If the shapes differ, the temperature is not finite and positive, or there is not one weight for each row; on the CPU also if
/// a weight is not finite. [`check_row_weights`] checks them before they go to a GPU.
pub fn kl_divergence(
    target_logits: &Value,
    logits: &Value,
    temperature: f64,
    weights: Option<&Tensor>,
) -> Result<Value> {
    let operation = "kl_divergence";
    let table = Table::of(operation, logits.tensor())?;
    check_same_shape(operation, target_logits.tensor(), logits.tensor())?;
    check_temperature(operation, temperature)?;
    table.check_weights(operation, weights)?;
    on_gpu!(logits.tensor() => crate::cuda::kl_divergence(operation, target_logits, logits, temperature, weights));
    let weights = weights.map(|weights| device::slice(weights, operation)).transpose()?;
    let weights = Weights::new(operation, weights.as_deref())?;
    let factor = |row: usize| weights.of(row) / table.rows as f64;

    let target_numbers = device::slice(target_logits.tensor(), operation)?;
    let target_row = |row: usize| &target_numbers[row * table.classes..(row + 1) * table.classes];
    // d/ds = (q − p) / T
    let (loss, grad) = table.sum_rows(operation, logits, |scratch, row, logits, grad| {
        let pair = Pair::new(scratch, target_row(row), logits, temperature);
        for ((grad, &p), &q) in grad.iter_mut().zip(pair.p()).zip(pair.q()) {
            *grad = (factor(row) * (q - p) / temperature) as f32;
        }
        factor(row) * pair.divergence()
    })?;
    // d/dt = p · (ln p − ln q − KL) / T
    let target_grad = if target_logits.wants_gradient() {
        let numbers = device::slice(logits.tensor(), operation)?;
        let (_, grad) = table.sum_rows(operation, target_logits, |scratch, row, target_logits, grad| {
            let logits = &numbers[row * table.classes..(row + 1) * table.classes];
            let pair = Pair::new(scratch, target_logits, logits, temperature);
            let divergence = pair.divergence();
            for ((grad, &p), log_ratio) in grad.iter_mut().zip(pair.p()).zip(pair.log_ratios()) {
                *grad = (factor(row) * p * (log_ratio - divergence) / temperature) as f32;
            }
            divergence
        })?;
        grad
    } else {
        None
    };
    let loss = scalar_tensor(loss)?;
    Ok(Value::record1(loss, &[target_logits, logits], move |flow| {
        [&target_grad, &grad].map(|grad| grad.as_ref().map(|grad| scaled(grad, flow)).transpose()).into_iter().collect()
    }))
}

/// `‖x − target‖₂` over all numbers; its gradient is 0 where the norm is.
///
/// # Errors
/// If the shapes differ.
pub fn l2_distance(x: &Value, target: &Tensor) -> Result<Value> {
    let operation = "l2_distance";
    check_same_shape(operation, x.tensor(), target)?;
    on_gpu!(x.tensor() => crate::cuda::l2_distance(x, target));
    let norm = {
        let (numbers, target) = (device::slice(x.tensor(), operation)?, device::slice(target, operation)?);
        sum_pairs(&numbers, &target, |x, target| (x - target) * (x - target))?.sqrt()
    };
    let (kept, target) = (x.tensor().clone(), target.clone());
    Ok(Value::record1(scalar_tensor(norm)?, &[x], move |flow| {
        let factor = if norm == 0.0 { 0.0 } else { (scalar_of(operation, flow)? / norm) as f32 };
        Ok(vec![Some(map_pairs(operation, &kept, &target, |x, target| (x - target) * factor)?)])
    }))
}

/// `‖x − target‖₂ / ‖target‖₂` over all numbers; the gradient is 0 where the distance is.
///
/// # Errors
/// If the shapes differ. On the CPU, if the target is all zeros; on a GPU the result is then not finite.
pub fn relative_distance(x: &Value, target: &Tensor) -> Result<Value> {
    let operation = "relative_distance";
    check_same_shape(operation, x.tensor(), target)?;
    on_gpu!(x.tensor() => crate::cuda::relative_distance(x, target));
    let norm = {
        let target = device::slice(target, operation)?;
        sum_pairs(&target, &target, |x, y| x * y)?.sqrt()
    };
    if norm == 0.0 {
        bail!("{operation}: the target of shape {:?} is all zeros: there is no distance relative to it", target.dims());
    }
    weighted_sum(&[(1.0 / norm, &l2_distance(x, target)?)])
}

/// The mean of |a − b| over all numbers; gradients flow into both, 0 where they are equal.
///
/// # Errors
/// If the shapes differ, or there are no numbers.
pub fn mean_absolute_difference(a: &Value, b: &Value) -> Result<Value> {
    let operation = "mean_absolute_difference";
    check_same_shape(operation, a.tensor(), b.tensor())?;
    let count = a.tensor().elem_count();
    if count == 0 {
        bail!("{operation}: tensors of shape {:?} have no mean", a.dims());
    }
    on_gpu!(a.tensor() => crate::cuda::mean_absolute_difference(a, b));
    let sum = {
        let (a, b) = (device::slice(a.tensor(), operation)?, device::slice(b.tensor(), operation)?);
        sum_pairs(&a, &b, |a, b| (a - b).abs())?
    };
    let (a_wants, b_wants) = (a.wants_gradient(), b.wants_gradient());
    let (kept_a, kept_b) = (a.tensor().clone(), b.tensor().clone());
    Ok(Value::record1(scalar_tensor(sum / count as f64)?, &[a, b], move |flow| {
        let factor = (scalar_of(operation, flow)? / count as f64) as f32;
        let pull = |factor: f32| {
            map_pairs(operation, &kept_a, &kept_b, |a, b| {
                if a > b {
                    factor
                } else if a < b {
                    -factor
                } else {
                    0.0
                }
            })
        };
        Ok(vec![a_wants.then(|| pull(factor)).transpose()?, b_wants.then(|| pull(-factor)).transpose()?])
    }))
}

/// `Σ_c p̄_c ln p̄_c`, p̄ the mean over the batch of softmax(logits), logits (B, K).
///
/// Least, −ln K, when the batch as a whole has every class alike: minimising it balances a generator's classes.
pub fn mean_softmax_negentropy(logits: &Value) -> Result<Value> {
    let operation = "mean_softmax_negentropy";
    let table = Table::of(operation, logits.tensor())?;
    on_gpu!(logits.tensor() => crate::cuda::mean_softmax_negentropy(operation, logits));
    let mean = table.mean_softmax(operation, logits.tensor())?;
    // Where a class has vanished, 0 · ln 0 = 0, and its probabilities of 0 silence the logarithm in the gradient.
    let log_mean = mean.iter().map(|mean: &f64| mean.max(f64::MIN_POSITIVE).ln()).collect::<Vec<_>>();
    let negentropy = mean.iter().zip(&log_mean).map(|(mean, log)| mean * log).sum();
    let (_, grad) = table.sum_rows(operation, logits, |[softmax, _], _, logits, grad| {
        softmax.set(logits, 1.0);
        let expected = softmax.probabilities().iter().zip(&log_mean).map(|(p, log)| p * log).sum::<f64>();
        for ((grad, p), log) in grad.iter_mut().zip(softmax.probabilities()).zip(&log_mean) {
            *grad = (p * (log - expected) / table.rows as f64) as f32;
        }
        0.0
    })?;
    Ok(Value::record1(scalar_tensor(negentropy)?, &[logits], move |flow| {
        Ok(vec![grad.as_ref().map(|grad| scaled(grad, flow)).transpose()?])
    }))
}

/// Checks weights of rows before they go to a GPU.
///
/// # Errors
/// If one is not finite. The message starts with `operation`.
pub fn check_row_weights(operation: &str, weights: &[f32]) -> Result<()> {
    match weights.iter().enumerate().find(|(_, weight)| !weight.is_finite()) {
        Some((row, weight)) => bail!("{operation}: the weight of row {row} is not finite ({weight})"),
        None => Ok(()),
    }
}

/// The probabilities of every row of logits (B, K).
pub fn softmax(logits: &Tensor) -> Result<Tensor> {
    let table = Table::of("softmax", logits)?;
    on_gpu!(logits => crate::cuda::softmax("softmax", logits));
    let path = SimdPath::current()?;
    let numbers = device::slice(logits, "softmax")?;
    let numbers = &*numbers;
    let mut out = device::unspecified(numbers.len());
    parallel::for_each_rows(&mut out, table.classes, |range, out| {
        let mut softmax = Softmax::new(path, table.classes);
        for (row, out) in range.zip(out.chunks_exact_mut(table.classes)) {
            softmax.set(&numbers[row * table.classes..(row + 1) * table.classes], 1.0);
            for (out, &p) in out.iter_mut().zip(softmax.probabilities()) {
                *out = p as f32;
            }
        }
    });
    device::tensor(out, logits.shape())
}

/// One weight for each row, or 1 for all.
struct Weights<'a>(Option<&'a [f32]>);

impl<'a> Weights<'a> {
    fn new(operation: &str, weights: Option<&'a [f32]>) -> Result<Self> {
        check_row_weights(operation, weights.unwrap_or_default())?;
        Ok(Self(weights))
    }

    fn of(&self, row: usize) -> f64 {
        self.0.map_or(1.0, |weights| f64::from(weights[row]))
    }
}

/// A gradient, times the gradient of the loss it belongs to.
fn scaled(grad: &Tensor, flow: &Tensor) -> Result<Tensor> {
    let factor = scalar_of("loss", flow)?;
    // Plain `backward` comes with 1.
    if factor.to_bits() == 1.0_f64.to_bits() {
        Ok(grad.clone())
    } else {
        map("loss", grad, |grad| grad * factor as f32)
    }
}

pub(crate) fn check_temperature(operation: &str, temperature: f64) -> Result<()> {
    if !(temperature.is_finite() && temperature > 0.0) {
        bail!("{operation}: the temperature has to be finite and positive, got {temperature}");
    }
    Ok(())
}
