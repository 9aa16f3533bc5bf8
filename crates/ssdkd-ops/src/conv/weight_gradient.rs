//! The gradient of a convolution's weight: for every tap, the product of the input with the output's gradient, summed
//! over all pixels that the tap pairs.
//!
//! A tile of up to 12 input channels × 32 output channels of one tap stays in registers while the pixels stream by: each
//! pixel loads two registers of the output's gradient and broadcasts the input's channels against them. Pixels that a tap
//! pairs with padding are left out, so nothing is padded or copied (on a 4×4 map that alone saves a third of the work).
//!
//! The pixels are cut into bands small enough for L2, the bands into chunks; each chunk sums into its own partial
//! gradient, and the partial gradients are added in order. All of that depends on the shape alone.

use std::cell::RefCell;
use std::ops::Range;

use super::pack::{self, Block, Registers};
use super::shape::ConvShape;
use crate::parallel::{self, SharedMut};
use crate::simd::{self, NARROW, SimdPath, Vector, dispatch, prefetch};

/// Numbers of input and gradient in one band: half a megabyte.
const BAND: usize = 128 * 1024;

/// Chunks that the pixels fall into at most; each costs a partial gradient.
const MAX_CHUNKS: usize = 16;

/// Pixels in a chunk at least, so that adding up partial gradients stays little work.
const CHUNK_PIXELS: usize = 512;

/// Channels from which the pixels of one tile lie so far apart that they fall into few sets of the caches: their numbers
/// are copied side by side first.
const FAR_APART: usize = 128;

/// Numbers between pixels of which multiples fall into few sets: four cache lines.
const CACHE_SETS: usize = 64;

/// Computes the gradient of the weight (O, C/groups, kh, kw) from `input` and the output's `gradient`.
pub(crate) fn weight_gradient(path: SimdPath, shape: &ConvShape, input: &[f32], gradient: &[f32], out: &mut [f32]) {
    let plan = Plan::new(path, shape);
    let mut partials = vec![0.0; plan.chunks.len() * plan.partial_len];
    let shared = SharedMut::new(&mut partials);
    let parts = &plan.parts;
    parallel::for_each_piece(plan.chunks.len() * parts.len(), |unit| {
        let (chunk, part) = (unit / parts.len(), unit % parts.len());
        let cells = &plan.cells[parts[part].clone()];
        // SAFETY: cells are numbered in the order of their offsets, so that the units of a chunk take disjoint parts of
        // its partial gradient.
        let sums = unsafe {
            let start = chunk * plan.partial_len;
            let end = plan.cells.get(parts[part].end).map_or(plan.partial_len, |cell| cell.offset);
            shared.part(start + cells[0].offset..start + end)
        };
        let unit = UnitInput { path, shape, plan: &plan, input, gradient };
        SCRATCH.with_borrow_mut(|scratch| unit.sum(&plan.bands[plan.chunks[chunk].clone()], cells, sums, scratch));
    });
    plan.unpack(shape, &partials, out);
}

/// A tile of input channels against a block of output channels: `taps` tiles of sums.
struct Cell {
    /// First input channel of the tile, in the image and in its group.
    input: usize,
    in_group: usize,
    /// Input channels in the tile.
    inputs: usize,
    /// Index of the block of output channels.
    block: usize,
    /// Where the sums lie in a partial gradient: `[tap][input channel][width of the block]`.
    offset: usize,
}

/// Some images, or rows of the output of one image.
#[derive(Clone, Debug)]
struct Band {
    images: Range<usize>,
    rows: Range<usize>,
}

struct Plan {
    blocks: Vec<Block>,
    cells: Vec<Cell>,
    /// The cells, cut so that there are enough units of work.
    parts: Vec<Range<usize>>,
    bands: Vec<Band>,
    /// Ranges of bands.
    chunks: Vec<Range<usize>>,
    partial_len: usize,
}

impl Plan {
    fn new(path: SimdPath, shape: &ConvShape) -> Self {
        let lanes = simd::lanes(path);
        let max_inputs = match path {
            SimdPath::Avx512 => 12,
            SimdPath::Avx2 => 6,
            SimdPath::Portable => 4,
        };
        let in_per_group = shape.in_per_group();
        let blocks = pack::blocks(shape.spec.groups, in_per_group, shape.out_per_group(), lanes);
        let bands = bands(shape);
        let pixels = shape.batch * shape.output[0] * shape.output[1];
        let chunks = (pixels / CHUNK_PIXELS).clamp(1, MAX_CHUNKS.min(bands.len()));
        let chunks = (0..chunks)
            .map(|index| index * bands.len() / chunks..(index + 1) * bands.len() / chunks)
            .collect::<Vec<_>>();

        // What is copied for each part should be little: the gradients of its blocks, or the inputs of its tiles.
        let parts_wanted = MAX_CHUNKS.div_ceil(chunks.len());
        let along_blocks = !copies_input(shape) || shape.output[2] > 2 * shape.input[2];
        let ranges = if along_blocks { parts_wanted.min(blocks.len()) } else { 1 };
        let tiles = in_per_group.div_ceil(max_inputs);
        let (mut cells, mut parts, mut partial_len) = (Vec::new(), Vec::new(), 0);
        for range in 0..ranges {
            let first_cell = cells.len();
            let range = range * blocks.len() / ranges..(range + 1) * blocks.len() / ranges;
            for blocks in blocks[range.clone()].chunk_by(|a, b| a.group == b.group) {
                let first_block = range.start + (cells.len() - first_cell) / tiles;
                for tile in 0..tiles {
                    let (from, to) = (tile * in_per_group / tiles, (tile + 1) * in_per_group / tiles);
                    for (index, block) in (first_block..).zip(blocks) {
                        let input = block.input + from;
                        cells.push(Cell {
                            input,
                            in_group: from,
                            inputs: to - from,
                            block: index,
                            offset: partial_len,
                        });
                        partial_len += shape.taps() * (to - from) * block.width;
                    }
                }
            }
            parts.push(first_cell..cells.len());
        }
        if parts_wanted > ranges {
            let count = parts_wanted.min(cells.len());
            parts = (0..count).map(|part| part * cells.len() / count..(part + 1) * cells.len() / count).collect();
        }
        Self { blocks, cells, parts, bands, chunks, partial_len }
    }

    /// Adds the partial gradients of all chunks in order, into PyTorch's layout.
    fn unpack(&self, shape: &ConvShape, partials: &[f32], out: &mut [f32]) {
        let taps = shape.taps();
        let out_step = shape.in_per_group() * taps;
        let out = SharedMut::new(out);
        parallel::for_each_piece(self.cells.len(), |index| {
            let cell = &self.cells[index];
            let block = &self.blocks[cell.block];
            let range = cell.offset..cell.offset + taps * cell.inputs * block.width;
            let mut chunks = partials.chunks(self.partial_len).map(|partial| &partial[range.clone()]);
            let mut sums = chunks.next().unwrap_or_default().to_vec();
            for chunk in chunks {
                for (sum, number) in sums.iter_mut().zip(chunk) {
                    *sum += number;
                }
            }
            for lane in 0..block.count {
                let start = (block.output + lane) * out_step + cell.in_group * taps;
                // SAFETY: cells differ in output channels or in ranges of input channels.
                let weights = unsafe { out.part(start..start + cell.inputs * taps) };
                for (channel, weights) in weights.chunks_mut(taps).enumerate() {
                    for (tap, weight) in weights.iter_mut().enumerate() {
                        *weight = sums[(tap * cell.inputs + channel) * block.width + lane];
                    }
                }
            }
        });
    }
}

fn bands(shape: &ConvShape) -> Vec<Band> {
    let [rows, columns, _] = shape.output;
    let row_len = (shape.output_len() + shape.input_len()).div_ceil(rows);
    let rows_per_band = (BAND / row_len).max(64usize.div_ceil(columns)).clamp(1, rows);
    let images_per_band = if rows_per_band < rows { 1 } else { (BAND / (row_len * rows)).max(1) };
    let mut bands = Vec::new();
    for image in (0..shape.batch).step_by(images_per_band) {
        for row in (0..rows).step_by(rows_per_band) {
            bands.push(Band {
                images: image..(image + images_per_band).min(shape.batch),
                rows: row..(row + rows_per_band).min(rows),
            });
        }
    }
    bands
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { gradient: Vec::new(), input: Vec::new() }) };
}

/// Numbers copied side by side, kept by the thread for the next unit.
struct Scratch {
    /// `[block][image][row][column][width of the block]`
    gradient: Vec<f32>,
    /// `[image][row][column][channel of the tile]`
    input: Vec<f32>,
}

/// Numbers of an image tile, seen through steps.
#[derive(Clone, Copy)]
struct View {
    start: *const f32,
    image: usize,
    row: usize,
    column: usize,
}

struct UnitInput<'a> {
    path: SimdPath,
    shape: &'a ConvShape,
    plan: &'a Plan,
    input: &'a [f32],
    gradient: &'a [f32],
}

impl UnitInput<'_> {
    /// Adds the products over `bands` into the sums of `cells`.
    fn sum(&self, bands: &[Band], cells: &[Cell], sums: &mut [f32], scratch: &mut Scratch) {
        let [in_height, in_width, in_channels] = self.shape.input;
        let [out_height, out_width, out_channels] = self.shape.output;
        for band in bands {
            let input_start = band.images.start * self.shape.input_len();
            let gradient_start = (band.images.start * out_height + band.rows.start) * out_width * out_channels;
            let direct_input = View {
                start: self.input[input_start..].as_ptr(),
                image: self.shape.input_len(),
                row: in_width * in_channels,
                column: in_channels,
            };
            let direct_gradient = View {
                start: self.gradient[gradient_start..].as_ptr(),
                image: self.shape.output_len(),
                row: out_width * out_channels,
                column: out_channels,
            };
            let pixels = band.images.len() * band.rows.len() * out_width;
            let first_block = cells.iter().map(|cell| cell.block).min().unwrap_or(0);
            let last_block = cells.iter().map(|cell| cell.block).max().unwrap_or(0);
            let gradient_starts = self.copy_gradient(band, pixels, first_block..last_block + 1, &mut scratch.gradient);
            let mut copied = None;
            for cell in cells {
                let block = &self.plan.blocks[cell.block];
                let width = block.width;
                let gradient = match gradient_starts[cell.block - first_block] {
                    Some(start) => View {
                        start: scratch.gradient[start..].as_ptr(),
                        image: band.rows.len() * out_width * width,
                        row: out_width * width,
                        column: width,
                    },
                    None => View { start: direct_gradient.start.wrapping_add(block.output), ..direct_gradient },
                };
                let input = if copies_input(self.shape) {
                    if copied != Some(cell.input) {
                        self.copy_input(band, cell, &mut scratch.input);
                        copied = Some(cell.input);
                    }
                    View {
                        start: scratch.input.as_ptr(),
                        image: in_height * in_width * cell.inputs,
                        row: in_width * cell.inputs,
                        column: cell.inputs,
                    }
                } else {
                    View { start: direct_input.start.wrapping_add(cell.input), ..direct_input }
                };
                let size = self.shape.taps() * cell.inputs * width;
                let start = cell.offset - cells[0].offset;
                self.sum_cell(band, cell.inputs, block.registers, input, gradient, &mut sums[start..start + size]);
            }
        }
    }

    fn sum_cell(
        &self,
        band: &Band,
        inputs: usize,
        registers: Registers,
        input: View,
        gradient: View,
        sums: &mut [f32],
    ) {
        let [in_height, in_width, _] = self.shape.input;
        let spec = self.shape.spec;
        let tap_len = sums.len() / self.shape.taps();
        for (tap, sums) in sums.chunks_mut(tap_len).enumerate() {
            let [tap_row, tap_column] = [tap / self.shape.kernel[1], tap % self.shape.kernel[1]];
            let ([down, across], before) = (spec.stride, spec.before());
            let [tap_row, tap_column] = [tap_row * spec.dilation[0], tap_column * spec.dilation[1]];
            let rows = inside(tap_row, before[0], down, in_height, band.rows.clone());
            let columns = inside(tap_column, before[1], across, in_width, 0..self.shape.output[1]);
            if rows.is_empty() || columns.is_empty() {
                continue;
            }
            let in_row = rows.start * down + tap_row - before[0];
            let in_column = columns.start * across + tap_column - before[1];
            let job = &Job {
                images: band.images.len(),
                rows: rows.len(),
                columns: columns.len(),
                input: View {
                    start: input.start.wrapping_add(in_row * input.row + in_column * input.column),
                    image: input.image,
                    row: input.row * down,
                    column: input.column * across,
                },
                gradient: View {
                    start: gradient
                        .start
                        .wrapping_add((rows.start - band.rows.start) * gradient.row + columns.start * gradient.column),
                    ..gradient
                },
                sums: sums.as_mut_ptr(),
            };
            // SAFETY: `inside` keeps to pixels that exist on both sides; blocks narrower than their registers were
            // copied into full ones; `sums` has `inputs` rows of the block's width.
            unsafe { dispatch!(self.path, sum_tile, [], [], [], (job: &Job, inputs: usize, registers: Registers)) }
        }
    }

    /// Copies the band's gradient for those of the `blocks` that cannot be read in place. Returns where each begins.
    fn copy_gradient(
        &self,
        band: &Band,
        pixels: usize,
        blocks: Range<usize>,
        copy: &mut Vec<f32>,
    ) -> Vec<Option<usize>> {
        let [_, columns, channels] = self.shape.output;
        let mut end = 0;
        let mut starts = Vec::with_capacity(blocks.len());
        for block in &self.plan.blocks[blocks] {
            let width = block.width;
            if block.count == width && channels < FAR_APART {
                starts.push(None);
                continue;
            }
            starts.push(Some(end));
            if copy.len() < end + pixels * width {
                copy.resize(end + pixels * width, 0.0);
            }
            let rows = band.rows.len() * columns;
            let images = copy[end..end + pixels * width].chunks_mut(rows * width);
            for (image, copied) in band.images.clone().zip(images) {
                let from = image * self.shape.output_len() + band.rows.start * columns * channels;
                let source = &self.gradient[from..from + rows * channels];
                copy_channels(self.path, source, channels, block.output, block.count, copied, width);
            }
            end += pixels * width;
        }
        starts
    }

    /// Copies the tile's channels of whole images.
    fn copy_input(&self, band: &Band, cell: &Cell, copy: &mut Vec<f32>) {
        let channels = self.shape.input[2];
        let len = self.shape.input_len();
        let images = &self.input[band.images.start * len..band.images.end * len];
        copy.resize(images.len() / channels * cell.inputs, 0.0);
        copy_channels(self.path, images, channels, cell.input, cell.inputs, copy, cell.inputs);
    }
}

/// Whether a tile's channels are copied. A kernel of one pixel reads a copy too seldom for that, unless pixels fall into so
/// few sets of the caches that they displace one another.
fn copies_input(shape: &ConvShape) -> bool {
    let channels = shape.input[2];
    channels >= FAR_APART && (shape.taps() > 1 || channels.is_multiple_of(CACHE_SETS))
}

/// Copies `count` channels of every pixel, from `first` on, into pixels of `width` numbers; those that are left over become 0.
fn copy_channels(
    path: SimdPath,
    from: &[f32],
    channels: usize,
    first: usize,
    count: usize,
    to: &mut [f32],
    width: usize,
) {
    assert!(first + count <= channels && count <= width && from.len() / channels == to.len() / width);
    // SAFETY: a path is only obtained where the CPU has its instructions; pixels have so many channels on both sides.
    unsafe {
        dispatch!(path, copy_registers, [], [], [], (
            from: &[f32], channels: usize, first: usize, count: usize, to: &mut [f32], width: usize
        ));
    }
}

/// # Safety
/// As [`copy_channels`] has seen to; the CPU has the instructions of `V`.
#[inline(always)]
unsafe fn copy_registers<V: Vector>(
    from: &[f32],
    channels: usize,
    first: usize,
    count: usize,
    to: &mut [f32],
    width: usize,
) {
    // SAFETY: no register ends beyond the channels of its pixel on either side.
    unsafe {
        for pixel in 0..to.len() / width {
            let (from, to) = (from.as_ptr().add(pixel * channels + first), to.as_mut_ptr().add(pixel * width));
            prefetch(from.wrapping_add(COPIED_AHEAD * channels));
            let mut at = 0;
            while at + V::LANES <= count {
                V::load(from.add(at)).store(to.add(at));
                at += V::LANES;
            }
            while at + NARROW <= count {
                <V::Narrow as Vector>::load(from.add(at)).store(to.add(at));
                at += NARROW;
            }
            // Less than a register is left: with some of those before, or alone.
            if at < count && count >= NARROW {
                <V::Narrow as Vector>::load(from.add(count - NARROW)).store(to.add(count - NARROW));
            } else if at < count {
                <V::Narrow as Vector>::load_first(from, count).store_first(to, count);
            }
            if count < width {
                std::slice::from_raw_parts_mut(to.add(count), width - count).fill(0.0);
            }
        }
    }
}

/// Pixels that are asked for before they are copied: each is a line of its own.
const COPIED_AHEAD: usize = 8;

/// The outputs of `range` whose input `o·stride + tap − padding` lies inside `0..size`.
fn inside(tap: usize, padding: usize, stride: usize, size: usize, range: Range<usize>) -> Range<usize> {
    let first = padding.saturating_sub(tap).div_ceil(stride);
    let end = (size + padding).saturating_sub(tap).div_ceil(stride);
    range.start.max(first)..range.end.min(end).max(range.start.max(first))
}

/// One tap of one cell over one band.
struct Job {
    images: usize,
    rows: usize,
    columns: usize,
    input: View,
    gradient: View,
    /// `[input channel][width of the block]`
    sums: *mut f32,
}

/// # Safety
/// - For every image, row and column of `job`, the input view has `inputs` readable numbers and the gradient view as many
///   as the block is wide (`registers`).
/// - `job.sums` is `inputs` rows of that width, for reading and writing, and nobody else's.
/// - The CPU has the instructions of `V`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_inside_of_the_image() {
        for (tap, padding, stride, size) in [(0, 1, 1, 4), (2, 1, 1, 4), (1, 0, 2, 5), (0, 3, 2, 2), (9, 1, 1, 4)] {
            let expected =
                (0..20).filter(|o| (padding..size + padding).contains(&(o * stride + tap))).collect::<Vec<_>>();
            assert_eq!(inside(tap, padding, stride, size, 0..20).collect::<Vec<_>>(), expected, "tap {tap}");
        }
    }
}
