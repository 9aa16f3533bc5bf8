//! The innermost loop: the sums of some input channels × a block of output channels stay in registers while the pixels stream by.

use super::View;
use crate::conv::pack::Registers;
use crate::simd::{SimdPath, Vector, dispatch};

/// One tap of one cell over one band.
pub(super) struct Job {
    pub images: usize,
    pub rows: usize,
    pub columns: usize,
    pub input: View,
    pub gradient: View,
    /// `[input channel][width of the block]`
    pub sums: *mut f32,
}

/// Adds the products of `inputs` channels and a block of output channels over the pixels of `job`.
///
/// # Safety
/// - For every image, row and column of `job`, the input view has `inputs` readable numbers and the gradient view as many
///   as the block is wide (`registers`).
/// - `job.sums` is `inputs` rows of that width, for reading and writing, and nobody else's.
/// - The CPU has the instructions of `path`.
pub(super) unsafe fn run(path: SimdPath, job: &Job, inputs: usize, registers: Registers) {
    // SAFETY: handed on.
    unsafe { dispatch!(path, sum_tile, [], [], [], (job: &Job, inputs: usize, registers: Registers)) }
}

/// # Safety
/// As [`run`]; the CPU has the instructions of `V`.
#[inline(always)]
unsafe fn sum_tile<V: Vector>(job: &Job, inputs: usize, registers: Registers) {
    macro_rules! sizes {
        ($($size:literal)*) => {
            match (registers, inputs) {
                $((Registers::Two, $size) => sum_pixels::<V, $size, 2>(job),
                  (Registers::One, $size) => sum_pixels::<V, $size, 1>(job),
                  (Registers::Narrow, $size) => sum_pixels::<V::Narrow, $size, 1>(job),)*
                _ => unreachable!("`Plan` makes tiles of 1 to 12 input channels"),
            }
        };
    }
    // SAFETY: handed on.
    unsafe { sizes!(1 2 3 4 5 6 7 8 9 10 11 12) }
}

/// # Safety
/// As [`sum_tile`], for a tile of `INPUTS` channels and a block of `VECTORS` registers.
#[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
#[inline(always)]
unsafe fn sum_pixels<V: Vector, const INPUTS: usize, const VECTORS: usize>(job: &Job) {
    // SAFETY: within the views and sums, by the contract of `sum_tile`.
    unsafe {
        let at = |input: usize, vector: usize| job.sums.add((input * VECTORS + vector) * V::LANES);
        let mut sums = [[V::zero(); VECTORS]; INPUTS];
        for input in 0..INPUTS {
            for vector in 0..VECTORS {
                sums[input][vector] = V::load(at(input, vector));
            }
        }
        for image in 0..job.images {
            for row in 0..job.rows {
                let mut input = job.input.start.add(image * job.input.image + row * job.input.row);
                let mut gradient = job.gradient.start.add(image * job.gradient.image + row * job.gradient.row);
                for _ in 0..job.columns {
                    let mut columns = [V::zero(); VECTORS];
                    for vector in 0..VECTORS {
                        columns[vector] = V::load(gradient.add(vector * V::LANES));
                    }
                    for channel in 0..INPUTS {
                        let broadcast = V::splat(input.add(channel));
                        for vector in 0..VECTORS {
                            sums[channel][vector] = broadcast.multiply_add(columns[vector], sums[channel][vector]);
                        }
                    }
                    input = input.wrapping_add(job.input.column);
                    gradient = gradient.wrapping_add(job.gradient.column);
                }
            }
        }
        for input in 0..INPUTS {
            for vector in 0..VECTORS {
                sums[input][vector].store(at(input, vector));
            }
        }
    }
}
