//! What tests share: golden values of `tests/golden/method.py`, and small networks and tensors whose numbers are formulas.

use candle_core::{DType, Device, Tensor};
use ssdkd_nn::{Network, NetworkSpec, Store};
use ssdkd_ops as ops;
use ssdkd_ops::Value;

#[path = "../../ssdkd-ops/tests/common/place.rs"]
mod place;
pub(crate) use place::{device, on_cuda};

pub(crate) struct Golden(std::collections::HashMap<String, Tensor>);

impl Golden {
    pub(crate) fn load() -> Self {
        let values = candle_core::safetensors::load(place::golden("method.safetensors"), &Device::Cpu);
        Self(values.expect("golden values are part of the repository"))
    }

    pub(crate) fn numbers(&self, name: &str) -> Vec<f32> {
        numbers(self.0.get(name).unwrap_or_else(|| panic!("no golden value {name}")))
    }

    /// Every number within `cpu` ([`tolerance`](place::tolerance)) of the golden one, relative to the largest golden one
    /// (at least 1e-3).
    #[track_caller]
    pub(crate) fn check(&self, name: &str, actual: &[f32], cpu: f32) {
        let tolerance = place::tolerance(cpu);
        let golden = self.numbers(name);
        assert_eq!(golden.len(), actual.len(), "{name}");
        let size = golden.iter().fold(1e-3_f32, |size, x| size.max(x.abs()));
        for (index, (g, a)) in golden.iter().zip(actual).enumerate() {
            assert!((g - a).abs() <= tolerance * size, "{name}[{index}] is {a}, PyTorch says {g}");
        }
    }

    #[track_caller]
    pub(crate) fn check_gradient(&self, name: &str, loss: Value, leaf: &Tensor, tolerance: f32) {
        self.check(name, &numbers(loss.backward().unwrap().get(leaf).unwrap()), tolerance);
    }
}

pub(crate) fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Asserts the same numbers: to the bit on the CPU. What a GPU does a second time may round otherwise.
#[track_caller]
pub(crate) fn assert_repeated(what: &str, actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let size = expected.iter().fold(1e-3_f32, |size, x| size.max(x.abs()));
    let tolerance = if place::on_cuda() { 2e-2 * size } else { 0.0 };
    for (index, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= tolerance, "{what}[{index}] is {a}, it was {e}");
    }
}

/// Returns the integer hash of method.py: numbers in [-scale, scale).
pub(crate) fn formula(seed: u32, shape: &[usize], scale: f64) -> Tensor {
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

/// Gives every tensor the numbers that method.py's `fill` gives it.
pub(crate) fn fill(store: &Store, salt: u32) {
    for (name, var) in store.all().into_iter().filter(|(_, var)| var.dtype() == DType::F32) {
        // FNV-1a
        let seed =
            name.bytes().fold(0x811C_9DC5 ^ salt, |seed, byte| (seed ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let h = formula(seed % 100_003, var.dims(), 1.0);
        let numbers = match name.rsplit('.').next() {
            Some("running_mean") => h * 0.2,
            Some("running_var") => (h * 0.5).and_then(|h| h + 1.0),
            Some("weight") if var.rank() > 1 => {
                let fan_in = var.elem_count() / var.dims()[0];
                h * (6.0 / fan_in as f64).sqrt()
            }
            Some("weight") => (h * 0.2).and_then(|h| h + 1.0),
            _ => h * 0.1,
        };
        ops::copy_assign(&var, &numbers.unwrap()).unwrap();
    }
}

/// Returns a ResNet-8 for four classes of 8×8 images with formula weights.
pub(crate) fn network(salt: u32) -> Network {
    network_of("resnet8", [8, 8], salt)
}

/// Returns the same with a head for their pixels.
pub(crate) fn pixel_network(salt: u32) -> Network {
    network_of("fpn-resnet8", [8, 8], salt)
}

/// Networks of images, and of pixels, of 24×40.
pub(crate) fn oblong_networks(salt: u32) -> [Network; 2] {
    ["resnet8", "fpn-resnet8"].map(|architecture| network_of(architecture, [24, 40], salt))
}

fn network_of(architecture: &str, [height, width]: [usize; 2], salt: u32) -> Network {
    let spec = NetworkSpec {
        architecture: architecture.parse().unwrap(),
        classes: 4,
        input: [3, height, width],
        mean: vec![0.4, 0.5, 0.6],
        std: vec![0.2, 0.25, 0.3],
        preprocessing: ssdkd_nn::Preprocessing::default(),
    };
    let network = Network::create(&spec, 0, &device()).unwrap();
    fill(network.store(), salt);
    network
}

/// Every tensor of `store` that method.py kept under `prefix`.
#[track_caller]
pub(crate) fn check_parameters(golden: &Golden, prefix: &str, store: &Store, tolerance: f32) {
    for (name, var) in store.parameters() {
        golden.check(&format!("{prefix}.{name}"), &numbers(&var), tolerance);
    }
}
