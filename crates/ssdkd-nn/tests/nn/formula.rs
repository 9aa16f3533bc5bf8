//! Numbers that `tests/golden/formula.py` makes too, and the comparison with what it found.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use ssdkd_nn::Store;

use crate::place::{device, golden, tolerance};

/// An integer hash of (seed, position): numbers in [-scale, scale).
pub fn formula(seed: u32, shape: &[usize], scale: f64) -> Tensor {
    let number = |position: u32| {
        let mut h = position.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503).wrapping_add(12_345));
        h ^= h >> 15;
        h = h.wrapping_mul(2_246_822_519);
        h ^= h >> 13;
        ((f64::from(h) / 4_294_967_296.0 - 0.5) * (2.0 * scale)) as f32
    };
    let count = shape.iter().product::<usize>() as u32;
    Tensor::from_vec((0..count).map(number).collect::<Vec<_>>(), shape, &device()).unwrap()
}

/// FNV-1a.
pub fn hash_of(text: &str) -> u32 {
    text.bytes().fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A formula weight; its seed is from the name, so a name that differs from PyTorch's shows in every number.
pub fn filled(name: &str, shape: &[usize]) -> Tensor {
    let inputs = shape.iter().skip(1).product::<usize>();
    let (factor, offset) = match name.rsplit('.').next() {
        Some("running_mean") => (0.2, 0.0),
        Some("running_var") => (0.5, 1.0),
        _ if shape.len() > 1 => ((6.0 / inputs as f64).sqrt(), 0.0),
        Some("weight") => (0.2, 1.0),
        _ => (0.1, 0.0),
    };
    formula(hash_of(name) % 100_003, shape, 1.0).affine(factor, offset).unwrap()
}

/// Gives every tensor its formula weights.
pub fn fill(store: &Store) {
    for (name, var) in store.all().into_iter().filter(|(_, var)| var.dtype() == DType::F32) {
        var.set(&filled(&name, var.dims()).to_device(var.device()).unwrap()).unwrap();
    }
}

pub fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The norm and the first four entries, as the golden values keep them.
pub fn summary(tensor: &Tensor) -> [f32; 5] {
    let numbers = numbers(tensor);
    let norm = numbers.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() as f32;
    let entry = |at: usize| numbers.get(at).copied().unwrap_or(0.0);
    [norm, entry(0), entry(1), entry(2), entry(3)]
}

pub struct Golden(HashMap<String, Tensor>);

impl Golden {
    pub fn load() -> Self {
        Self::read("nn.safetensors")
    }

    pub fn read(file: &str) -> Self {
        let values = candle_core::safetensors::load(golden(file), &Device::Cpu);
        Self(values.expect("golden values are part of the repository"))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn tensor(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no golden value {name}"))
    }

    /// Every number within `cpu` ([`tolerance`]) of PyTorch's, relative to the largest of them.
    #[track_caller]
    pub fn check(&self, name: &str, found: &[f32], cpu: f32) {
        close(name, found, &numbers(self.tensor(name)), cpu);
    }

    /// The same row by row, for summaries of tensors of different sizes. Where PyTorch's norm is zero but for rounding, as
    /// it is for a bias that a batch norm takes out again, ours has to be too.
    #[track_caller]
    pub fn check_rows(&self, name: &str, found: &[(String, [f32; 5])], cpu: f32) {
        let expected = self.tensor(name).to_vec2::<f32>().unwrap();
        assert_eq!(expected.len(), found.len(), "{name}");
        for ((row, found), expected) in found.iter().zip(expected) {
            if expected[0] < 1e-12 {
                assert!(found[0] < tolerance(1e-4), "{name}: {row} has norm {}, PyTorch says 0", found[0]);
            } else {
                close(&format!("{name}: {row}"), found, &expected, cpu);
            }
        }
    }
}

#[track_caller]
pub fn close(name: &str, found: &[f32], expected: &[f32], cpu: f32) {
    let tolerance = tolerance(cpu);
    assert_eq!(expected.len(), found.len(), "{name}");
    let size = expected.iter().fold(1e-6_f32, |size, x| size.max(x.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance * size, "{name}[{at}] is {found}, not {expected}");
    }
}
