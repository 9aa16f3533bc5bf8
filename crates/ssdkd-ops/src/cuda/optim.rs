//! Optimiser steps on a GPU: all parameters in one launch.

use candle_core::{Result, Tensor};

use super::gpu::{BLOCK, Gpu, count};
use super::program::arguments;

/// Numbers of one parameter that a block takes; `PIECE` of `kernels/optim.cu`.
const PIECE: usize = BLOCK as usize * 4;

/// One parameter, what moves it, and what the optimiser remembers of it; all of the same shape.
#[derive(Clone, Copy)]
pub(crate) struct Slot<'a> {
    pub(crate) parameter: Option<&'a Tensor>,
    pub(crate) grad: &'a Tensor,
    pub(crate) first: Option<&'a Tensor>,
    pub(crate) second: Option<&'a Tensor>,
}

/// The slots as the kernels have them, on the device: six words each, and one of two halves. And the blocks they need.
fn upload(gpu: &Gpu, operation: &str, slots: &[Slot]) -> Result<(Tensor, u64, u32)> {
    let mut words = Vec::with_capacity(slots.len() * 10);
    let mut block = 0;
    for slot in slots {
        let n = slot.grad.elem_count();
        let addresses = [
            gpu.at_optional(slot.parameter, operation)?,
            gpu.at(slot.grad, operation)?,
            gpu.at_optional(slot.first, operation)?,
            gpu.at_optional(slot.second, operation)?,
        ];
        for address in addresses {
            words.extend([address as u32, (address >> 32) as u32]);
        }
        words.extend([count(n), block]);
        block += count(n.div_ceil(PIECE));
    }
    let (tensor, at) = gpu.upload(&words)?;
    Ok((tensor, at, block))
}

pub(crate) fn sgd(slots: &[Slot], rate: f32, momentum: f32, decay: f32, nesterov: bool) -> Result<()> {
    let Some(first) = slots.first() else { return Ok(()) };
    let gpu = Gpu::of(first.grad, "sgd_step")?;
    let (_slots, at, blocks) = upload(&gpu, "sgd_step", slots)?;
    gpu.launch("sgd", (blocks, 1), arguments![at, count(slots.len()), rate, momentum, decay, i32::from(nesterov)])
}

/// Adam's step; `rate` and `correction` are those of this step.
pub(crate) fn adam(
    slots: &[Slot],
    rate: f32,
    (beta1, beta2): (f32, f32),
    correction: f32,
    eps: f32,
    decay: f32,
) -> Result<()> {
    let Some(first) = slots.first() else { return Ok(()) };
    let gpu = Gpu::of(first.grad, "adam_step")?;
    let (_slots, at, blocks) = upload(&gpu, "adam_step", slots)?;
    gpu.launch("adam", (blocks, 1), arguments![at, count(slots.len()), rate, beta1, beta2, correction, eps, decay])
}

/// `√ Σ grad²` over all slots, as a tensor of rank 0. There is at least one slot.
pub(crate) fn norm(slots: &[Slot]) -> Result<Tensor> {
    let gpu = Gpu::of(slots[0].grad, "norm")?;
    let (_slots, at, blocks) = upload(&gpu, "norm", slots)?;
    let (out, to) = gpu.tensor(())?;
    // One block has a sum of 0 to write where there are no numbers.
    let grid = (blocks.max(1), 1);
    gpu.launch("norm", grid, arguments![at, count(slots.len()), gpu.scratch(), gpu.counters(), to])?;
    Ok(out)
}
