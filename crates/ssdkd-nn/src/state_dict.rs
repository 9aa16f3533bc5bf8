//! Tensors by name, in parts: what networks, optimizers and generators save and resume from.

use std::collections::BTreeMap;
use std::collections::btree_map::IntoIter;
use std::ops::{Deref, DerefMut};

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::weights::{from_safetensors_bytes, to_safetensors_bytes};

/// Tensors by name, as PyTorch's `state_dict`. The tensors share their numbers with what they were taken from.
///
/// Parts nest: the tensor `velocity` of the part `optimizer` has the name `optimizer.velocity`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use ssdkd_nn::StateDict;
///
/// let network = StateDict::from_iter([("weight".to_string(), Tensor::new(1_f32, &Device::Cpu)?)]);
/// let mut state = StateDict::default().with("network", network);
/// assert!(state.contains_key("network.weight"));
/// assert!(state.take("network").contains_key("weight"));
/// state.finish("the checkpoint")?;
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct StateDict(BTreeMap<String, Tensor>);

impl StateDict {
    /// Reads a safetensors file onto `device`.
    ///
    /// # Errors
    /// If the bytes are no such file, or are cut short.
    pub fn from_safetensors(bytes: &[u8], device: &Device) -> Result<Self> {
        from_safetensors_bytes(bytes, device).map(Self)
    }

    /// Returns the bytes of a safetensors file: the same for the same tensors.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        to_safetensors_bytes(&self.0, &BTreeMap::new())
    }

    /// As [`to_safetensors`](Self::to_safetensors), with texts for the reader, such as `format = pt`, which some programs ask for.
    pub fn to_safetensors_with(&self, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
        to_safetensors_bytes(&self.0, metadata)
    }

    /// Adds the tensors of a part.
    #[must_use]
    pub fn with(mut self, part: &str, tensors: Self) -> Self {
        self.extend(tensors.into_iter().map(|(name, tensor)| (format!("{part}.{name}"), tensor)));
        self
    }

    /// Removes a part and returns its tensors; none if there is no such part.
    #[must_use]
    pub fn take(&mut self, part: &str) -> Self {
        let prefix = format!("{part}.");
        let (inside, others) = std::mem::take(&mut self.0).into_iter().partition(|(name, _)| name.starts_with(&prefix));
        self.0 = others;
        let inside: BTreeMap<_, _> = inside;
        inside.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_string(), tensor)).collect()
    }

    /// Returns the mean of each tensor over `states`, computed in f64. Numbers that are not f32, such as counts, are those of the last.
    ///
    /// # Errors
    /// If there are no states, if one of them is an error, or if names or shapes differ.
    pub fn mean<E: From<candle_core::Error>>(
        states: impl IntoIterator<Item = std::result::Result<Self, E>>,
    ) -> std::result::Result<Self, E> {
        let mut states = states.into_iter();
        let no_states = || E::from(candle_core::Error::Msg("the mean of no states".into()));
        let mut last = states.next().ok_or_else(no_states)??;
        let in_f64 =
            |state: &Self| state.values().map(|tensor| tensor.to_dtype(DType::F64)).collect::<Result<Vec<_>>>();
        let mut sums = in_f64(&last)?;
        let mut count = 1_u32;
        for state in states {
            let state = state?;
            if !state.keys().eq(last.keys()) {
                return Err(E::from(candle_core::Error::Msg(
                    "the mean of states whose tensors have other names".into(),
                )));
            }
            for (sum, tensor) in sums.iter_mut().zip(in_f64(&state)?) {
                *sum = (&*sum + tensor)?;
            }
            (last, count) = (state, count + 1);
        }
        for (tensor, sum) in last.values_mut().zip(sums).filter(|(tensor, _)| tensor.dtype() == DType::F32) {
            *tensor = (sum / f64::from(count))?.to_dtype(DType::F32)?;
        }
        Ok(last)
    }

    /// Ends the reading of what `holder` holds, such as "the checkpoint".
    ///
    /// # Errors
    /// If a tensor is left that nobody took.
    pub fn finish(self, holder: &str) -> Result<()> {
        match self.0.first_key_value() {
            Some((name, _)) => bail!("{holder} holds an unknown tensor, {name}"),
            None => Ok(()),
        }
    }
}

impl Deref for StateDict {
    type Target = BTreeMap<String, Tensor>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for StateDict {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl From<BTreeMap<String, Tensor>> for StateDict {
    fn from(tensors: BTreeMap<String, Tensor>) -> Self {
        Self(tensors)
    }
}

impl From<StateDict> for BTreeMap<String, Tensor> {
    fn from(state: StateDict) -> Self {
        state.0
    }
}

impl FromIterator<(String, Tensor)> for StateDict {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        Self(tensors.into_iter().collect())
    }
}

impl IntoIterator for StateDict {
    type Item = (String, Tensor);
    type IntoIter = IntoIter<String, Tensor>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(names: &[&str]) -> StateDict {
        let tensor = |(name, number): (&&str, f32)| (name.to_string(), Tensor::new(number, &Device::Cpu).unwrap());
        names.iter().zip((0..).map(|number| number as f32)).map(tensor).collect()
    }

    fn names(state: &StateDict) -> Vec<&str> {
        state.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_part_comes_out_as_it_went_in() {
        let mut whole = state(&["steps"]).with("a", state(&["x", "y.z"])).with("ab", state(&["x"]));
        assert_eq!(names(&whole), ["a.x", "a.y.z", "ab.x", "steps"]);
        assert_eq!(names(&whole.take("a")), ["x", "y.z"]);
        assert_eq!(names(&whole), ["ab.x", "steps"]);
        assert_eq!(names(&whole.take("none")), [""; 0]);
    }

    #[test]
    fn a_mean_is_of_each_tensor() {
        let of = |numbers: [f32; 2], count: u32| {
            let tensors = [Tensor::new(&numbers, &Device::Cpu).unwrap(), Tensor::new(count, &Device::Cpu).unwrap()];
            Ok(["weight", "count"].map(String::from).into_iter().zip(tensors).collect::<StateDict>())
        };
        let mean =
            StateDict::mean::<candle_core::Error>([of([1.0, 4.0], 5), of([2.0, 0.0], 6), of([6.0, 2.0], 7)]).unwrap();
        assert_eq!(mean["weight"].to_vec1::<f32>().unwrap(), [3.0, 2.0]);
        assert_eq!(mean["count"].to_scalar::<u32>().unwrap(), 7);
    }

    #[test]
    fn a_mean_refuses_states_that_differ() {
        let mean = |states: Vec<StateDict>| StateDict::mean(states.into_iter().map(candle_core::Result::Ok));
        let scalars = state(&["x"]);
        let pair = StateDict::from_iter([("x".to_owned(), Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap())]);
        assert!(mean(vec![]).unwrap_err().to_string().contains("no states"));
        assert!(mean(vec![scalars.clone(), state(&["y"])]).unwrap_err().to_string().contains("other names"));
        assert!(mean(vec![scalars, pair]).is_err());
    }

    #[test]
    fn parts_nest() {
        let mut whole = StateDict::default().with("trainer", StateDict::default().with("optimizer", state(&["x"])));
        assert_eq!(names(&whole), ["trainer.optimizer.x"]);
        assert_eq!(names(&whole.take("trainer").take("optimizer")), ["x"]);
    }

    #[test]
    fn what_nobody_took_is_named() {
        let mut whole = state(&["other"]).with("a", state(&["x"]));
        let _taken = whole.take("a");
        let error = whole.finish("the checkpoint").unwrap_err().to_string();
        assert!(error.starts_with("the checkpoint holds an unknown tensor, other"), "{error}");
        StateDict::default().finish("the checkpoint").unwrap();
    }

    #[test]
    fn a_file_gives_back_the_same_tensors() {
        let bytes = state(&["a", "b"]).to_safetensors().unwrap();
        let read = StateDict::from_safetensors(&bytes, &Device::Cpu).unwrap();
        assert_eq!(names(&read), ["a", "b"]);
        assert_eq!(read["b"].to_scalar::<f32>().unwrap(), 1.0);
    }
}
