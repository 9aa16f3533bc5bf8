//! Convolutions of each channel on its own.
//!
//! There is no sum over channels to keep a register tile busy with, so channels themselves fill the registers: up to eight
//! neighbouring pixels of a row are summed at once, a register of channels each, so that one load of a tap's weights serves
//! all of them. Where neighbouring pixels see neighbouring taps, one load of a pixel serves all taps of a row as well.

use super::epilogue::Epilogue;
use super::gather::{Gather, Phase, Region};
use super::shape::ConvShape;
use crate::parallel::{self, SharedMut};
use crate::simd::{SimdPath, Vector, dispatch};

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
/// what the first one does for the next pixel, and has its weights a step further.
#[derive(Clone, Copy)]
struct Run {
    input: isize,
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
        let goes_on = next.input == self.input + (self.taps * step) as isize
            && (self.taps == 1 || weight_step == self.weight_step)
            && self.taps < RUN;
        if goes_on {
            self.weight_step = weight_step;
            self.taps += 1;
        }
        goes_on
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
            let run = Run { input, weight: tap.index * channels, weight_step: 0, taps: 1 };
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
    /// [tap][channel]
    weight: &'a [f32],
    bias: &'a [f32],
}

/// The columns of `job`, as many at once as there are.
///
/// # Safety
/// - All taps of all columns lie inside of the image; `out_row` is the row of the output.
/// - The CPU has the instructions of `V`.
#[inline(always)]
unsafe fn sum_row<V: Vector>(job: &Job, out_row: &mut [f32]) {
    let Part { columns, .. } = job.part;
    let mut column = columns.start;
    // SAFETY: handed on.
    unsafe {
        while columns.end - column >= 8 {
            sum_pixels::<V, 8>(job, column, out_row);
            column += 8;
        }
        if columns.end - column >= 4 {
            sum_pixels::<V, 4>(job, column, out_row);
            column += 4;
        }
        if columns.end - column >= 2 {
            sum_pixels::<V, 2>(job, column, out_row);
            column += 2;
        }
        if columns.end > column {
            sum_pixels::<V, 1>(job, column, out_row);
        }
    }
}

/// `PIXELS` pixels from `column` on, all channels.
///
/// # Safety
/// As [`sum_row`].
#[inline(always)]
unsafe fn sum_pixels<V: Vector, const PIXELS: usize>(job: &Job, column: usize, out_row: &mut [f32]) {
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
        while channel + wide <= channels {
            tile.sum::<V, PIXELS>(channel);
            channel += wide;
        }
        while channel + narrow <= channels {
            tile.sum::<V::Narrow, PIXELS>(channel);
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
    /// A register of channels of each pixel.
    ///
    /// # Safety
    /// For every tap and pixel, the channels from `channel` on can be read and written; the CPU has the instructions of `V`.
    #[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
    #[inline(always)]
    unsafe fn sum<V: Vector, const PIXELS: usize>(&self, channel: usize) {
        // SAFETY: as the contract says.
        unsafe {
            let mut sums = [V::load(self.bias.add(channel)); PIXELS];
            for run in self.runs {
                match run.taps {
                    1 => self.add_run::<V, PIXELS, 1>(run, channel, &mut sums),
                    2 => self.add_run::<V, PIXELS, 2>(run, channel, &mut sums),
                    3 => self.add_run::<V, PIXELS, 3>(run, channel, &mut sums),
                    4 => self.add_run::<V, PIXELS, 4>(run, channel, &mut sums),
                    _ => self.add_run::<V, PIXELS, RUN>(run, channel, &mut sums),
                }
            }
            for pixel in 0..PIXELS {
                sums[pixel].store(self.output.add(pixel * self.out_step + channel));
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
                        let input = input.wrapping_offset(run.input).wrapping_add(tap * self.in_step);
                        sum += *input * *weight.wrapping_offset(tap as isize * run.weight_step);
                    }
                }
                *self.output.add(pixel * self.out_step + channel) = sum;
            }
        }
    }
}

/// Images that one partial gradient is summed over at most, and pixels of their outputs.
const IMAGES: usize = 8;
const PIXELS: usize = 4096;

/// Channels that one unit of work takes, of every pixel: some cache lines.
const CHANNELS: usize = 128;

/// Computes the gradient of the weight (C, 1, kh, kw).
pub(crate) fn weight_gradient(path: SimdPath, shape: &ConvShape, input: &[f32], gradient: &[f32], out: &mut [f32]) {
    let (channels, taps) = (shape.input[2], shape.taps());
    let images = (PIXELS / (shape.output[0] * shape.output[1])).clamp(1, IMAGES);
    let (chunks, blocks) = (shape.batch.div_ceil(images), channels.div_ceil(CHANNELS));
    let mut partials = vec![0.0; chunks * taps * channels];
    let shared = SharedMut::new(&mut partials);
    assert!(input.len() == shape.batch * shape.input_len() && gradient.len() == shape.batch * shape.output_len());
    parallel::for_each_piece(chunks * blocks, |unit| {
        let (chunk, block) = (unit / blocks, unit % blocks);
        let channels_of = block * CHANNELS..((block + 1) * CHANNELS).min(channels);
        for image in chunk * images..((chunk + 1) * images).min(shape.batch) {
            let job = &Products {
                shape,
                input: &input[image * shape.input_len()..(image + 1) * shape.input_len()],
                gradient: &gradient[image * shape.output_len()..(image + 1) * shape.output_len()],
                channels: channels_of.clone(),
                sums: shared.at(chunk * taps * channels),
            };
            // SAFETY: a path is only obtained where the CPU has its instructions. Each unit has its own channels of its
            // chunk's sums.
            unsafe { dispatch!(path, add_products, [], [], [], (job: &Products)) }
        }
    });
    for channel in 0..channels {
        for tap in 0..taps {
            out[channel * taps + tap] = partials[tap * channels + channel..].iter().step_by(taps * channels).sum();
        }
    }
}

/// One image, and some of its channels.
struct Products<'a> {
    shape: &'a ConvShape,
    input: &'a [f32],
    gradient: &'a [f32],
    channels: std::ops::Range<usize>,
    /// [tap][channel], of all channels.
    sums: *mut f32,
}

/// Adds the products over one image, a row of the kernel at once: their sums stay in registers while the pixels of a row
/// stream by.
///
/// # Safety
/// The channels of the sums are nobody else's; the CPU has the instructions of `V`.
#[inline(always)]
unsafe fn add_products<V: Vector>(job: &Products) {
    let ConvShape { spec, kernel, input: [height, width, channels], output: [out_height, out_width, _], .. } =
        *job.shape;
    let [above, before] = spec.before();
    for row in 0..out_height {
        for tap_row in 0..kernel[0] {
            let at = (row * spec.stride[0] + tap_row * spec.dilation[0]).checked_sub(above);
            let Some(in_row) = at.filter(|at| *at < height) else { continue };
            let mut tap_column = 0;
            while tap_column < kernel[1] {
                let line = Line {
                    input: job.input[in_row * width * channels..].as_ptr(),
                    gradient: job.gradient[row * out_width * channels..].as_ptr(),
                    sums: job.sums.wrapping_add((tap_row * kernel[1] + tap_column) * channels),
                    channels,
                    sizes: [width, out_width],
                    stride: spec.stride[1],
                    dilation: spec.dilation[1],
                    first: tap_column * spec.dilation[1],
                    padding: before,
                };
                // SAFETY: handed on: these are rows of the images, and the sums of so many taps.
                unsafe {
                    tap_column += match kernel[1] - tap_column {
                        7.. => line.add::<V, 7>(&job.channels),
                        5.. => line.add::<V, 5>(&job.channels),
                        3.. => line.add::<V, 3>(&job.channels),
                        _ => line.add::<V, 1>(&job.channels),
                    };
                }
            }
        }
    }
}

/// A row of the input, one of the output's gradient, and neighbouring taps of a row of the kernel.
struct Line {
    input: *const f32,
    gradient: *const f32,
    sums: *mut f32,
    /// In a pixel.
    channels: usize,
    /// Pixels of both rows.
    sizes: [usize; 2],
    stride: usize,
    dilation: usize,
    /// Position of the first tap, which the padding is taken from.
    first: usize,
    padding: usize,
}

impl Line {
    /// The columns of the gradient that tap `tap` pairs with pixels of the image.
    #[inline(always)]
    fn columns(&self, tap: usize) -> [usize; 2] {
        let position = self.first + tap * self.dilation;
        let first = self.padding.saturating_sub(position).div_ceil(self.stride);
        let end = (self.sizes[0] + self.padding).saturating_sub(position).div_ceil(self.stride).min(self.sizes[1]);
        [first.min(end), end]
    }

    /// Adds the products of `TAPS` taps; returns how many those are.
    ///
    /// # Safety
    /// Rows have their pixels with all channels; the sums of these `channels` are nobody else's; the CPU has the instructions
    /// of `V`.
    #[inline(always)]
    unsafe fn add<V: Vector, const TAPS: usize>(&self, channels: &std::ops::Range<usize>) -> usize {
        let (wide, narrow) = (V::LANES, <V::Narrow as Vector>::LANES);
        let columns: [[usize; 2]; TAPS] = std::array::from_fn(|tap| self.columns(tap));
        let mut channel = channels.start;
        // SAFETY: handed on.
        unsafe {
            while channel + 2 * wide <= channels.end {
                self.add_channels::<V, TAPS, 2>(channel, &columns);
                channel += 2 * wide;
            }
            while channel + wide <= channels.end {
                self.add_channels::<V, TAPS, 1>(channel, &columns);
                channel += wide;
            }
            while channel + narrow <= channels.end {
                self.add_channels::<V::Narrow, TAPS, 1>(channel, &columns);
                channel += narrow;
            }
            for channel in channel..channels.end {
                for tap in 0..TAPS {
                    let [start, end] = columns[tap];
                    let sum = self.sums.add(tap * self.channels + channel);
                    for column in start..end {
                        *sum += *self.pixel(tap, column).add(channel)
                            * *self.gradient.add(column * self.channels + channel);
                    }
                }
            }
        }
        TAPS
    }

    /// The pixel that tap `tap` pairs with the gradient's `column`.
    #[inline(always)]
    fn pixel(&self, tap: usize, column: usize) -> *const f32 {
        let at = column * self.stride + self.first + tap * self.dilation;
        self.input.wrapping_add(at.wrapping_sub(self.padding).wrapping_mul(self.channels))
    }

    /// # Safety
    /// As [`add`](Self::add), for some registers of channels.
    #[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
    #[inline(always)]
    unsafe fn add_channels<V: Vector, const TAPS: usize, const VECTORS: usize>(
        &self,
        channel: usize,
        columns: &[[usize; 2]; TAPS],
    ) {
        // SAFETY: as the contract says; `columns` keeps to pixels that exist on both sides.
        unsafe {
            let at = |tap: usize, vector: usize| self.sums.add(tap * self.channels + channel + vector * V::LANES);
            let mut sums = [[V::zero(); VECTORS]; TAPS];
            for tap in 0..TAPS {
                for vector in 0..VECTORS {
                    sums[tap][vector] = V::load(at(tap, vector));
                }
            }
            // What all taps pair, and then what only some do.
            let (mut start, mut end) = (0, self.sizes[1]);
            for [first, last] in columns {
                (start, end) = (start.max(*first), end.min(*last));
            }
            let end = end.max(start);
            for column in start..end {
                let (gradient, input) = (self.gradient.add(column * self.channels + channel), self.pixel(0, column));
                for vector in 0..VECTORS {
                    let product = V::load(gradient.add(vector * V::LANES));
                    for tap in 0..TAPS {
                        let numbers =
                            input.wrapping_add(tap * self.dilation * self.channels + channel + vector * V::LANES);
                        sums[tap][vector] = V::load(numbers).multiply_add(product, sums[tap][vector]);
                    }
                }
            }
            for tap in 0..TAPS {
                let [first, last] = columns[tap];
                for column in (first..last.min(start)).chain(first.max(end)..last) {
                    for vector in 0..VECTORS {
                        let place = channel + vector * V::LANES;
                        let gradient = V::load(self.gradient.add(column * self.channels + place));
                        let numbers = V::load(self.pixel(tap, column).wrapping_add(place));
                        sums[tap][vector] = numbers.multiply_add(gradient, sums[tap][vector]);
                    }
                }
            }
            for tap in 0..TAPS {
                for vector in 0..VECTORS {
                    sums[tap][vector].store(at(tap, vector));
                }
            }
        }
    }
}

/// (C, taps) as [tap][channel].
fn transpose(weight: &[f32], channels: usize, taps: usize) -> Vec<f32> {
    (0..taps * channels).map(|at| weight[at % channels * taps + at / channels]).collect()
}
