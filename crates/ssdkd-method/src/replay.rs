//! A step that a GPU replays: the program orders its hundreds of launches once, and then one graph for each step.
//!
//! The first steps of the same sizes are ordinary ones: libraries choose their algorithms in them, and their memory is what the
//! recording takes. Then the step is recorded. What comes from outside is copied to fixed places before each replay. Whatever
//! changes, as a batch of another size, makes the steps ordinary again.

use candle_core::{DType, Device, Result, Tensor, TensorId, Var};
use ssdkd_nn::Store;
use ssdkd_ops as ops;
use ssdkd_ops::{Packed, Recording};

/// Ordinary steps before the recorded one.
const WARM_UP: usize = 2;

/// One kind of step, of one network.
#[derive(Default)]
pub(crate) struct Replayed {
    seen: Option<(Key, usize)>,
    recorded: Option<Recorded>,
}

/// What a recorded step is valid for.
#[derive(Clone, PartialEq)]
struct Key {
    inputs: Vec<(Vec<usize>, DType)>,
    state: Vec<TensorId>,
}

struct Recorded {
    recording: Recording,
    /// Where the step finds its inputs.
    places: Vec<Tensor>,
    /// Where it leaves its figures.
    figures: Packed,
    /// What it reads and changes lives as long as it does.
    _state: Vec<Var>,
}

impl Replayed {
    /// Does a step. `order` orders its work: from its inputs and from `state` alone, so that each of its steps is the same work, and
    /// without reading anything back.
    pub(crate) fn step(
        &mut self,
        inputs: Vec<Tensor>,
        state: &Store,
        order: impl Fn(Vec<Tensor>) -> Result<Packed>,
    ) -> Result<Packed> {
        if !ops::records_steps(state.device()) {
            return order(inputs);
        }
        let state_of = state.all().into_iter().map(|(_, var)| var).collect::<Vec<_>>();
        let key = Key {
            inputs: inputs.iter().map(|input| (input.dims().to_vec(), input.dtype())).collect(),
            state: state_of.iter().map(|var| var.id()).collect(),
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
        let recorded = Recorded::new(&inputs, state_of, state.device(), order)?;
        let figures = recorded.replay(&inputs)?;
        self.recorded = Some(recorded);
        Ok(figures)
    }
}

impl Recorded {
    fn new(
        inputs: &[Tensor],
        state: Vec<Var>,
        device: &Device,
        order: impl Fn(Vec<Tensor>) -> Result<Packed>,
    ) -> Result<Self> {
        let places = inputs.iter().map(Tensor::copy).collect::<Result<Vec<_>>>()?;
        let unrecorded = |error| {
            candle_core::Error::Msg(format!("a step cannot be recorded: {error}\nhint: set SSDKD_GPU_GRAPHS to off"))
        };
        let (recording, figures) = Recording::of(device, || order(places.clone())).map_err(unrecorded)?;
        Ok(Self { recording, places, figures, _state: state })
    }

    fn replay(&self, inputs: &[Tensor]) -> Result<Packed> {
        self.places.iter().zip(inputs).try_for_each(|(place, input)| ops::copy_assign(place, input))?;
        self.recording.replay()?;
        Ok(self.figures.clone())
    }
}
