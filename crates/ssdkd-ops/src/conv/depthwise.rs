//! Convolutions of each channel on its own.
//!
//! There is no sum over channels to keep a register tile busy with, so channels themselves fill the registers: up to eight
//! neighbouring pixels of a row are summed at once, a register of channels each, so that one load of a tap's weights serves
//! all of them. Under a stride of 1 or 2, one load of a pixel serves all taps of a row that see it as well. Few
//! pixels are summed in more registers each: with eight sums at once, none waits for the multiply-add before.

mod weight_gradient;

use super::epilogue::Epilogue;
use super::gather::{Gather, Phase, Region};
use crate::parallel::{self, SharedMut};
use crate::simd::{SimdPath, Vector, dispatch};

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
        let input = &input[image * in_len..(image + 1) * in_len];
        for row in unit * per_unit..((unit + 1) * per_unit).min(rows) {
            for (phase, bands) in phases.iter().filter(|(phase, _)| row < phase.size[0]) {
                let out_row = image * out_height + row * gather.out_step[0] + phase.start[0];
                // SAFETY: units and phases differ in output rows, or share a row between phases of one unit, one by one.
                let numbers = unsafe { out.part(out_row * row_len..(out_row + 1) * row_len) };
                let band = bands.iter().find(|band| band.rows.contains(&row));
                for part in band.map_or(&[][..], |band| &band.parts) {
                    let (job, out) = (&Job { gather, phase, part, row, input, weight: &packed, bias }, &mut *numbers);
                    // SAFETY: a path is only obtained where the CPU has its instructions. A region has only taps that lie
                    // inside of the image for all of its pixels.
                    unsafe { dispatch!(path, sum_row, [], [], [], (job: &Job, out: &mut [f32])) }
                }
                epilogue.finish(path, numbers, out_row * row_len);
            }
        }
    });
}

/// The regions of the same rows.
struct Band {
    rows: std::ops::Range<usize>,
    parts: Vec<Part>,
}

/// Columns of one row whose pixels see the same taps.
struct Part {
    columns: std::ops::Range<usize>,
    runs: Vec<Run>,
}

/// Neighbouring taps: where the first reads, from the pixel's own address, and where its weights are. Each further tap reads
/// a step further and has its weights a step further. Pixels are `stride` such steps apart, 1 or 2.
#[derive(Clone, Copy)]
struct Run {
    input: isize,
    input_step: usize,
    stride: usize,
    weight: usize,
    weight_step: isize,
    taps: usize,
}

/// Taps in a run at most: so many weights stay in registers.
const RUN: usize = 5;

impl Run {
    /// Takes `next` in, if it goes on where this run ends; pixels are `step` numbers apart.
    fn extend(&mut self, next: &Self, step: usize) -> bool {
        let weight_step = next.weight as isize - self.last_weight();
        let stride = [1, 2].into_iter().find(|stride| {
            let ahead = next.input - self.input;
            step.is_multiple_of(*stride) && ahead == (self.taps * step / stride) as isize
        });
        let Some(stride) = stride.filter(|stride| {
            self.taps < RUN && (self.taps == 1 || (weight_step, *stride) == (self.weight_step, self.stride))
        }) else {
            return false;
        };
        (self.weight_step, self.stride, self.input_step) = (weight_step, stride, step / stride);
        self.taps += 1;
        true
    }

    fn last_weight(&self) -> isize {
        self.weight as isize + (self.taps as isize - 1) * self.weight_step
    }
}

fn bands(gather: &Gather, phase: &Phase) -> Vec<Band> {
    let [_, width, channels] = gather.input;
    let mut bands = Vec::<Band>::new();
    for Region { rows, columns, taps } in gather.regions(phase) {
        let mut runs = Vec::<Run>::new();
        let mut row = None;
        for tap in taps.iter().map(|tap| phase.taps[*tap]) {
            let input = (tap.row * width as isize + tap.column) * channels as isize;
            let weight = tap.index * channels;
            let run = Run { input, input_step: 0, stride: 1, weight, weight_step: 0, taps: 1 };
            let same_row = row.replace(tap.row) == Some(tap.row);
            let step = gather.in_step[1] * channels;
            if !(same_row && runs.last_mut().is_some_and(|last| last.extend(&run, step))) {
                runs.push(run);
            }
        }
        let part = Part { columns, runs };
        match bands.last_mut() {
            Some(band) if band.rows == rows => band.parts.push(part),
            _ => bands.push(Band { rows, parts: vec![part] }),
        }
    }
    bands
}

/// Some columns of one row of one image.
struct Job<'a> {
    gather: &'a Gather,
    phase: &'a Phase,
    part: &'a Part,
    row: usize,
    /// One image.
    input: &'a [f32],
    /// `[tap][channel]`
    weight: &'a [f32],
    bias: &'a [f32],
}

/// The columns of `job`.
///
/// # Safety
/// - All taps of all columns lie inside of the image; `out_row` is the row of the output.
/// - The CPU has the instructions of `V`.
#[inline(always)]
unsafe fn sum_row<V: Vector>(job: &Job, out_row: &mut [f32]) {
    // SAFETY: handed on. Runs of more than one tap have one stride.
    unsafe {
        if job.part.runs.iter().any(|run| run.stride == 2) {
            sum_columns::<V, true>(job, out_row);
        } else {
            sum_columns::<V, false>(job, out_row);
        }
    }
}

/// The columns of `job`, as many at once as there are. `TWO`: the stride of its runs is 2.
///
/// # Safety
/// As [`sum_row`].
#[inline(always)]
unsafe fn sum_columns<V: Vector, const TWO: bool>(job: &Job, out_row: &mut [f32]) {
    let Part { columns, .. } = job.part;
    let mut column = columns.start;
    // SAFETY: handed on.
    unsafe {
        while columns.end - column >= 8 {
            sum_pixels::<V, 8, 1, TWO>(job, column, out_row);
            column += 8;
        }
        if columns.end - column >= 4 {
            sum_pixels::<V, 4, 2, TWO>(job, column, out_row);
            column += 4;
        }
        if columns.end - column >= 2 {
            sum_pixels::<V, 2, 4, TWO>(job, column, out_row);
            column += 2;
        }
        if columns.end > column {
            sum_pixels::<V, 1, 8, TWO>(job, column, out_row);
        }
    }
}

/// `PIXELS` pixels from `column` on, all channels; `VECTORS` registers of each at once, as long as there are so many.
///
/// # Safety
/// As [`sum_row`].
#[inline(always)]
unsafe fn sum_pixels<V: Vector, const PIXELS: usize, const VECTORS: usize, const TWO: bool>(
    job: &Job,
    column: usize,
    out_row: &mut [f32],
) {
    let gather = job.gather;
    let [_, width, channels] = gather.input;
    let at = |pixel: usize| (column + pixel) * gather.out_step[1] + job.phase.start[1];
    let out = &mut out_row[at(0) * channels..(at(PIXELS - 1) + 1) * channels];
    let tile = Tile {
        runs: &job.part.runs,
        input: job
            .input
            .as_ptr()
            .wrapping_add((job.row * gather.in_step[0] * width + column * gather.in_step[1]) * channels),
        in_step: gather.in_step[1] * channels,
        output: out.as_mut_ptr(),
        out_step: gather.out_step[1] * channels,
        weight: job.weight.as_ptr(),
        bias: job.bias.as_ptr(),
    };
    let (wide, narrow) = (V::LANES, <V::Narrow as Vector>::LANES);
    let mut channel = 0;
    // SAFETY: all channels of a block are below `channels`, as many as weights, bias and every pixel have.
    unsafe {
        while VECTORS > 1 && channel + VECTORS * wide <= channels {
            tile.sum_registers::<V, PIXELS, VECTORS>(channel);
            channel += VECTORS * wide;
        }
        while channel + wide <= channels {
            tile.sum::<V, PIXELS, TWO>(channel);
            channel += wide;
        }
        while channel + narrow <= channels {
            tile.sum::<V::Narrow, PIXELS, TWO>(channel);
            channel += narrow;
        }
        for channel in channel..channels {
            tile.sum_one::<PIXELS>(channel);
        }
    }
}

/// Neighbouring pixels, by address. A pixel's address and the offset of a tap may each lie outside of the image when their
/// sum does not.
struct Tile<'a> {
    runs: &'a [Run],
    input: *const f32,
    in_step: usize,
    output: *mut f32,
    out_step: usize,
    weight: *const f32,
    bias: *const f32,
}

impl Tile<'_> {
    /// A register of channels of each pixel. `TWO`: the stride of the runs is 2.
    ///
    /// # Safety
    /// For every tap and pixel, the channels from `channel` on can be read and written; the CPU has the instructions of `V`.
    #[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
    #[inline(always)]
    unsafe fn sum<V: Vector, const PIXELS: usize, const TWO: bool>(&self, channel: usize) {
        // SAFETY: as the contract says.
        unsafe {
            let mut sums = [V::load(self.bias.add(channel)); PIXELS];
            for run in self.runs {
                match (TWO, run.taps) {
                    (_, 1) => self.add_run::<V, PIXELS, 1>(run, channel, &mut sums),
                    (true, 2) => self.add_run_of_two::<V, PIXELS, 2>(run, channel, &mut sums),
                    (true, 3) => self.add_run_of_two::<V, PIXELS, 3>(run, channel, &mut sums),
                    (true, 4) => self.add_run_of_two::<V, PIXELS, 4>(run, channel, &mut sums),
                    (true, _) => self.add_run_of_two::<V, PIXELS, RUN>(run, channel, &mut sums),
                    (false, 2) => self.add_run::<V, PIXELS, 2>(run, channel, &mut sums),
                    (false, 3) => self.add_run::<V, PIXELS, 3>(run, channel, &mut sums),
                    (false, 4) => self.add_run::<V, PIXELS, 4>(run, channel, &mut sums),
                    (false, _) => self.add_run::<V, PIXELS, RUN>(run, channel, &mut sums),
                }
            }
            for pixel in 0..PIXELS {
                sums[pixel].store(self.output.add(pixel * self.out_step + channel));
            }
        }
    }

    /// `VECTORS` registers of channels of each pixel, tap by tap.
    ///
    /// # Safety
    /// As [`sum`](Self::sum), for so many registers.
    #[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
    #[inline(always)]
    unsafe fn sum_registers<V: Vector, const PIXELS: usize, const VECTORS: usize>(&self, channel: usize) {
        // SAFETY: as the contract says.
        unsafe {
            let mut sums = [[V::zero(); VECTORS]; PIXELS];
            for pixel in 0..PIXELS {
                for vector in 0..VECTORS {
                    sums[pixel][vector] = V::load(self.bias.add(channel + vector * V::LANES));
                }
            }
            for run in self.runs {
                let mut weight = self.weight.wrapping_add(run.weight + channel);
                let mut input = self.input.wrapping_offset(run.input).wrapping_add(channel);
                for _ in 0..run.taps {
                    let mut weights = [V::zero(); VECTORS];
                    for vector in 0..VECTORS {
                        weights[vector] = V::load(weight.wrapping_add(vector * V::LANES));
                    }
                    for pixel in 0..PIXELS {
                        for vector in 0..VECTORS {
                            let numbers = V::load(input.wrapping_add(pixel * self.in_step + vector * V::LANES));
                            sums[pixel][vector] = numbers.multiply_add(weights[vector], sums[pixel][vector]);
                        }
                    }
                    weight = weight.wrapping_offset(run.weight_step);
                    input = input.wrapping_add(run.input_step);
                }
            }
            for pixel in 0..PIXELS {
                for vector in 0..VECTORS {
                    let output = self.output.add(pixel * self.out_step + channel + vector * V::LANES);
                    sums[pixel][vector].store(output);
                }
            }
        }
    }

    /// The products of a run of `TAPS` taps, for each sum in the order of the taps.
    ///
    /// # Safety
    /// As [`sum`](Self::sum).
    #[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
    #[inline(always)]
    unsafe fn add_run<V: Vector, const PIXELS: usize, const TAPS: usize>(
        &self,
        run: &Run,
        channel: usize,
        sums: &mut [V; PIXELS],
    ) {
        // SAFETY: as the contract says: position p is that of tap 0 for pixel p, or of a later tap for an earlier pixel.
        unsafe {
            let first = self.weight.add(run.weight + channel);
            let mut weights = [V::zero(); TAPS];
            for tap in 0..TAPS {
                weights[tap] = V::load(first.wrapping_offset(tap as isize * run.weight_step));
            }
            let input = self.input.wrapping_offset(run.input).wrapping_add(channel);
            for position in 0..PIXELS + TAPS - 1 {
                let numbers = V::load(input.wrapping_add(position * self.in_step));
                for tap in 0..TAPS {
                    if position >= tap && position - tap < PIXELS {
                        sums[position - tap] = numbers.multiply_add(weights[tap], sums[position - tap]);
                    }
                }
            }
        }
    }

    /// The same for a run whose stride is 2.
    ///
    /// # Safety
    /// As [`sum`](Self::sum).
    #[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
    #[inline(always)]
    unsafe fn add_run_of_two<V: Vector, const PIXELS: usize, const TAPS: usize>(
        &self,
        run: &Run,
        channel: usize,
        sums: &mut [V; PIXELS],
    ) {
        // SAFETY: as the contract says.
        unsafe {
            let first = self.weight.add(run.weight + channel);
            let input = self.input.wrapping_offset(run.input).wrapping_add(channel);
            let step = run.input_step;
            for tap in 0..TAPS {
                let weight = V::load(first.wrapping_offset(tap as isize * run.weight_step));
                for pixel in 0..PIXELS {
                    // The compiler keeps what two pixels see in a register, where it has one.
                    let numbers = V::load(input.wrapping_add((2 * pixel + tap) * step));
                    sums[pixel] = numbers.multiply_add(weight, sums[pixel]);
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
                let input = self.input.wrapping_add(pixel * self.in_step + channel);
                let mut sum = *self.bias.add(channel);
                for run in self.runs {
                    let weight = self.weight.add(run.weight + channel);
                    for tap in 0..run.taps {
                        let input = input.wrapping_offset(run.input).wrapping_add(tap * run.input_step);
                        sum += *input * *weight.wrapping_offset(tap as isize * run.weight_step);
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
