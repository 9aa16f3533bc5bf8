//! SGD and Adam by PyTorch's rules, with all of their state.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, Var, bail};
use ssdkd_ops::{self as ops, AdamSlot, Gradients, SgdSlot};

use crate::StateDict;

/// Moves parameters by their gradients.
pub trait Optimizer {
    /// Takes one step; parameters without a gradient stay.
    ///
    /// # Errors
    /// If a tensor cannot be computed.
    fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()>;

    /// Counts a step, and returns the numbers that depend on it: what [`step_at`](Self::step_at) takes.
    fn next_rates(&mut self, lr: f64) -> Vec<f32>;

    /// As [`step`](Self::step), with the [rates](Self::next_rates) in a tensor on the device of the parameters, so that the step can
    /// be [recorded](ops::Recording).
    ///
    /// # Errors
    /// As [`step`](Self::step).
    fn step_at(&self, gradients: &Gradients, rates: &Tensor) -> Result<()>;

    /// Returns what the optimizer remembers, by parameter name. The tensors share their numbers with the optimizer: steps change them.
    fn state_dict(&self) -> StateDict;

    /// Restores a saved state.
    ///
    /// # Errors
    /// If it is not that of these parameters; nothing is changed then.
    fn load_state_dict(&mut self, state: StateDict) -> Result<()>;
}

/// Stochastic gradient descent with momentum.
pub struct Sgd {
    slots: Vec<Slot>,
    momentum: f64,
    weight_decay: f64,
    nesterov: bool,
}

/// A parameter with what the optimizer remembers of it, by name.
struct Slot {
    name: String,
    parameter: Var,
    memory: Vec<(&'static str, Tensor)>,
}

impl Slot {
    fn new(name: String, parameter: Var, memory: &[&'static str]) -> Result<Self> {
        let zeros =
            |&kind: &&'static str| Ok((kind, Tensor::zeros(parameter.shape(), parameter.dtype(), parameter.device())?));
        let memory = memory.iter().map(zeros).collect::<Result<_>>()?;
        Ok(Self { name, parameter, memory })
    }
}

/// Returns every slot's memory, as `name.kind`.
fn save(slots: &[Slot]) -> StateDict {
    let of_slot = |slot: &Slot| {
        let named = |(kind, tensor): &(&str, Tensor)| (format!("{}.{kind}", slot.name), tensor.clone());
        slot.memory.iter().map(named).collect::<Vec<_>>()
    };
    slots.iter().flat_map(of_slot).collect()
}

/// Copies a saved memory into the slots, if all of it fits.
fn load(slots: &[Slot], mut tensors: StateDict) -> Result<()> {
    let mut ready = Vec::new();
    for slot in slots {
        for (kind, memory) in &slot.memory {
            let name = format!("{}.{kind}", slot.name);
            let Some(tensor) = tensors.remove(&name) else {
                bail!(
                    "the optimizer's state lacks {name}\nhint: it was saved by another optimizer or for another network"
                );
            };
            if tensor.dims() != memory.dims() || tensor.dtype() != memory.dtype() {
                bail!(
                    "{name} in the optimizer's state is {:?} of shape {:?}; its parameter needs {:?} of shape {:?}",
                    tensor.dtype(),
                    tensor.dims(),
                    memory.dtype(),
                    memory.dims()
                );
            }
            ready.push((memory, tensor));
        }
    }
    if let Some((name, _)) = tensors.first_key_value() {
        bail!(
            "the optimizer's state has {name}, which no parameter needs\nhint: it was saved by another optimizer or for another network"
        );
    }
    // What a file held is on the CPU.
    let here = |memory: &Tensor, tensor: Tensor| tensor.to_device(memory.device())?.contiguous();
    ready.into_iter().try_for_each(|(memory, tensor)| ops::copy_assign(memory, &here(memory, tensor)?))
}

impl Sgd {
    /// For `parameters`, which it moves in place.
    pub fn new(parameters: Vec<(String, Var)>, momentum: f64, weight_decay: f64, nesterov: bool) -> Result<Self> {
        let slots = parameters.into_iter().map(|(name, parameter)| Slot::new(name, parameter, &["velocity"]));
        Ok(Self { slots: slots.collect::<Result<_>>()?, momentum, weight_decay, nesterov })
    }

    fn moved<'a>(&'a self, gradients: &'a Gradients) -> Vec<SgdSlot<'a>> {
        let moved = self.slots.iter().filter_map(|slot| {
            let grad = gradients.get(&slot.parameter)?;
            Some(SgdSlot { parameter: &slot.parameter, grad, velocity: &slot.memory[0].1 })
        });
        moved.collect()
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()> {
        ops::sgd_steps(&self.moved(gradients), lr, self.momentum, self.weight_decay, self.nesterov)
    }

    fn next_rates(&mut self, lr: f64) -> Vec<f32> {
        vec![lr as f32]
    }

    fn step_at(&self, gradients: &Gradients, rates: &Tensor) -> Result<()> {
        ops::sgd_steps_at(&self.moved(gradients), rates, self.momentum, self.weight_decay, self.nesterov)
    }

    /// Returns the velocities.
    fn state_dict(&self) -> StateDict {
        save(&self.slots)
    }

    fn load_state_dict(&mut self, state: StateDict) -> Result<()> {
        load(&self.slots, state)
    }
}

/// Adam, with weight decay as an L2 penalty (`torch.optim.Adam`).
///
/// Steps are counted for all parameters together: one without a gradient in some steps gets the bias correction of all.
pub struct Adam {
    slots: Vec<Slot>,
    steps: u64,
    beta1: f64,
    beta2: f64,
    weight_decay: f64,
}

const EPS: f64 = 1e-8;
const STEPS: &str = "steps";

impl Adam {
    /// For `parameters`, which it moves in place.
    pub fn new(parameters: Vec<(String, Var)>, beta1: f64, beta2: f64, weight_decay: f64) -> Result<Self> {
        let slots = parameters.into_iter().map(|(name, parameter)| Slot::new(name, parameter, &["first", "second"]));
        Ok(Self { slots: slots.collect::<Result<_>>()?, steps: 0, beta1, beta2, weight_decay })
    }

    /// Takes one step with gradients given by parameter name.
    pub fn step_with(&mut self, gradients: &BTreeMap<String, Tensor>, lr: f64) -> Result<()> {
        self.step_by(|slot| gradients.get(&slot.name), lr)
    }

    fn step_by<'a>(&mut self, gradient: impl Fn(&Slot) -> Option<&'a Tensor>, lr: f64) -> Result<()> {
        self.steps += 1;
        let moved = self.moved(gradient);
        ops::adam_steps(&moved, self.steps, lr, self.beta1, self.beta2, EPS, self.weight_decay)
    }

    fn moved<'a, 'g: 'a>(&'a self, gradient: impl Fn(&Slot) -> Option<&'g Tensor>) -> Vec<AdamSlot<'a>> {
        let moved = self.slots.iter().filter_map(|slot| {
            let grad = gradient(slot)?;
            Some(AdamSlot { parameter: &slot.parameter, grad, m: &slot.memory[0].1, v: &slot.memory[1].1 })
        });
        moved.collect()
    }
}

impl Optimizer for Adam {
    fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()> {
        self.step_by(|slot| gradients.get(&slot.parameter), lr)
    }

    fn next_rates(&mut self, lr: f64) -> Vec<f32> {
        self.steps += 1;
        ops::adam_rates(self.steps, lr, self.beta1, self.beta2).into()
    }

    fn step_at(&self, gradients: &Gradients, rates: &Tensor) -> Result<()> {
        let moved = self.moved(|slot| gradients.get(&slot.parameter));
        ops::adam_steps_at(&moved, rates, self.beta1, self.beta2, EPS, self.weight_decay)
    }

    /// Returns both moments, and the number of steps.
    fn state_dict(&self) -> StateDict {
        let mut tensors = save(&self.slots);
        let steps = Tensor::new(self.steps as i64, &Device::Cpu).expect("a number is a tensor");
        tensors.insert(STEPS.into(), steps);
        tensors
    }

    fn load_state_dict(&mut self, mut tensors: StateDict) -> Result<()> {
        let Some(steps) = tensors.remove(STEPS) else {
            bail!("the optimizer's state lacks {STEPS}\nhint: it is not Adam's")
        };
        let steps = steps.to_scalar::<i64>().ok().and_then(|steps| u64::try_from(steps).ok());
        let Some(steps) = steps else { bail!("{STEPS} in the optimizer's state is no number of steps") };
        load(&self.slots, tensors)?;
        self.steps = steps;
        Ok(())
    }
}
