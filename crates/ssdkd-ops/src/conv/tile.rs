//! The innermost loop: a tile of output pixels × output channels held in registers.
//!
//! A tile of 12 pixels × 32 channels takes 24 of AVX-512's 32 registers. For each number of the pixels' neighbourhood,
//! two registers of weights are loaded and each pixel's number is broadcast against both: 24 multiply-adds for 14 loads,
//! so that the multiply-add units, not memory, are what limits it. Pixels are given by address, not by a rectangle, so
//! that tiles run across row and image borders and small maps fill them as well as large ones.

use super::epilogue::RawEpilogue;
use super::pack::{Block, PackedPhase, Registers, Run};
use crate::simd::{SimdPath, Vector, dispatch, prefetch};

/// Where one output pixel reads and writes: in numbers from the start of the images read and written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pixel {
    pub input: usize,
    pub output: usize,
}

/// Pixels that see the same taps, and the taps.
pub(crate) struct Part<'a> {
    pub pixels: &'a [Pixel],
    /// The runs of each segment.
    pub runs: &'a [Vec<Run>],
}

/// The pixels of one phase and the blocks of channels to compute for them.
pub(crate) struct Job<'a> {
    pub parts: &'a [Part<'a>],
    pub blocks: &'a [Block],
    pub weights: &'a PackedPhase,
    /// See [`pack_bias`](super::pack::pack_bias).
    pub bias: &'a [f32],
    pub epilogue: RawEpilogue,
    pub input: *const f32,
    pub output: *mut f32,
}

/// Where a segment stands among those of a sum.
#[derive(Clone, Copy)]
struct Position {
    /// The sum begins with the bias.
    first: bool,
    /// The sum is complete and goes through the epilogue.
    last: bool,
}

/// Computes all pixels and blocks of `job`.
///
/// # Safety
/// - For every pixel, block and run, `input + pixel.input + block.input + run.offset` starts `run.len` readable numbers,
///   and the packed weights have rows `run.weight..run.weight + run.len`.
/// - For every pixel and block, `output + pixel.output + block.output` starts `block.count` numbers that may be
///   written, and that nobody else reads or writes meanwhile; so many readable numbers are in the epilogue's residual.
/// - The CPU has the instructions of `path`, and blocks, weights and bias were packed for its lanes.
pub(crate) unsafe fn run(path: SimdPath, job: &Job) {
    // SAFETY: handed on. The sizes keep tile × 2 sums, two weights and a broadcast within the registers of each path.
    unsafe { dispatch!(path, run_tiles, [12, 8, 4], [6, 4, 2], [4, 2, 1], (job: &Job)) }
}

/// All blocks, segments and regions, in the order that keeps a segment's weights in the cache.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn run_tiles<V: Vector, const FULL: usize, const HALF: usize, const FEW: usize>(job: &Job) {
    for block in job.blocks {
        let segments = job.weights.segments.len();
        for segment in 0..segments {
            for part in job.parts {
                let runs = &*part.runs[segment];
                let position = Position { first: segment == 0, last: segment + 1 == segments };
                // SAFETY: handed on.
                unsafe {
                    match block.registers {
                        Registers::Two => run_pixels::<V, FULL, HALF, FEW, 2>(job, block, position, runs, part.pixels),
                        Registers::One => run_pixels::<V, FULL, HALF, FEW, 1>(job, block, position, runs, part.pixels),
                        Registers::Narrow => {
                            run_pixels::<V::Narrow, FULL, HALF, FEW, 1>(job, block, position, runs, part.pixels);
                        }
                    }
                }
            }
        }
    }
}

/// The pixels of one region in tiles of `FULL` pixels, the last ones in the smallest tile that holds them.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn run_pixels<V: Vector, const FULL: usize, const HALF: usize, const FEW: usize, const VECTORS: usize>(
    job: &Job,
    block: &Block,
    position: Position,
    runs: &[Run],
    pixels: &[Pixel],
) {
    if runs.is_empty() && !position.first && !(position.last && job.epilogue.is_something()) {
        return;
    }
    let (full, rest) = pixels.as_chunks::<FULL>();
    // SAFETY: handed on.
    unsafe {
        for (index, pixels) in full.iter().enumerate() {
            // Steps that skip pixels, and large ones, are beyond the hardware's own prefetcher.
            let next = full.get(index + 1).unwrap_or(pixels);
            for run in runs {
                for pixel in next {
                    prefetch(job.input.wrapping_add(pixel.input + block.input).wrapping_offset(run.offset));
                }
            }
            tile::<V, FULL, VECTORS>(job, block, position, runs, pixels);
        }
        match rest.len() {
            0 => {}
            few if few <= FEW => tile::<V, FEW, VECTORS>(job, block, position, runs, &repeat_last(rest)),
            half if half <= HALF => tile::<V, HALF, VECTORS>(job, block, position, runs, &repeat_last(rest)),
            _ => tile::<V, FULL, VECTORS>(job, block, position, runs, &repeat_last(rest)),
        }
    }
}

/// Fills a tile with repetitions of the last pixel, which compute and write the same numbers again.
#[inline(always)]
fn repeat_last<const PIXELS: usize>(pixels: &[Pixel]) -> [Pixel; PIXELS] {
    std::array::from_fn(|index| pixels[index.min(pixels.len() - 1)])
}

/// One tile over one segment.
///
/// # Safety
/// As [`run`].
#[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
#[inline(always)]
unsafe fn tile<V: Vector, const PIXELS: usize, const VECTORS: usize>(
    job: &Job,
    block: &Block,
    position: Position,
    runs: &[Run],
    pixels: &[Pixel; PIXELS],
) {
    let output = |pixel: usize| job.output.wrapping_add(pixels[pixel].output + block.output);
    // SAFETY: reads and writes stay within what the contract of `run` grants.
    unsafe {
        let mut sums = [[V::zero(); VECTORS]; PIXELS];
        if position.first {
            let bias = block.bias(job.bias).as_ptr();
            for vector in 0..VECTORS {
                let bias = V::load(bias.add(vector * V::LANES));
                for pixel in 0..PIXELS {
                    sums[pixel][vector] = bias;
                }
            }
        } else {
            sums = load::<V, PIXELS, VECTORS>(output, block.count);
        }
        let mut sums = add_products(job, block, runs, pixels, sums);
        if position.last && job.epilogue.is_something() {
            if let Some(residual) = job.epilogue.residual {
                let residual = |pixel: usize| residual.wrapping_add(pixels[pixel].output + block.output).cast_mut();
                let residual = load::<V, PIXELS, VECTORS>(residual, block.count);
                for pixel in 0..PIXELS {
                    for vector in 0..VECTORS {
                        sums[pixel][vector] = sums[pixel][vector].add(residual[pixel][vector]);
                    }
                }
            }
            sums = job.epilogue.activate(sums);
        }
        store::<V, PIXELS, VECTORS>(sums, output, block.count);
    }
}

/// `sums` with the products of all `runs`. Apart from what comes before and after: sums that are read there by an index that the
/// compiler does not know would be written to memory after every product.
///
/// # Safety
/// As [`run`].
#[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
#[inline(always)]
unsafe fn add_products<V: Vector, const PIXELS: usize, const VECTORS: usize>(
    job: &Job,
    block: &Block,
    runs: &[Run],
    pixels: &[Pixel; PIXELS],
    mut sums: [[V; VECTORS]; PIXELS],
) -> [[V; VECTORS]; PIXELS] {
    let width = VECTORS * V::LANES;
    // SAFETY: handed on. A pixel's address and the offset of a run may each lie outside of the image when their sum does not,
    // hence the wrapping arithmetic.
    unsafe {
        let weights = job.weights.weights(block).as_ptr();
        for run in runs {
            let mut inputs = [std::ptr::null(); PIXELS];
            for pixel in 0..PIXELS {
                let start = job.input.wrapping_add(pixels[pixel].input + block.input);
                inputs[pixel] = start.wrapping_offset(run.offset);
            }
            let mut weight = weights.add(run.weight * width);
            for number in 0..run.len {
                let mut columns = [V::zero(); VECTORS];
                for vector in 0..VECTORS {
                    columns[vector] = V::load(weight.add(vector * V::LANES));
                }
                for pixel in 0..PIXELS {
                    let broadcast = V::splat(inputs[pixel].add(number));
                    for vector in 0..VECTORS {
                        sums[pixel][vector] = broadcast.multiply_add(columns[vector], sums[pixel][vector]);
                    }
                }
                weight = weight.add(width);
            }
        }
        sums
    }
}

/// How many of `count` numbers lie in each register.
#[inline(always)]
fn parts<V: Vector, const VECTORS: usize>(count: usize) -> [usize; VECTORS] {
    std::array::from_fn(|vector| count.saturating_sub(vector * V::LANES).min(V::LANES))
}

/// Loads the first `count` numbers of a block of each pixel; the others are zero.
///
/// # Safety
/// Each of `from` starts `count` readable numbers; the CPU has the instructions of `V`.
#[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
#[inline(always)]
unsafe fn load<V: Vector, const PIXELS: usize, const VECTORS: usize>(
    from: impl Fn(usize) -> *mut f32,
    count: usize,
) -> [[V; VECTORS]; PIXELS] {
    // SAFETY: as the contract says; no register reads beyond its part of the numbers.
    unsafe {
        let mut numbers = [[V::zero(); VECTORS]; PIXELS];
        if count == VECTORS * V::LANES {
            for pixel in 0..PIXELS {
                for vector in 0..VECTORS {
                    numbers[pixel][vector] = V::load(from(pixel).wrapping_add(vector * V::LANES));
                }
            }
        } else {
            let parts = parts::<V, VECTORS>(count);
            for pixel in 0..PIXELS {
                for vector in 0..VECTORS {
                    numbers[pixel][vector] = V::load_first(from(pixel).wrapping_add(vector * V::LANES), parts[vector]);
                }
            }
        }
        numbers
    }
}

/// Stores the first `count` numbers of a block of each pixel.
///
/// # Safety
/// Each of `to` starts `count` writable numbers; the CPU has the instructions of `V`.
#[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
#[inline(always)]
unsafe fn store<V: Vector, const PIXELS: usize, const VECTORS: usize>(
    sums: [[V; VECTORS]; PIXELS],
    to: impl Fn(usize) -> *mut f32,
    count: usize,
) {
    // SAFETY: as the contract says; no register writes beyond its part of the numbers.
    unsafe {
        if count == VECTORS * V::LANES {
            for pixel in 0..PIXELS {
                for vector in 0..VECTORS {
                    sums[pixel][vector].store(to(pixel).wrapping_add(vector * V::LANES));
                }
            }
        } else {
            let parts = parts::<V, VECTORS>(count);
            for pixel in 0..PIXELS {
                for vector in 0..VECTORS {
                    sums[pixel][vector].store_first(to(pixel).wrapping_add(vector * V::LANES), parts[vector]);
                }
            }
        }
    }
}
