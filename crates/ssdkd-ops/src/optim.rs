//! Optimiser steps and running averages, in place on the storage of the parameters.
//!
//! Each step reads and writes every number once, without temporaries. What is written is seen by every tensor that
//! shares the storage: that is the point, and the reason why a parameter must not be read at the same time.

use candle_core::{Result, Tensor, bail};

use crate::device;
use crate::elementwise::scalar_tensor;
use crate::parallel::{SharedMut, for_each_piece, rows_per_piece};
use crate::simd::SimdPath;
use crate::vectorised::{change, check_same_shape, check_separate, sum_pairs, vectorised};

vectorised! {
    #[expect(clippy::too_many_arguments, reason = "slices, constants and the path")]
    fn sgd_slice(
        parameter: &mut [f32], velocity: &mut [f32], grad: &[f32], rate: f32, momentum: f32, decay: f32, nesterov: bool,
    ) {
        for ((parameter, velocity), &grad) in parameter.iter_mut().zip(velocity).zip(grad) {
            let grad = grad + decay * *parameter;
            *velocity = momentum * *velocity + grad;
            let step = if nesterov { grad + momentum * *velocity } else { *velocity };
            *parameter -= rate * step;
        }
    }
}

/// One step of stochastic gradient descent, PyTorch's rule without dampening:
/// `g = grad + weight_decay · p`, `v = momentum · v + g`, `p −= rate · (g + momentum · v` with Nesterov's, else `v)`.
///
/// The velocity starts as zeros.
///
/// # Errors
/// If shapes differ, or two of the tensors share a storage.
pub fn sgd_step(
    parameter: &Tensor,
    grad: &Tensor,
    velocity: &Tensor,
    rate: f64,
    momentum: f64,
    weight_decay: f64,
    nesterov: bool,
) -> Result<()> {
    let operation = "sgd_step";
    check(operation, parameter, &[grad, velocity])?;
    #[cfg(feature = "cuda")]
    let slot = crate::cuda::Slot { parameter: Some(parameter), grad, first: Some(velocity), second: None };
    on_gpu!(parameter => crate::cuda::sgd(
        &[slot], crate::cuda::Rates::Numbers(&[rate as f32]), momentum as f32, weight_decay as f32, nesterov
    ));
    let path = SimdPath::current()?;
    let grad = device::slice(grad, operation)?;
    let grad = &*grad;
    let (rate, momentum, decay) = (rate as f32, momentum as f32, weight_decay as f32);
    device::update(velocity, operation, |velocity| {
        let velocity = SharedMut::new(velocity);
        device::update(parameter, operation, |parameter| {
            let parameter = SharedMut::new(parameter);
            for_each_range(grad.len(), |range| {
                // SAFETY: the ranges of different pieces do not overlap, and the tensors have separate storages.
                let (parameter, velocity) = unsafe { (parameter.part(range.clone()), velocity.part(range.clone())) };
                sgd_slice(path, parameter, velocity, &grad[range], rate, momentum, decay, nesterov);
            });
            Ok(())
        })
    })
}

/// One parameter of [`sgd_steps`]: tensors of one shape.
#[derive(Clone, Copy)]
pub struct SgdSlot<'a> {
    /// Moved in place.
    pub parameter: &'a Tensor,
    /// Its gradient.
    pub grad: &'a Tensor,
    /// Changed in place.
    pub velocity: &'a Tensor,
}

/// [`sgd_step`] of many parameters; on a GPU in one launch.
///
/// # Errors
/// As [`sgd_step`].
pub fn sgd_steps(slots: &[SgdSlot], rate: f64, momentum: f64, weight_decay: f64, nesterov: bool) -> Result<()> {
    #[cfg(feature = "cuda")]
    if let Some(slots) = sgd_slots_on_gpu(slots)? {
        let rates = [rate as f32];
        let rates = crate::cuda::Rates::Numbers(&rates);
        return crate::cuda::sgd(&slots, rates, momentum as f32, weight_decay as f32, nesterov);
    }
    slots
        .iter()
        .try_for_each(|slot| sgd_step(slot.parameter, slot.grad, slot.velocity, rate, momentum, weight_decay, nesterov))
}

/// As [`sgd_steps`], with the rate in a tensor (1,) on the device of the parameters: a [recorded](crate::Recording) step reads it
/// there each time.
///
/// # Errors
/// As [`sgd_step`], or if there is not one rate.
pub fn sgd_steps_at(slots: &[SgdSlot], rates: &Tensor, momentum: f64, weight_decay: f64, nesterov: bool) -> Result<()> {
    check_rates("sgd_step", rates, 1)?;
    #[cfg(feature = "cuda")]
    if let Some(slots) = sgd_slots_on_gpu(slots)? {
        let rates = crate::cuda::Rates::Tensor(rates);
        return crate::cuda::sgd(&slots, rates, momentum as f32, weight_decay as f32, nesterov);
    }
    let rate = f64::from(device::slice(rates, "sgd_step")?[0]);
    sgd_steps(slots, rate, momentum, weight_decay, nesterov)
}

/// The slots, if they are on a GPU.
#[cfg(feature = "cuda")]
fn sgd_slots_on_gpu<'a>(slots: &[SgdSlot<'a>]) -> Result<Option<Vec<crate::cuda::Slot<'a>>>> {
    if !slots.first().is_some_and(|slot| slot.parameter.device().is_cuda()) {
        return Ok(None);
    }
    let on_gpu = |&SgdSlot { parameter, grad, velocity }: &SgdSlot<'a>| {
        check("sgd_step", parameter, &[grad, velocity])?;
        Ok(crate::cuda::Slot { parameter: Some(parameter), grad, first: Some(velocity), second: None })
    };
    slots.iter().map(on_gpu).collect::<Result<_>>().map(Some)
}

fn check_rates(operation: &str, rates: &Tensor, count: usize) -> Result<()> {
    if rates.elem_count() != count {
        bail!("{operation}: the tensor of rates has {} numbers, not {count}", rates.elem_count());
    }
    Ok(())
}

/// The constants of Adam's step, as its loop wants them.
#[derive(Clone, Copy)]
struct AdamConstants {
    beta1: f32,
    beta2: f32,
    decay: f32,
    eps: f32,
    /// Rate over the first moment's bias correction.
    rate: f32,
    /// One over the square root of the second moment's.
    second: f32,
}

impl AdamConstants {
    fn new(step: u64, rate: f64, beta1: f64, beta2: f64, eps: f64, weight_decay: f64) -> Self {
        let step = step as f64;
        Self {
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            decay: weight_decay as f32,
            eps: eps as f32,
            rate: (rate / (1.0 - beta1.powf(step))) as f32,
            second: (1.0 / (1.0 - beta2.powf(step)).sqrt()) as f32,
        }
    }

    #[cfg(feature = "cuda")]
    fn on_gpu(self, slots: &[crate::cuda::Slot]) -> Result<()> {
        self.on_gpu_at(slots, crate::cuda::Rates::Numbers(&[self.rate, self.second]))
    }

    #[cfg(feature = "cuda")]
    fn on_gpu_at(self, slots: &[crate::cuda::Slot], rates: crate::cuda::Rates) -> Result<()> {
        crate::cuda::adam(slots, rates, (self.beta1, self.beta2), self.eps, self.decay)
    }
}

/// What of Adam's step `step` (from 1) depends on the step: what [`adam_steps_at`] takes.
pub fn adam_rates(step: u64, rate: f64, beta1: f64, beta2: f64) -> [f32; 2] {
    let constants = AdamConstants::new(step, rate, beta1, beta2, 0.0, 0.0);
    [constants.rate, constants.second]
}

vectorised! {
    fn adam_slice(parameter: &mut [f32], first: &mut [f32], second: &mut [f32], grad: &[f32], constants: AdamConstants) {
        let AdamConstants { beta1, beta2, decay, eps, rate, second: correction } = constants;
        for (((parameter, m), v), &grad) in parameter.iter_mut().zip(first).zip(second).zip(grad) {
            let grad = grad + decay * *parameter;
            *m += (grad - *m) * (1.0 - beta1);
            *v = beta2 * *v + (1.0 - beta2) * grad * grad;
            *parameter -= rate * *m / (v.sqrt() * correction + eps);
        }
    }
}

/// One step of Adam, PyTorch's rule: `g = grad + weight_decay · p`, the moving averages m and v of g and g²,
/// `p −= rate · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + eps)`, where `step` is t, 1 for the first.
///
/// m and v start as zeros. The weight decay is that of `torch.optim.Adam`: part of the gradient.
///
/// # Errors
/// If shapes differ, two of the tensors share a storage, or the step is 0.
#[expect(clippy::too_many_arguments, reason = "the formula has that many symbols")]
pub fn adam_step(
    parameter: &Tensor,
    grad: &Tensor,
    m: &Tensor,
    v: &Tensor,
    step: u64,
    rate: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
) -> Result<()> {
    let operation = "adam_step";
    check(operation, parameter, &[grad, m, v])?;
    if step == 0 {
        bail!("{operation}: steps count from 1");
    }
    let constants = AdamConstants::new(step, rate, beta1, beta2, eps, weight_decay);
    adam_update(operation, AdamSlot { parameter, grad, m, v }, constants)
}

fn adam_update(operation: &'static str, slot: AdamSlot, constants: AdamConstants) -> Result<()> {
    let AdamSlot { parameter, grad, m, v } = slot;
    #[cfg(feature = "cuda")]
    if parameter.device().is_cuda() {
        let slot = crate::cuda::Slot { parameter: Some(parameter), grad, first: Some(m), second: Some(v) };
        return constants.on_gpu(&[slot]);
    }
    let path = SimdPath::current()?;
    let grad = device::slice(grad, operation)?;
    let grad = &*grad;
    device::update(m, operation, |m| {
        let m = SharedMut::new(m);
        device::update(v, operation, |v| {
            let v = SharedMut::new(v);
            device::update(parameter, operation, |parameter| {
                let parameter = SharedMut::new(parameter);
                for_each_range(grad.len(), |range| {
                    // SAFETY: the ranges of different pieces do not overlap, and the tensors have separate storages.
                    let (parameter, m, v) =
                        unsafe { (parameter.part(range.clone()), m.part(range.clone()), v.part(range.clone())) };
                    adam_slice(path, parameter, m, v, &grad[range], constants);
                });
                Ok(())
            })
        })
    })
}

/// One parameter of [`adam_steps`]: tensors of one shape.
#[derive(Clone, Copy)]
pub struct AdamSlot<'a> {
    /// Moved in place.
    pub parameter: &'a Tensor,
    /// Its gradient.
    pub grad: &'a Tensor,
    /// Moving average of the gradient, changed in place.
    pub m: &'a Tensor,
    /// Moving average of its square, changed in place.
    pub v: &'a Tensor,
}

/// [`adam_step`] of many parameters; on a GPU in one launch.
///
/// # Errors
/// As [`adam_step`].
pub fn adam_steps(
    slots: &[AdamSlot],
    step: u64,
    rate: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
) -> Result<()> {
    #[cfg(feature = "cuda")]
    if step > 0
        && let Some(slots) = adam_slots_on_gpu(slots)?
    {
        return AdamConstants::new(step, rate, beta1, beta2, eps, weight_decay).on_gpu(&slots);
    }
    slots.iter().try_for_each(|slot| {
        adam_step(slot.parameter, slot.grad, slot.m, slot.v, step, rate, beta1, beta2, eps, weight_decay)
    })
}

/// As [`adam_steps`], with [`adam_rates`] in a tensor (2,) on the device of the parameters: a [recorded](crate::Recording) step
/// reads it there each time.
///
/// # Errors
/// As [`adam_step`], or if there are not two rates.
pub fn adam_steps_at(
    slots: &[AdamSlot],
    rates: &Tensor,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
) -> Result<()> {
    let operation = "adam_step";
    check_rates(operation, rates, 2)?;
    let constants = AdamConstants::new(1, 0.0, beta1, beta2, eps, weight_decay);
    #[cfg(feature = "cuda")]
    if let Some(slots) = adam_slots_on_gpu(slots)? {
        return constants.on_gpu_at(&slots, crate::cuda::Rates::Tensor(rates));
    }
    let (rate, second) = {
        let rates = device::slice(rates, operation)?;
        (rates[0], rates[1])
    };
    slots.iter().try_for_each(|&slot| {
        check(operation, slot.parameter, &[slot.grad, slot.m, slot.v])?;
        adam_update(operation, slot, AdamConstants { rate, second, ..constants })
    })
}

/// The slots, if they are on a GPU.
#[cfg(feature = "cuda")]
fn adam_slots_on_gpu<'a>(slots: &[AdamSlot<'a>]) -> Result<Option<Vec<crate::cuda::Slot<'a>>>> {
    if !slots.first().is_some_and(|slot| slot.parameter.device().is_cuda()) {
        return Ok(None);
    }
    let on_gpu = |&AdamSlot { parameter, grad, m, v }: &AdamSlot<'a>| {
        check("adam_step", parameter, &[grad, m, v])?;
        Ok(crate::cuda::Slot { parameter: Some(parameter), grad, first: Some(m), second: Some(v) })
    };
    slots.iter().map(on_gpu).collect::<Result<_>>().map(Some)
}

/// `√ Σ x²` over all numbers of all tensors, in f64: the norm of a whole gradient, as a tensor of rank 0. No tensors have none.
///
/// # Errors
/// If a tensor is not contiguous `f32`.
pub fn norm_of_all(tensors: &[&Tensor]) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if tensors.first().is_some_and(|tensor| tensor.device().is_cuda()) {
        let slots = tensors.iter().map(|&grad| crate::cuda::Slot { parameter: None, grad, first: None, second: None });
        return crate::cuda::norm(&slots.collect::<Vec<_>>());
    }
    let mut squares = 0.0;
    for tensor in tensors {
        let numbers = device::slice(tensor, "norm_of_all")?;
        squares += sum_pairs(&numbers, &numbers, |x, y| x * y)?;
    }
    scalar_tensor(squares.sqrt())
}

/// `target += amount · (source − target)`, in place: running statistics and averaged weights.
///
/// # Errors
/// If the shapes differ, or both share a storage.
pub fn lerp_assign(target: &Tensor, source: &Tensor, amount: f64) -> Result<()> {
    let amount = amount as f32;
    on_gpu!(target => crate::cuda::lerp_assign(target, source, amount));
    change("lerp_assign", target, source, |target, source| target + amount * (source - target))
}

/// `target = source`, in place.
///
/// # Errors
/// If the shapes differ, or both share a storage.
pub fn copy_assign(target: &Tensor, source: &Tensor) -> Result<()> {
    on_gpu!(target => crate::cuda::copy_assign(target, source));
    change("copy_assign", target, source, |_, source| source)
}

fn check(operation: &str, parameter: &Tensor, others: &[&Tensor]) -> Result<()> {
    for other in others {
        check_same_shape(operation, parameter, other)?;
    }
    let mut all = vec![parameter];
    all.extend(others);
    check_separate(operation, &all)
}

fn for_each_range(len: usize, work: impl Fn(std::ops::Range<usize>) + Sync + Send) {
    let piece = rows_per_piece(1);
    for_each_piece(len.div_ceil(piece), |index| work(index * piece..((index + 1) * piece).min(len)));
}
