//! Channels put together, taken apart and reordered on a GPU; see [`crate::channels`].

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::gpu::{Gpu, count};
use super::program::arguments;
use super::settings::Stored;
use crate::channels::Rows;

/// Copies `width` channels from channel `from.1` of rows of `from.2` channels to channel `to.1` of rows of `to.2`.
fn copy(
    gpu: &Gpu,
    stored: Stored,
    rows: usize,
    width: usize,
    from: (u64, usize, usize),
    to: (u64, usize, usize),
) -> Result<()> {
    let n = rows * width;
    let [start, step] = [from.1, from.2].map(count);
    let [to_start, to_step] = [to.1, to.2].map(count);
    let arguments = arguments![from.0, to.0, count(n), count(width), start, step, to_start, to_step];
    gpu.launch_each_for(stored, "copy_channels", n, arguments)
}

pub(crate) fn join_channels(
    operation: &str,
    pieces: &[(&Tensor, Range<usize>)],
    to: Rows,
    dims: &[usize],
    whole: bool,
) -> Result<Tensor> {
    let (gpu, stored) = (Gpu::of(pieces[0].0, operation)?, Stored::of(pieces[0].0, operation)?);
    let (out, at) = gpu.new_activations(stored, dims)?;
    if !whole {
        gpu.launch_each_for(stored, "zero", out.elem_count(), arguments![at, count(out.elem_count())])?;
    }
    for (piece, range) in pieces {
        let from = gpu.activations(piece, stored, operation)?;
        copy(&gpu, stored, to.rows, range.len(), (from, 0, range.len()), (at, range.start, to.channels))?;
    }
    Ok(out)
}

pub(crate) fn take_channels(
    operation: &str,
    x: &Tensor,
    from: Rows,
    range: Range<usize>,
    dims: &[usize],
) -> Result<Tensor> {
    let (gpu, stored) = (Gpu::of(x, operation)?, Stored::of(x, operation)?);
    let (out, at) = gpu.new_activations(stored, dims)?;
    let x = gpu.activations(x, stored, operation)?;
    copy(&gpu, stored, from.rows, range.len(), (x, range.start, from.channels), (at, 0, range.len()))?;
    Ok(out)
}

pub(crate) fn shuffle_channels(operation: &str, x: &Tensor, of: Rows, groups: usize) -> Result<Tensor> {
    let (gpu, stored) = (Gpu::of(x, operation)?, Stored::of(x, operation)?);
    let (out, at) = gpu.new_activations(stored, x.shape().clone())?;
    let n = x.elem_count();
    let arguments = arguments![gpu.activations(x, stored, operation)?, at, count(n), count(of.channels), count(groups)];
    gpu.launch_each_for(stored, "shuffle_channels", n, arguments)?;
    Ok(out)
}
