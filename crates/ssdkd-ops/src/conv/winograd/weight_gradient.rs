//! The weight's gradient: for every frequency, the product of the transformed inputs with the transformed gradients of
//! the output, summed over all tiles, and one transform back.
//!
//! Tiles are cut into chunks with partial sums of their own, which are added in order; where the partial sums of many
//! chunks would take too much memory, input channels are split instead. All of that depends on the shape alone.

use super::multiply::Update;
use super::transform::{self, Images, TransformGradient, TransformInput};
use super::{CHANNELS, FREQUENCIES, MAX_WIDTH, Panel, Tiles, blocks, with_panels};
use crate::conv::shape::ConvShape;
use crate::parallel::{self, SharedMut};
use crate::simd::{self, SimdPath};

/// Chunks that the tiles fall into at most.
const MAX_CHUNKS: usize = 16;

/// Tiles in a block at least: each block reads and writes the sums once.
const BLOCK_TILES: usize = 48;

/// Tiles in a chunk at least.
const CHUNK_TILES: usize = 64;

/// Numbers in all partial sums together, at most: 4 MiB.
const PARTIALS: usize = 1 << 20;

/// Units of work at least.
const ENOUGH_UNITS: usize = 8;

/// Computes the gradient of the weight (O, I, 3, 3) from the `input` and the output's `gradient`.
pub(crate) fn weight_gradient(path: SimdPath, shape: &ConvShape, input: &[f32], gradient: &[f32], out: &mut [f32]) {
    let (inputs, outputs) = (shape.input[2], shape.output[2]);
    let images = Images { size: shape.input, padding: shape.spec.before() };
    let tiles = Tiles::of(shape.batch, shape.output);
    let partial_len = FREQUENCIES * inputs * outputs;
    let chunks = (tiles.count() / CHUNK_TILES).min(PARTIALS / partial_len).clamp(1, MAX_CHUNKS);
    let parts = ENOUGH_UNITS.div_ceil(chunks).min(inputs / CHANNELS);
    let channels = |part: usize| {
        let at = |part: usize| part * (inputs / CHANNELS) / parts * CHANNELS;
        at(part)..at(part + 1)
    };
    let block = tiles.in_block(inputs / parts + outputs, BLOCK_TILES);
    let zeros = vec![0.0; inputs.max(outputs)];

    let mut partials = vec![0.0; chunks * partial_len];
    let shared = SharedMut::new(&mut partials);
    parallel::for_each_piece(chunks * parts, |unit| {
        let (chunk, channels) = (unit / parts, channels(unit % parts));
        let start = chunk * partial_len + FREQUENCIES * channels.start * outputs;
        // SAFETY: units differ in chunk or channels.
        let sums = unsafe { shared.part(start..start + FREQUENCIES * channels.len() * outputs) };
        let (first, last) = (chunk * tiles.count() / chunks, (chunk + 1) * tiles.count() / chunks);
        let (left, right) = (Panel::new(block, channels.len()), Panel::new(block, outputs));
        with_panels(left, right, |inputs, gradients| {
            for start in (first..last).step_by(block) {
                let (zeros, range, channels) = (&zeros[..], start..(start + block).min(last), channels.clone());
                let (rows, depth) = (range.len(), channels.len());
                TransformInput { input, zeros, images, tiles, range: range.clone(), channels, panel: left }
                    .run(path, inputs);
                TransformGradient { gradient, zeros, tiles, range, panel: right }.run(path, gradients);
                Update { rows, depth, width: outputs, left: (inputs, left), right: (gradients, right) }.run(path, sums);
            }
        });
    });

    // [part][frequency][block][input channel of the part][width of the block] to (O, I, 3, 3).
    let blocks = blocks(outputs, simd::lanes(path));
    let out = SharedMut::new(out);
    parallel::for_each_piece(parts * blocks.len(), |piece| {
        let (channels, block) = (channels(piece / blocks.len()), &blocks[piece % blocks.len()]);
        let start = FREQUENCIES * channels.start * outputs + channels.len() * block.start;
        let (mut sums, mut gradients) = ([[0.0; MAX_WIDTH]; FREQUENCIES], [[0.0; MAX_WIDTH]; 9]);
        for channel in 0..channels.len() {
            for (frequency, sums) in sums.iter_mut().enumerate() {
                let at = start + frequency * channels.len() * outputs + channel * block.len();
                let mut chunks = partials.chunks(partial_len).map(|partial| &partial[at..at + block.len()]);
                sums[..block.len()].copy_from_slice(chunks.next().unwrap_or_default());
                for chunk in chunks {
                    for (sum, number) in sums.iter_mut().zip(chunk) {
                        *sum += number;
                    }
                }
            }
            transform::kernel_gradients(path, &sums, &mut gradients);
            for (lane, output) in block.clone().enumerate() {
                let at = (output * inputs + channels.start + channel) * 9;
                // SAFETY: pieces differ in input or in output channels.
                let kernel = unsafe { out.part(at..at + 9) };
                for (number, gradients) in kernel.iter_mut().zip(&gradients) {
                    *number = gradients[lane];
                }
            }
        }
    });
}
