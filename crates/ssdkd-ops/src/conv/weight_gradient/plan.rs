//! How the sums of a weight's gradient are cut into units of work, as a function of the shape alone.

use std::borrow::Cow;
use std::ops::Range;

use super::copies_input;
use crate::conv::pack::{self, Block};
use crate::conv::shape::ConvShape;
use crate::parallel::{self, SharedMut};
use crate::simd::{self, SimdPath};

/// Chunks that the pixels fall into at most; each costs a partial gradient.
const MAX_CHUNKS: usize = 16;

/// Pixels in a chunk at least, so that adding up partial gradients stays little work.
const CHUNK_PIXELS: usize = 512;

/// Numbers of input and gradient between two places where a chunk may begin.
const CHUNK_STEP: usize = 128 * 1024;

/// Numbers of the gradient that a unit copies for a band: a quarter of a megabyte, which stays in L2 while the tiles pass.
const BAND: usize = 64 * 1024;

/// Pixels in a band: enough that reading and writing the sums is little work, and few enough that a copied tile of input
/// channels stays in L1.
const BAND_PIXELS: Range<usize> = 64..512;

/// A tile of input channels against a block of output channels: `taps` tiles of sums.
pub(super) struct Cell {
    /// First input channel of the tile, in the image and in its group.
    pub input: usize,
    in_group: usize,
    /// Input channels in the tile.
    pub inputs: usize,
    /// Index of the block of output channels.
    pub block: usize,
    /// Where the sums lie in a partial gradient: `[tap][input channel][width of the block]`.
    pub offset: usize,
}

/// Some images, or rows of the output of one image.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Band {
    pub images: Range<usize>,
    pub rows: Range<usize>,
}

pub(super) struct Plan {
    pub blocks: Vec<Block>,
    pub cells: Vec<Cell>,
    /// The cells, cut so that there are enough units of work.
    pub parts: Vec<Range<usize>>,
    /// The bands of each chunk.
    pub chunks: Vec<Vec<Band>>,
    pub partial_len: usize,
}

impl Plan {
    pub fn new(path: SimdPath, shape: &ConvShape) -> Self {
        let lanes = simd::lanes(path);
        let max_inputs = match path {
            SimdPath::Avx512 => 12,
            SimdPath::Avx2 => 6,
            SimdPath::Portable => 4,
        };
        let in_per_group = shape.in_per_group();
        let blocks = pack::blocks(shape.spec.groups, in_per_group, shape.out_per_group(), lanes);
        let chunks = chunks(shape);

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
        let rows = rows_per_band(shape, &blocks, ranges);
        let chunks = chunks.into_iter().map(|chunk| bands(chunk, shape.output[0], rows)).collect();
        Self { blocks, cells, parts, chunks, partial_len }
    }

    /// Adds the partial gradients of all chunks in order, into PyTorch's layout.
    pub fn unpack(&self, shape: &ConvShape, partials: &[f32], out: &mut [f32]) {
        let taps = shape.taps();
        let out_step = shape.in_per_group() * taps;
        let out = SharedMut::new(out);
        parallel::for_each_piece(self.cells.len(), |index| {
            let cell = &self.cells[index];
            let block = &self.blocks[cell.block];
            let range = cell.offset..cell.offset + taps * cell.inputs * block.width;
            let mut chunks = partials.chunks(self.partial_len).map(|partial| &partial[range.clone()]);
            let mut sums = Cow::Borrowed(chunks.next().unwrap_or_default());
            for chunk in chunks {
                for (sum, number) in sums.to_mut().iter_mut().zip(chunk) {
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

/// The rows of the outputs of all images, one after the other, that each chunk sums over. The order of a sum, and so its last
/// bits, depend on where chunks begin, and on nothing else here.
fn chunks(shape: &ConvShape) -> Vec<Range<usize>> {
    let [rows, columns, _] = shape.output;
    let row_len = (shape.output_len() + shape.input_len()).div_ceil(rows);
    let rows_per_step = (CHUNK_STEP / row_len).max(64usize.div_ceil(columns)).clamp(1, rows);
    let images_per_step = if rows_per_step < rows { 1 } else { (CHUNK_STEP / (row_len * rows)).max(1) };
    let mut begins = Vec::new();
    for image in (0..shape.batch).step_by(images_per_step) {
        begins.extend((0..rows).step_by(rows_per_step).map(|row| image * rows + row));
    }
    let pixels = shape.batch * rows * columns;
    let count = (pixels / CHUNK_PIXELS).clamp(1, MAX_CHUNKS.min(begins.len()));
    let begin = |chunk: usize| begins.get(chunk * begins.len() / count).copied().unwrap_or(shape.batch * rows);
    (0..count).map(|chunk| begin(chunk)..begin(chunk + 1)).collect()
}

/// Rows of the output in a band, of as many images as that takes.
fn rows_per_band(shape: &ConvShape, blocks: &[Block], ranges: usize) -> usize {
    let copied = blocks.iter().map(|block| block.width).sum::<usize>().div_ceil(ranges);
    (BAND / copied).clamp(BAND_PIXELS.start, BAND_PIXELS.end).div_ceil(shape.output[1])
}

/// Cuts the rows of a chunk into bands of about `wanted` rows: whole images, or rows of one.
fn bands(chunk: Range<usize>, rows_of_image: usize, wanted: usize) -> Vec<Band> {
    let mut bands = Vec::new();
    let mut at = chunk.start;
    // Bands of one size, where they are parts of an image.
    let part = rows_of_image.div_ceil(rows_of_image.div_ceil(wanted));
    while at < chunk.end {
        let (image, row) = (at / rows_of_image, at % rows_of_image);
        let left = chunk.end - at;
        let images = left.min(wanted) / rows_of_image;
        if row == 0 && images > 0 {
            bands.push(Band { images: image..image + images, rows: 0..rows_of_image });
            at += images * rows_of_image;
        } else {
            let end = (row + part.min(left)).min(rows_of_image);
            bands.push(Band { images: image..image + 1, rows: row..end });
            at += end - row;
        }
    }
    bands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_cover_every_row_of_a_chunk_once_and_in_order() {
        for (chunk, rows_of_image, wanted) in
            [(0..28, 7, 64), (3..28, 7, 14), (5..100, 56, 9), (0..4, 2, 1), (13..14, 14, 3)]
        {
            let bands = bands(chunk.clone(), rows_of_image, wanted);
            let rows = bands.iter().flat_map(|band| {
                let rows = band.rows.clone();
                band.images.clone().flat_map(move |image| rows.clone().map(move |row| image * rows_of_image + row))
            });
            assert_eq!(rows.collect::<Vec<_>>(), chunk.collect::<Vec<_>>());
            assert!(bands.iter().all(|band| band.images.len() == 1 || band.rows == (0..rows_of_image)));
        }
    }
}
