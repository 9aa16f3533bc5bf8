//! The transforms of Winograd's convolution. Channels lie side by side, so every number below is a register of channels.

use std::ops::Range;

use super::{CHANNELS, FREQUENCIES, MAX_WIDTH, Panel, TILE, Tiles, WINDOW};
use crate::conv::epilogue::Epilogue;
use crate::parallel::SharedMut;
use crate::simd::{SimdPath, Vector, dispatch, prefetch};
use crate::vectorised::vectorised;

/// Images as a convolution reads them: their size (H, W, C), and rows and columns of zeros before them.
#[derive(Clone, Copy)]
pub(super) struct Images {
    pub(super) size: [usize; 3],
    pub(super) padding: [usize; 2],
}

/// G g.
#[inline(always)]
fn kernel_into_products([first, second, third]: [f32; 3]) -> [f32; WINDOW] {
    let (ends, wide_ends) = ((first + third) / -6.0, first / 24.0 + third / 6.0);
    let (middle, wide_middle) = (second / 6.0, second / 12.0);
    [first / 4.0, ends - middle, ends + middle, wide_ends + wide_middle, wide_ends - wide_middle, third]
}

/// Gᵀ u.
#[inline(always)]
fn products_into_kernel([a, b, c, d, e, f]: [f32; WINDOW]) -> [f32; 3] {
    let (near, wide) = ((b + c) / -6.0, d + e);
    [a / 4.0 + near + wide / 24.0, (c - b) / 6.0 + (d - e) / 12.0, near + wide / 6.0 + f]
}

/// Bᵀ d.
#[inline(always)]
unsafe fn into_products<V: Vector>([a, b, c, d, e, f]: [V; WINDOW]) -> [V; WINDOW] {
    // SAFETY: the caller has the instructions of `V`.
    unsafe {
        let [two, four, minus_two, minus_four, minus_five] =
            [2.0, 4.0, -2.0, -4.0, -5.0].map(|x: f32| V::splat(&raw const x));
        let (even, odd) = (minus_four.multiply_add(c, e), minus_four.multiply_add(b, d));
        let (wide_even, wide_odd) = (e.subtract(c), d.subtract(b));
        [
            four.multiply_add(a, minus_five.multiply_add(c, e)),
            even.add(odd),
            even.subtract(odd),
            two.multiply_add(wide_odd, wide_even),
            minus_two.multiply_add(wide_odd, wide_even),
            four.multiply_add(b, minus_five.multiply_add(d, f)),
        ]
    }
}

/// Aᵀ m.
#[inline(always)]
unsafe fn out_of_products<V: Vector>([a, b, c, d, e, f]: [V; WINDOW]) -> [V; TILE] {
    // SAFETY: as above.
    unsafe {
        let [two, four, eight] = [2.0, 4.0, 8.0].map(|x: f32| V::splat(&raw const x));
        let (even, odd, wide_even, wide_odd) = (b.add(c), b.subtract(c), d.add(e), d.subtract(e));
        [
            a.add(even).add(wide_even),
            two.multiply_add(wide_odd, odd),
            four.multiply_add(wide_even, even),
            eight.multiply_add(wide_odd, odd.add(f)),
        ]
    }
}

/// A y.
#[inline(always)]
unsafe fn back_into_products<V: Vector>([a, b, c, d]: [V; TILE]) -> [V; WINDOW] {
    // SAFETY: as above.
    unsafe {
        let [two, four, minus_two] = [2.0, 4.0, -2.0].map(|x: f32| V::splat(&raw const x));
        let (even, odd, wide_even) = (a.add(c), b.add(d), four.multiply_add(c, a));
        let half_odd = four.multiply_add(d, b);
        [
            a,
            even.add(odd),
            even.subtract(odd),
            two.multiply_add(half_odd, wide_even),
            minus_two.multiply_add(half_odd, wide_even),
            d,
        ]
    }
}

vectorised! {
    /// G g Gᵀ of kernels side by side.
    pub(super) fn kernels(kernels: &[[f32; MAX_WIDTH]; 9], transformed: &mut [[f32; MAX_WIDTH]; FREQUENCIES]) {
        for lane in 0..MAX_WIDTH {
            let columns = [0, 1, 2].map(|column| kernel_into_products([0, 3, 6].map(|row| kernels[row + column][lane])));
            for row in 0..WINDOW {
                let numbers = kernel_into_products([0, 1, 2].map(|column: usize| columns[column][row]));
                for (column, number) in numbers.into_iter().enumerate() {
                    transformed[WINDOW * row + column][lane] = number;
                }
            }
        }
    }
}

vectorised! {
    /// Gᵀ u G of the sums of kernels' gradients side by side.
    pub(super) fn kernel_gradients(sums: &[[f32; MAX_WIDTH]; FREQUENCIES], gradients: &mut [[f32; MAX_WIDTH]; 9]) {
        for lane in 0..MAX_WIDTH {
            let mut rows = [[0.0; 3]; WINDOW];
            for row in 0..WINDOW {
                let mut numbers = [0.0; WINDOW];
                for column in 0..WINDOW {
                    numbers[column] = sums[WINDOW * row + column][lane];
                }
                rows[row] = products_into_kernel(numbers);
            }
            for column in 0..3 {
                let mut numbers = [0.0; WINDOW];
                for row in 0..WINDOW {
                    numbers[row] = rows[row][column];
                }
                for (row, number) in products_into_kernel(numbers).into_iter().enumerate() {
                    gradients[3 * row + column][lane] = number;
                }
            }
        }
    }
}

/// Bᵀ d B of a range of tiles, written to a panel: one row for each tile.
pub(super) struct TransformInput<'a> {
    /// (B, H, W, C).
    pub(super) input: &'a [f32],
    /// As many zeros as there are channels.
    pub(super) zeros: &'a [f32],
    pub(super) images: Images,
    pub(super) tiles: Tiles,
    pub(super) range: Range<usize>,
    /// Which channels to transform.
    pub(super) channels: Range<usize>,
    pub(super) panel: Panel,
}

impl TransformInput<'_> {
    pub(super) fn run(&self, path: SimdPath, transformed: &mut [f32]) {
        let [height, width, channels] = self.images.size;
        assert!(self.input.len() == self.tiles.batch * height * width * channels);
        assert!(self.range.end <= self.tiles.count() && self.channels.end <= channels.min(self.zeros.len()));
        assert!(self.channels.len() <= self.panel.row && self.range.len() * self.panel.row <= self.panel.frequency);
        assert!(transformed.len() >= self.panel.len() && self.channels.len().is_multiple_of(CHANNELS));
        let (job, to) = (self, transformed.as_mut_ptr());
        // SAFETY: tiles, channels and panel fit the slices, as asserted.
        unsafe { dispatch!(path, transform_input, [], [], [], (job: &TransformInput, to: *mut f32)) }
    }
}

/// # Safety
/// What [`TransformInput::run`] asserts of the panel at `to`, and the CPU has the instructions of `V`.
#[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
#[inline(always)]
unsafe fn transform_input<V: Vector>(job: &TransformInput, to: *mut f32) {
    let [height, width, channels] = job.images.size;
    for (row, tile) in job.range.clone().enumerate() {
        let [image, top, left] = job.tiles.pixel(tile);
        let start = job.input.as_ptr().wrapping_add(image * height * width * channels);
        // Rows and columns of the window; those in the padding wrap to more than the image has.
        let [above, before] = job.images.padding;
        let (top, left) = (top.wrapping_sub(above), left.wrapping_sub(before));
        let mut pixels = [[job.zeros.as_ptr(); WINDOW]; WINDOW];
        for row in 0..WINDOW {
            let y = top.wrapping_add(row);
            if y < height {
                for column in 0..WINDOW {
                    let x = left.wrapping_add(column);
                    if x < width {
                        pixels[row][column] = start.wrapping_add((y * width + x) * channels);
                    }
                }
            }
        }
        let to = to.wrapping_add(row * job.panel.row);
        for channel in (job.channels.start..job.channels.end).step_by(V::LANES) {
            // SAFETY: pixels inside of the image, or zeros, have all channels; the row has room for all of ours.
            unsafe {
                let mut window = [[V::zero(); WINDOW]; WINDOW];
                for column in 0..WINDOW {
                    let mut numbers = [V::zero(); WINDOW];
                    for row in 0..WINDOW {
                        let number = pixels[row][column].wrapping_add(channel);
                        numbers[row] = V::load(number);
                        // What this window shares with the one before or above is in the cache.
                        if row >= WINDOW - TILE && column >= WINDOW - TILE {
                            prefetch(number.wrapping_add(TILE * channels));
                        }
                    }
                    let numbers = into_products(numbers);
                    for row in 0..WINDOW {
                        window[row][column] = numbers[row];
                    }
                }
                let to = to.add(channel - job.channels.start);
                for row in 0..WINDOW {
                    let numbers = into_products(window[row]);
                    for column in 0..WINDOW {
                        numbers[column].store(to.add((WINDOW * row + column) * job.panel.frequency));
                    }
                }
            }
        }
    }
}

/// A y Aᵀ of a range of tiles of an output's gradient, written to a panel.
pub(super) struct TransformGradient<'a> {
    /// (B, H, W, C).
    pub(super) gradient: &'a [f32],
    /// As many zeros as there are channels.
    pub(super) zeros: &'a [f32],
    pub(super) tiles: Tiles,
    pub(super) range: Range<usize>,
    pub(super) panel: Panel,
}

impl TransformGradient<'_> {
    pub(super) fn run(&self, path: SimdPath, transformed: &mut [f32]) {
        let [height, width, channels] = self.tiles.image;
        assert!(self.gradient.len() == self.tiles.batch * height * width * channels);
        assert!(self.range.end <= self.tiles.count() && channels <= self.zeros.len());
        assert!(channels <= self.panel.row && self.range.len() * self.panel.row <= self.panel.frequency);
        assert!(transformed.len() >= self.panel.len() && channels.is_multiple_of(CHANNELS));
        let (job, to) = (self, transformed.as_mut_ptr());
        // SAFETY: tiles, channels and panel fit the slices, as asserted.
        unsafe { dispatch!(path, transform_gradient, [], [], [], (job: &TransformGradient, to: *mut f32)) }
    }
}

/// # Safety
/// What [`TransformGradient::run`] asserts of the panel at `to`, and the CPU has the instructions of `V`.
#[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
#[inline(always)]
unsafe fn transform_gradient<V: Vector>(job: &TransformGradient, to: *mut f32) {
    let [height, width, channels] = job.tiles.image;
    for (row, tile) in job.range.clone().enumerate() {
        let [image, top, left] = job.tiles.pixel(tile);
        let start = job.gradient.as_ptr().wrapping_add(((image * height + top) * width + left) * channels);
        let mut pixels = [[job.zeros.as_ptr(); TILE]; TILE];
        for row in 0..TILE.min(height - top) {
            for column in 0..TILE.min(width - left) {
                pixels[row][column] = start.wrapping_add((row * width + column) * channels);
            }
        }
        let to = to.wrapping_add(row * job.panel.row);
        for channel in (0..channels).step_by(V::LANES) {
            // SAFETY: pixels inside of the image, or zeros, have all channels; the row has room for them.
            unsafe {
                let mut window = [[V::zero(); TILE]; WINDOW];
                for column in 0..TILE {
                    let mut numbers = [V::zero(); TILE];
                    for row in 0..TILE {
                        let number = pixels[row][column].wrapping_add(channel);
                        numbers[row] = V::load(number);
                        prefetch(number.wrapping_add(TILE * channels));
                    }
                    let numbers = back_into_products(numbers);
                    for row in 0..WINDOW {
                        window[row][column] = numbers[row];
                    }
                }
                let to = to.add(channel);
                for row in 0..WINDOW {
                    let numbers = back_into_products(window[row]);
                    for column in 0..WINDOW {
                        numbers[column].store(to.add((WINDOW * row + column) * job.panel.frequency));
                    }
                }
            }
        }
    }
}

/// Aᵀ m A of a range of tiles, the bias and the epilogue, written to the output's pixels.
pub(super) struct TransformBack<'a> {
    pub(super) products: &'a [f32],
    pub(super) panel: Panel,
    /// (C,).
    pub(super) bias: &'a [f32],
    pub(super) epilogue: Epilogue<'a>,
    pub(super) tiles: Tiles,
    pub(super) range: Range<usize>,
}

impl TransformBack<'_> {
    /// # Safety
    /// Nobody else touches the pixels of these tiles in `out` (B, H, W, C) meanwhile.
    pub(super) unsafe fn run(&self, path: SimdPath, out: SharedMut) {
        let channels = self.tiles.image[2];
        assert!(self.range.end <= self.tiles.count() && self.bias.len() == channels);
        assert!(channels <= self.panel.row && self.range.len() * self.panel.row <= self.panel.frequency);
        assert!(self.products.len() >= self.panel.len() && channels.is_multiple_of(CHANNELS));
        let len = self.tiles.batch * self.tiles.image.iter().product::<usize>();
        assert!(self.epilogue.residual.is_none_or(|residual| residual.len() == len));
        out.at(len); // panics if the output is smaller than the tiles say
        let (job, out) = (self, out.at(0));
        // SAFETY: tiles, channels and panel fit the slices, as asserted; the caller vouches for the pixels.
        unsafe { dispatch!(path, transform_back, [], [], [], (job: &TransformBack, out: *mut f32)) }
    }
}

/// # Safety
/// As [`TransformBack::run`], what that asserts, and the CPU has the instructions of `V`.
#[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
#[inline(always)]
unsafe fn transform_back<V: Vector>(job: &TransformBack, out: *mut f32) {
    let [height, width, channels] = job.tiles.image;
    let epilogue = job.epilogue.at(0);
    for (row, tile) in job.range.clone().enumerate() {
        let [image, top, left] = job.tiles.pixel(tile);
        let start = ((image * height + top) * width + left) * channels;
        let (rows, columns) = (TILE.min(height - top), TILE.min(width - left));
        let from = job.products.as_ptr().wrapping_add(row * job.panel.row);
        for channel in (0..channels).step_by(V::LANES) {
            // SAFETY: the row has all channels; only pixels of the image are written.
            unsafe {
                let from = from.add(channel);
                let mut window = [[V::zero(); WINDOW]; TILE];
                for column in 0..WINDOW {
                    let mut numbers = [V::zero(); WINDOW];
                    for row in 0..WINDOW {
                        numbers[row] = V::load(from.add((WINDOW * row + column) * job.panel.frequency));
                    }
                    let numbers = out_of_products(numbers);
                    for row in 0..TILE {
                        window[row][column] = numbers[row];
                    }
                }
                let bias = V::load(job.bias.as_ptr().add(channel));
                for row in 0..TILE {
                    let numbers = out_of_products(window[row]);
                    for column in 0..TILE {
                        if row < rows && column < columns {
                            let at = start + channel + (row * width + column) * channels;
                            epilogue.apply(numbers[column].add(bias), at).store(out.add(at));
                        }
                    }
                }
            }
        }
    }
}
