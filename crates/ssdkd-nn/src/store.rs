//! Named tensors of a network: parameters that are trained, and buffers that are not.
//!
//! Names, shapes and layouts are PyTorch's, in memory too, so a `state_dict` goes in and out unchanged. A store makes the
//! tensors that networks ask for, drawn from (seed, name) alone, so that neither the order of layers nor the number of threads
//! changes a network.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use candle_nn::Init;
use candle_nn::init::NormalOrUniform;
use ssdkd_ops as ops;

use crate::StateDict;
use crate::random::{normal_tensor, stream, uniform_tensor};
use crate::zoo::Blueprint;

/// Named tensors, in the order of their names. Clones share the tensors.
#[derive(Clone)]
pub struct Store {
    tensors: Arc<Mutex<BTreeMap<String, Entry>>>,
    device: Device,
    /// What fresh tensors are drawn from; `None`: they are zeros.
    seed: Option<u64>,
    /// What will be loaded: a tensor of another shape need not be made first.
    expected: Option<Arc<BTreeMap<String, Vec<usize>>>>,
}

/// One tensor of a [`Store`].
#[derive(Clone)]
struct Entry {
    var: Var,
    /// Whether training moves it; running statistics and constants stay.
    trained: bool,
}

/// How batch norms count the batches they have been trained on: the one tensor of whole numbers.
const BATCH_COUNT: &str = "num_batches_tracked";

/// Checks whether the tensor `name` that was found is the one that is wanted; only a count of batches may be missing.
fn check_shape(name: &str, found: Option<&[usize]>, wanted: &[usize]) -> Result<()> {
    match found {
        Some(found) if found == wanted => Ok(()),
        Some(found) => bail!("the tensor {name} has shape {found:?}; the network needs {wanted:?}"),
        None if name.ends_with(BATCH_COUNT) => Ok(()),
        None => bail!("the tensor {name} is missing; the network needs it with shape {wanted:?}"),
    }
}

impl Store {
    /// Creates an empty store; tensors that models ask for are zeros, to be [loaded](Self::load_state_dict).
    pub fn new(device: &Device) -> Self {
        Self { tensors: Arc::default(), device: device.clone(), seed: None, expected: None }
    }

    /// As [`new`](Self::new), to be loaded with these tensors: asking for one that is not among them is an error, so a file
    /// costs no more memory than it is worth, whatever network it claims to be of.
    pub fn expecting(device: &Device, tensors: &BTreeMap<String, Tensor>) -> Self {
        let shapes = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
        Self { expected: Some(Arc::new(shapes)), ..Self::new(device) }
    }

    /// Creates an empty store; tensors that models ask for are drawn from (`seed`, name).
    pub fn seeded(device: &Device, seed: u64) -> Self {
        Self { seed: Some(seed), ..Self::new(device) }
    }

    /// Returns where the tensors are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the tensor of that name. One that is not there yet is made: drawn as `how` says, or zeros in a store that is to be
    /// loaded.
    ///
    /// # Errors
    /// If there is one of another shape, or the store expects no such tensor.
    pub fn tensor(&self, name: &str, shape: &[usize], how: Init, trained: bool) -> Result<Tensor> {
        let mut tensors = self.lock();
        if let Some(Entry { var, .. }) = tensors.get(name) {
            check_shape(name, Some(var.dims()), shape)?;
            return Ok(var.as_tensor().clone());
        }
        let var = Var::from_tensor(&self.fresh(&Shape::from_dims(shape), name, how)?)?;
        tensors.insert(name.into(), Entry { var: var.clone(), trained });
        Ok(var.into_inner())
    }

    /// Adds a tensor that is trained, with these numbers.
    ///
    /// # Errors
    /// If there is one of that name.
    pub fn insert(&self, name: &str, numbers: &Tensor) -> Result<()> {
        let var = Var::from_tensor(&numbers.to_device(&self.device)?.contiguous()?)?;
        match self.lock().insert(name.into(), Entry { var, trained: true }) {
            None => Ok(()),
            Some(_) => bail!("there is a tensor {name} already"),
        }
    }

    /// Returns the tensor of that name, if there is one.
    pub fn find(&self, name: &str) -> Option<Tensor> {
        self.lock().get(name).map(|entry| entry.var.as_tensor().clone())
    }

    /// Returns the tensors of a network by name, as [`tensor`](Self::tensor) does.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn tensors_of(&self, blueprint: &Blueprint) -> Result<BTreeMap<String, Tensor>> {
        let Blueprint { graph, fresh, .. } = blueprint;
        let tensor = |(name, spec): (&String, &ssdkd_graph::TensorSpec)| {
            let how = fresh.get(name).copied().unwrap_or(Init::Const(0.0));
            Ok((name.clone(), self.tensor(name, &spec.shape, how, spec.trained)?))
        };
        graph.tensors().iter().map(tensor).collect()
    }

    /// Returns what is trained.
    pub fn parameters(&self) -> Vec<(String, Var)> {
        self.those(|entry| entry.trained)
    }

    /// Returns what is part of the state but not trained: running statistics and their counts.
    pub fn buffers(&self) -> Vec<(String, Var)> {
        self.those(|entry| !entry.trained)
    }

    /// Parameters and buffers.
    pub fn all(&self) -> Vec<(String, Var)> {
        self.those(|_| true)
    }

    fn those(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<(String, Var)> {
        let tensors = self.lock();
        let wanted = tensors.iter().filter(|(_, entry)| wanted(entry));
        wanted.map(|(name, entry)| (name.clone(), entry.var.clone())).collect()
    }

    /// Returns how many numbers are trained.
    pub fn num_parameters(&self) -> usize {
        self.parameters().iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// Creates a store with copies of all tensors.
    pub fn deep_clone(&self) -> Result<Self> {
        let copy = |entry: &Entry| -> Result<Entry> {
            Ok(Entry { var: Var::from_tensor(&entry.var.copy()?)?, trained: entry.trained })
        };
        let copies = self.lock().iter().map(|(name, entry)| Ok((name.clone(), copy(entry)?))).collect::<Result<_>>()?;
        let tensors = Arc::new(Mutex::new(copies));
        Ok(Self { tensors, device: self.device.clone(), seed: self.seed, expected: self.expected.clone() })
    }

    /// Returns all tensors by name: a `state_dict`. As PyTorch's, it shares its numbers with the network, so training changes
    /// them; to keep them as they are, take it of a [`deep_clone`](Self::deep_clone).
    pub fn state_dict(&self) -> StateDict {
        self.all().into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect()
    }

    /// Copies a `state_dict` into the tensors of this store.
    ///
    /// # Errors
    /// If a tensor is missing, left over, of another shape or kind, or not finite; it is named. Nothing is changed then.
    /// A missing `num_batches_tracked` is no error, as in PyTorch: files from before version 0.4.1 lack it.
    pub fn load_state_dict(&self, mut tensors: StateDict) -> Result<()> {
        let mut ready = Vec::new();
        for (name, var) in self.all() {
            let tensor = tensors.remove(&name);
            check_shape(&name, tensor.as_ref().map(Tensor::dims), var.dims())?;
            let Some(tensor) = tensor else { continue };
            if tensor.dtype().is_float() != var.dtype().is_float() {
                bail!("the tensor {name} is of type {:?}; the network needs {:?}", tensor.dtype(), var.dtype());
            }
            let tensor = tensor.to_dtype(var.dtype())?.to_device(&self.device)?.contiguous()?;
            if var.dtype() == DType::F32 {
                let values = tensor.flatten_all()?.to_vec1::<f32>()?;
                if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                    bail!("the tensor {name} holds {} at element {at}; a network needs finite numbers", values[at]);
                }
            }
            ready.push((var, tensor));
        }
        if let Some((name, tensor)) = tensors.first_key_value() {
            bail!("the tensor {name} with shape {:?} is left over: the network has none of that name", tensor.dims());
        }
        ready.into_iter().try_for_each(|(var, tensor)| var.set(&tensor))
    }

    /// Takes one step of a running average of weights: every number moves by `amount` of its distance to `source`'s; counts
    /// are taken over.
    ///
    /// # Errors
    /// If `source` is not of the same architecture, or shares its tensors with this store.
    pub fn move_towards(&self, source: &Self, amount: f64) -> Result<()> {
        let (ours, theirs) = (self.all(), source.all());
        if !ours.iter().map(|(name, _)| name).eq(theirs.iter().map(|(name, _)| name)) {
            bail!(
                "a running average needs two networks of one architecture; these have {} and {} tensors",
                ours.len(),
                theirs.len()
            );
        }
        for ((_, target), (_, source)) in ours.iter().zip(&theirs) {
            if source.dtype() == DType::F32 {
                ops::lerp_assign(target, source, amount)?;
            } else {
                target.set(source)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // A panic elsewhere leaves the map whole: it is only ever inserted into.
        self.tensors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a tensor that was not requested before.
    fn fresh(&self, shape: &Shape, name: &str, how: Init) -> Result<Tensor> {
        if let Some(expected) = &self.expected {
            check_shape(name, expected.get(name).map(Vec::as_slice), shape.dims())?;
        }
        if name.ends_with(BATCH_COUNT) {
            return Tensor::zeros(shape, DType::I64, &self.device);
        }
        let Some(seed) = self.seed else { return Tensor::zeros(shape, DType::F32, &self.device) };
        let rng = &mut stream(seed, &format!("tensor {name}"), &[]);
        match how {
            Init::Const(value) => Tensor::full(value as f32, shape, &self.device),
            Init::Randn { mean, stdev } => normal_tensor(rng, shape, &self.device)?.affine(stdev, mean),
            Init::Uniform { lo, up } => uniform_tensor(rng, (lo as f32, up as f32), shape, &self.device),
            Init::Kaiming { dist, fan, non_linearity } => {
                let deviation = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
                match dist {
                    NormalOrUniform::Normal => normal_tensor(rng, shape, &self.device)?.affine(deviation, 0.0),
                    NormalOrUniform::Uniform => {
                        let bound = (3f64.sqrt() * deviation) as f32;
                        uniform_tensor(rng, (-bound, bound), shape, &self.device)
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(seed: u64) -> Result<Store> {
        let store = Store::seeded(&Device::Cpu, seed);
        store.tensor("bn.running_mean", &[3], Init::Const(0.0), false)?;
        store.tensor("bn.num_batches_tracked", &[], Init::Const(0.0), false)?;
        store.tensor("conv.weight", &[2, 3, 1, 1], candle_nn::init::DEFAULT_KAIMING_NORMAL, true)?;
        Ok(store)
    }

    fn weight(store: &Store) -> Result<Vec<f32>> {
        store.state_dict()["conv.weight"].flatten_all()?.to_vec1()
    }

    #[test]
    fn buffers_are_not_parameters() -> Result<()> {
        let store = store(5)?;
        let names = |tensors: Vec<(String, Var)>| tensors.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(store.parameters()), ["conv.weight"]);
        assert_eq!(names(store.buffers()), ["bn.num_batches_tracked", "bn.running_mean"]);
        assert_eq!((store.num_parameters(), store.all().len()), (6, 3));
        Ok(())
    }

    #[test]
    fn tensors_depend_on_seed_and_name_only() -> Result<()> {
        let weight = |seed, name: &str| -> Result<Vec<f32>> {
            let store = Store::seeded(&Device::Cpu, seed);
            store.tensor(name, &[8], Init::Randn { mean: 0.0, stdev: 1.0 }, true)?.to_vec1()
        };
        assert_eq!(weight(1, "a")?, weight(1, "a")?);
        assert_ne!(weight(1, "a")?, weight(2, "a")?);
        assert_ne!(weight(1, "a")?, weight(1, "b")?);
        Ok(())
    }

    #[test]
    fn draws_have_the_spread_that_was_asked_for() -> Result<()> {
        let store = Store::seeded(&Device::Cpu, 3);
        let spread = |name, how| -> Result<f64> {
            let values = store.tensor(name, &[64, 32, 3, 3], how, true)?.flatten_all()?.to_vec1::<f32>()?;
            Ok((values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / values.len() as f64).sqrt())
        };
        let he = spread("he", candle_nn::init::DEFAULT_KAIMING_NORMAL)? * (32.0 * 9.0 / 2.0_f64).sqrt();
        let uniform = spread("uniform", Init::Uniform { lo: -0.5, up: 0.5 })? * 12_f64.sqrt();
        assert!((he - 1.0).abs() < 0.02 && (uniform - 1.0).abs() < 0.02, "{he} {uniform}");
        Ok(())
    }

    #[test]
    fn deep_clones_are_independent_and_shallow_ones_are_not() -> Result<()> {
        let store = store(5)?;
        let (deep, shallow) = (store.deep_clone()?, store.clone());
        let before = weight(&deep)?;
        let (_, var) = &store.parameters()[0];
        var.set(&var.zeros_like()?)?;
        assert_eq!(weight(&deep)?, before);
        assert_eq!(weight(&shallow)?, [0.0; 6]);
        Ok(())
    }

    #[test]
    fn a_running_average_moves_towards_its_source() -> Result<()> {
        let (average, source) = (store(1)?, store(2)?);
        let (before, goal) = (weight(&average)?, weight(&source)?);
        let count = source.state_dict()["bn.num_batches_tracked"].clone();
        Var::from_tensor(&source.all()[0].1)?.set(&(count + 7.0)?)?;
        average.move_towards(&source, 0.25)?;
        for ((moved, before), goal) in weight(&average)?.into_iter().zip(before).zip(&goal) {
            assert!((moved - (0.75 * before + 0.25 * goal)).abs() < 1e-6);
        }
        assert_eq!(weight(&source)?, goal, "the source stays");
        assert_eq!(average.state_dict()["bn.num_batches_tracked"].to_scalar::<i64>()?, 7);
        let other = Store::new(&Device::Cpu);
        assert!(average.move_towards(&other, 0.25).unwrap_err().to_string().contains("one architecture"));
        Ok(())
    }

    #[test]
    fn what_will_not_be_loaded_is_not_made() -> Result<()> {
        let kept = BTreeMap::from([("w".to_string(), Tensor::zeros(3, DType::F32, &Device::Cpu)?)]);
        let store = Store::expecting(&Device::Cpu, &kept);
        let refusal = |shape: &[usize], name| {
            store.tensor(name, shape, Init::Const(0.0), true).map(drop).unwrap_err().to_string()
        };
        // To make either would end the process.
        assert!(refusal(&[1 << 40], "w").contains("the tensor w has shape [3]; the network needs [1099511627776]"));
        assert!(refusal(&[1 << 40], "v").contains("the tensor v is missing"));
        store.tensor("w", &[3], Init::Const(0.0), true).map(drop)
    }

    #[test]
    fn counts_may_be_missing() -> Result<()> {
        let (from, into) = (store(1)?, store(2)?);
        let mut tensors = from.state_dict();
        tensors.remove("bn.num_batches_tracked");
        into.load_state_dict(tensors)?;
        assert_eq!(weight(&into)?, weight(&from)?);
        Ok(())
    }

    #[track_caller]
    fn check_refused(change: impl Fn(&mut StateDict), parts: &[&str]) {
        let store = store(5).unwrap();
        let before = weight(&store).unwrap();
        let mut tensors = super::Store::deep_clone(&store).unwrap().state_dict();
        tensors.insert("conv.weight".into(), Tensor::zeros((2, 3, 1, 1), DType::F32, &Device::Cpu).unwrap());
        change(&mut tensors);
        let error = store.load_state_dict(tensors).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
        assert_eq!(weight(&store).unwrap(), before, "a refused file changes nothing");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        check_refused(|t| drop(t.remove("conv.weight")), &["conv.weight is missing", "[2, 3, 1, 1]"]);
        check_refused(
            |t| drop(t.insert("conv.weight".into(), zeros(&[2, 4]))),
            &["conv.weight", "[2, 4]", "[2, 3, 1, 1]"],
        );
        check_refused(|t| drop(t.insert("fc.bias".into(), zeros(&[2]))), &["fc.bias", "left over"]);
        let nan = (zeros(&[3]) + f64::NAN).unwrap();
        check_refused(|t| drop(t.insert("bn.running_mean".into(), nan.clone())), &["bn.running_mean", "NaN"]);
        let whole = zeros(&[3]).to_dtype(DType::U8).unwrap();
        check_refused(|t| drop(t.insert("bn.running_mean".into(), whole.clone())), &["bn.running_mean", "U8", "F32"]);
    }
}
