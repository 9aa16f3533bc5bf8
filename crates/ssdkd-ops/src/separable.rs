//! Linear maps of images that treat rows and columns apart: resizing and average pooling.
//!
//! Each pixel of the result is a weighted sum over a rectangle of pixels, and the weight is a product of one of the row and one
//! of the column. Tables say which rows and columns those are. The gradient is the same map with both tables transposed.

use candle_core::{Result, Tensor, bail};

use crate::device;
use crate::images::Images;
use crate::parallel;
use crate::simd::{SimdPath, prefetch};
use crate::value::Value;
use crate::vectorised::vectorised;

/// For one axis: the pixels of the input that make each pixel of the output, with their weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Axis {
    /// Pixels of the input.
    input: usize,
    /// Where the taps of each output begin, and where those of the last end.
    starts: Vec<usize>,
    taps: Vec<(usize, f64)>,
}

impl Axis {
    /// The axis whose output number `o` is made of the taps `of(o)`, (pixel, weight) each.
    pub(crate) fn new<T: IntoIterator<Item = (usize, f64)>>(
        [input, output]: [usize; 2],
        of: impl Fn(usize) -> T,
    ) -> Self {
        let mut axis = Self { input, starts: vec![0], taps: Vec::new() };
        for index in 0..output {
            axis.taps.extend(of(index));
            axis.starts.push(axis.taps.len());
        }
        axis
    }

    fn output(&self) -> usize {
        self.starts.len() - 1
    }

    /// The taps of an output.
    fn of(&self, output: usize) -> &[(usize, f64)] {
        &self.taps[self.starts[output]..self.starts[output + 1]]
    }

    /// From outputs to inputs.
    fn transposed(&self) -> Self {
        let mut back = vec![Vec::new(); self.input];
        for output in 0..self.output() {
            for &(input, weight) in self.of(output) {
                back[input].push((output, weight));
            }
        }
        Self::new([self.output(), self.input], |input| back[input].iter().copied())
    }

    /// Starts, pixels and weights (the bits of an `f32`), as the kernels of a GPU read them.
    #[cfg(feature = "cuda")]
    pub(crate) fn words(&self) -> impl Iterator<Item = u32> {
        let starts = self.starts.iter().map(|start| *start as u32);
        let pixels = self.taps.iter().map(|(pixel, _)| *pixel as u32);
        starts.chain(pixels).chain(self.taps.iter().map(|(_, weight)| (*weight as f32).to_bits()))
    }

    /// How many taps there are.
    #[cfg(feature = "cuda")]
    pub(crate) fn len(&self) -> usize {
        self.taps.len()
    }
}

/// Both axes of a map from images to images.
#[derive(Clone, Debug, Default)]
pub(crate) struct Separable {
    pub(crate) rows: Axis,
    pub(crate) columns: Axis,
}

impl Separable {
    /// The map of `x` (B, H, W, C), differentiable.
    pub(crate) fn apply(self, operation: &'static str, x: &Value) -> Result<Value> {
        let from = Images::of(operation, x.tensor())?;
        let to = Images { height: self.rows.output(), width: self.columns.output(), ..from };
        if u32::try_from(self.rows.taps.len().max(self.columns.taps.len())).is_err() {
            bail!("{operation}: images of {}×{} pixels are too large", to.height, to.width);
        }
        let out = self.map(operation, x.tensor(), from, to)?;
        Ok(Value::record1(out, &[x], move |grad| {
            let back = Self { rows: self.rows.transposed(), columns: self.columns.transposed() };
            Ok(vec![Some(back.map(operation, grad, to, from)?)])
        }))
    }

    fn map(&self, operation: &str, x: &Tensor, from: Images, to: Images) -> Result<Tensor> {
        on_gpu!(x => crate::cuda::separable(operation, self, x, from, to));
        let path = SimdPath::current()?;
        let numbers = device::slice(x, operation)?;
        let numbers = &*numbers;
        let mut out = device::unspecified(to.batch * to.size());
        parallel::for_each_rows(&mut out, to.row(), |rows, out| {
            for (row, out) in rows.zip(out.chunks_exact_mut(to.row())) {
                let (image, in_image) = (row / to.height, row % to.height);
                let x = &numbers[image * from.size()..(image + 1) * from.size()];
                let next = numbers.get(self.end(row, from, to)..self.end(row + 1, from, to)).unwrap_or_default();
                let next = &next[..next.len().min(AHEAD)];
                sum_row(path, x, from, self.rows.of(in_image), &self.columns, next, out);
            }
        });
        device::tensor(out, to.dims())
    }

    /// Counts the numbers of all images up to the last input row of row `row` of the outputs.
    fn end(&self, row: usize, from: Images, to: Images) -> usize {
        let rows = self.rows.of(row % to.height);
        (row / to.height) * from.size() + rows.last().map_or(0, |(row, _)| row + 1) * from.row()
    }
}

/// Numbers to prefetch for a row at most: a quarter of a megabyte, which fits into the second-level cache.
const AHEAD: usize = 64 * 1024;

/// Numbers in a cache line.
const CACHE_LINE: usize = 16;

vectorised! {
    /// Sums one row of the output, and prefetches `next`: the numbers that only the next row needs.
    fn sum_row(x: &[f32], from: Images, rows: &[(usize, f64)], columns: &Axis, next: &[f32], out: &mut [f32]) {
        let mut next = next.chunks(next.len().div_ceil(columns.output()).max(1));
        for (column, out) in out.chunks_exact_mut(from.channels).enumerate() {
            next.next().unwrap_or_default().iter().step_by(CACHE_LINE).for_each(|number| prefetch(number));
            Window { x, from, rows, columns: columns.of(column) }.sum(out);
        }
    }
}

/// The pixels that one pixel of the output is made of.
struct Window<'a> {
    /// One image.
    x: &'a [f32],
    from: Images,
    rows: &'a [(usize, f64)],
    columns: &'a [(usize, f64)],
}

impl Window<'_> {
    /// All channels, in the widest blocks that they fill.
    #[inline(always)]
    fn sum(&self, out: &mut [f32]) {
        match out.len() {
            16.. => self.sum_channels::<16>(out),
            4.. => self.sum_channels::<4>(out),
            _ => self.sum_channels::<1>(out),
        }
    }

    /// All channels, in blocks of `LANES`, up to four at once: as many as stay in registers on every path.
    #[inline(always)]
    fn sum_channels<const LANES: usize>(&self, out: &mut [f32]) {
        for first in (0..out.len()).step_by(4 * LANES) {
            match (out.len() - first).div_ceil(LANES) {
                1 => self.sum_blocks::<LANES, 1>(first, out),
                2 => self.sum_blocks::<LANES, 2>(first, out),
                3 => self.sum_blocks::<LANES, 3>(first, out),
                _ => self.sum_blocks::<LANES, 4>(first, out),
            }
        }
    }

    /// The channels of some blocks. The last block begins earlier where it would end behind the last channel, and sums what the block
    /// before has summed as well.
    #[inline(always)]
    fn sum_blocks<const LANES: usize, const BLOCKS: usize>(&self, first: usize, out: &mut [f32]) {
        let Images { width, channels, .. } = self.from;
        let starts: [usize; BLOCKS] = std::array::from_fn(|block| (first + block * LANES).min(out.len() - LANES));
        let mut sums = [[0.0; LANES]; BLOCKS];
        for &(row, down) in self.rows {
            for &(column, across) in self.columns {
                let weight = (down * across) as f32;
                let pixel = &self.x[(row * width + column) * channels..][..channels];
                for block in 0..BLOCKS {
                    let numbers = &pixel[starts[block]..][..LANES];
                    for lane in 0..LANES {
                        sums[block][lane] += numbers[lane] * weight;
                    }
                }
            }
        }
        for block in 0..BLOCKS {
            out[starts[block]..][..LANES].copy_from_slice(&sums[block]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_twice_is_the_identity() {
        let axis = Axis::new([3, 4], |output| [(output.min(2), 0.25), ((output + 1) % 3, 0.75)]);
        let back = axis.transposed();
        assert_eq!(back.of(2), [(1, 0.75), (2, 0.25), (3, 0.25)]);
        let mut sorted = axis.clone();
        for output in 0..4 {
            let range = axis.starts[output]..axis.starts[output + 1];
            sorted.taps[range].sort_by_key(|(pixel, _)| *pixel);
        }
        assert_eq!(back.transposed(), sorted);
    }
}
