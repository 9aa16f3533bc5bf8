//! Pooling over windows of images (B, H, W, C).

use std::ops::Range;

use candle_core::{Result, bail};
use rayon::prelude::*;

use crate::device;
use crate::images::{Images, map_images};
use crate::separable::{Axis, Separable};
use crate::simd::SimdPath;
use crate::value::Value;
use crate::vectorised::vectorised;

vectorised! {
    fn add_all_rows(rows: &[f32], sum: &mut [f32]) {
        for row in rows.chunks_exact(sum.len()) {
            for (sum, &x) in sum.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }
}

vectorised! {
    /// Keeps, channel by channel, the largest number so far and where it was; the first of equals, and any NaN.
    fn keep_largest(x: &[f32], position: u32, largest: &mut [f32], positions: &mut [u32]) {
        for ((&x, largest), at) in x.iter().zip(largest).zip(positions) {
            let wins = x > *largest || x.is_nan();
            *largest = if wins { x } else { *largest };
            *at = if wins { position } else { *at };
        }
    }
}

/// The mean over all pixels: (B, H, W, C) to (B, C).
///
/// # Errors
/// If `x` is not of rank 4.
pub fn global_avg_pool(x: &Value) -> Result<Value> {
    let operation = "global_avg_pool";
    let from = Images::of(operation, x.tensor())?;
    on_gpu!(x.tensor() => crate::cuda::global_avg_pool(operation, x, from));
    let to = Images { height: 1, width: 1, ..from };
    let path = SimdPath::current()?;
    let pixels = (from.height * from.width) as f32;
    let out = map_images(operation, x.tensor(), from, to, |_, x, out| {
        out.fill(0.0);
        add_all_rows(path, x, out);
        for sum in out {
            *sum /= pixels;
        }
    })?;
    let out = out.reshape((from.batch, from.channels))?;
    Ok(Value::record1(out, &[x], move |grad| {
        let grad = map_images(operation, grad, to, from, |_, grad, out| {
            let (first, rest) = out.split_at_mut(from.channels);
            for (first, &grad) in first.iter_mut().zip(grad) {
                *first = grad / pixels;
            }
            rest.chunks_exact_mut(from.channels).for_each(|pixel| pixel.copy_from_slice(first));
        })?;
        Ok(vec![Some(grad)])
    }))
}

/// Which windows a pooling takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pool2dSpec {
    /// Pixels of a window: down, across.
    pub kernel: [usize; 2],
    /// Pixels between neighbouring windows: down, across.
    pub stride: [usize; 2],
    /// Pixels around the image that windows may cover: top, bottom, left, right; less than the kernel.
    pub padding: [usize; 4],
    /// Whether a last window that leaves the padded image is kept, as far as it begins inside of the image.
    pub ceil_mode: bool,
    /// Whether padding counts in an average.
    pub count_include_pad: bool,
}

impl Pool2dSpec {
    /// Returns square windows that stay inside of the padded image, whose padding counts in an average: PyTorch's defaults.
    pub fn new(kernel: usize, stride: usize, padding: usize) -> Self {
        Self {
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [padding; 4],
            ceil_mode: false,
            count_include_pad: true,
        }
    }
}

/// The mean over windows of pixels: (B, H, W, C) to (B, H', W', C), H' = ⌊(H + top + bottom − kernel) / stride⌋ + 1, or ⌈…⌉ + 1
/// with `ceil_mode`.
///
/// # Errors
/// If `x` is not of rank 4, or the windows do not fit the images.
pub fn avg_pool2d(x: &Value, spec: Pool2dSpec) -> Result<Value> {
    let operation = "avg_pool2d";
    let windows = Windows::new(operation, Images::of(operation, x.tensor())?, spec)?;
    let axis = |axis: usize| {
        Axis::new(windows.sizes(axis), |output| {
            let inside = windows.inside(output, axis);
            let counted = if spec.count_include_pad { windows.padded(output, axis).len() } else { inside.len() };
            inside.map(move |pixel| (pixel, 1.0 / counted as f64))
        })
    };
    Separable { rows: axis(0), columns: axis(1) }.apply(operation, x)
}

/// The mean over windows that share the image among themselves: (B, H, W, C) to (B, height, width, C), where window i of n
/// goes from pixel ⌊i·H/n⌋ to pixel ⌈(i + 1)·H/n⌉, as in PyTorch.
///
/// # Errors
/// If `x` is not of rank 4, or a size is 0.
pub fn adaptive_avg_pool2d(x: &Value, size: [usize; 2]) -> Result<Value> {
    let operation = "adaptive_avg_pool2d";
    let from = Images::of(operation, x.tensor())?;
    from.resized(operation, size)?;
    let axis = |input: usize, output: usize| {
        Axis::new([input, output], |index| {
            let window = index * input / output..((index + 1) * input).div_ceil(output);
            let share = 1.0 / window.len() as f64;
            window.map(move |pixel| (pixel, share))
        })
    };
    Separable { rows: axis(from.height, size[0]), columns: axis(from.width, size[1]) }.apply(operation, x)
}

/// The largest number in windows of pixels, of the image with −∞ around it: sizes as those of [`avg_pool2d`]. The gradient
/// goes to the first of equals; windows may overlap.
///
/// # Errors
/// If `x` is not of rank 4, or the windows do not fit the images.
pub fn max_pool2d(x: &Value, spec: Pool2dSpec) -> Result<Value> {
    let operation = "max_pool2d";
    let windows = Windows::new(operation, Images::of(operation, x.tensor())?, spec)?;
    on_gpu!(x.tensor() => crate::cuda::max_pool2d(operation, x, windows));
    let (from, to, channels) = (windows.from, windows.to, windows.from.channels);
    let path = SimdPath::current()?;
    let mut out = vec![f32::NEG_INFINITY; to.batch * to.size()];
    // Where in its image each largest number was found: pixel · C + c is found again from the pixel alone.
    let mut positions = vec![0_u32; out.len()];
    {
        let numbers = device::slice(x.tensor(), operation)?;
        let images = numbers
            .par_chunks_exact(from.size())
            .zip(out.par_chunks_exact_mut(to.size()))
            .zip(positions.par_chunks_exact_mut(to.size()));
        images.for_each(|((x, out), positions)| {
            let mut last = usize::MAX;
            windows.for_each(|pixel, from| {
                let to = pixel * channels..(pixel + 1) * channels;
                if pixel != last {
                    // An image of −∞ alone has its maximum inside the window too.
                    positions[to.clone()].fill(from as u32);
                    last = pixel;
                }
                let x = &x[from * channels..][..channels];
                keep_largest(path, x, from as u32, &mut out[to.clone()], &mut positions[to]);
            });
        });
    }
    let out = device::tensor(out, to.dims())?;
    if !x.wants_gradient() {
        return Ok(Value::constant(out));
    }
    Ok(Value::record1(out, &[x], move |grad| {
        let grad = map_images(operation, grad, to, from, |image, grad, out| {
            out.fill(0.0);
            let positions = &positions[image * to.size()..][..to.size()];
            for (grad, positions) in grad.chunks_exact(channels).zip(positions.chunks_exact(channels)) {
                for (c, (&grad, &position)) in grad.iter().zip(positions).enumerate() {
                    out[position as usize * channels + c] += grad;
                }
            }
        })?;
        Ok(vec![Some(grad)])
    }))
}

/// Which pixels each window covers.
#[derive(Clone, Copy)]
pub(crate) struct Windows {
    pub(crate) from: Images,
    pub(crate) to: Images,
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: [usize; 2],
    /// Padding above and before the image, and below and after it.
    pub(crate) before: [usize; 2],
    after: [usize; 2],
}

impl Windows {
    fn new(operation: &str, from: Images, spec: Pool2dSpec) -> Result<Self> {
        let Pool2dSpec { kernel, stride, padding, ceil_mode, .. } = spec;
        let (before, after) = ([padding[0], padding[2]], [padding[1], padding[3]]);
        let windows = |axis: usize, size: usize| {
            let (kernel, stride) = (kernel[axis], stride[axis]);
            if before[axis].max(after[axis]) >= kernel || stride == 0 {
                return None;
            }
            let left = size.checked_add(before[axis])?.checked_add(after[axis])?.checked_sub(kernel)?;
            let windows = if ceil_mode { left.div_ceil(stride) } else { left / stride } + 1;
            // One that begins behind the image covers nothing of it.
            Some(if (windows - 1) * stride >= size + before[axis] { windows - 1 } else { windows })
        };
        let (Some(height), Some(width)) = (windows(0, from.height), windows(1, from.width)) else {
            bail!(
                "{operation}: a kernel of {kernel:?} with stride {stride:?} and padding {padding:?} does not fit images of \
                 {}×{} pixels\nhint: 1 ≤ kernel ≤ padded size, 1 ≤ stride, padding < kernel",
                from.height,
                from.width
            );
        };
        if u32::try_from(from.height * from.width).is_err() {
            bail!("{operation}: images of {}×{} pixels are too large", from.height, from.width);
        }
        Ok(Self { from, to: Images { height, width, ..from }, kernel, stride, before, after })
    }

    /// Pixels of the input and of the output along an axis.
    fn sizes(&self, axis: usize) -> [usize; 2] {
        [[self.from.height, self.to.height], [self.from.width, self.to.width]][axis]
    }

    /// What window `at` covers of the padded image; pixel 0 of that is the first of the padding.
    fn padded(&self, at: usize, axis: usize) -> Range<usize> {
        let start = at * self.stride[axis];
        start..(start + self.kernel[axis]).min(self.sizes(axis)[0] + self.before[axis] + self.after[axis])
    }

    /// What window `at` covers of the image.
    fn inside(&self, at: usize, axis: usize) -> Range<usize> {
        let Range { start, end } = self.padded(at, axis);
        let before = self.before[axis];
        start.max(before) - before..end.min(self.sizes(axis)[0] + before) - before
    }

    /// Calls `work` with every pixel of the output and, one after the other, the pixels of the input in its window.
    fn for_each(&self, mut work: impl FnMut(usize, usize)) {
        for row in 0..self.to.height {
            for column in 0..self.to.width {
                for y in self.inside(row, 0) {
                    for x in self.inside(column, 1) {
                        work(row * self.to.width + column, y * self.from.width + x);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_window_begins_inside_of_the_image() -> Result<()> {
        let from = Images { batch: 1, height: 112, width: 5, channels: 1 };
        let sizes =
            |spec: Pool2dSpec| Windows::new("pool", from, spec).map(|windows| [windows.to.height, windows.to.width]);
        assert_eq!(sizes(Pool2dSpec::new(3, 2, 0))?, [55, 2]);
        assert_eq!(sizes(Pool2dSpec { ceil_mode: true, ..Pool2dSpec::new(3, 2, 0) })?, [56, 2]);
        // A fourth window across would begin at pixel 6 of 6 that are not behind the image.
        assert_eq!(sizes(Pool2dSpec { ceil_mode: true, ..Pool2dSpec::new(2, 2, 1) })?, [57, 3]);
        let one_side = Pool2dSpec { padding: [0, 1, 1, 0], ..Pool2dSpec::new(3, 2, 0) };
        assert_eq!(sizes(one_side)?, [56, 2]);
        Ok(())
    }
}
