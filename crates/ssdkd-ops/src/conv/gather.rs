//! A convolution seen from its output, in the one form that serves both directions.
//!
//! The output of a convolution and the gradient of its input are the same computation: every output pixel is a sum over
//! taps, each tap a matrix product of one input pixel with one slice of the weight:
//!
//! ```text
//! out[out_step·q + start] = bias + Σ_taps  in[in_step·q + tap] · W[tap]        q = 0, 1, … in rows and columns
//! ```
//!
//! Forward: one phase, `in_step` = stride. Input gradient: `in` is the output's gradient, W is transposed, and `in_step`
//! is 1; under a stride s, the pixels of the image fall into s×s phases by their position modulo s, and only the taps of
//! the kernel that can reach a phase take part in it (a 3×3 kernel with stride 2: 1, 2, 2 and 4 of the 9). Rows and columns
//! have steps of their own.

use std::ops::Range;

use super::shape::ConvShape;

/// Which input pixels every output pixel is made of.
#[derive(Debug)]
pub(crate) struct Gather {
    pub batch: usize,
    /// Image read: (H, W, C).
    pub input: [usize; 3],
    /// Image written: (H, W, C).
    pub output: [usize; 3],
    pub groups: usize,
    /// Down, across.
    pub in_step: [usize; 2],
    pub out_step: [usize; 2],
    pub phases: Vec<Phase>,
    /// Steps through a weight (O, C/groups, kh, kw) for the next output channel and the next input channel of a group.
    pub weight_steps: WeightSteps,
}

/// How a weight is walked: in numbers from one element to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WeightSteps {
    pub group: usize,
    pub output: usize,
    pub input: usize,
}

/// The output pixels that share a set of taps.
#[derive(Debug)]
pub(crate) struct Phase {
    /// The first output pixel: (row, column).
    pub start: [usize; 2],
    /// How many rows and columns of output pixels.
    pub size: [usize; 2],
    /// Sorted by position.
    pub taps: Vec<Tap>,
}

/// One element of the kernel's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tap {
    /// Input row relative to `in_step·q`.
    pub row: isize,
    /// Input column relative to `in_step·q`.
    pub column: isize,
    /// Position in the kernel, ky·kw + kx.
    pub index: usize,
}

impl Gather {
    /// The output of a convolution from its input.
    pub fn forward(shape: &ConvShape) -> Self {
        let [height, width] = shape.kernel;
        let (dilation, before) = (shape.spec.dilation, shape.spec.before());
        let position = |tap: usize, axis: usize| (tap * dilation[axis]) as isize - before[axis] as isize;
        let taps = (0..height * width)
            .map(|index| Tap { row: position(index / width, 0), column: position(index % width, 1), index })
            .collect();
        let [out_height, out_width, _] = shape.output;
        Self {
            batch: shape.batch,
            input: shape.input,
            output: shape.output,
            groups: shape.spec.groups,
            in_step: shape.spec.stride,
            out_step: [1, 1],
            phases: vec![Phase { start: [0, 0], size: [out_height, out_width], taps }],
            weight_steps: WeightSteps {
                group: shape.weight_len() / shape.spec.groups,
                output: shape.in_per_group() * shape.taps(),
                input: shape.taps(),
            },
        }
    }

    /// The gradient of a convolution's input from the gradient of its output.
    pub fn input_gradient(shape: &ConvShape) -> Self {
        let [down, across] = shape.spec.stride;
        let [height, width, _] = shape.input;
        let phases = (0..down.min(height))
            .flat_map(|row| (0..across.min(width)).map(move |column| [row, column]))
            .map(|start| Phase {
                start,
                size: [(height - start[0]).div_ceil(down), (width - start[1]).div_ceil(across)],
                taps: reaching_taps(shape, start),
            })
            .collect();
        Self {
            batch: shape.batch,
            input: shape.output,
            output: shape.input,
            groups: shape.spec.groups,
            in_step: [1, 1],
            out_step: [down, across],
            phases,
            weight_steps: WeightSteps {
                group: shape.weight_len() / shape.spec.groups,
                output: shape.taps(),
                input: shape.in_per_group() * shape.taps(),
            },
        }
    }

    pub fn in_per_group(&self) -> usize {
        self.input[2] / self.groups
    }

    pub fn out_per_group(&self) -> usize {
        self.output[2] / self.groups
    }

    /// The rows of `q` that the largest phase has.
    pub fn rows(&self) -> usize {
        self.phases.iter().map(|phase| phase.size[0]).max().unwrap_or(0)
    }

    /// Cuts a phase into the rectangles of `q` whose pixels see the same taps inside of the image: nine for a 3×3 kernel
    /// with padding 1. Every pixel is in one of them; taps that lie in the padding are in none.
    pub fn regions(&self, phase: &Phase) -> Vec<Region> {
        let inside = |position: isize, q: usize, axis: usize| {
            (0..self.input[axis] as isize).contains(&((q * self.in_step[axis]) as isize + position))
        };
        let rows = same_taps(phase.size[0], |q| phase.taps.iter().map(|tap| inside(tap.row, q, 0)).collect());
        let columns = same_taps(phase.size[1], |q| phase.taps.iter().map(|tap| inside(tap.column, q, 1)).collect());
        rows.iter()
            .flat_map(|rows| columns.iter().map(move |columns| (rows, columns)))
            .map(|((rows, in_rows), (columns, in_columns))| Region {
                rows: rows.clone(),
                columns: columns.clone(),
                taps: (0..phase.taps.len()).filter(|tap| in_rows[*tap] && in_columns[*tap]).collect(),
            })
            .collect()
    }
}

/// Output pixels that see the same taps.
#[derive(Debug)]
pub(crate) struct Region {
    /// Of `q`.
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    /// Indices into the phase's taps, in order.
    pub taps: Vec<usize>,
}

/// The ranges of `0..size` over which `seen` does not change.
fn same_taps(size: usize, seen: impl Fn(usize) -> Vec<bool>) -> Vec<(Range<usize>, Vec<bool>)> {
    let mut ranges = Vec::<(Range<usize>, Vec<bool>)>::new();
    for q in 0..size {
        let now = seen(q);
        match ranges.last_mut() {
            Some((range, before)) if *before == now => range.end = q + 1,
            _ => ranges.push((q..q + 1, now)),
        }
    }
    ranges
}

/// The taps through which an output pixel at `start` modulo the stride sees the input pixels.
fn reaching_taps(shape: &ConvShape, start: [usize; 2]) -> Vec<Tap> {
    let spec = shape.spec;
    let [height, width] = shape.kernel;
    // The window at output o reads the input at o·stride + tap·dilation − padding: solved for o.
    let along = |axis: usize, tap: usize| {
        let numerator = (start[axis] + spec.before()[axis]) as isize - (tap * spec.dilation[axis]) as isize;
        let stride = spec.stride[axis] as isize;
        (numerator % stride == 0).then(|| numerator / stride)
    };
    let mut taps = (0..height * width)
        .filter_map(|index| Some(Tap { row: along(0, index / width)?, column: along(1, index % width)?, index }))
        .collect::<Vec<_>>();
    taps.sort_unstable();
    taps
}

#[cfg(test)]
mod tests {
    use super::super::shape::Conv2dSpec;
    use super::*;

    fn shape(size: usize, kernel: usize, spec: Conv2dSpec) -> ConvShape {
        ConvShape::new(&[1, size, size, 1], &[1, 1, kernel, kernel], None, spec).expect("a possible shape")
    }

    #[test]
    fn a_stride_splits_the_kernel_into_phases() {
        let gather = Gather::input_gradient(&shape(8, 3, Conv2dSpec::new(2, 1)));
        assert_eq!(gather.phases.iter().map(|phase| phase.taps.len()).collect::<Vec<_>>(), [1, 2, 2, 4]);
        assert!(gather.phases.iter().all(|phase| phase.size == [4, 4]));
    }

    #[test]
    fn padding_splits_a_map_into_regions() {
        let gather = Gather::forward(&shape(4, 3, Conv2dSpec::new(1, 1)));
        let regions = gather.regions(&gather.phases[0]);
        let seen = |region: &Region| (region.rows.len() * region.columns.len(), region.taps.len());
        let expected = [(1, 4), (2, 6), (1, 4), (2, 6), (4, 9), (2, 6), (1, 4), (2, 6), (1, 4)];
        assert_eq!(regions.iter().map(seen).collect::<Vec<_>>(), expected);
        let gather = Gather::forward(&shape(4, 3, Conv2dSpec::new(2, 0)));
        assert_eq!(gather.regions(&gather.phases[0]).iter().map(seen).collect::<Vec<_>>(), [(1, 9)]);
    }

    #[test]
    fn both_directions_pair_the_same_pixels() {
        for spec in [
            Conv2dSpec::new(1, 1),
            Conv2dSpec::new(2, 0),
            Conv2dSpec::new(3, 2),
            Conv2dSpec { dilation: [2, 2], ..Conv2dSpec::new(2, 1) },
            Conv2dSpec { stride: [2, 3], padding: [0, 1, 2, 0], dilation: [1, 2], groups: 1 },
        ] {
            let shape = shape(9, 3, spec);
            let pairs = |gather: &Gather, swap: bool| {
                let mut pairs = Vec::new();
                for phase in &gather.phases {
                    for pixel in 0..phase.size[0] * phase.size[1] {
                        let q = [pixel / phase.size[1], pixel % phase.size[1]];
                        for tap in &phase.taps {
                            let read = [
                                (q[0] * gather.in_step[0]) as isize + tap.row,
                                (q[1] * gather.in_step[1]) as isize + tap.column,
                            ];
                            let written =
                                [0, 1].map(|axis| (q[axis] * gather.out_step[axis] + phase.start[axis]) as isize);
                            let inside = |at: isize, axis: usize| (0..gather.input[axis] as isize).contains(&at);
                            if inside(read[0], 0) && inside(read[1], 1) {
                                pairs.push(if swap { (written, read, tap.index) } else { (read, written, tap.index) });
                            }
                        }
                    }
                }
                pairs.sort_unstable();
                pairs
            };
            assert_eq!(
                pairs(&Gather::forward(&shape), false),
                pairs(&Gather::input_gradient(&shape), true),
                "{spec:?}"
            );
        }
    }
}
