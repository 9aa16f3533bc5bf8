//! Convolutions of each channel on its own.
//!
//! There is no sum over channels to keep a register tile busy with, so channels themselves fill the registers: up to eight
//! neighbouring pixels of a row are summed at once, a register of channels each. One load of a tap's weights serves all of them.
//! Under a stride of 1 or 2, one load of a pixel serves all taps of a row that see it as well. Pixels at the edges are summed with
//! their neighbours: what lies in the padding is left out.

mod weight_gradient;

use std::ops::Range;

use super::epilogue::Epilogue;
use super::gather::{Gather, Phase};
use crate::parallel::{self, SharedMut};
use crate::simd::{SimdPath, Vector, dispatch, prefetch};

pub(crate) use weight_gradient::weight_gradient;

/// Computes `out` from `input`, in either direction; see [`Gather`].
pub(crate) fn apply(
    path: SimdPath,
    gather: &Gather,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    let channels = gather.output[2];
    let taps = weight.len() / channels;
    let packed = transpose(weight, channels, taps);
    let zero = vec![0.0; channels];
    let bias = bias.unwrap_or(&zero);
    let [out_height, out_width, _] = gather.output;
    let (in_len, row_len) = (gather.input.iter().product::<usize>(), out_width * channels);
    let phases = gather.phases.iter().map(|phase| (phase, bands(gather, phase))).collect::<Vec<_>>();
    assert!(input.len() >= gather.batch * in_len && packed.len() == taps * channels && bias.len() == channels);

    let out = SharedMut::new(out);
    let rows = gather.rows();
    let per_unit = parallel::rows_per_piece(row_len).min(rows);
    let units = rows.div_ceil(per_unit);
    parallel::for_each_piece(gather.batch * units, |unit| {
        let (image, unit) = (unit / units, unit % units);
        for row in unit * per_unit..((unit + 1) * per_unit).min(rows) {
            let mut next = next_rows(gather, input, image * rows + row);
            for (phase, bands) in phases.iter().filter(|(phase, _)| row < phase.size[0]) {
                let out_row = image * out_height + row * gather.out_step[0] + phase.start[0];
                // SAFETY: units and phases differ in output rows, or share a row between phases of one unit, one by one.
                let numbers = unsafe { out.part(out_row * row_len..(out_row + 1) * row_len) };
                if let Some(band) = bands.iter().find(|band| band.rows.contains(&row)) {
                    let input = &input[image * in_len..(image + 1) * in_len];
                    let next = std::mem::take(&mut next);
                    let (job, out) =
                        (&Job { gather, phase, band, row, input, next, weight: &packed, bias }, &mut *numbers);
                    // SAFETY: a path is only obtained where the CPU has its instructions. Runs of more than one tap have one
                    // stride, and what groups see lies inside of the image.
                    unsafe { dispatch!(path, sum_row, [], [], [], (job: &Job, out: &mut [f32])) }
                }
                epilogue.finish(path, numbers, out_row * row_len);
            }
        }
    });
}

/// Returns the numbers of the input that the row after `row` of the outputs needs, and `row` does not.
fn next_rows<'a>(gather: &Gather, input: &'a [f32], row: usize) -> &'a [f32] {
    let ([height, width, channels], rows) = (gather.input, gather.rows());
    let last = gather.phases.iter().flat_map(|phase| &phase.taps).map(|tap| tap.row).max().unwrap_or(0);
    let end = |row: usize| {
        let seen = ((row % rows * gather.in_step[0]) as isize + last + 1).clamp(0, height as isize);
        (row / rows * height + seen as usize) * width * channels
    };
    input.get(end(row)..end(row + 1)).unwrap_or_default()
}

/// Rows of one phase that see the same rows of the kernel.
struct Band {
    rows: Range<usize>,
    runs: Vec<Run>,
    groups: Vec<Group>,
}

/// Neighbouring pixels of a row that are summed at once.
struct Group {
    column: usize,
    pixels: usize,
    /// Of each run, a bit for each position that lies inside of the image.
    seen: Vec<u32>,
}

/// Neighbouring taps: where the first reads, from the pixel's own address, and where its weights are. Each further tap reads
/// a step further, at the next position, and has its weights a step further. Pixels are `stride` positions apart, 1 or 2.
#[derive(Clone, Copy)]
struct Run {
    input: isize,
    /// The column of the first tap, and columns between positions.
    column: isize,
    step: usize,
    stride: usize,
    weight: usize,
    weight_step: isize,
    taps: usize,
}

/// Taps in a run at most: so many weights stay in registers.
const RUN: usize = 5;

impl Run {
    /// Takes `next` in, if it goes on where this run ends; pixels are `in_step` columns apart.
    fn extend(&mut self, next: &Self, in_step: usize) -> bool {
        let weight_step = next.weight as isize - self.last_weight();
        let stride = [1, 2].into_iter().find(|stride| {
            in_step.is_multiple_of(*stride) && next.column - self.column == (self.taps * in_step / stride) as isize
        });
        let Some(stride) = stride.filter(|stride| {
            self.taps < RUN && (self.taps == 1 || (weight_step, *stride) == (self.weight_step, self.stride))
        }) else {
            return false;
        };
        (self.weight_step, self.stride, self.step) = (weight_step, stride, in_step / stride);
        self.taps += 1;
        true
    }

    fn last_weight(&self) -> isize {
        self.weight as isize + (self.taps as isize - 1) * self.weight_step
    }

    /// A bit for each position of `pixels` pixels, from `column` of the input on, that lies in a row of `width` pixels.
    fn seen(&self, column: usize, pixels: usize, width: usize) -> u32 {
        let first = column as isize + self.column;
        let inside = |position: &usize| (0..width as isize).contains(&(first + (position * self.step) as isize));
        (0..(pixels - 1) * self.stride + self.taps).filter(inside).map(|position| 1 << position).sum()
    }
}

fn bands(gather: &Gather, phase: &Phase) -> Vec<Band> {
    let [_, width, channels] = gather.input;
    let mut bands = Vec::<Band>::new();
    for regions in gather.regions(phase).chunk_by(|a, b| a.rows == b.rows) {
        let mut taps = regions.iter().flat_map(|region| region.taps.iter().copied()).collect::<Vec<_>>();
        taps.sort_unstable();
        taps.dedup();
        let mut runs = Vec::<Run>::new();
        let mut row = None;
        for tap in taps.into_iter().map(|tap| phase.taps[tap]) {
            let run = Run {
                input: (tap.row * width as isize + tap.column) * channels as isize,
                column: tap.column,
                step: gather.in_step[1],
                stride: 1,
                weight: tap.index * channels,
                weight_step: 0,
                taps: 1,
            };
            let same_row = row.replace(tap.row) == Some(tap.row);
            if !(same_row && runs.last_mut().is_some_and(|last| last.extend(&run, gather.in_step[1]))) {
                runs.push(run);
            }
        }
        let groups = groups(phase.size[1]).into_iter().map(|(column, pixels)| {
            let seen = runs.iter().map(|run| run.seen(column * gather.in_step[1], pixels, width)).collect();
            Group { column, pixels, seen }
        });
        bands.push(Band { rows: regions[0].rows.clone(), groups: groups.collect(), runs });
    }
    bands
}

/// Pixels that are summed at once: the first and how many. The last ones overlap with those before where they are fewer.
fn groups(width: usize) -> Vec<(usize, usize)> {
    let size = match width {
        _ if width.is_multiple_of(7) && !width.is_multiple_of(8) => 7,
        8.. => 8,
        4.. => 4,
        _ => 1,
    };
    (0..width).step_by(size).map(|column| (column.min(width - size), size)).collect()
}

/// One row of one image.
struct Job<'a> {
    gather: &'a Gather,
    phase: &'a Phase,
    band: &'a Band,
    row: usize,
    /// One image.
    input: &'a [f32],
    /// The numbers to prefetch for the next row.
    next: &'a [f32],
    /// `[tap][channel]`
    weight: &'a [f32],
    bias: &'a [f32],
}

/// All columns of `job`.
///
/// # Safety
/// - All positions that a group sees lie inside of the image; `out_row` is the row of the output.
/// - Runs of more than one tap have one stride.
/// - The CPU has the instructions of `V`.
#[inline(always)]
unsafe fn sum_row<V: Vector>(job: &Job, out_row: &mut [f32]) {
    let stride = if job.band.runs.iter().any(|run| run.stride == 2) { 2 } else { 1 };
    // Under a stride, several new rows: read from end to end, they come faster than by prefetches of pieces.
    let ahead = if job.gather.in_step[0] > 1 { read(job.next) } else { job.next };
    let mut next = ahead.chunks(ahead.len().div_ceil(job.band.groups.len()).max(1));
    for group in &job.band.groups {
        next.next().unwrap_or_default().iter().step_by(CACHE_LINE).for_each(|number| prefetch(number));
        // SAFETY: handed on.
        unsafe {
            match (group.pixels, stride) {
                (8, 1) => sum_pixels::<V, 8, 1>(job, group, out_row),
                (8, _) => sum_pixels::<V, 8, 2>(job, group, out_row),
                (7, 1) => sum_pixels::<V, 7, 1>(job, group, out_row),
                (7, _) => sum_pixels::<V, 7, 2>(job, group, out_row),
                (4, 1) => sum_pixels::<V, 4, 1>(job, group, out_row),
                (4, _) => sum_pixels::<V, 4, 2>(job, group, out_row),
                (_, 1) => sum_pixels::<V, 1, 1>(job, group, out_row),
                (_, _) => sum_pixels::<V, 1, 2>(job, group, out_row),
            }
        }
    }
}

/// Numbers in a cache line.
const CACHE_LINE: usize = 16;

/// Reads a number of each cache line, in the order that the hardware's prefetcher follows. Returns the rest, which is empty.
fn read(numbers: &[f32]) -> &[f32] {
    for number in numbers.iter().step_by(CACHE_LINE) {
        std::hint::black_box(*number);
    }
    &[]
}

/// The pixels of `group`, all channels.
///
/// # Safety
/// As [`sum_row`].
#[inline(always)]
unsafe fn sum_pixels<V: Vector, const PIXELS: usize, const STRIDE: usize>(
    job: &Job,
    group: &Group,
    out_row: &mut [f32],
) {
    let gather = job.gather;
    let [_, width, channels] = gather.input;
    let at = |pixel: usize| (group.column + pixel) * gather.out_step[1] + job.phase.start[1];
    let out = &mut out_row[at(0) * channels..(at(PIXELS - 1) + 1) * channels];
    let tile = Tile {
        runs: &job.band.runs,
        seen: &group.seen,
        input: job
            .input
            .as_ptr()
            .wrapping_add((job.row * gather.in_step[0] * width + group.column * gather.in_step[1]) * channels),
        channels,
        output: out.as_mut_ptr(),
        out_step: gather.out_step[1] * channels,
        weight: job.weight.as_ptr(),
        bias: job.bias.as_ptr(),
    };
    let narrow = <V::Narrow as Vector>::LANES;
    // The last register of channels overlaps with the one before where it has fewer of its own.
    // SAFETY: all channels of a register are below `channels`, as many as weights, bias and every pixel have.
    unsafe {
        if channels >= V::LANES {
            for channel in (0..channels).step_by(V::LANES) {
                tile.sum::<V, PIXELS, STRIDE>(channel.min(channels - V::LANES));
            }
        } else if channels >= narrow {
            for channel in (0..channels).step_by(narrow) {
                tile.sum::<V::Narrow, PIXELS, STRIDE>(channel.min(channels - narrow));
            }
        } else {
            for channel in 0..channels {
                tile.sum_one::<PIXELS>(channel);
            }
        }
    }
}

/// Neighbouring pixels, by address. A pixel's address and the offset of a tap may each lie outside of the image when their
/// sum does not.
struct Tile<'a> {
    runs: &'a [Run],
    /// See [`Group`].
    seen: &'a [u32],
    input: *const f32,
    channels: usize,
    output: *mut f32,
    out_step: usize,
    weight: *const f32,
    bias: *const f32,
}

impl Tile<'_> {
    /// A register of channels of each pixel. `STRIDE` is that of the runs of more than one tap.
    ///
    /// # Safety
    /// For every position that is seen, the channels from `channel` on can be read, and those of every pixel written; the CPU has
    /// the instructions of `V`.
    #[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
    #[inline(always)]
    unsafe fn sum<V: Vector, const PIXELS: usize, const STRIDE: usize>(&self, channel: usize) {
        // SAFETY: as the contract says.
        unsafe {
            let mut sums = [V::load(self.bias.add(channel)); PIXELS];
            for (run, &seen) in self.runs.iter().zip(self.seen) {
                match run.taps {
                    1 => self.add_run::<V, PIXELS, 1, 1>(run, seen, channel, &mut sums),
                    2 => self.add_run::<V, PIXELS, STRIDE, 2>(run, seen, channel, &mut sums),
                    3 => self.add_run::<V, PIXELS, STRIDE, 3>(run, seen, channel, &mut sums),
                    4 => self.add_run::<V, PIXELS, STRIDE, 4>(run, seen, channel, &mut sums),
                    _ => self.add_run::<V, PIXELS, STRIDE, RUN>(run, seen, channel, &mut sums),
                }
            }
            for pixel in 0..PIXELS {
                sums[pixel].store(self.output.add(pixel * self.out_step + channel));
            }
        }
    }

    /// The products of a run of `TAPS` taps at the positions that are `seen`, for each sum in the order of the taps.
    ///
    /// # Safety
    /// As [`sum`](Self::sum).
    #[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
    #[inline(always)]
    unsafe fn add_run<V: Vector, const PIXELS: usize, const STRIDE: usize, const TAPS: usize>(
        &self,
        run: &Run,
        seen: u32,
        channel: usize,
        sums: &mut [V; PIXELS],
    ) {
        // SAFETY: as the contract says. A position is that of a pixel's first taps, and of later taps of earlier pixels.
        unsafe {
            let first = self.weight.add(run.weight + channel);
            let mut weights = [V::zero(); TAPS];
            for tap in 0..TAPS {
                weights[tap] = V::load(first.wrapping_offset(tap as isize * run.weight_step));
            }
            let input = self.input.wrapping_offset(run.input).wrapping_add(channel);
            let step = run.step * self.channels;
            for pixel in 0..PIXELS + (TAPS - 1) / STRIDE {
                for begin in 0..STRIDE {
                    let position = pixel * STRIDE + begin;
                    if seen & (1 << position) != 0 {
                        let numbers = V::load(input.wrapping_add(position * step));
                        for back in 0..TAPS.div_ceil(STRIDE) {
                            let tap = back * STRIDE + begin;
                            if tap < TAPS && pixel >= back && pixel - back < PIXELS {
                                sums[pixel - back] = numbers.multiply_add(weights[tap], sums[pixel - back]);
                            }
                        }
                    }
                }
            }
        }
    }

    /// One channel of each pixel.
    ///
    /// # Safety
    /// As [`sum`](Self::sum).
    #[inline(always)]
    unsafe fn sum_one<const PIXELS: usize>(&self, channel: usize) {
        for pixel in 0..PIXELS {
            // SAFETY: as the contract says.
            unsafe {
                let mut sum = *self.bias.add(channel);
                for (run, &seen) in self.runs.iter().zip(self.seen) {
                    let weight = self.weight.add(run.weight + channel);
                    let input = self.input.wrapping_offset(run.input).wrapping_add(channel);
                    for tap in 0..run.taps {
                        let position = pixel * run.stride + tap;
                        if seen & (1 << position) != 0 {
                            let number = *input.wrapping_add(position * run.step * self.channels);
                            sum += number * *weight.wrapping_offset(tap as isize * run.weight_step);
                        }
                    }
                }
                *self.output.add(pixel * self.out_step + channel) = sum;
            }
        }
    }
}

/// (C, taps) as `[tap][channel]`.
fn transpose(weight: &[f32], channels: usize, taps: usize) -> Vec<f32> {
    (0..taps * channels).map(|at| weight[at % channels * taps + at / channels]).collect()
}
