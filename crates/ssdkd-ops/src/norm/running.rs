//! The running statistics of a batch normalisation in training.

use candle_core::{Result, Tensor, Var, bail};

use super::BatchMoments;
use crate::optim::lerp_assign;

/// Running mean (C,) and variance (C,) of a normalisation, and the number of batches () that they have seen.
#[derive(Clone, Copy)]
pub struct Running<'a> {
    /// Running mean.
    pub mean: &'a Tensor,
    /// Running variance, unbiased, as PyTorch has it.
    pub variance: &'a Tensor,
    /// Batches so far: an `i64`, as in PyTorch.
    pub batches: &'a Tensor,
}

impl Running<'_> {
    /// Moves the statistics towards those of a batch, by `momentum` of the way, and counts it: in place.
    ///
    /// # Errors
    /// If shapes differ, two of the tensors share a storage, or, on the CPU, the count is no variable.
    pub fn follow(&self, moments: &BatchMoments, momentum: f64) -> Result<()> {
        let unbiased = moments.count as f64 / (moments.count as f64 - 1.0);
        on_gpu!(self.mean => crate::cuda::follow(self, moments, unbiased, momentum));
        if !self.batches.is_variable() {
            bail!("a count of batches that is no variable cannot be moved in place");
        }
        lerp_assign(self.mean, &moments.mean, momentum)?;
        lerp_assign(self.variance, &(&moments.variance * unbiased)?, momentum)?;
        let count = (self.batches.detach() + 1.0)?;
        Var::from_tensor(self.batches)?.set(&count)
    }
}
