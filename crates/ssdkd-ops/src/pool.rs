//! Pooling over windows of images (B, H, W, C).

use candle_core::{Result, bail};
use rayon::prelude::*;

use crate::device;
use crate::images::{Images, map_images};
use crate::simd::SimdPath;
use crate::value::Value;
use crate::vectorised::vectorised;

vectorised! {
    fn add_scaled(x: &[f32], factor: f32, sum: &mut [f32]) {
        for (sum, &x) in sum.iter_mut().zip(x) {
            *sum += x * factor;
        }
    }
}

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

/// The mean over windows of `kernel × kernel` pixels, every `stride` pixels, without padding; windows that would leave
/// the image are dropped. (B, H, W, C) to (B, (H − kernel)/stride + 1, (W − kernel)/stride + 1, C).
///
/// # Errors
/// If `x` is not of rank 4, the kernel is 0 or larger than the image, or the stride is 0.
pub fn avg_pool2d(x: &Value, kernel: usize, stride: usize) -> Result<Value> {
    let operation = "avg_pool2d";
    let windows = Windows::new(operation, Images::of(operation, x.tensor())?, kernel, stride, 0)?;
    on_gpu!(x.tensor() => crate::cuda::avg_pool2d(operation, x, windows));
    let (from, to, channels) = (windows.from, windows.to, windows.from.channels);
    let path = SimdPath::current()?;
    let share = 1.0 / (kernel * kernel) as f32;
    let out = map_images(operation, x.tensor(), from, to, |_, x, out| {
        out.fill(0.0);
        windows.for_each(|pixel, from| {
            add_scaled(path, &x[from * channels..][..channels], share, &mut out[pixel * channels..][..channels]);
        });
    })?;
    Ok(Value::record1(out, &[x], move |grad| {
        let path = SimdPath::current()?;
        let grad = map_images(operation, grad, to, from, |_, grad, out| {
            out.fill(0.0);
            windows.for_each(|pixel, from| {
                add_scaled(path, &grad[pixel * channels..][..channels], share, &mut out[from * channels..][..channels]);
            });
        })?;
        Ok(vec![Some(grad)])
    }))
}

/// The largest number in windows of `kernel × kernel` pixels, every `stride` pixels, of the image with `padding` pixels
/// of −∞ around it. (B, H, W, C) to (B, (H + 2·padding − kernel)/stride + 1, …, C). The gradient goes to the first of
/// equals; windows may overlap.
///
/// # Errors
/// If `x` is not of rank 4, the kernel is 0 or larger than the padded image, the stride is 0, or the padding is more
/// than half of the kernel.
pub fn max_pool2d(x: &Value, kernel: usize, stride: usize, padding: usize) -> Result<Value> {
    let operation = "max_pool2d";
    let windows = Windows::new(operation, Images::of(operation, x.tensor())?, kernel, stride, padding)?;
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
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

impl Windows {
    fn new(operation: &str, from: Images, kernel: usize, stride: usize, padding: usize) -> Result<Self> {
        // No padding that is too large is added to anything.
        let added = if padding > kernel / 2 { 0 } else { 2 * padding };
        let (height, width) = (from.height.saturating_add(added), from.width.saturating_add(added));
        if kernel == 0 || stride == 0 || kernel > height || kernel > width || padding > kernel / 2 {
            bail!(
                "{operation}: a kernel of {kernel} with stride {stride} and padding {padding} does not fit images of \
                 {}×{} pixels\nhint: 1 ≤ kernel ≤ padded size, 1 ≤ stride, padding ≤ kernel / 2",
                from.height,
                from.width
            );
        }
        if u32::try_from(from.height * from.width).is_err() {
            bail!("{operation}: images of {}×{} pixels are too large", from.height, from.width);
        }
        let to = Images { height: (height - kernel) / stride + 1, width: (width - kernel) / stride + 1, ..from };
        Ok(Self { from, to, kernel, stride, padding })
    }

    /// Calls `work` with every pixel of the output and, one after the other, the pixels of the input in its window.
    fn for_each(&self, mut work: impl FnMut(usize, usize)) {
        let inside = |at: usize, size: usize| {
            let start = at * self.stride;
            start.max(self.padding) - self.padding..(start + self.kernel).min(size + self.padding) - self.padding
        };
        for row in 0..self.to.height {
            for column in 0..self.to.width {
                for y in inside(row, self.from.height) {
                    for x in inside(column, self.from.width) {
                        work(row * self.to.width + column, y * self.from.width + x);
                    }
                }
            }
        }
    }
}
