//! Optimiser steps on a GPU: all parameters in one launch.

use candle_core::{Result, Tensor};

use super::gpu::{BLOCK, Gpu, count};
use super::program::arguments;

/// Numbers of one parameter that a block takes; `PIECE` of `kernels/optim.cu`.
const PIECE: usize = BLOCK as usize * 4;

/// Words of a slot.
const WORDS: usize = 10;

/// One parameter, what moves it, and what the optimiser remembers of it; all of the same shape.
#[derive(Clone, Copy)]
pub(crate) struct Slot<'a> {
    pub(crate) parameter: Option<&'a Tensor>,
    pub(crate) grad: &'a Tensor,
    pub(crate) first: Option<&'a Tensor>,
    pub(crate) second: Option<&'a Tensor>,
}

/// What changes from step to step: the rate, and Adam's bias correction.
#[derive(Clone, Copy)]
pub(crate) enum Rates<'a> {
    /// The program has them.
    Numbers(&'a [f32]),
    /// They are on the device already, where a recorded step looks for them.
    Tensor(&'a Tensor),
}

/// Slots on the device.
struct Uploaded {
    _words: Tensor,
    at: u64,
    /// Where the rates are.
    rates: u64,
    /// That the slots need.
    blocks: u32,
}

/// The slots as the kernels have them, six words each and one of two halves, and behind them the rates.
fn upload(gpu: &Gpu, operation: &str, slots: &[Slot], rates: Rates) -> Result<Uploaded> {
    let mut words = Vec::with_capacity(slots.len() * WORDS + 2);
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
    if let Rates::Numbers(rates) = rates {
        words.extend(rates.iter().map(|rate| rate.to_bits()));
    }
    let (tensor, at) = gpu.upload(&words)?;
    let rates = match rates {
        Rates::Numbers(_) => at + (slots.len() * WORDS * size_of::<u32>()) as u64,
        Rates::Tensor(rates) => gpu.at(rates, operation)?,
    };
    Ok(Uploaded { _words: tensor, at, rates, blocks: block })
}

/// One rate.
pub(crate) fn sgd(slots: &[Slot], rates: Rates, momentum: f32, decay: f32, nesterov: bool) -> Result<()> {
    let Some(first) = slots.first() else { return Ok(()) };
    let gpu = Gpu::of(first.grad, "sgd_step")?;
    let sent = upload(&gpu, "sgd_step", slots, rates)?;
    let arguments = arguments![sent.at, count(slots.len()), sent.rates, momentum, decay, i32::from(nesterov)];
    gpu.launch("sgd", (sent.blocks, 1), arguments)
}

/// Adam's step; the rate and the bias correction are those of this step.
pub(crate) fn adam(slots: &[Slot], rates: Rates, (beta1, beta2): (f32, f32), eps: f32, decay: f32) -> Result<()> {
    let Some(first) = slots.first() else { return Ok(()) };
    let gpu = Gpu::of(first.grad, "adam_step")?;
    let sent = upload(&gpu, "adam_step", slots, rates)?;
    let arguments = arguments![sent.at, count(slots.len()), sent.rates, beta1, beta2, eps, decay];
    gpu.launch("adam", (sent.blocks, 1), arguments)
}

/// `√ Σ grad²` over all slots, as a tensor of rank 0. There is at least one slot.
pub(crate) fn norm(slots: &[Slot]) -> Result<Tensor> {
    let gpu = Gpu::of(slots[0].grad, "norm")?;
    let sent = upload(&gpu, "norm", slots, Rates::Numbers(&[]))?;
    let (out, to) = gpu.tensor(())?;
    // One block has a sum of 0 to write where there are no numbers.
    let grid = (sent.blocks.max(1), 1);
    gpu.launch("norm", grid, arguments![sent.at, count(slots.len()), gpu.scratch(), gpu.counters(), to])?;
    Ok(out)
}
