//! Splitting work over threads, by shape only.
//!
//! The number of threads decides who does a piece, never which pieces there are: piece sizes are functions of the shape,
//! and partial sums are added in the order of the pieces. That is why results are the same bytes on any machine.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

/// Numbers in one piece of elementwise work: about 64 KiB, small beside L2 and large beside the cost of a task.
const PIECE: usize = 16 * 1024;

/// Rows in one piece when each row has `width` numbers.
pub(crate) fn rows_per_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// Calls `work` with the index of every piece in `0..pieces`, in parallel.
pub(crate) fn for_each_piece(pieces: usize, work: impl Fn(usize) + Sync + Send) {
    if pieces == 1 {
        work(0);
    } else {
        (0..pieces).into_par_iter().with_max_len(1).for_each(work);
    }
}

/// Fills `out`, rows of `width` numbers, piece by piece: `work` gets the range of rows and their part of `out`.
pub(crate) fn for_each_rows(out: &mut [f32], width: usize, work: impl Fn(Range<usize>, &mut [f32]) + Sync + Send) {
    if out.is_empty() {
        return;
    }
    let rows = rows_per_piece(width);
    if out.len() <= rows * width {
        return work(0..out.len() / width, out);
    }
    out.par_chunks_mut(rows * width).with_max_len(1).enumerate().for_each(|(index, part)| {
        let first = index * rows;
        work(first..first + part.len() / width, part);
    });
}

/// Sums over rows: `work` adds the rows of a range of `width` numbers each into a zeroed vector of `sums` numbers;
/// the vectors of all ranges are added in order.
pub(crate) fn sum_over_rows(
    rows: usize,
    width: usize,
    sums: usize,
    work: impl Fn(Range<usize>, &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    let per_piece = rows_per_piece(width);
    let partial = (0..rows.div_ceil(per_piece))
        .into_par_iter()
        .with_max_len(1)
        .map(|index| {
            let mut partial = vec![0.0; sums];
            work(index * per_piece..((index + 1) * per_piece).min(rows), &mut partial);
            partial
        })
        .collect::<Vec<_>>();
    let mut total = vec![0.0; sums];
    for partial in partial {
        for (total, partial) in total.iter_mut().zip(partial) {
            *total += partial;
        }
    }
    total
}

/// A mutable slice that several threads write to, each its own disjoint part.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: access goes through `part`, whose contract is that parts in use at the same time do not overlap.
unsafe impl Send for SharedMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedMut<'_> {}

impl<'a> SharedMut<'a> {
    pub(crate) fn new(numbers: &'a mut [f32]) -> Self {
        Self { start: numbers.as_mut_ptr(), len: numbers.len(), borrow: PhantomData }
    }

    /// The address of number `index`; writing through it follows the rule of [`part`](Self::part).
    pub(crate) fn at(&self, index: usize) -> *mut f32 {
        assert!(index <= self.len, "{index} is outside of 0..{}", self.len);
        // SAFETY: within the slice, or one past it, by the assertion.
        unsafe { self.start.add(index) }
    }

    /// Numbers `range` of the slice.
    ///
    /// # Safety
    /// Ranges in use at the same time must not overlap.
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} is outside of 0..{}", self.len);
        // SAFETY: within the slice by the assertion, disjoint from other parts by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_every_row_once() {
        for (rows, width) in [(1, 1), (7, 3), (1000, 100), (3, 40_000), (0, 5)] {
            let mut out = vec![0.0; rows * width];
            for_each_rows(&mut out, width, |range, part| {
                assert_eq!(part.len(), range.len() * width);
                for (row, numbers) in range.zip(part.chunks_mut(width)) {
                    for number in numbers {
                        *number += row as f32 + 1.0;
                    }
                }
            });
            let expected = (0..rows).flat_map(|row| vec![row as f32 + 1.0; width]).collect::<Vec<_>>();
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn sums_do_not_depend_on_threads() {
        let sum = || sum_over_rows(5000, 100, 1, |range, sum| sum[0] = range.map(|row| 1.0 / (row + 1) as f32).sum());
        let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().map(|pool| pool.install(sum));
        let expected = sum();
        for threads in 1..4 {
            assert_eq!(on(threads).expect("a small pool starts")[0].to_bits(), expected[0].to_bits());
        }
    }
}
