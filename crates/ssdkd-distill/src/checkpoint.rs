//! Where a round's training stands: a round of a large student takes long, and a process may end before it does.
//!
//! Which images a step sees, through which views, and its learning rate are functions of (seed, round, step). So the steps taken,
//! the student and the optimizer are the whole state. Whose state it is, and whether it is whole, the job knows.

use anyhow::{Context as _, Result};
use candle_core::{Device, Tensor};
use ssdkd_method::Distiller;
use ssdkd_nn::{Network, StateDict};
use ssdkd_shards::{ObservedRow, Origin, Row, StepRow, tables};

const STUDENT: &str = "student";
const STATE: &str = "state";
/// Tensors of bytes: the tables of the steps so far, as Parquet.
const STEPS: &str = "steps";
const OBSERVED: &str = "observed";

/// Returns the bytes of a checkpoint.
pub(crate) fn encode(
    origin: &Origin,
    student: &Network,
    distiller: &Distiller,
    steps: &[StepRow],
    observed: &[ObservedRow],
) -> Result<Vec<u8>> {
    let mut tensors =
        StateDict::default().with(STUDENT, student.store().state_dict()).with(STATE, distiller.state_dict());
    tensors.insert(STEPS.into(), Tensor::new(tables::encode(steps, origin)?, &Device::Cpu)?);
    tensors.insert(OBSERVED.into(), Tensor::new(tables::encode(observed, origin)?, &Device::Cpu)?);
    Ok(tensors.to_safetensors()?)
}

/// Puts student and optimizer where the process that kept these bytes left them; the steps it took, and what it observed. On an
/// error they may be anywhere between.
pub(crate) fn take_up(
    bytes: &[u8],
    student: &Network,
    distiller: &mut Distiller,
) -> Result<(Vec<StepRow>, Vec<ObservedRow>)> {
    let mut tensors = StateDict::from_safetensors(bytes, student.store().device())?;
    let (steps, observed) = (table(&mut tensors, STEPS)?, table(&mut tensors, OBSERVED)?);
    student.store().load_state_dict(tensors.take(STUDENT))?;
    distiller.load_state_dict(tensors.take(STATE))?;
    tensors.finish("the checkpoint")?;
    Ok((steps, observed))
}

fn table<R: Row>(tensors: &mut StateDict, name: &str) -> Result<Vec<R>> {
    let bytes = tensors.remove(name).with_context(|| format!("it has no table of {name}"))?;
    Ok(tables::decode(bytes.to_device(&Device::Cpu)?.to_vec1::<u8>()?, name.as_ref())?)
}
