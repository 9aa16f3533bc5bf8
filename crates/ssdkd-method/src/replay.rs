//! A step that a GPU replays: the program orders its hundreds of launches once, and then one graph for each step.
//!
//! The first steps of the same sizes are ordinary ones: libraries choose their algorithms in them, and their memory is what the
//! recording takes. Then the step is recorded. What comes from outside is copied to fixed places before each replay, and what the
//! step made is copied out of them behind it. Whatever changes, as a batch of another size, makes the steps ordinary again.

use candle_core::{DType, Device, Result, Tensor, TensorId, Var};
use ssdkd_nn::Store;
use ssdkd_ops as ops;
use ssdkd_ops::{Packed, Recording};

/// Ordinary steps before the recorded one.
const WARM_UP: usize = 2;

/// What a step makes.
pub(crate) trait Made: Sized {
    /// Returns a copy, which the next replay does not overwrite.
    fn copied(&self) -> Result<Self>;
}

impl Made for Packed {
    fn copied(&self) -> Result<Self> {
        self.copy()
    }
}

impl Made for Tensor {
    fn copied(&self) -> Result<Self> {
        self.copy()
    }
}

impl<T: Made> Made for Vec<T> {
    fn copied(&self) -> Result<Self> {
        self.iter().map(T::copied).collect()
    }
}

impl<T: Made, U: Made> Made for (T, U) {
    fn copied(&self) -> Result<Self> {
        Ok((self.0.copied()?, self.1.copied()?))
    }
}

/// One kind of step, which makes a `T`. `C` are the numbers besides inputs and tensors that its work depends on.
pub(crate) struct Replayed<T, C = ()> {
    seen: Option<(Key<C>, usize)>,
    recorded: Option<Recorded<T>>,
}

impl<T, C> Default for Replayed<T, C> {
    fn default() -> Self {
        Self { seen: None, recorded: None }
    }
}

/// What a recorded step is valid for.
#[derive(PartialEq)]
struct Key<C> {
    constants: C,
    inputs: Vec<(Vec<usize>, DType)>,
    state: Vec<TensorId>,
}

struct Recorded<T> {
    recording: Recording,
    /// Where the step finds its inputs.
    places: Vec<Tensor>,
    /// Where it leaves what it makes.
    made: T,
    /// What it reads and changes lives as long as it does.
    _state: Vec<Var>,
}

impl<T: Made, C: PartialEq> Replayed<T, C> {
    /// Does a step. `order` orders its work: from `constants`, its inputs and the tensors of `stores` alone, so that each of its steps
    /// is the same work, and without reading anything back.
    pub(crate) fn step(
        &mut self,
        constants: C,
        inputs: Vec<Tensor>,
        stores: &[&Store],
        order: impl Fn(Vec<Tensor>) -> Result<T>,
    ) -> Result<T> {
        let device = inputs.first().map(|input| input.device().clone());
        let Some(device) = device.filter(ops::records_steps) else { return order(inputs) };
        let state = stores.iter().flat_map(|store| store.all()).map(|(_, var)| var).collect::<Vec<_>>();
        let key = Key {
            constants,
            inputs: inputs.iter().map(|input| (input.dims().to_vec(), input.dtype())).collect(),
            state: state.iter().map(|var| var.id()).collect(),
        };
        let seen = match &mut self.seen {
            Some((of, seen)) if *of == key && self.recorded.as_ref().is_none_or(|step| step.recording.is_current()) => {
                *seen += 1;
                *seen
            }
            _ => {
                (self.seen, self.recorded) = (Some((key, 0)), None);
                0
            }
        };
        if let Some(recorded) = &self.recorded {
            return recorded.replay(&inputs);
        }
        if seen < WARM_UP {
            return order(inputs);
        }
        let recorded = Recorded::new(&inputs, state, &device, order)?;
        let made = recorded.replay(&inputs)?;
        self.recorded = Some(recorded);
        Ok(made)
    }
}

impl<T: Made> Recorded<T> {
    fn new(
        inputs: &[Tensor],
        state: Vec<Var>,
        device: &Device,
        order: impl Fn(Vec<Tensor>) -> Result<T>,
    ) -> Result<Self> {
        let places = inputs.iter().map(Tensor::copy).collect::<Result<Vec<_>>>()?;
        let unrecorded = |error| {
            candle_core::Error::Msg(format!("a step cannot be recorded: {error}\nhint: set SSDKD_GPU_GRAPHS to off"))
        };
        let (recording, made) = Recording::of(device, || order(places.clone())).map_err(unrecorded)?;
        Ok(Self { recording, places, made, _state: state })
    }

    fn replay(&self, inputs: &[Tensor]) -> Result<T> {
        self.places.iter().zip(inputs).try_for_each(|(place, input)| place.slice_set(input, 0, 0))?;
        self.recording.replay()?;
        self.made.copied()
    }
}
