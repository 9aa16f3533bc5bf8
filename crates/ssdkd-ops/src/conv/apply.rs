//! Runs a [`Gather`]: splits it into units of work by shape and calls the tile kernel on each.
//!
//! Nothing is padded. The pixels of a map are listed region by region, a region being the pixels that see the same taps
//! inside of the image, so that the kernel leaves out what lies in the padding instead of multiplying by zeros; on a 4×4
//! map that is a third of a 3×3 convolution. A unit takes several images when they are small, so that regions of few
//! pixels fill tiles too, and a band of rows when they are large, so that its input stays in L2 while every block of
//! output channels passes over it.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::ops::Range;

use super::epilogue::Epilogue;
use super::gather::{Gather, Region};
use super::pack::{self, Block, PackedPhase, Run};
use super::tile::{self, Job, Part, Pixel};
use crate::parallel::{self, SharedMut};
use crate::simd::{self, SimdPath};

/// Numbers of input that a unit should read: 256 KiB, a quarter of a common L2.
const UNIT_INPUT: usize = 64 * 1024;

/// Pixels that a unit should have at least, so that weights too large for L2 are streamed seldom enough.
const ENOUGH_PIXELS: usize = 96;

/// Units that a convolution should fall into at least, so that there is work for every thread.
const ENOUGH_UNITS: usize = 16;

/// Computes `out` (B, H, W, C of [`Gather::output`]) from `input`; every number of `out` is written.
pub(crate) fn apply(
    path: SimdPath,
    gather: &Gather,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    let lanes = simd::lanes(path);
    let blocks = pack::blocks(gather.groups, gather.in_per_group(), gather.out_per_group(), lanes);
    let bias = pack::pack_bias(bias, &blocks);
    let plan = Plan::new(gather, blocks.len());
    let phases = gather.phases.iter().map(|phase| {
        let weights = PackedPhase::new(gather, phase, weight, &blocks);
        let mut regions = gather.regions(phase);
        // The middle of the map first: it reads the image from end to end, as the hardware's prefetcher likes it, and the
        // borders then find it in the cache.
        regions.sort_by_key(|region| Reverse(region.rows.len() * region.columns.len()));
        let regions = regions.into_iter().map(|region| {
            let pixels = plan.pixels(gather, phase.start, &region);
            PreparedRegion { runs: weights.runs(gather, phase, &region), pixels, region }
        });
        PreparedPhase { regions: regions.collect(), weights }
    });
    let phases = phases.collect::<Vec<_>>();

    assert!(epilogue.residual.is_none_or(|residual| residual.len() == out.len()));
    let out = SharedMut::new(out);
    parallel::for_each_piece(plan.units(), |unit| {
        let unit = plan.unit(unit);
        let pass = Pass { path, gather, plan: &plan, phases: &phases, bias: &bias, epilogue };
        // SAFETY: units differ in images, rows or channels, so that no two write the same number.
        unsafe { pass.run(input, &unit, &blocks[unit.blocks.clone()], out) };
    });
}

/// Everything about a phase that is the same for all units.
struct PreparedPhase {
    weights: PackedPhase,
    regions: Vec<PreparedRegion>,
}

struct PreparedRegion {
    region: Region,
    runs: Vec<Vec<Run>>,
    /// Of the most images that a unit takes: `[image][row][column]`.
    pixels: Vec<Pixel>,
}

impl PreparedRegion {
    /// The pixels of a unit, which has either several images with all rows, or some rows of one image.
    fn pixels_of(&self, unit: &Unit) -> &[Pixel] {
        let columns = self.region.columns.len();
        if unit.images.len() > 1 {
            return &self.pixels[..unit.images.len() * self.region.rows.len() * columns];
        }
        let row = |row: usize| row.clamp(self.region.rows.start, self.region.rows.end) - self.region.rows.start;
        &self.pixels[row(unit.rows.start) * columns..row(unit.rows.end) * columns]
    }
}

/// Which images, rows and blocks of channels one unit computes.
struct Unit {
    images: Range<usize>,
    /// Of `q`, see [`Gather`].
    rows: Range<usize>,
    blocks: Range<usize>,
}

/// How the work is split, as a function of the shape alone.
struct Plan {
    batch: usize,
    rows: usize,
    blocks: usize,
    images_per_unit: usize,
    rows_per_unit: usize,
    blocks_per_unit: usize,
    /// Numbers from one image to the next, as the kernel reads them.
    image_step: usize,
}

impl Plan {
    fn new(gather: &Gather, blocks: usize) -> Self {
        let rows = gather.rows().max(1);
        let columns = gather.phases.iter().map(|phase| phase.size[1]).max().unwrap_or(1).max(1);
        let pixels = gather.batch * rows * columns;
        let step = gather.in_step[0].saturating_mul(gather.in_step[1]).saturating_mul(gather.input[2]);
        let fitting = UNIT_INPUT / step.max(1);
        let wanted = (pixels / ENOUGH_UNITS).min(fitting).max(ENOUGH_PIXELS);
        let images = if wanted > ENOUGH_PIXELS { wanted / (rows * columns) } else { wanted.div_ceil(rows * columns) };
        let images_per_unit = images.clamp(1, gather.batch);
        let rows_per_unit = if images_per_unit > 1 { rows } else { (wanted / columns).clamp(1, rows) };
        let units = gather.batch.div_ceil(images_per_unit) * rows.div_ceil(rows_per_unit);
        let blocks_per_unit = blocks.div_ceil(ENOUGH_UNITS.div_ceil(units)).max(1);
        let image_len = gather.input.iter().product::<usize>();
        let spread = images_per_unit > 1 && rows * columns <= SMALL_MAP && image_len.is_multiple_of(CACHE_WAY);
        let image_step = if spread { image_len + CACHE_LINE } else { image_len };
        Self { batch: gather.batch, rows, blocks, images_per_unit, rows_per_unit, blocks_per_unit, image_step }
    }

    /// Units along images, rows and blocks.
    fn counts(&self) -> [usize; 3] {
        [
            self.batch.div_ceil(self.images_per_unit),
            self.rows.div_ceil(self.rows_per_unit),
            self.blocks.div_ceil(self.blocks_per_unit),
        ]
    }

    fn units(&self) -> usize {
        self.counts().iter().product()
    }

    fn unit(&self, index: usize) -> Unit {
        let [_, along_rows, along_blocks] = self.counts();
        let part = |index: usize, size: usize, total: usize| index * size..((index + 1) * size).min(total);
        Unit {
            images: part(index / (along_rows * along_blocks), self.images_per_unit, self.batch),
            rows: part(index / along_blocks % along_rows, self.rows_per_unit, self.rows),
            blocks: part(index % along_blocks, self.blocks_per_unit, self.blocks),
        }
    }

    /// The pixels of a region of a phase that starts at `start`, in as many images as a unit has.
    fn pixels(&self, gather: &Gather, start: [usize; 2], region: &Region) -> Vec<Pixel> {
        let [_, in_width, in_channels] = gather.input;
        let [out_height, out_width, out_channels] = gather.output;
        let mut pixels = Vec::with_capacity(self.images_per_unit * region.rows.len() * region.columns.len());
        for image in 0..self.images_per_unit {
            for row in region.rows.clone() {
                let out_row = image * out_height + row * gather.out_step[0] + start[0];
                let in_row = row * gather.in_step[0] * in_width;
                pixels.extend(region.columns.clone().map(|column| Pixel {
                    input: image * self.image_step + (in_row + column * gather.in_step[1]) * in_channels,
                    output: (out_row * out_width + column * gather.out_step[1] + start[1]) * out_channels,
                }));
            }
        }
        pixels
    }
}

/// Pixels of an image below which most tiles span several images. Where the same pixel of every image falls into the same
/// set of the cache, images are then copied a cache line further apart.
const SMALL_MAP: usize = 32;

/// Numbers in a cache line, and in one way of an L1 cache.
const CACHE_LINE: usize = 16;
const CACHE_WAY: usize = 1024;

thread_local! {
    /// The copied images of the unit that a thread is working on, kept for the next.
    static COPY: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

struct Pass<'a> {
    path: SimdPath,
    gather: &'a Gather,
    plan: &'a Plan,
    phases: &'a [PreparedPhase],
    bias: &'a [f32],
    epilogue: Epilogue<'a>,
}

impl Pass<'_> {
    /// # Safety
    /// Nobody else touches the output pixels and channels of this unit meanwhile.
    unsafe fn run(&self, input: &[f32], unit: &Unit, blocks: &[Block], out: SharedMut) {
        let image_len = self.gather.input.iter().product::<usize>();
        let out_len = self.gather.output.iter().product::<usize>();
        let images = &input[unit.images.start * image_len..unit.images.end * image_len];
        COPY.with_borrow_mut(|copy| {
            let input = if self.plan.image_step == image_len {
                images
            } else {
                copy.clear();
                for image in images.chunks(image_len) {
                    copy.extend_from_slice(image);
                    copy.extend_from_slice(&[0.0; CACHE_LINE]);
                }
                copy
            };
            for phase in self.phases {
                let parts = phase
                    .regions
                    .iter()
                    .map(|region| Part { pixels: region.pixels_of(unit), runs: &region.runs })
                    .collect::<Vec<_>>();
                let job = Job {
                    parts: &parts,
                    blocks,
                    weights: &phase.weights,
                    bias: self.bias,
                    epilogue: self.epilogue.at(unit.images.start * out_len),
                    input: input.as_ptr(),
                    output: out.at(unit.images.start * out_len),
                };
                // SAFETY: a region has only taps that lie inside of the image for all of its pixels; output pixels lie
                // within the unit's images, rows and blocks, which the caller vouches for.
                unsafe { tile::run(self.path, &job) };
            }
        });
        if !Epilogue::fuses(self.epilogue.activation) {
            // SAFETY: handed on.
            unsafe { self.activate(unit, blocks, out) };
        }
    }

    /// Applies an activation that the tiles did not, while the unit's output is in the cache.
    ///
    /// # Safety
    /// As [`run`](Self::run). The output has one phase without steps, as that of a layer has.
    unsafe fn activate(&self, unit: &Unit, blocks: &[Block], out: SharedMut) {
        let [height, width, channels] = self.gather.output;
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else { return };
        let written = first.output..last.output + last.count;
        let rows = unit.images.start * height + unit.rows.start..(unit.images.end - 1) * height + unit.rows.end;
        let pixels = rows.start * width..rows.end * width;
        let activation = Epilogue { residual: None, activation: self.epilogue.activation };
        let finish = |range: Range<usize>| {
            // SAFETY: within the unit, as the caller vouches for.
            activation.finish(self.path, unsafe { out.part(range.clone()) }, range.start);
        };
        if written.len() == channels {
            finish(pixels.start * channels..pixels.end * channels);
        } else {
            pixels.for_each(|pixel| finish(pixel * channels + written.start..pixel * channels + written.end));
        }
    }
}
