//! The tensors of an architecture, without making any.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::architecture::{Architecture, Names};
use crate::models::Classifier;

/// Returns the name and shape of every tensor of an architecture.
///
/// # Errors
/// If the architecture cannot be built.
pub fn tensor_shapes(
    architecture: &Architecture,
    names: &Names,
    classes: usize,
    channels: usize,
) -> Result<BTreeMap<String, Vec<usize>>> {
    let recorder = Recorder::default();
    let vb = VarBuilder::from_backend(Box::new(recorder.clone()), DType::F32, Device::Cpu);
    Classifier::new(architecture, names, classes, channels, vb)?;
    let mut shapes = recorder.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut shapes))
}

/// Notes what a model asks for.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<BTreeMap<String, Vec<usize>>>>);

impl SimpleBackend for Recorder {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into(), shape.dims().to_vec());
        // One number, seen as many: no memory for a network of any size.
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("the shape of {name} is not known")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        false
    }
}
