//! Logits (B, K) as a table: checks of what comes with its rows, and loops over them.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::simd::SimdPath;
use crate::softmax::Softmax;
use crate::value::Value;
use crate::{device, parallel};

/// The shape of logits (B, K).
#[derive(Clone, Copy)]
pub(crate) struct Table {
    pub(crate) rows: usize,
    pub(crate) classes: usize,
}

impl Table {
    pub(crate) fn of(operation: &str, logits: &Tensor) -> Result<Self> {
        match *logits.dims() {
            [rows, classes] if rows > 0 && classes > 0 => Ok(Self { rows, classes }),
            _ => {
                bail!("{operation}: takes logits (B, K), neither of them 0, this tensor has shape {:?}", logits.dims())
            }
        }
    }

    pub(crate) fn check_count(&self, operation: &str, what: &str, count: usize) -> Result<()> {
        if count != self.rows {
            bail!("{operation}: takes one {what} for each of the {} rows, got {count}", self.rows);
        }
        Ok(())
    }

    pub(crate) fn check_targets(&self, operation: &str, targets: &[u32]) -> Result<()> {
        match targets.iter().enumerate().find(|(_, target)| **target as usize >= self.classes) {
            Some((row, target)) => {
                bail!("{operation}: target {target} of row {row} is not one of the {} classes 0..{0}", self.classes)
            }
            None => Ok(()),
        }
    }

    pub(crate) fn check_weights(&self, operation: &str, weights: Option<&Tensor>) -> Result<()> {
        weights.map_or(Ok(()), |weights| self.check_count(operation, "weight", weights.elem_count()))
    }

    /// `f(row, logits)` of every row, in order.
    pub(crate) fn map_rows<T: Send>(
        &self,
        operation: &str,
        logits: &Tensor,
        f: impl Fn(usize, &[f32]) -> T + Sync + Send,
    ) -> Result<Vec<T>> {
        let numbers = device::slice(logits, operation)?;
        let rows = numbers.par_chunks_exact(self.classes).with_min_len(self.rows_per_task());
        Ok(rows.enumerate().map(|(row, logits)| f(row, logits)).collect())
    }

    /// As [`map_rows`](Self::map_rows), with room for the softmax of two rows.
    pub(crate) fn map_softmax<T: Send>(
        &self,
        operation: &str,
        logits: &Tensor,
        f: impl Fn(&mut [Softmax; 2], usize, &[f32]) -> T + Sync + Send,
    ) -> Result<Vec<T>> {
        let scratch = self.scratch()?;
        let numbers = device::slice(logits, operation)?;
        let rows = numbers.par_chunks_exact(self.classes).with_min_len(self.rows_per_task()).enumerate();
        Ok(rows.map_init(scratch, |scratch, (row, logits)| f(scratch, row, logits)).collect())
    }

    /// The sum of `f(scratch, row, logits, gradient)` over all rows, and the gradients that it writes, each a row of K numbers.
    /// Where no gradient is wanted, the slices are empty.
    pub(crate) fn sum_rows(
        &self,
        operation: &str,
        logits: &Value,
        f: impl Fn(&mut [Softmax; 2], usize, &[f32], &mut [f32]) -> f64 + Sync + Send,
    ) -> Result<(f64, Option<Tensor>)> {
        if !logits.wants_gradient() {
            let f = |scratch: &mut [Softmax; 2], row: usize, logits: &[f32]| f(scratch, row, logits, &mut []);
            return Ok((self.map_softmax(operation, logits.tensor(), f)?.iter().sum(), None));
        }
        let scratch = self.scratch()?;
        let mut grads = device::unspecified(self.rows * self.classes);
        let losses = {
            let numbers = device::slice(logits.tensor(), operation)?;
            let rows = numbers.par_chunks_exact(self.classes).zip(grads.par_chunks_exact_mut(self.classes));
            let rows = rows.with_min_len(self.rows_per_task()).enumerate();
            rows.map_init(scratch, |scratch, (row, (logits, grad))| f(scratch, row, logits, grad)).collect::<Vec<_>>()
        };
        Ok((losses.iter().sum(), Some(device::tensor(grads, (self.rows, self.classes))?)))
    }

    /// p̄, the mean over the rows of softmax(logits).
    pub(crate) fn mean_softmax(&self, operation: &str, logits: &Tensor) -> Result<Vec<f64>> {
        let path = SimdPath::current()?;
        let numbers = device::slice(logits, operation)?;
        let piece_of = |logits: &[f32]| {
            let mut softmax = Softmax::new(path, self.classes);
            let mut sums = vec![0.0; self.classes];
            for logits in logits.chunks_exact(self.classes) {
                softmax.set(logits, 1.0);
                for (sum, p) in sums.iter_mut().zip(softmax.probabilities()) {
                    *sum += p;
                }
            }
            sums
        };
        // A piece is the same rows at any number of threads, and the pieces are added in order.
        let pieces = numbers.par_chunks(parallel::rows_per_piece(self.classes) * self.classes);
        let mut mean = vec![0.0; self.classes];
        for sums in pieces.map(piece_of).collect::<Vec<_>>() {
            for (mean, sum) in mean.iter_mut().zip(sums) {
                *mean += sum / self.rows as f64;
            }
        }
        Ok(mean)
    }

    /// Makes room for the softmax of two rows.
    fn scratch(&self) -> Result<impl Fn() -> [Softmax; 2] + Sync + Send + use<>> {
        let (path, classes) = (SimdPath::current()?, self.classes);
        Ok(move || [Softmax::new(path, classes), Softmax::new(path, classes)])
    }

    /// An exponential costs as much as many numbers read and written.
    fn rows_per_task(&self) -> usize {
        parallel::rows_per_piece(16 * self.classes)
    }
}
