//! Sums over all numbers, and arithmetic with single numbers, on a GPU: none of them comes back to the program.

use candle_core::{Result, Shape, Tensor};

use super::gpu::{BLOCK, Gpu, count};
use super::program::{Argument, arguments};
use crate::value::Value;

/// How `sum_pairs` measures a pair; as in `kernels/reduce.cu`.
#[derive(Clone, Copy)]
enum Measure {
    Sum = 0,
    Squares = 1,
    Absolute = 2,
    DifferenceSquares = 3,
}

/// `factor · Σ measure(a, b)`, or its root: as a tensor of rank 0; and the root without the factor, in f64.
fn sum_pairs(
    operation: &str,
    (a, b): (&Tensor, &Tensor),
    measure: Measure,
    rooted: bool,
    factor: f64,
) -> Result<(Tensor, Tensor)> {
    let gpu = Gpu::of(a, operation)?;
    let n = a.elem_count();
    let (out, to) = gpu.tensor(())?;
    let (whole, whole_at) = gpu.tensor_of::<f64>(())?;
    let (a, b) = (gpu.at(a, operation)?, gpu.at(b, operation)?);
    let blocks = (n / 4096).clamp(1, 2 * gpu.blocks() as usize);
    let (scratch, counters) = (gpu.scratch(), gpu.counters());
    let arguments =
        arguments![a, b, count(n), measure as i32, i32::from(rooted), factor, scratch, counters, to, whole_at];
    gpu.launch("sum_pairs", (count(blocks), 1), arguments)?;
    Ok((out, whole))
}

/// The mean of all numbers, as a tensor of rank 0; there is at least one.
pub(crate) fn mean(operation: &str, x: &Tensor) -> Result<Tensor> {
    Ok(sum_pairs(operation, (x, x), Measure::Sum, false, 1.0 / x.elem_count() as f64)?.0)
}

/// `factor · Σ x`.
pub(crate) fn sum(operation: &'static str, x: &Value, factor: f64) -> Result<Value> {
    let (out, _) = sum_pairs(operation, (x.tensor(), x.tensor()), Measure::Sum, false, factor)?;
    let shape = x.tensor().shape().clone();
    Ok(Value::record1(out, &[x], move |flow| {
        let gpu = Gpu::of(flow, operation)?;
        let n = shape.elem_count();
        let (grad, to) = gpu.tensor(shape.clone())?;
        gpu.launch_each("fill_by", n, arguments![gpu.at(flow, operation)?, to, count(n), factor])?;
        Ok(vec![Some(grad)])
    }))
}

/// `‖x − target‖₂`.
pub(crate) fn l2_distance(x: &Value, target: &Tensor) -> Result<Value> {
    let operation = "l2_distance";
    let pair = (x.tensor(), target);
    let (out, norm) = sum_pairs(operation, pair, Measure::DifferenceSquares, true, 1.0)?;
    let (kept, target) = (x.tensor().clone(), target.clone());
    Ok(Value::record1(out, &[x], move |flow| Ok(vec![Some(pulled(operation, &kept, &target, flow, &norm)?)])))
}

/// `‖x − target‖₂ / ‖target‖₂`.
pub(crate) fn relative_distance(x: &Value, target: &Tensor) -> Result<Value> {
    let operation = "relative_distance";
    let gpu = Gpu::of(target, operation)?;
    let (_, distance) = sum_pairs(operation, (x.tensor(), target), Measure::DifferenceSquares, true, 1.0)?;
    let (_, norm) = sum_pairs(operation, (target, target), Measure::Squares, true, 1.0)?;
    let (out, to) = gpu.tensor(())?;
    let (denominator, denominator_at) = gpu.tensor_of::<f64>(())?;
    let (distance, norm) = (gpu.address::<f64>(&distance, operation)?, gpu.address::<f64>(&norm, operation)?);
    gpu.launch("relative", (1, 1), arguments![distance, norm, to, denominator_at])?;
    let (kept, target) = (x.tensor().clone(), target.clone());
    Ok(Value::record1(out, &[x], move |flow| Ok(vec![Some(pulled(operation, &kept, &target, flow, &denominator)?)])))
}

/// `(x − target) · flow / norm`, 0 where the norm is.
fn pulled(operation: &str, x: &Tensor, target: &Tensor, flow: &Tensor, norm: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(x, operation)?;
    let n = x.elem_count();
    let (out, to) = gpu.tensor(x.shape().clone())?;
    let (x, target, flow) = (gpu.at(x, operation)?, gpu.at(target, operation)?, gpu.at(flow, operation)?);
    let arguments = arguments![x, target, flow, gpu.address::<f64>(norm, operation)?, to, count(n)];
    gpu.launch_each("distance_backward", n.div_ceil(4), arguments)?;
    Ok(out)
}

/// The mean of |a − b|.
pub(crate) fn mean_absolute_difference(a: &Value, b: &Value) -> Result<Value> {
    let operation = "mean_absolute_difference";
    let n = a.tensor().elem_count();
    let share = 1.0 / n as f64;
    let (out, _) = sum_pairs(operation, (a.tensor(), b.tensor()), Measure::Absolute, false, share)?;
    let (a_wants, b_wants) = (a.wants_gradient(), b.wants_gradient());
    let (kept_a, kept_b) = (a.tensor().clone(), b.tensor().clone());
    Ok(Value::record1(out, &[a, b], move |flow| {
        let gpu = Gpu::of(flow, operation)?;
        let pull = |factor: f64| -> Result<Tensor> {
            let (out, to) = gpu.tensor(kept_a.shape().clone())?;
            let (a, b) = (gpu.at(&kept_a, operation)?, gpu.at(&kept_b, operation)?);
            gpu.launch_each("pull", n.div_ceil(4), arguments![a, b, gpu.at(flow, operation)?, to, count(n), factor])?;
            Ok(out)
        };
        Ok(vec![a_wants.then(|| pull(share)).transpose()?, b_wants.then(|| pull(-share)).transpose()?])
    }))
}

/// Terms that one launch adds up.
const TERMS: usize = 48;

/// As the kernels have it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Terms {
    term: [u64; TERMS],
    factor: [f64; TERMS],
    count: i32,
}

impl Terms {
    fn of(terms: impl Iterator<Item = (u64, f64)>) -> Self {
        let mut all = Self { term: [0; TERMS], factor: [0.0; TERMS], count: 0 };
        for (at, (term, factor)) in terms.take(TERMS).enumerate() {
            all.term[at] = term;
            all.factor[at] = factor;
            all.count += 1;
        }
        all
    }
}

/// `Σ factor · term`; there is at least one, each of one number.
pub(crate) fn weighted_sum(terms: &[(f64, &Value)]) -> Result<Value> {
    let operation = "weighted_sum";
    let gpu = Gpu::of(terms[0].1.tensor(), operation)?;
    let (out, to) = gpu.tensor(())?;
    let mut base: Option<Tensor> = None;
    for some in terms.chunks(TERMS) {
        let at = some.iter().map(|(_, term)| gpu.at(term.tensor(), operation)).collect::<Result<Vec<_>>>()?;
        let some = Terms::of(at.into_iter().zip(some.iter().map(|(factor, _)| *factor)));
        let before = base.as_ref().map_or(Ok(0), |base| gpu.address::<f64>(base, operation))?;
        let (whole, whole_at) = gpu.tensor_of::<f64>(())?;
        gpu.launch("weighted_sum", (1, 1), arguments![Argument::of(&some), before, whole_at, to])?;
        base = Some(whole);
    }
    let back = terms.iter().map(|(factor, term)| (*factor, term.wants_gradient(), term.tensor().shape().clone()));
    let back = back.collect::<Vec<(f64, bool, Shape)>>();
    let inputs = terms.iter().map(|(_, term)| *term).collect::<Vec<_>>();
    Ok(Value::record1(out, &inputs, move |flow| {
        let gpu = Gpu::of(flow, operation)?;
        let flow = gpu.at(flow, operation)?;
        let mut grads = Vec::with_capacity(back.len());
        for some in back.chunks(TERMS) {
            let (all, to) = gpu.tensor(some.len())?;
            let factors = Terms::of(some.iter().map(|(factor, ..)| (0, *factor)));
            gpu.launch("weighted_flow", (1, 1), arguments![Argument::of(&factors), flow, to])?;
            for (at, (_, wants, shape)) in some.iter().enumerate() {
                grads.push(wants.then(|| all.narrow(0, at, 1)?.reshape(shape)).transpose()?);
            }
        }
        Ok(grads)
    }))
}

/// Tensors that one launch puts together.
const PIECES: usize = 48;

/// As the kernels have it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Pieces {
    from: [u64; PIECES],
    /// Where each starts in the result, and behind the last one where it ends.
    start: [u32; PIECES + 1],
}

/// All numbers of `tensors`, of which there is at least one, in one tensor (N,).
pub(crate) fn pack(operation: &str, tensors: &[&Tensor]) -> Result<Tensor> {
    let gpu = Gpu::of(tensors[0], operation)?;
    let (out, mut to) = gpu.tensor(tensors.iter().map(|tensor| tensor.elem_count()).sum::<usize>())?;
    for some in tensors.chunks(PIECES) {
        let (mut pieces, mut end, mut largest) = (Pieces { from: [0; PIECES], start: [0; PIECES + 1] }, 0, 0);
        for (at, tensor) in some.iter().enumerate() {
            pieces.from[at] = gpu.at(tensor, operation)?;
            largest = largest.max(tensor.elem_count());
            end += count(tensor.elem_count());
            pieces.start[at + 1] = end;
        }
        let grid = (count(largest.div_ceil(BLOCK as usize)), count(some.len()));
        gpu.launch("pack", grid, arguments![Argument::of(&pieces), to])?;
        to += u64::from(end) * size_of::<f32>() as u64;
    }
    Ok(out)
}
