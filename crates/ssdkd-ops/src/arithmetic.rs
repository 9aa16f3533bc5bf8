//! Sums, differences, products and quotients of two tensors, one of which may be smaller and is then repeated.

use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;

use crate::device;
use crate::simd::SimdPath;
use crate::value::Value;
use crate::vectorised::{map_pairs, pattern_rows, vectorised};

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

/// `a + b`. Either may be smaller: see [`multiply`].
///
/// # Errors
/// As [`multiply`].
pub fn add(a: &Value, b: &Value) -> Result<Value> {
    compute("add", Operation::Add, a, b)
}

/// `a − b`. Either may be smaller: see [`multiply`].
///
/// # Errors
/// As [`multiply`].
pub fn subtract(a: &Value, b: &Value) -> Result<Value> {
    compute("subtract", Operation::Subtract, a, b)
}

/// `a · b`. Both have one shape, or the smaller is repeated over the larger (B, …, C): one number, (C,), (B, 1, …, 1, C) as
/// squeeze-and-excitation has it, one number a pixel (B, H, W, 1), or one image for all (1, H, W, C).
///
/// # Errors
/// If neither shape can be repeated to the other.
pub fn multiply(a: &Value, b: &Value) -> Result<Value> {
    compute("multiply", Operation::Multiply, a, b)
}

/// `a / b`. Either may be smaller: see [`multiply`].
///
/// # Errors
/// As [`multiply`].
pub fn divide(a: &Value, b: &Value) -> Result<Value> {
    compute("divide", Operation::Divide, a, b)
}

/// `x` where it is positive, `slope · x` elsewhere: one slope, one for each channel (C,), or any shape that [`multiply`] repeats
/// over `x`. Slopes may have any sign.
///
/// # Errors
/// If the slopes do not fit `x`.
pub fn prelu(x: &Value, slope: &Value) -> Result<Value> {
    repeated("prelu", Operation::Prelu, x, slope, false)
}

/// How a smaller tensor is repeated over a larger one of images × pixels × channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    pub(crate) images: usize,
    pub(crate) pixels: usize,
    pub(crate) channels: usize,
    /// From one image, pixel and channel to the next, in numbers of the smaller tensor; 0 where it is repeated.
    pub(crate) steps: [usize; 3],
}

impl Spread {
    /// `None` if the shapes do not fit.
    fn new(large: &[usize], small: &[usize]) -> Option<Self> {
        let rank = large.len();
        if small.len() > rank {
            return None;
        }
        let mut sides = vec![1; rank - small.len()];
        sides.extend_from_slice(small);
        if sides.iter().zip(large).any(|(small, large)| small != large && *small != 1) {
            return None;
        }
        let Some((&channels, before)) = large.split_last() else {
            return Some(Self { images: 1, pixels: 1, channels: 1, steps: [0; 3] });
        };
        let (images, middle) = before.split_first().map_or((1, &[][..]), |(images, middle)| (*images, middle));
        let small_middle = if rank >= 2 { &sides[1..rank - 1] } else { &[][..] };
        let (pixels, small_pixels) = (middle.iter().product::<usize>(), small_middle.iter().product::<usize>());
        let (small_images, small_channels) = (if rank >= 2 { sides[0] } else { 1 }, sides[rank - 1]);
        // Rows without columns, or columns without rows, are no pixels.
        if small_pixels != 1 && small_pixels != pixels {
            return None;
        }
        let step = |size: usize, step: usize| if size == 1 { 0 } else { step };
        let steps = [
            step(small_images, small_pixels * small_channels),
            step(small_pixels, small_channels),
            step(small_channels, 1),
        ];
        Some(Self { images, pixels, channels, steps })
    }

    fn image_len(&self) -> usize {
        self.pixels * self.channels
    }

    fn len(&self) -> usize {
        self.images * self.image_len()
    }

    /// Numbers of the smaller tensor.
    pub(crate) fn small_len(&self) -> usize {
        let sizes = [self.images, self.pixels, self.channels];
        sizes.iter().zip(self.steps).map(|(size, step)| if step == 0 { 1 } else { *size }).product()
    }

    /// Which number of the smaller tensor belongs to a pixel's first channel.
    fn at(&self, image: usize, pixel: usize) -> usize {
        image * self.steps[0] + pixel * self.steps[1]
    }

    /// Pixels that one piece of work takes: so many patterns of channels.
    fn piece(&self) -> usize {
        let rows = pattern_rows(self.channels);
        crate::parallel::rows_per_piece(self.channels).div_ceil(rows) * rows
    }

    /// Image and first pixel of each piece of work.
    fn pieces(&self) -> Vec<(usize, usize)> {
        let firsts = |image| (0..self.pixels).step_by(self.piece()).map(move |first| (image, first));
        (0..self.images).flat_map(firsts).collect()
    }

    /// The smaller tensor's numbers for the pixels of an image, where all of them take the same: repeated to a pattern.
    fn pattern(&self, small: &[f32], image: usize) -> Vec<f32> {
        let start = self.at(image, 0);
        let one = (0..self.channels).map(|channel| small[start + channel * self.steps[2]]).collect::<Vec<_>>();
        one.repeat(pattern_rows(self.channels))
    }
}

fn compute(name: &'static str, operation: Operation, a: &Value, b: &Value) -> Result<Value> {
    if a.dims() == b.dims() {
        return same_shape(name, operation, a, b);
    }
    let size = |x: &Value| (x.tensor().elem_count(), x.dims().len());
    let swapped = size(a) < size(b);
    let (large, small) = if swapped { (b, a) } else { (a, b) };
    repeated(name, operation, large, small, swapped)
}

/// The operation of a larger tensor and a smaller one, which is the first operand where they are `swapped`.
fn repeated(name: &'static str, operation: Operation, large: &Value, small: &Value, swapped: bool) -> Result<Value> {
    let fits = Spread::new(large.dims(), small.dims()).filter(|spread| spread.len() > 0);
    let Some(spread) = fits else {
        bail!(
            "{name}: a tensor of shape {:?} cannot be repeated over one of shape {:?}\n\
             hint: a number, (C,), (B, 1, 1, C), (B, H, W, 1) or (1, H, W, C) over (B, H, W, C)",
            small.dims(),
            large.dims()
        );
    };
    let pair = Pair { name, operation, swapped, spread, small_stored: small.tensor().dtype() };
    let out = pair.forward(large.tensor(), small.tensor())?;
    let (to_large, to_small) = (large.wants_gradient(), small.wants_gradient());
    let kept_large = pair.keeps_large(to_large, to_small).then(|| large.tensor().clone());
    let kept_small = pair.keeps_small(to_large, to_small).then(|| small.tensor().clone());
    let small_shape = small.tensor().shape().clone();
    let inputs = if swapped { [small, large] } else { [large, small] };
    Ok(Value::record1(out, &inputs, move |grad| {
        // What an operation does not keep, its gradient does not read.
        let large = kept_large.as_ref().unwrap_or(grad);
        let to_large = to_large.then(|| pair.gradient_of_large(grad, large, kept_small.as_ref())).transpose()?;
        let to_small = to_small.then(|| pair.gradient_of_small(grad, large, kept_small.as_ref())).transpose()?;
        let to_small = to_small.map(|gradient| gradient.reshape(small_shape.clone())).transpose()?;
        Ok(if swapped { vec![to_small, to_large] } else { vec![to_large, to_small] })
    }))
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
    fn keeps_large(&self, to_large: bool, to_small: bool) -> bool {
        match self.operation {
            Operation::Add | Operation::Subtract => false,
            Operation::Multiply => to_small,
            Operation::Divide => to_small || (to_large && self.swapped),
            Operation::Prelu => true,
        }
    }

    fn keeps_small(&self, to_large: bool, to_small: bool) -> bool {
        match self.operation {
            Operation::Add | Operation::Subtract => false,
            Operation::Multiply | Operation::Prelu => to_large,
            Operation::Divide => to_large || (to_small && !self.swapped),
        }
    }

    fn forward(&self, large: &Tensor, small: &Tensor) -> Result<Tensor> {
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
    fn gradient_of_large(&self, grad: &Tensor, large: &Tensor, small: Option<&Tensor>) -> Result<Tensor> {
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
    fn gradient_of_small(&self, grad: &Tensor, large: &Tensor, small: Option<&Tensor>) -> Result<Tensor> {
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

fn same_shape(name: &'static str, operation: Operation, a: &Value, b: &Value) -> Result<Value> {
    let (a_wants, b_wants) = (a.wants_gradient(), b.wants_gradient());
    let out = elementwise(name, operation, [a.tensor(), b.tensor()])?;
    let product = matches!(operation, Operation::Multiply | Operation::Divide);
    let kept_a = (product && b_wants).then(|| a.tensor().clone());
    let kept_b = (product && (a_wants || operation == Operation::Divide)).then(|| b.tensor().clone());
    Ok(Value::record1(out, &[a, b], move |grad| {
        let (multiply, divide) = (Operation::Multiply, Operation::Divide);
        let pair = |operation, x: &Tensor, y: &Option<Tensor>| match y {
            Some(y) => elementwise(name, operation, [x, y]),
            None => Ok(x.clone()),
        };
        let to_a = |grad: &Tensor| match operation {
            Operation::Add | Operation::Subtract => Ok(grad.clone()),
            Operation::Divide => pair(divide, grad, &kept_b),
            _ => pair(multiply, grad, &kept_b),
        };
        let to_b = |grad: &Tensor| match operation {
            Operation::Add => Ok(grad.clone()),
            Operation::Subtract => negative(name, grad),
            // −grad · a / b²
            Operation::Divide => {
                let by_b = pair(divide, &pair(multiply, grad, &kept_a)?, &kept_b)?;
                negative(name, &pair(divide, &by_b, &kept_b)?)
            }
            _ => pair(multiply, grad, &kept_a),
        };
        Ok(vec![a_wants.then(|| to_a(grad)).transpose()?, b_wants.then(|| to_b(grad)).transpose()?])
    }))
}

/// The operation of two tensors of one shape.
fn elementwise(name: &str, operation: Operation, [a, b]: [&Tensor; 2]) -> Result<Tensor> {
    on_gpu!(a => crate::cuda::elementwise(name, operation, [a, b]));
    match operation {
        Operation::Add => map_pairs(name, a, b, |a, b| a + b),
        Operation::Subtract => map_pairs(name, a, b, |a, b| a - b),
        Operation::Multiply => map_pairs(name, a, b, |a, b| a * b),
        Operation::Divide => map_pairs(name, a, b, |a, b| a / b),
        Operation::Prelu => map_pairs(name, a, b, |a, b| if a > 0.0 { a } else { a * b }),
    }
}

fn negative(name: &str, x: &Tensor) -> Result<Tensor> {
    on_gpu!(x => crate::cuda::negative(name, x));
    crate::vectorised::map(name, x, |x| -x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_can_be_repeated() {
        let steps = |large: &[usize], small: &[usize]| Spread::new(large, small).map(|spread| spread.steps);
        let images = [2, 3, 4, 5];
        assert_eq!(steps(&images, &[]), Some([0, 0, 0]));
        assert_eq!(steps(&images, &[1, 1]), Some([0, 0, 0]));
        assert_eq!(steps(&images, &[5]), Some([0, 0, 1]));
        assert_eq!(steps(&images, &[2, 1, 1, 5]), Some([5, 0, 1]));
        assert_eq!(steps(&images, &[2, 1, 1, 1]), Some([1, 0, 0]));
        assert_eq!(steps(&images, &[2, 3, 4, 1]), Some([12, 1, 0]));
        assert_eq!(steps(&images, &[3, 4, 5]), Some([0, 5, 1]));
        assert_eq!(steps(&[7], &[1]), Some([0, 0, 0]));
        for small in [&[4][..], &[2, 5], &[2, 3, 1, 1], &[1, 2, 3, 4, 5]] {
            assert_eq!(steps(&images, small), None, "{small:?}");
        }
    }
}
