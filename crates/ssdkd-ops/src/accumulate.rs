//! Sums of gradients that reach one tensor by several ways.

use candle_core::{Result, Tensor};

use crate::vectorised::{change, map_pairs};

/// `sum += x`, in place on `sum`'s storage, which nothing else may be reading.
pub(crate) fn add_assign(sum: &Tensor, x: &Tensor) -> Result<()> {
    on_gpu!(sum => crate::cuda::add_assign(sum, x));
    change("add_assign", sum, x, |sum, x| sum + x)
}

/// `a + b`, tensors of the same shape.
pub(crate) fn add_tensors(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    on_gpu!(a => crate::cuda::add(a, b));
    map_pairs("add", a, b, |a, b| a + b)
}
