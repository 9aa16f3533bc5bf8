//! Weights in the order in which the kernels read them.
//!
//! PyTorch's order (O, C/groups, kh, kw) puts neighbouring output channels far apart; the kernels want them side by
//! side, one register (or two) of output channels for each number of the input. Packing costs one pass over the weight
//! at each call, which is little beside the convolution, and leaves nothing that could go stale when a step changes the
//! weight.

use std::ops::Range;

use super::gather::{Gather, Phase, Region, WeightSteps};
use crate::parallel;
use crate::simd::NARROW;

/// The registers that hold a block of output channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Registers {
    Two,
    One,
    /// A register of four numbers: for images and their gradients, whose three channels would leave most of a wide one
    /// idle.
    Narrow,
}

/// A range of output channels that one tile computes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// First channel of the image written.
    pub output: usize,
    /// How many channels; those up to the width are padding.
    pub count: usize,
    pub registers: Registers,
    /// Numbers in those registers.
    pub width: usize,
    /// First channel of the group in the image read.
    pub input: usize,
    /// First channel of the block in its group, and the group.
    pub in_group: usize,
    pub group: usize,
    /// Channels of all blocks before this one, with padding.
    before: usize,
}

/// Numbers of the input that are contiguous in memory: several taps side by side, or one tap of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// From the pixel's own address.
    pub offset: isize,
    /// The row of the packed weights that belongs to the first number.
    pub weight: usize,
    pub len: usize,
}

/// The weights of one phase, packed.
#[derive(Debug)]
pub(crate) struct PackedPhase {
    /// Numbers that each output pixel is made of: taps × channels of a group.
    depth: usize,
    /// Rows of weights that are worked through before the next: few enough to stay in L2 while all pixels pass.
    pub segments: Vec<Range<usize>>,
    /// `[block][depth][width of the block]`
    weights: Vec<f32>,
}

impl PackedPhase {
    /// Packs `weight` for `phase`.
    pub fn new(gather: &Gather, phase: &Phase, weight: &[f32], blocks: &[Block]) -> Self {
        let channels = gather.in_per_group();
        let depth = phase.taps.len() * channels;
        let total = blocks.last().map_or(0, |block| block.before + block.width);
        let mut weights = vec![0.0; total * depth];
        let steps = gather.weight_steps;
        if depth > 0 {
            let taps = phase.taps.iter().map(|tap| tap.index).collect::<Vec<_>>();
            let shared = parallel::SharedMut::new(&mut weights);
            parallel::for_each_piece(blocks.len(), |index| {
                let block = &blocks[index];
                let start = block.before * depth;
                // SAFETY: blocks are packed into consecutive, disjoint parts.
                let packed = unsafe { shared.part(start..start + block.width * depth) };
                let from = block.group * steps.group + block.in_group * steps.output;
                pack_block(block, &weight[from..], channels, steps, &taps, packed);
            });
        }
        let segment =
            depth.div_ceil(depth.div_ceil(SEGMENT_DEPTH).max(1)).next_multiple_of(channels.min(SEGMENT_DEPTH));
        let segments = (0..depth.max(1)).step_by(segment.max(1)).map(|row| row..(row + segment).min(depth)).collect();
        Self { depth, segments, weights }
    }

    /// The weights of `block`: `depth` rows of its width.
    pub fn weights(&self, block: &Block) -> &[f32] {
        let start = block.before * self.depth;
        &self.weights[start..start + self.depth * block.width]
    }

    /// The runs of `region` in each segment.
    pub fn runs(&self, gather: &Gather, phase: &Phase, region: &Region) -> Vec<Vec<Run>> {
        let runs = runs(gather, phase, region);
        let part = |run: &Run, segment: &Range<usize>| {
            let (start, end) = (run.weight.max(segment.start), (run.weight + run.len).min(segment.end));
            let offset = run.offset + (start as isize - run.weight as isize);
            (start < end).then(|| Run { offset, weight: start, len: end - start })
        };
        self.segments.iter().map(|segment| runs.iter().filter_map(|run| part(run, segment)).collect()).collect()
    }
}

/// Packs the weights of a block, from its first output and input channel on: `[tap][input channel][width of the block]`.
fn pack_block(block: &Block, weight: &[f32], channels: usize, steps: WeightSteps, taps: &[usize], packed: &mut [f32]) {
    let in_order = taps.iter().enumerate().all(|(place, tap)| place == *tap);
    if in_order && steps.input == taps.len() {
        return pack_kernels(block, weight, [channels, taps.len()], steps.output, packed);
    }
    for channel in 0..channels {
        for (row, tap) in taps.iter().enumerate() {
            let numbers = &weight[channel * steps.input + tap..];
            let packed = &mut packed[(row * channels + channel) * block.width..][..block.count];
            if steps.output == 1 {
                packed.copy_from_slice(&numbers[..block.count]);
            } else {
                packed.iter_mut().zip(numbers.iter().step_by(steps.output)).for_each(|(to, from)| *to = *from);
            }
        }
    }
}

/// Numbers of a kernel that are transposed together: a cache line of each output channel.
const SIDE: usize = 16;

/// Numbers in the widest block.
const MAX_WIDTH: usize = 32;

/// As [`pack_block`], where the numbers of an output channel lie side by side, `[input channel][tap]`, and those of the next one
/// `step` further.
fn pack_kernels(block: &Block, weight: &[f32], [channels, taps]: [usize; 2], step: usize, packed: &mut [f32]) {
    let mut side_by_side = [[0.0; MAX_WIDTH]; SIDE];
    for first in (0..channels * taps).step_by(SIDE) {
        let count = SIDE.min(channels * taps - first);
        for lane in 0..block.count {
            let numbers = &weight[lane * step + first..][..count];
            side_by_side.iter_mut().zip(numbers).for_each(|(row, number)| row[lane] = *number);
        }
        for (number, row) in (first..).zip(&side_by_side).take(count) {
            let at = (number % taps * channels + number / taps) * block.width;
            packed[at..at + block.count].copy_from_slice(&row[..block.count]);
        }
    }
}

/// Rows of weights whose two AVX-512 registers each take a quarter of a megabyte.
const SEGMENT_DEPTH: usize = 2048;

/// The taps of a region as runs: neighbouring taps of one row are one run when all channels take part.
fn runs(gather: &Gather, phase: &Phase, region: &Region) -> Vec<Run> {
    let [_, width, all_channels] = gather.input;
    let channels = gather.in_per_group();
    let mut runs = Vec::<Run>::new();
    for &index in &region.taps {
        let tap = phase.taps[index];
        let offset = (tap.row * width as isize + tap.column) * all_channels as isize;
        let weight = index * channels;
        match runs.last_mut() {
            Some(last) if last.offset + last.len as isize == offset && last.weight + last.len == weight => {
                last.len += channels;
            }
            _ => runs.push(Run { offset, weight, len: channels }),
        }
    }
    runs
}

/// Splits the output channels of every group into blocks of two registers, and of less where that is enough; `lanes` are
/// the numbers in a register.
pub(crate) fn blocks(groups: usize, in_per_group: usize, out_per_group: usize, lanes: usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut before = 0;
    for group in 0..groups {
        let mut in_group = 0;
        while in_group < out_per_group {
            let left = out_per_group - in_group;
            let (registers, width) = match left {
                left if left <= NARROW.min(lanes - 1) => (Registers::Narrow, NARROW),
                left if left <= lanes => (Registers::One, lanes),
                _ => (Registers::Two, 2 * lanes),
            };
            let count = left.min(width);
            blocks.push(Block {
                output: group * out_per_group + in_group,
                count,
                registers,
                width,
                input: group * in_per_group,
                in_group,
                group,
                before,
            });
            in_group += count;
            before += width;
        }
    }
    blocks
}

/// The bias in the blocks' padded widths.
pub(crate) fn pack_bias(bias: Option<&[f32]>, blocks: &[Block]) -> Vec<f32> {
    let mut packed = Vec::new();
    for block in blocks {
        let end = packed.len() + block.width;
        packed.extend((0..block.count).map(|lane| bias.map_or(0.0, |bias| bias[block.output + lane])));
        packed.resize(end, 0.0);
    }
    packed
}

impl Block {
    /// The block's part of a packed bias.
    pub fn bias<'a>(&self, bias: &'a [f32]) -> &'a [f32] {
        &bias[self.before..self.before + self.width]
    }
}

#[cfg(test)]
mod tests {
    use super::super::shape::{Conv2dSpec, ConvShape};
    use super::*;

    fn gather(channels: [usize; 2], kernel: usize, groups: usize) -> Gather {
        let spec = Conv2dSpec { groups, ..Conv2dSpec::new(1, 1) };
        let weight = [channels[1], channels[0] / groups, kernel, kernel];
        Gather::forward(&ConvShape::new(&[1, 8, 8, channels[0]], &weight, None, spec).expect("a possible shape"))
    }

    #[test]
    fn channels_fall_into_blocks_of_two_registers() {
        let widths = |out: usize, groups: usize| {
            blocks(groups, 1, out / groups, 16).iter().map(|b| (b.width, b.count)).collect::<Vec<_>>()
        };
        assert_eq!(widths(100, 1), [(32, 32), (32, 32), (32, 32), (4, 4)]);
        assert_eq!(widths(48, 1), [(32, 32), (16, 16)]);
        assert_eq!(widths(20, 2), [(16, 10), (16, 10)]);
    }

    #[test]
    fn neighbouring_taps_are_one_run() {
        let whole = gather([4, 4], 3, 1);
        let phase = &whole.phases[0];
        let regions = whole.regions(phase);
        let row = 8 * 4;
        let middle = [(-1, 0), (0, 12), (1, 24)].map(|(y, weight)| Run { offset: y * row - 4, weight, len: 12 });
        assert_eq!(runs(&whole, phase, &regions[4]), middle);
        let corner = [(0, 16), (1, 28)].map(|(y, weight)| Run { offset: y * row, weight, len: 8 });
        assert_eq!(runs(&whole, phase, &regions[0]), corner);
        let split = gather([4, 4], 3, 2);
        assert!(runs(&split, &split.phases[0], &regions[4]).iter().all(|run| run.len == 2));
    }

    #[test]
    fn segments_keep_every_number_once() {
        for (channels, kernel) in [(512, 3), (5000, 1), (700, 2), (3, 3)] {
            let gather = gather([channels, 1], kernel, 1);
            let phase = &gather.phases[0];
            let blocks = blocks(1, channels, 1, 16);
            let packed = PackedPhase::new(&gather, phase, &vec![1.0; channels * kernel * kernel], &blocks);
            assert_eq!(packed.segments.len(), (channels * kernel * kernel).div_ceil(SEGMENT_DEPTH));
            let regions = gather.regions(phase);
            let whole = regions.iter().max_by_key(|region| region.taps.len()).expect("a map has regions");
            let mut row = 0;
            for run in packed.runs(&gather, phase, whole).concat() {
                assert_eq!(run.weight, row);
                row += run.len;
            }
            assert_eq!(row, channels * kernel * kernel);
        }
    }
}
