//! What is read off logits (B, K): classes, probabilities, and how two networks differ. No gradient flows through it.
//!
//! Results stay on the device of the logits, but for those of [`argmax`] and [`confidence`], for which a GPU is waited for.

use candle_core::{Device, Result, Tensor};

use crate::device;
use crate::elementwise::scalar_tensor;
use crate::loss::check_temperature;
use crate::softmax::{Pair, Softmax};
use crate::table::Table;
use crate::vectorised::check_same_shape;

/// The class with the largest logit in every row of (B, K), the first of equals.
pub fn argmax(logits: &Tensor) -> Result<Vec<u32>> {
    argmax_rows(logits)?.to_vec1()
}

/// As [`argmax`], as a tensor (B,) of `u32`.
pub fn argmax_rows(logits: &Tensor) -> Result<Tensor> {
    let table = Table::of("argmax", logits)?;
    on_gpu!(logits => crate::cuda::argmax_rows("argmax", logits));
    let classes = table.map_rows("argmax", logits, |_, logits| first_largest(logits))?;
    Tensor::from_vec(classes, table.rows, &Device::Cpu)
}

fn first_largest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (class, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = class;
        }
    }
    best as u32
}

/// The largest probability in every row of logits (B, K).
pub fn confidence(logits: &Tensor) -> Result<Vec<f32>> {
    let table = Table::of("confidence", logits)?;
    let logits = &device::on_cpu(logits)?;
    table.map_softmax("confidence", logits, |[softmax, _], _, logits| confidence_of(softmax, logits))
}

fn confidence_of(softmax: &mut Softmax, logits: &[f32]) -> f32 {
    softmax.set(logits, 1.0);
    softmax.largest() as f32
}

/// `of_class[c] · (1 − p)^γ` of every row (B,), where c is the class with the largest logit and p its probability: the weights
/// of the focal loss, times one number for each of the K classes.
///
/// # Errors
/// If there is not one number for each class.
pub fn focal_weights(logits: &Tensor, of_class: &Tensor, gamma: f64) -> Result<Tensor> {
    let operation = "focal_weights";
    let table = Table::of(operation, logits)?;
    if of_class.elem_count() != table.classes {
        candle_core::bail!(
            "{operation}: takes one number for each of the {} classes, got {}",
            table.classes,
            of_class.elem_count()
        );
    }
    on_gpu!(logits => crate::cuda::focal_weights(operation, logits, of_class, gamma));
    let of_class = device::slice(of_class, operation)?;
    let of_class = &*of_class;
    let weights = table.map_softmax(operation, logits, |[softmax, _], _, logits| {
        let doubt = f64::from(1.0 - confidence_of(softmax, logits)).max(0.0);
        of_class[first_largest(logits) as usize] * doubt.powf(gamma) as f32
    })?;
    device::tensor(weights, table.rows)
}

/// KL(softmax(target_logitsᵢ / T) ‖ softmax(logitsᵢ / T)) of every row of logits (B, K): a tensor (B,).
///
/// # Errors
/// If the shapes differ, or the temperature is not finite and positive.
pub fn kl_per_sample(target_logits: &Tensor, logits: &Tensor, temperature: f64) -> Result<Tensor> {
    let operation = "kl_per_sample";
    let table = Table::of(operation, logits)?;
    check_same_shape(operation, target_logits, logits)?;
    check_temperature(operation, temperature)?;
    on_gpu!(logits => crate::cuda::kl_per_sample(operation, target_logits, logits, temperature));
    let target_numbers = device::slice(target_logits, operation)?;
    let target_numbers = &*target_numbers;
    let divergences = table.map_softmax(operation, logits, |scratch, row, logits| {
        let target = &target_numbers[row * table.classes..(row + 1) * table.classes];
        Pair::new(scratch, target, logits, temperature).divergence() as f32
    })?;
    device::tensor(divergences, table.rows)
}

/// 1 for every row of logits (B, K) whose largest entry is of the same class in `a` and in `b`, else 0: a tensor (B,).
///
/// # Errors
/// If the shapes differ.
pub fn same_argmax(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let operation = "same_argmax";
    let table = Table::of(operation, a)?;
    check_same_shape(operation, a, b)?;
    on_gpu!(a => crate::cuda::same_argmax(operation, a, b));
    device::tensor(same(operation, table, a, b)?, table.rows)
}

/// The share of the rows of logits (B, K) whose largest entry is of the same class in `a` and in `b`: a tensor of rank 0.
///
/// # Errors
/// If the shapes differ.
pub fn agreement(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let operation = "agreement";
    let table = Table::of(operation, a)?;
    check_same_shape(operation, a, b)?;
    on_gpu!(a => crate::cuda::mean(operation, &crate::cuda::same_argmax(operation, a, b)?));
    // Counts are exact, so this is the nearest number to their ratio.
    scalar_tensor(same(operation, table, a, b)?.iter().map(|&same| f64::from(same)).sum::<f64>() / table.rows as f64)
}

fn same(operation: &str, table: Table, a: &Tensor, b: &Tensor) -> Result<Vec<f32>> {
    let b = device::slice(b, operation)?;
    let b = &*b;
    table.map_rows(operation, a, |row, a| {
        let b = &b[row * table.classes..(row + 1) * table.classes];
        if first_largest(a) == first_largest(b) { 1.0 } else { 0.0 }
    })
}

/// The mean of every `count` numbers of a tensor (B · `count`,): a tensor (B,).
///
/// # Errors
/// If there are no numbers, or not as many as whole means take.
pub fn group_means(x: &Tensor, count: usize) -> Result<Tensor> {
    let operation = "group_means";
    let total = x.elem_count();
    if count == 0 || total == 0 || !total.is_multiple_of(count) {
        candle_core::bail!("{operation}: {total} numbers are not those of whole groups of {count}");
    }
    if count == 1 {
        return Ok(x.clone());
    }
    on_gpu!(x => crate::cuda::group_means(operation, x, count));
    let numbers = device::slice(x, operation)?;
    let mean = |group: &[f32]| (group.iter().map(|&x| f64::from(x)).sum::<f64>() / count as f64) as f32;
    device::tensor(numbers.chunks_exact(count).map(mean).collect(), total / count)
}
