//! 3×3 convolutions with stride 1 by fewer multiplications: Winograd's minimal filtering F(4×4, 3×3), as Lavin and Gray
//! ("Fast Algorithms for Convolutional Neural Networks", CVPR 2016) apply it to networks.
//!
//! Four by four output pixels of one channel are sixteen sums of nine products. Transformed, they are thirty-six products:
//!
//! ```text
//! Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A        g: kernel 3×3, d: input 6×6, Y: output 4×4
//!
//!      ⎡ 4  0 −5  0  1  0 ⎤       ⎡  ¼     0     0  ⎤
//!      ⎢ 0 −4 −4  1  1  0 ⎥       ⎢ −⅙    −⅙    −⅙  ⎥        ⎡ 1  1  1  1  1  0 ⎤
//! Bᵀ = ⎢ 0  4 −4 −1  1  0 ⎥   G = ⎢ −⅙     ⅙    −⅙  ⎥   Aᵀ = ⎢ 0  1 −1  2 −2  0 ⎥
//!      ⎢ 0 −2 −1  2  1  0 ⎥       ⎢ 1/24  1/12   ⅙  ⎥        ⎢ 0  1  1  4  4  0 ⎥
//!      ⎢ 0  2 −1 −2  1  0 ⎥       ⎢ 1/24 −1/12   ⅙  ⎥        ⎣ 0  1 −1  8 −8  1 ⎦
//!      ⎣ 0  4  0 −5  0  1 ⎦       ⎣  0     0     1  ⎦
//! ```
//!
//! The sum over input channels commutes with Aᵀ·A, so the products at each of the thirty-six places ("frequencies"), over
//! all tiles and channels, are one matrix product: 2.25 multiply-adds for an output pixel and a pair of channels, not 9.
//! The price is a few more bits of rounding than the direct sum has (tests hold it below 4·10⁻⁵ of the largest output).
//!
//! The input's gradient is the same with kernels turned round, and the weight's gradient is the same identity transposed
//! (`weight_gradient`): dg = Gᵀ [ Σ_tiles (Bᵀ d B) ⊙ (A dY Aᵀ) ] G.
//!
//! Tiles go through in blocks that stay in the cache between the three steps: transform (`transform`), multiply
//! (`multiply`), transform back.

mod multiply;
mod transform;
mod weight_gradient;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{Result, bail};

use self::multiply::Product;
use self::transform::{Images, TransformBack, TransformInput};
use super::epilogue::Epilogue;
use super::shape::ConvShape;
use crate::device;
use crate::parallel::{self, SharedMut};
use crate::simd::{self, SimdPath};

pub(crate) use weight_gradient::weight_gradient;

/// Rows and columns of output pixels in a tile.
const TILE: usize = 4;

/// Rows and columns of input pixels that a tile sees.
const WINDOW: usize = TILE + 2;

/// Products of a tile and a pair of channels.
const FREQUENCIES: usize = WINDOW * WINDOW;

/// Channel counts have to be multiples of this, the widest register.
const CHANNELS: usize = 16;

/// Pixels of an image for each of its tiles, of 16, below which too many are wasted.
const ENOUGH_PIXELS: usize = 8;

/// Numbers of transformed input and output that a block of tiles should take: 128 KiB, a small part of L2.
const BLOCK: usize = 32 * 1024;

/// Tiles in a block: a multiple of the rows of every path's matrix product, and enough to use each weight often.
const TILE_STEP: usize = 12;
const MIN_TILES: usize = 24;

/// Units that the work should fall into at least.
const ENOUGH_UNITS: usize = 16;

/// Numbers between neighbouring rows and frequencies in scratch memory beyond what they hold, so that they do not all
/// fall into one set of the cache.
const SPREAD: usize = 16;

/// Whether `shape` is computed this way: the same in all directions, on all paths and for any number of images, so that
/// what a network makes of an image depends on nothing else.
///
/// # Errors
/// If `SSDKD_CONV` has a value that means nothing.
pub(crate) fn suits(shape: &ConvShape) -> Result<bool> {
    if only_direct()? {
        return Ok(false);
    }
    let spec = shape.spec;
    let worthwhile = |image: [usize; 3]| Tiles::of(1, image).count() * ENOUGH_PIXELS <= image[0] * image[1];
    Ok(shape.kernel == [3, 3]
        && (spec.stride, spec.dilation, spec.groups) == ([1; 2], [1; 2], 1)
        && spec.padding.iter().all(|padding| *padding <= 2)
        && shape.input[2].is_multiple_of(CHANNELS)
        && shape.output[2].is_multiple_of(CHANNELS)
        && worthwhile(shape.input)
        && worthwhile(shape.output))
}

thread_local! {
    static ONLY_DIRECT: Cell<bool> = const { Cell::new(false) };
}

fn only_direct() -> Result<bool> {
    static CHOSEN: OnceLock<std::result::Result<bool, String>> = OnceLock::new();
    if ONLY_DIRECT.get() {
        return Ok(true);
    }
    match CHOSEN.get_or_init(|| choose(std::env::var("SSDKD_CONV").ok().as_deref())) {
        Ok(direct) => Ok(*direct),
        Err(message) => bail!("{message}"),
    }
}

fn choose(wanted: Option<&str>) -> std::result::Result<bool, String> {
    match wanted {
        None | Some("") => Ok(false),
        Some("direct") => Ok(true),
        Some(other) => Err(format!("SSDKD_CONV={other}: no such way\nhint: direct, or unset it")),
    }
}

/// Runs `work` with the convolutions that it calls on this thread computed as they are defined, sum by sum, as the
/// environment variable `SSDKD_CONV=direct` has it for a whole program: for tests and comparisons.
pub fn with_direct_convolutions<R>(work: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ONLY_DIRECT.set(self.0);
        }
    }
    let _restore = Restore(ONLY_DIRECT.replace(true));
    work()
}

/// The output of `shape`, every number of `out`.
pub(crate) fn forward(
    path: SimdPath,
    shape: &ConvShape,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    let images = Images { size: shape.input, padding: shape.spec.before() };
    let kernels = Kernels::new(path, shape, weight, Direction::Forward);
    apply(path, images, Tiles::of(shape.batch, shape.output), &kernels, x, bias, epilogue, out);
}

/// The gradient of `shape`'s input and the bias, every number of `out`.
pub(crate) fn input_gradient(
    path: SimdPath,
    shape: &ConvShape,
    gradient: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let images = Images { size: shape.output, padding: shape.spec.before().map(|padding| 2 - padding) };
    let kernels = Kernels::new(path, shape, weight, Direction::Backward);
    apply(path, images, Tiles::of(shape.batch, shape.input), &kernels, gradient, bias, Epilogue::default(), out);
}

/// The tiles of a batch of images, in order: image, row, column.
#[derive(Clone, Copy)]
struct Tiles {
    batch: usize,
    /// Of the image that is cut into tiles: (H, W, C).
    image: [usize; 3],
    rows: usize,
    columns: usize,
}

impl Tiles {
    fn of(batch: usize, image: [usize; 3]) -> Self {
        Self { batch, image, rows: image[0].div_ceil(TILE), columns: image[1].div_ceil(TILE) }
    }

    fn count(&self) -> usize {
        self.batch * self.rows * self.columns
    }

    /// Image, row and column of the upper left pixel of tile `index`.
    #[inline(always)]
    fn pixel(&self, index: usize) -> [usize; 3] {
        let (row, column) = (index / self.columns, index % self.columns);
        [row / self.rows, row % self.rows * TILE, column * TILE]
    }

    /// Tiles that go through together, at least `min`, when each takes `numbers` of scratch memory at each frequency.
    fn in_block(&self, numbers: usize, min: usize) -> usize {
        let fitting = (BLOCK / (FREQUENCIES * numbers)).max(min);
        let sharing = self.count().div_ceil(ENOUGH_UNITS).max(TILE_STEP);
        fitting.min(sharing).next_multiple_of(TILE_STEP)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    /// Kernels are turned round, input and output channels change places.
    Backward,
}

/// Transformed kernels: \[frequency\]\[block of output channels\]\[input channel\]\[width of the block\].
struct Kernels {
    inputs: usize,
    outputs: usize,
    numbers: Vec<f32>,
}

impl Kernels {
    /// Transforms a weight (O, I, 3, 3).
    fn new(path: SimdPath, shape: &ConvShape, weight: &[f32], direction: Direction) -> Self {
        let backward = direction == Direction::Backward;
        let (near, far) = (9, 9 * shape.input[2]);
        let (inputs, outputs, input_step, output_step) = if backward {
            (shape.output[2], shape.input[2], far, near)
        } else {
            (shape.input[2], shape.output[2], near, far)
        };
        let mut numbers = device::unspecified(FREQUENCIES * inputs * outputs);
        let shared = SharedMut::new(&mut numbers);
        let blocks = blocks(outputs, simd::lanes(path));
        parallel::for_each_piece(blocks.len(), |block| {
            let Range { start, end } = blocks[block];
            let width = end - start;
            // The kernels of one input channel side by side.
            let (mut kernels, mut transformed) = ([[0.0; MAX_WIDTH]; 9], [[0.0; MAX_WIDTH]; FREQUENCIES]);
            for input in 0..inputs {
                for lane in 0..width {
                    let kernel = &weight[input * input_step + (start + lane) * output_step..][..9];
                    for (tap, number) in kernel.iter().enumerate() {
                        kernels[if backward { 8 - tap } else { tap }][lane] = *number;
                    }
                }
                transform::kernels(path, &kernels, &mut transformed);
                for (frequency, row) in transformed.iter().enumerate() {
                    let at = frequency * inputs * outputs + start * inputs + input * width;
                    // SAFETY: blocks take disjoint ranges of every frequency.
                    unsafe { shared.part(at..at + width) }.copy_from_slice(&row[..width]);
                }
            }
        });
        Self { inputs, outputs, numbers }
    }
}

/// The widest block of output channels: two registers of AVX-512.
const MAX_WIDTH: usize = 32;

/// Cuts channels into blocks of two registers, the last one of one if that is all that is left.
fn blocks(channels: usize, lanes: usize) -> Vec<Range<usize>> {
    let width = 2 * lanes;
    (0..channels).step_by(width).map(|start| start..(start + width).min(channels)).collect()
}

/// Rows of scratch memory: one matrix for each frequency.
#[derive(Clone, Copy)]
struct Panel {
    /// Numbers from one row to the next, and from one frequency to the next.
    row: usize,
    frequency: usize,
}

impl Panel {
    fn new(rows: usize, channels: usize) -> Self {
        let row = if channels >= 128 { channels + SPREAD } else { channels };
        Self { row, frequency: rows * row + SPREAD }
    }

    fn len(&self) -> usize {
        FREQUENCIES * self.frequency
    }
}

thread_local! {
    /// Scratch memory of the unit that a thread is working on, kept for the next.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with the memory of two panels, each from the start of a cache line; what was in them before stays.
fn with_panels(first: Panel, second: Panel, work: impl FnOnce(&mut [f32], &mut [f32])) {
    const LINE: usize = 16;
    let len = first.len() + second.len();
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < len + LINE {
            *scratch = vec![0.0; len + LINE];
        }
        let start = scratch.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let (first, second) = scratch[start..start + len].split_at_mut(first.len());
        work(first, second);
    });
}

#[expect(clippy::too_many_arguments, reason = "one call for each direction")]
fn apply(
    path: SimdPath,
    images: Images,
    tiles: Tiles,
    kernels: &Kernels,
    input: &[f32],
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    let Kernels { inputs, outputs, ref numbers } = *kernels;
    let block = tiles.in_block(inputs + outputs, MIN_TILES);
    let (before, after) = (Panel::new(block, inputs), Panel::new(block, outputs));
    let zeros = vec![0.0; inputs.max(outputs)];
    let bias = bias.unwrap_or(&zeros[..outputs]);
    let out = SharedMut::new(out);
    parallel::for_each_piece(tiles.count().div_ceil(block), |unit| {
        let range = unit * block..((unit + 1) * block).min(tiles.count());
        with_panels(before, after, |transformed, products| {
            let channels = 0..inputs;
            TransformInput { input, zeros: &zeros, images, tiles, range: range.clone(), channels, panel: before }
                .run(path, transformed);
            let rows = range.len().next_multiple_of(TILE_STEP);
            Product { rows, depth: inputs, width: outputs, left: (transformed, before), right: numbers, panel: after }
                .run(path, products);
            // SAFETY: units have different tiles, whose pixels are different.
            unsafe { TransformBack { products, panel: after, bias, epilogue, tiles, range }.run(path, out) };
        });
    });
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn the_environment_names_a_way() {
        assert_eq!((choose(None), choose(Some("")), choose(Some("direct"))), (Ok(false), Ok(false), Ok(true)));
        assert!(choose(Some("drect")).is_err_and(|message| message.contains("hint: direct")));
    }
}
