//! The operations of a larger tensor and a smaller one that is repeated over it.

use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;

use super::spread::Spread;
use crate::device;
use crate::simd::SimdPath;
use crate::vectorised::vectorised;

/// One of the four operations, or a ReLU with slopes of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    /// The larger operand where it is positive, its product with the smaller elsewhere.
    Prelu,
}

/// An operation of a larger and a smaller tensor; the smaller is the first operand where they are `swapped`.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) name: &'static str,
    pub(crate) operation: Operation,
    pub(crate) swapped: bool,
    pub(crate) spread: Spread,
    /// How the smaller tensor is stored, which its gradient is, too.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the CPU stores all in f32"))]
    pub(crate) small_stored: DType,
}

impl Pair {
    pub(super) fn keeps_large(&self, to_large: bool, to_small: bool) -> bool {
        match self.operation {
            Operation::Add | Operation::Subtract => false,
            Operation::Multiply => to_small,
            Operation::Divide => to_small || (to_large && self.swapped),
            Operation::Prelu => true,
        }
    }

    pub(super) fn keeps_small(&self, to_large: bool, to_small: bool) -> bool {
        match self.operation {
            Operation::Add | Operation::Subtract => false,
            Operation::Multiply | Operation::Prelu => to_large,
            Operation::Divide => to_large || (to_small && !self.swapped),
        }
    }

    pub(super) fn forward(&self, large: &Tensor, small: &Tensor) -> Result<Tensor> {
        on_gpu!(large => crate::cuda::pair_forward(self, large, small));
        match (self.operation, self.swapped) {
            (Operation::Add, _) => self.each(large, large, Some(small), |_, l, s| l + s),
            (Operation::Subtract, false) => self.each(large, large, Some(small), |_, l, s| l - s),
            (Operation::Subtract, true) => self.each(large, large, Some(small), |_, l, s| s - l),
            (Operation::Multiply, _) => self.each(large, large, Some(small), |_, l, s| l * s),
            (Operation::Divide, false) => self.each(large, large, Some(small), |_, l, s| l / s),
            (Operation::Divide, true) => self.each(large, large, Some(small), |_, l, s| s / l),
            (Operation::Prelu, _) => self.each(large, large, Some(small), |_, l, s| if l > 0.0 { l } else { l * s }),
        }
    }

    /// The gradient of the larger tensor.
    pub(super) fn gradient_of_large(&self, grad: &Tensor, large: &Tensor, small: Option<&Tensor>) -> Result<Tensor> {
        on_gpu!(grad => crate::cuda::pair_to_large(self, grad, large, small));
        match (self.operation, self.swapped) {
            (Operation::Add, _) | (Operation::Subtract, false) => Ok(grad.clone()),
            (Operation::Subtract, true) => self.each(grad, large, small, |g, _, _| -g),
            (Operation::Multiply, _) => self.each(grad, large, small, |g, _, s| g * s),
            (Operation::Divide, false) => self.each(grad, large, small, |g, _, s| g / s),
            (Operation::Divide, true) => self.each(grad, large, small, |g, l, s| -g * s / (l * l)),
            (Operation::Prelu, _) => self.each(grad, large, small, |g, l, s| if l > 0.0 { g } else { g * s }),
        }
    }

    /// The gradient of the smaller tensor, as a list of numbers.
    pub(super) fn gradient_of_small(&self, grad: &Tensor, large: &Tensor, small: Option<&Tensor>) -> Result<Tensor> {
        on_gpu!(grad => crate::cuda::pair_to_small(self, grad, large, small));
        match (self.operation, self.swapped) {
            (Operation::Add, _) | (Operation::Subtract, true) => self.sums(grad, large, small, |g, _, _| g),
            (Operation::Subtract, false) => self.sums(grad, large, small, |g, _, _| -g),
            (Operation::Multiply, _) => self.sums(grad, large, small, |g, l, _| g * l),
            (Operation::Divide, false) => self.sums(grad, large, small, |g, l, s| -g * l / (s * s)),
            (Operation::Divide, true) => self.sums(grad, large, small, |g, l, _| g / l),
            (Operation::Prelu, _) => self.sums(grad, large, small, |g, l, _| if l > 0.0 { 0.0 } else { g * l }),
        }
    }

    /// A tensor of `f` of each number of two tensors of the larger shape and its partner of the smaller.
    fn each(
        &self,
        first: &Tensor,
        second: &Tensor,
        small: Option<&Tensor>,
        f: impl Fn(f32, f32, f32) -> f32 + Sync,
    ) -> Result<Tensor> {
        let (path, spread) = (SimdPath::current()?, self.spread);
        let shape = first.shape();
        let (first, second) = (device::slice(first, self.name)?, device::slice(second, self.name)?);
        let zeros = vec![0.0; if small.is_none() { spread.small_len() } else { 0 }];
        let small = small.map(|small| device::slice(small, self.name)).transpose()?;
        let (first, second, small) = (&*first, &*second, small.as_deref().unwrap_or(&zeros));
        self.check(first, second)?;
        let mut out = device::unspecified(first.len());
        out.par_chunks_mut(spread.image_len()).enumerate().for_each(|(image, out)| {
            let pattern = if spread.steps[1] == 0 { spread.pattern(small, image) } else { Vec::new() };
            out.par_chunks_mut(spread.piece() * spread.channels).enumerate().for_each(|(piece, out)| {
                let pixel = piece * spread.piece();
                let start = image * spread.image_len() + pixel * spread.channels;
                let (first, second) = (&first[start..start + out.len()], &second[start..start + out.len()]);
                if spread.steps[1] == 0 {
                    return each_of_pattern(path, first, second, &pattern, out, &f);
                }
                let channels = spread.channels;
                let pixels = first.chunks(channels).zip(second.chunks(channels)).zip(out.chunks_mut(channels));
                for (index, ((first, second), out)) in pixels.enumerate() {
                    let small = &small[spread.at(image, pixel + index)..];
                    if spread.steps[2] == 0 {
                        each_of_number(path, first, second, small[0], out, &f);
                    } else {
                        each_of_pattern(path, first, second, &small[..channels], out, &f);
                    }
                }
            });
        });
        device::tensor(out, shape)
    }

    /// The sums of `f` over all numbers that each number of the smaller tensor belongs to, in the order of the pieces.
    fn sums(
        &self,
        first: &Tensor,
        second: &Tensor,
        small: Option<&Tensor>,
        f: impl Fn(f32, f32, f32) -> f32 + Sync + Send,
    ) -> Result<Tensor> {
        let (path, spread) = (SimdPath::current()?, self.spread);
        let (first, second) = (device::slice(first, self.name)?, device::slice(second, self.name)?);
        let zeros = vec![0.0; if small.is_none() { spread.small_len() } else { 0 }];
        let small = small.map(|small| device::slice(small, self.name)).transpose()?;
        let (first, second, small) = (&*first, &*second, small.as_deref().unwrap_or(&zeros));
        self.check(first, second)?;
        let channels = spread.channels;
        let mut total = vec![0.0_f64; spread.small_len()];
        if spread.steps[1] == 0 {
            let pieces = spread.pieces();
            let sums = pieces.par_iter().map(|&(image, pixel)| {
                let start = image * spread.image_len() + pixel * channels;
                let end = start + spread.piece().min(spread.pixels - pixel) * channels;
                let pattern = spread.pattern(small, image);
                let mut sums = vec![0.0; pattern.len()];
                add_each_of_pattern(path, &first[start..end], &second[start..end], &pattern, &mut sums, &f);
                sums
            });
            for (sums, (image, _)) in sums.collect::<Vec<_>>().into_iter().zip(&pieces) {
                for (lane, sum) in sums.into_iter().enumerate() {
                    total[spread.at(*image, 0) + lane % channels * spread.steps[2]] += f64::from(sum);
                }
            }
        } else {
            for image in 0..spread.images {
                for pixel in 0..spread.pixels {
                    let (start, at) = ((image * spread.pixels + pixel) * channels, spread.at(image, pixel));
                    for channel in 0..channels {
                        let at = at + channel * spread.steps[2];
                        total[at] += f64::from(f(first[start + channel], second[start + channel], small[at]));
                    }
                }
            }
        }
        let len = total.len();
        device::tensor(total.into_iter().map(|sum| sum as f32).collect(), len)
    }

    fn check(&self, first: &[f32], second: &[f32]) -> Result<()> {
        let wanted = self.spread.len();
        if first.len() != wanted || second.len() != wanted {
            bail!("{}: a gradient of {} numbers arrived for an output of {wanted}", self.name, first.len());
        }
        Ok(())
    }
}

vectorised! {
    fn each_of_pattern<F: Fn(f32, f32, f32) -> f32>(
        first: &[f32], second: &[f32], pattern: &[f32], out: &mut [f32], f: &F,
    ) {
        let lanes = pattern.len();
        for ((first, second), out) in first.chunks(lanes).zip(second.chunks(lanes)).zip(out.chunks_mut(lanes)) {
            for (((out, &first), &second), &small) in out.iter_mut().zip(first).zip(second).zip(pattern) {
                *out = f(first, second, small);
            }
        }
    }
}

vectorised! {
    fn each_of_number<F: Fn(f32, f32, f32) -> f32>(
        first: &[f32], second: &[f32], small: f32, out: &mut [f32], f: &F,
    ) {
        for ((out, &first), &second) in out.iter_mut().zip(first).zip(second) {
            *out = f(first, second, small);
        }
    }
}

vectorised! {
    fn add_each_of_pattern<F: Fn(f32, f32, f32) -> f32>(
        first: &[f32], second: &[f32], pattern: &[f32], sums: &mut [f32], f: &F,
    ) {
        let lanes = pattern.len();
        for (first, second) in first.chunks(lanes).zip(second.chunks(lanes)) {
            for (((sum, &first), &second), &small) in sums.iter_mut().zip(first).zip(second).zip(pattern) {
                *sum += f(first, second, small);
            }
        }
    }
}
