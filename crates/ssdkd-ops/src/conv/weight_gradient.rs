//! The gradient of a convolution's weight: for every tap, the product of the input with the output's gradient, summed
//! over all pixels that the tap pairs.
//!
//! A tile of up to 12 input channels × 32 output channels of one tap stays in registers while the pixels stream by: each
//! pixel loads two registers of the output's gradient and broadcasts the input's channels against them. Pixels that a tap
//! pairs with padding are left out, so nothing is padded (on a 4×4 map that alone saves a third of the work).
//!
//! The pixels are cut into chunks, each of which sums into its own partial gradient, and the partial gradients are added in
//! order. A chunk is worked through in bands small enough for L2, whose channels are copied side by side first. All of that
//! depends on the shape alone.

mod copy;
mod plan;
mod tile;

use std::cell::RefCell;
use std::ops::Range;

use super::shape::ConvShape;
use crate::parallel::{self, SharedMut};
use crate::simd::SimdPath;
use copy::{Piece, Pixels};
use plan::{Band, Cell, Plan};
use tile::Job;

/// Channels from which the pixels of one tile lie so far apart that they fall into few sets of the caches: their numbers
/// are copied side by side first.
const FAR_APART: usize = 128;

/// Numbers between pixels of which multiples fall into few sets: eight cache lines.
const CACHE_SETS: usize = 128;

/// Numbers of the input that are copied at once: a quarter of a megabyte. The more channels of a pixel, the longer the pieces
/// that are read from end to end.
const COPIED: usize = 64 * 1024;

/// Tiles whose input channels are copied at once at least: of 12 channels, four tiles are whole cache lines.
const COPIED_TILES: usize = 4;

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
        SCRATCH.with_borrow_mut(|scratch| {
            for band in &plan.chunks[chunk] {
                unit.sum(band, cells, sums, scratch);
            }
        });
    });
    plan.unpack(shape, &partials, out);
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { gradient: Vec::new(), input: Vec::new() }) };
}

/// Numbers copied side by side, kept by the thread for the next unit.
struct Scratch {
    /// `[block][image][row][column][width of the block]`
    gradient: Vec<f32>,
    /// `[tile][image][row][column][channel of the tile]`
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

impl View {
    /// Of images (rows, columns, channels) that lie side by side.
    fn of(start: *const f32, rows: usize, columns: usize, channels: usize) -> Self {
        Self { start, image: rows * columns * channels, row: columns * channels, column: channels }
    }

    /// The same from another address on.
    fn moved(self, by: isize) -> Self {
        Self { start: self.start.wrapping_offset(by), ..self }
    }
}

/// Which input pixels the outputs see: output o and tap t along an axis see pixel o·stride + t − before.
#[derive(Clone, Copy)]
struct Windows {
    size: [usize; 2],
    stride: [usize; 2],
    before: [usize; 2],
}

struct UnitInput<'a> {
    path: SimdPath,
    shape: &'a ConvShape,
    plan: &'a Plan,
    input: &'a [f32],
    gradient: &'a [f32],
}

impl UnitInput<'_> {
    /// Adds the products over `band` into the sums of `cells`.
    fn sum(&self, band: &Band, cells: &[Cell], sums: &mut [f32], scratch: &mut Scratch) {
        let gradients = self.gradients(band, cells, &mut scratch.gradient);
        let first_block = cells.iter().map(|cell| cell.block).min().unwrap_or(0);
        let add = |cell: &Cell, windows: Windows, input: View, sums: &mut [f32]| {
            let block = &self.plan.blocks[cell.block];
            let start = cell.offset - cells[0].offset;
            let sums = &mut sums[start..start + self.shape.taps() * cell.inputs * block.width];
            self.sum_cell(band, cell, windows, input, gradients[cell.block - first_block], sums);
        };
        if !copies_input(self.shape) {
            let [height, width, channels] = self.shape.input;
            let windows = self.windows();
            let images =
                View::of(self.input[band.images.start * self.shape.input_len()..].as_ptr(), height, width, channels);
            for cell in cells {
                add(cell, windows, images.moved(cell.input as isize), sums);
            }
            return;
        }
        let tiles = cells.chunk_by(|a, b| a.input == b.input).collect::<Vec<_>>();
        let seen = band.images.len() * band.rows.len() * self.shape.output[1] * self.shape.taps().min(4);
        let at_once = (COPIED / (seen * cells[0].inputs)).max(COPIED_TILES);
        for tiles in tiles.chunks(at_once) {
            let (windows, inputs) = self.copy_inputs(band, tiles, &mut scratch.input);
            for (cells, input) in tiles.iter().zip(inputs) {
                for cell in *cells {
                    add(cell, windows, input, sums);
                }
            }
        }
    }

    fn windows(&self) -> Windows {
        let [height, width, _] = self.shape.input;
        Windows { size: [height, width], stride: self.shape.spec.stride, before: self.shape.spec.before() }
    }

    /// The band's gradient of each block of the cells, copied where it cannot be read in place.
    fn gradients(&self, band: &Band, cells: &[Cell], copy: &mut Vec<f32>) -> Vec<View> {
        let [height, width, channels] = self.shape.output;
        let first = cells.iter().map(|cell| cell.block).min().unwrap_or(0);
        let last = cells.iter().map(|cell| cell.block).max().unwrap_or(0);
        let start = band.images.start * self.shape.output_len() + band.rows.start * width * channels;
        let in_place = View::of(self.gradient[start..].as_ptr(), height, width, channels);
        let pixels = Pixels {
            start,
            images: band.images.len(),
            rows: band.rows.len(),
            columns: width,
            steps: [in_place.image, in_place.row, in_place.column],
        };
        let mut pieces = Vec::new();
        let mut views = Vec::with_capacity(last + 1 - first);
        let mut end = 0;
        for block in &self.plan.blocks[first..=last] {
            if block.count == block.width && channels < FAR_APART {
                views.push((None, in_place.moved(block.output as isize)));
                continue;
            }
            pieces.push(Piece { first: block.output, count: block.count, width: block.width, to: end });
            views.push((Some(end), View::of(std::ptr::null(), band.rows.len(), width, block.width)));
            end += pixels.count() * block.width;
        }
        copy::copy(self.path, self.gradient, &pixels, &pieces, copy, end);
        let copied = |(place, view): (Option<usize>, View)| match place {
            Some(at) => View { start: copy[at..].as_ptr(), ..view },
            None => view,
        };
        views.into_iter().map(copied).collect()
    }

    /// Copies the channels of some tiles, of the pixels that the band sees. Returns them, and which the outputs see.
    fn copy_inputs(&self, band: &Band, tiles: &[&[Cell]], copy: &mut Vec<f32>) -> (Windows, Vec<View>) {
        let [height, width, channels] = self.shape.input;
        let (mut windows, [down, across]) = (self.windows(), self.shape.spec.stride);
        let mut steps = [self.shape.input_len(), width * channels, channels];
        let (rows, columns);
        if self.shape.taps() == 1 && self.shape.spec.padding == [0; 4] {
            // Of a kernel of one pixel, those that are seen.
            rows = band.rows.clone();
            columns = self.shape.output[1];
            steps = [steps[0], steps[1] * down, steps[2] * across];
            windows = Windows { size: [self.shape.output[0], columns], stride: [1, 1], ..windows };
        } else {
            let last = (band.rows.end - 1) * down + (self.shape.kernel[0] - 1) * self.shape.spec.dilation[0] + 1;
            let before = windows.before[0];
            let end = last.saturating_sub(before).min(height);
            rows = (band.rows.start * down).saturating_sub(before).min(end)..end;
            columns = width;
        }
        let start = band.images.start * self.shape.input_len() + rows.start * steps[1];
        let pixels = Pixels { start, images: band.images.len(), rows: rows.len(), columns, steps };
        let mut end = 0;
        let mut pieces = Vec::with_capacity(tiles.len());
        for cells in tiles {
            let inputs = cells[0].inputs;
            pieces.push(Piece { first: cells[0].input, count: inputs, width: inputs, to: end });
            end += pixels.count() * inputs;
        }
        copy::copy(self.path, self.input, &pixels, &pieces, copy, end);
        let view = |piece: &Piece| {
            let view = View::of(copy[piece.to..].as_ptr(), rows.len(), columns, piece.width);
            view.moved(-((rows.start * view.row) as isize))
        };
        (windows, pieces.iter().map(view).collect())
    }

    /// `input` begins at the first image of the band, `gradient` at its first row.
    fn sum_cell(&self, band: &Band, cell: &Cell, windows: Windows, input: View, gradient: View, sums: &mut [f32]) {
        let tap_len = sums.len() / self.shape.taps();
        let Windows { size, stride: [down, across], before } = windows;
        let dilation = self.shape.spec.dilation;
        for (tap, sums) in sums.chunks_mut(tap_len).enumerate() {
            let tap = [tap / self.shape.kernel[1] * dilation[0], tap % self.shape.kernel[1] * dilation[1]];
            let rows = inside(tap[0], before[0], down, size[0], band.rows.clone());
            let columns = inside(tap[1], before[1], across, size[1], 0..self.shape.output[1]);
            if rows.is_empty() || columns.is_empty() {
                continue;
            }
            let in_row = rows.start * down + tap[0] - before[0];
            let in_column = columns.start * across + tap[1] - before[1];
            let from = (rows.start - band.rows.start) * gradient.row + columns.start * gradient.column;
            let input = input.moved((in_row * input.row + in_column * input.column) as isize);
            let job = Job {
                images: band.images.len(),
                rows: rows.len(),
                columns: columns.len(),
                input: View { row: input.row * down, column: input.column * across, ..input },
                gradient: gradient.moved(from as isize),
                sums: sums.as_mut_ptr(),
            };
            let registers = self.plan.blocks[cell.block].registers;
            // SAFETY: a path is only obtained where the CPU has its instructions. `inside` keeps to pixels that exist on both
            // sides; blocks narrower than their registers were copied into full ones; `sums` has `inputs` rows of the block's
            // width.
            unsafe { tile::run(self.path, &job, cell.inputs, registers) };
        }
    }
}

/// Whether a tile's channels are copied. A kernel of one pixel reads a copy too seldom for that, unless pixels fall into so
/// few sets of the caches that they displace one another.
fn copies_input(shape: &ConvShape) -> bool {
    let channels = shape.input[2];
    channels >= FAR_APART && (shape.taps() > 1 || channels.is_multiple_of(CACHE_SETS))
}

/// The outputs of `range` whose input `o·stride + tap − padding` lies inside `0..size`.
fn inside(tap: usize, padding: usize, stride: usize, size: usize, range: Range<usize>) -> Range<usize> {
    let first = padding.saturating_sub(tap).div_ceil(stride);
    let end = (size + padding).saturating_sub(tap).div_ceil(stride);
    range.start.max(first)..range.end.min(end).max(range.start.max(first))
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
