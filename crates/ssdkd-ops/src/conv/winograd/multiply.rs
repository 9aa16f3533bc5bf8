//! The matrix products between the transforms, one for each frequency.

use super::{FREQUENCIES, Panel, TILE_STEP};
use crate::simd::{SimdPath, Vector, dispatch};

/// products\[frequency\] = left\[frequency\] · right\[frequency\]: (rows, depth) · (depth, width).
pub(super) struct Product<'a> {
    /// A multiple of [`TILE_STEP`].
    pub(super) rows: usize,
    pub(super) depth: usize,
    /// A multiple of a register.
    pub(super) width: usize,
    pub(super) left: (&'a [f32], Panel),
    /// \[frequency\]\[block\]\[depth\]\[width of the block\], as [`Kernels`](super::Kernels) has it.
    pub(super) right: &'a [f32],
    /// Of the products.
    pub(super) panel: Panel,
}

impl Product<'_> {
    pub(super) fn run(&self, path: SimdPath, products: &mut [f32]) {
        let (left, panel) = self.left;
        assert!(self.rows.is_multiple_of(TILE_STEP) && self.width.is_multiple_of(super::CHANNELS));
        assert!(self.depth <= panel.row && self.rows * panel.row <= panel.frequency && left.len() >= panel.len());
        assert!(self.width <= self.panel.row && self.rows * self.panel.row <= self.panel.frequency);
        assert!(products.len() >= self.panel.len());
        assert!(self.right.len() == FREQUENCIES * self.depth * self.width);
        let (job, to) = (self, products.as_mut_ptr());
        // SAFETY: all three matrices fit their slices, as asserted. The rows of a step divide `TILE_STEP`, and with two
        // registers each, two weights and a broadcast they fit the registers of the path.
        unsafe { dispatch!(path, multiply, [12], [6], [4], (job: &Product, to: *mut f32)) }
    }
}

/// # Safety
/// What [`Product::run`] asserts, of the products at `to` too, `ROWS` divides [`TILE_STEP`], and the CPU has the instructions of `V`.
#[inline(always)]
unsafe fn multiply<V: Vector, const ROWS: usize>(job: &Product, to: *mut f32) {
    let (left, panel) = job.left;
    for frequency in 0..FREQUENCIES {
        let mut right = job.right.as_ptr().wrapping_add(frequency * job.depth * job.width);
        let mut block = 0;
        while block < job.width {
            let two = job.width - block >= 2 * V::LANES;
            for row in (0..job.rows).step_by(ROWS) {
                let left = left.as_ptr().wrapping_add(frequency * panel.frequency + row * panel.row);
                let at = frequency * job.panel.frequency + row * job.panel.row + block;
                let to = to.wrapping_add(at);
                // SAFETY: within the matrices.
                unsafe {
                    if two {
                        tile::<V, ROWS, 2>(job.depth, (left, panel.row), right, (to, job.panel.row));
                    } else {
                        tile::<V, ROWS, 1>(job.depth, (left, panel.row), right, (to, job.panel.row));
                    }
                }
            }
            let width = if two { 2 * V::LANES } else { V::LANES };
            right = right.wrapping_add(job.depth * width);
            block += width;
        }
    }
}

/// # Safety
/// `left` and `to` start `ROWS` rows, as far apart as their second parts say, of `depth` numbers and of `VECTORS`
/// registers; `right` starts `depth` rows of `VECTORS` registers.
#[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
#[inline(always)]
unsafe fn tile<V: Vector, const ROWS: usize, const VECTORS: usize>(
    depth: usize,
    (left, left_step): (*const f32, usize),
    mut right: *const f32,
    (to, to_step): (*mut f32, usize),
) {
    // SAFETY: within the matrices, by the contract.
    unsafe {
        let mut sums = [[V::zero(); VECTORS]; ROWS];
        for number in 0..depth {
            let mut columns = [V::zero(); VECTORS];
            for vector in 0..VECTORS {
                columns[vector] = V::load(right.add(vector * V::LANES));
            }
            for row in 0..ROWS {
                let broadcast = V::splat(left.add(row * left_step + number));
                for vector in 0..VECTORS {
                    sums[row][vector] = broadcast.multiply_add(columns[vector], sums[row][vector]);
                }
            }
            right = right.add(VECTORS * V::LANES);
        }
        for row in 0..ROWS {
            for vector in 0..VECTORS {
                sums[row][vector].store(to.add(row * to_step + vector * V::LANES));
            }
        }
    }
}

/// sums\[frequency\] += leftᵀ · right over rows: (rows, depth)ᵀ · (rows, width), for a gradient of the weight.
pub(super) struct Update<'a> {
    pub(super) rows: usize,
    /// A multiple of 16.
    pub(super) depth: usize,
    /// A multiple of 16.
    pub(super) width: usize,
    pub(super) left: (&'a [f32], Panel),
    pub(super) right: (&'a [f32], Panel),
}

impl Update<'_> {
    /// Adds to `sums`: \[frequency\]\[block\]\[depth\]\[width of the block\].
    pub(super) fn run(&self, path: SimdPath, sums: &mut [f32]) {
        let ((left, left_panel), (right, right_panel)) = (self.left, self.right);
        assert!(self.depth.is_multiple_of(super::CHANNELS) && self.width.is_multiple_of(super::CHANNELS));
        assert!(self.depth <= left_panel.row && self.width <= right_panel.row);
        assert!(self.rows * left_panel.row <= left_panel.frequency && left.len() >= left_panel.len());
        assert!(self.rows * right_panel.row <= right_panel.frequency && right.len() >= right_panel.len());
        assert!(sums.len() == FREQUENCIES * self.depth * self.width);
        let (job, sums) = (self, sums.as_mut_ptr());
        // SAFETY: all three matrices fit their slices, as asserted; tile heights divide 16.
        unsafe { dispatch!(path, update, [8, 16], [4, 8], [4, 8], (job: &Update, sums: *mut f32)) }
    }
}

/// # Safety
/// What [`Update::run`] asserts, of the sums at `sums` too, `TWO` and `ONE` divide 16, and the CPU has the instructions of `V`.
#[inline(always)]
unsafe fn update<V: Vector, const TWO: usize, const ONE: usize>(job: &Update, sums: *mut f32) {
    let ((left, left_panel), (right, right_panel)) = (job.left, job.right);
    for frequency in 0..FREQUENCIES {
        let left = left.as_ptr().wrapping_add(frequency * left_panel.frequency);
        let right = right.as_ptr().wrapping_add(frequency * right_panel.frequency);
        let mut sums = sums.wrapping_add(frequency * job.depth * job.width);
        let mut block = 0;
        while block < job.width {
            let two = job.width - block >= 2 * V::LANES;
            let (height, width) = if two { (TWO, 2 * V::LANES) } else { (ONE, V::LANES) };
            for row in (0..job.depth).step_by(height) {
                let (left, right) = (left.wrapping_add(row), right.wrapping_add(block));
                let (left, right) = ((left, left_panel.row), (right, right_panel.row));
                let sums = sums.wrapping_add(row * width);
                // SAFETY: within the matrices.
                unsafe {
                    if two {
                        update_tile::<V, TWO, 2>(job.rows, left, right, sums);
                    } else {
                        update_tile::<V, ONE, 1>(job.rows, left, right, sums);
                    }
                }
            }
            sums = sums.wrapping_add(job.depth * width);
            block += width;
        }
    }
}

/// # Safety
/// `left` and `right` start `rows` rows, as far apart as their second parts say, of `HEIGHT` numbers and of `VECTORS`
/// registers; `sums` starts `HEIGHT` rows of `VECTORS` registers.
#[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
#[inline(always)]
unsafe fn update_tile<V: Vector, const HEIGHT: usize, const VECTORS: usize>(
    rows: usize,
    (mut left, left_step): (*const f32, usize),
    (mut right, right_step): (*const f32, usize),
    to: *mut f32,
) {
    // SAFETY: within the matrices, by the contract.
    unsafe {
        let mut sums = [[V::zero(); VECTORS]; HEIGHT];
        for row in 0..HEIGHT {
            for vector in 0..VECTORS {
                sums[row][vector] = V::load(to.add((row * VECTORS + vector) * V::LANES));
            }
        }
        for _ in 0..rows {
            let mut columns = [V::zero(); VECTORS];
            for vector in 0..VECTORS {
                columns[vector] = V::load(right.add(vector * V::LANES));
            }
            for row in 0..HEIGHT {
                let broadcast = V::splat(left.add(row));
                for vector in 0..VECTORS {
                    sums[row][vector] = broadcast.multiply_add(columns[vector], sums[row][vector]);
                }
            }
            left = left.wrapping_add(left_step);
            right = right.wrapping_add(right_step);
        }
        for row in 0..HEIGHT {
            for vector in 0..VECTORS {
                sums[row][vector].store(to.add((row * VECTORS + vector) * V::LANES));
            }
        }
    }
}
