//! The loops of batch normalisation over one piece of rows, with patterns of per-channel constants.

use crate::activation::ActivationFunction;
use crate::vectorised::vectorised;

/// Where a gradient passes an activation: z = `numbers` · `scale` + `shift` is the activation's input.
///
/// Recomputing it from the normalisation's input spares a pass over the output; where a residual was added, `numbers`
/// is the output itself, or the sum before the activation, with scale 1 and shift 0.
#[derive(Clone, Copy)]
pub(super) struct Gate<'a> {
    pub(super) numbers: &'a [f32],
    pub(super) scale: &'a [f32],
    pub(super) shift: &'a [f32],
}

impl<'a> Gate<'a> {
    #[inline(always)]
    fn block(&self, at: usize, len: usize) -> (&'a [f32], &'a [f32], &'a [f32]) {
        (&self.numbers[at..at + len], &self.scale[..len], &self.shift[..len])
    }
}

vectorised! {
    /// `out = activation(x · scale + shift + residual)`
    pub(super) fn normalise_add<A: ActivationFunction>(
        x: &[f32], residual: &[f32], scale: &[f32], shift: &[f32], out: &mut [f32], activation: A,
    ) {
        for ((x, residual), out) in
            x.chunks(scale.len()).zip(residual.chunks(scale.len())).zip(out.chunks_mut(scale.len()))
        {
            for ((((out, &x), &residual), &scale), &shift) in out.iter_mut().zip(x).zip(residual).zip(scale).zip(shift) {
                *out = activation.forward(x * scale + shift + residual);
            }
        }
    }
}

vectorised! {
    /// Adds the rows of `x` to `sums`, lane by lane.
    pub(super) fn add_rows(x: &[f32], sums: &mut [f32]) {
        for x in x.chunks(sums.len()) {
            for (sum, &x) in sums.iter_mut().zip(x) {
                *sum += x;
            }
        }
    }
}

vectorised! {
    /// Adds `x − center` and its square to `sums` and `squares`, lane by lane.
    pub(super) fn add_deviations(x: &[f32], center: &[f32], sums: &mut [f32], squares: &mut [f32]) {
        for x in x.chunks(sums.len()) {
            for (((sum, square), &x), &center) in sums.iter_mut().zip(squares.iter_mut()).zip(x).zip(center) {
                let deviation = x - center;
                *sum += deviation;
                *square += deviation * deviation;
            }
        }
    }
}

vectorised! {
    /// The gradient before the activation: `out = activation'(z) · grad`.
    pub(super) fn before_activation<A: ActivationFunction>(gate: Gate, grad: &[f32], out: &mut [f32], activation: A) {
        let lanes = gate.scale.len();
        for (index, (grad, out)) in grad.chunks(lanes).zip(out.chunks_mut(lanes)).enumerate() {
            let (numbers, scale, shift) = gate.block(index * lanes, out.len());
            for ((((out, &grad), &z), &scale), &shift) in out.iter_mut().zip(grad).zip(numbers).zip(scale).zip(shift) {
                *out = activation.backward(z * scale + shift, grad);
            }
        }
    }
}

vectorised! {
    /// Adds dz = activation'(z) · grad to `sums`, and dz · (x − mean) to `products`, lane by lane.
    #[expect(clippy::too_many_arguments, reason = "slices, constants and the path")]
    pub(super) fn add_gradients<A: ActivationFunction>(
        gate: Gate, grad: &[f32], x: &[f32], mean: &[f32], sums: &mut [f32], products: &mut [f32], activation: A,
    ) {
        let lanes = sums.len();
        for (index, (grad, x)) in grad.chunks(lanes).zip(x.chunks(lanes)).enumerate() {
            let len = grad.len();
            let (numbers, scale, shift) = gate.block(index * lanes, len);
            let (x, mean) = (&x[..len], &mean[..len]);
            let (sums, products) = (&mut sums[..len], &mut products[..len]);
            for lane in 0..len {
                let before = activation.backward(numbers[lane] * scale[lane] + shift[lane], grad[lane]);
                sums[lane] += before;
                products[lane] += before * (x[lane] - mean[lane]);
            }
        }
    }
}

vectorised! {
    /// `out = factor · dz`
    pub(super) fn scale_gradients<A: ActivationFunction>(gate: Gate, grad: &[f32], factor: &[f32], out: &mut [f32], activation: A) {
        let lanes = factor.len();
        for (index, (grad, out)) in grad.chunks(lanes).zip(out.chunks_mut(lanes)).enumerate() {
            let len = out.len();
            let (numbers, scale, shift) = gate.block(index * lanes, len);
            let (grad, factor) = (&grad[..len], &factor[..len]);
            for lane in 0..len {
                out[lane] = factor[lane] * activation.backward(numbers[lane] * scale[lane] + shift[lane], grad[lane]);
            }
        }
    }
}

/// Per-channel constants of a gradient that depends on the input: slope · (x − mean) + offset.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) mean: &'a [f32],
    pub(super) slope: &'a [f32],
    pub(super) offset: &'a [f32],
}

vectorised! {
    /// `out = factor · dz + slope · (x − mean) + offset`
    #[expect(clippy::too_many_arguments, reason = "slices, constants and the path")]
    pub(super) fn scale_gradients_and_line<A: ActivationFunction>(
        gate: Gate, grad: &[f32], factor: &[f32], x: &[f32], line: Line, out: &mut [f32], activation: A,
    ) {
        let lanes = factor.len();
        for (index, (grad, out)) in grad.chunks(lanes).zip(out.chunks_mut(lanes)).enumerate() {
            let len = out.len();
            let (numbers, scale, shift) = gate.block(index * lanes, len);
            let (grad, factor, x) = (&grad[..len], &factor[..len], &x[index * lanes..index * lanes + len]);
            let (mean, slope, offset) = (&line.mean[..len], &line.slope[..len], &line.offset[..len]);
            for lane in 0..len {
                let before = activation.backward(numbers[lane] * scale[lane] + shift[lane], grad[lane]);
                out[lane] = factor[lane] * before + ((x[lane] - mean[lane]) * slope[lane] + offset[lane]);
            }
        }
    }
}

vectorised! {
    /// `out = slope · (x − mean) + offset`
    pub(super) fn draw_line(x: &[f32], line: Line, out: &mut [f32]) {
        let lanes = line.mean.len();
        for (x, out) in x.chunks(lanes).zip(out.chunks_mut(lanes)) {
            let len = out.len();
            let (mean, slope, offset) = (&line.mean[..len], &line.slope[..len], &line.offset[..len]);
            for lane in 0..len {
                out[lane] = (x[lane] - mean[lane]) * slope[lane] + offset[lane];
            }
        }
    }
}

/// Adds the lanes of a pattern, channel by channel, in f64.
pub(super) fn fold(channels: usize, lanes: &[f32]) -> Vec<f64> {
    let mut sums = vec![0.0; channels];
    for lanes in lanes.chunks_exact(channels) {
        for (sum, &lane) in sums.iter_mut().zip(lanes) {
            *sum += f64::from(lane);
        }
    }
    sums
}
