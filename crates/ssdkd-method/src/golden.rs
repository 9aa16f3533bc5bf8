//! The method against PyTorch: `tests/golden/method.py` computes the same formulas with automatic gradients.

use candle_core::{DType, Device, Tensor};
use ssdkd_nn::{Names, Network, NetworkSpec, Store, Tap};
use ssdkd_ops as ops;
use ssdkd_ops::Value;

use crate::distillation::{disagreement, distillation_loss};
use crate::inversion_loss::{BatchNormMomentum, adversarial_loss, task_loss};
use crate::modulation::{Diversity, Modulation, ModulationSettings};

#[path = "../../ssdkd-ops/tests/common/place.rs"]
mod place;
pub(crate) use place::device;

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
    fn check_gradient(&self, name: &str, loss: Value, leaf: &Tensor, tolerance: f32) {
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

/// The integer hash of method.py: numbers in [-scale, scale).
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

/// A ResNet-8 for four classes of 8×8 images with formula weights.
pub(crate) fn network(salt: u32) -> Network {
    network_of("resnet8", salt)
}

/// The same with a head for their pixels.
pub(crate) fn pixel_network(salt: u32) -> Network {
    network_of("fpn-resnet8", salt)
}

fn network_of(architecture: &str, salt: u32) -> Network {
    let spec = NetworkSpec {
        architecture: architecture.parse().unwrap(),
        names: Names::default(),
        classes: 4,
        input: [3, 8, 8],
        mean: vec![0.4, 0.5, 0.6],
        std: vec![0.2, 0.25, 0.3],
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

fn taps(layers: &[Value]) -> Vec<Tap> {
    let running = [(3, 4, 2), (5, 6, 5)].map(|(mean, variance, channels)| {
        (formula(mean, &[channels], 1.0), (formula(variance, &[channels], 1.0) + 1.5).unwrap())
    });
    let tap = |(x, (running_mean, running_variance))| {
        let (mean, variance) = ops::channel_moments(x).unwrap();
        Tap { mean, variance, running_mean, running_variance }
    };
    layers.iter().zip(running).map(tap).collect()
}

#[test]
fn batch_norm_statistics_with_and_without_momentum() {
    let golden = Golden::load();
    let inputs = [formula(1, &[3, 4, 4, 2], 1.0), formula(2, &[3, 2, 2, 5], 2.0)];
    let halves = inputs.clone().map(|x| ((x * 0.5).unwrap() + 0.25).unwrap());
    let mut momentum = BatchNormMomentum::new(0.9);
    for (name, layers) in [("first", &inputs), ("second", &halves)] {
        let taps = taps(&layers.each_ref().map(Value::leaf));
        let loss = momentum.loss(&taps).unwrap();
        golden.check(&format!("bn.{name}.loss"), &[loss.scalar().unwrap()], 1e-6);
        let gradients = loss.backward().unwrap();
        for (index, layer) in layers.iter().enumerate() {
            golden.check(&format!("bn.{name}.grad.{index}"), &numbers(gradients.get(layer).unwrap()), 1e-5);
        }
        momentum.update(taps.iter().map(crate::inversion_loss::statistics).collect()).unwrap();
    }
    let third = taps(&inputs.each_ref().map(Value::leaf));
    golden.check("bn.third.loss", &[momentum.loss(&third).unwrap().scalar().unwrap()], 1e-6);

    // Restored averages are the same averages; rate 0 has none.
    let mut restored = BatchNormMomentum::new(0.9);
    restored.load_state(&momentum.state_tensors()).unwrap();
    let loss = |momentum: &BatchNormMomentum| [momentum.loss(&third).unwrap().scalar().unwrap()];
    assert_repeated("loss of the restored averages", &loss(&restored), &loss(&momentum));
    let mut without = BatchNormMomentum::new(0.0);
    without.update(third.iter().map(crate::inversion_loss::statistics).collect()).unwrap();
    assert!(without.state_tensors().is_empty());
    golden.check("bn.first.loss", &[without.loss(&third).unwrap().scalar().unwrap()], 1e-6);
    let error = momentum.loss(&third[..1]).err().unwrap();
    assert!(error.to_string().contains("another teacher"), "{error}");
}

fn logits() -> (Tensor, Tensor) {
    (formula(10, &[6, 4], 3.0), formula(11, &[6, 4], 3.0))
}

fn modulation(diversity: Diversity, gamma: f64) -> Modulation {
    Modulation::new(ModulationSettings { diversity, gamma }, &[5, 0, 12, 3])
}

#[test]
fn phi_in_its_three_forms() {
    let golden = Golden::load();
    for (name, diversity, gamma) in
        [("share", Diversity::Share, 1.0), ("ratio", Diversity::Ratio, 2.0), ("off", Diversity::Off, 0.5)]
    {
        golden.check(&format!("phi.{name}"), &modulation(diversity, gamma).weights(&logits().0).unwrap(), 1e-5);
    }
}

#[test]
fn task_term_with_phi_as_a_constant() {
    let golden = Golden::load();
    let (teacher, _) = logits();
    for (name, targets) in [("targets", Some(&[0, 3, 2, 2, 1, 0][..])), ("predicted", None)] {
        let loss = task_loss(&Value::leaf(&teacher), targets, &modulation(Diversity::Share, 1.0)).unwrap();
        golden.check(&format!("task.{name}.loss"), &[loss.scalar().unwrap()], 1e-6);
        golden.check_gradient(&format!("task.{name}.grad"), loss, &teacher, 1e-5);
    }
}

#[test]
fn phi_of_one_is_the_baseline_to_the_bit() {
    let (teacher, _) = logits();
    let targets = [0, 3, 2, 2, 1, 0];
    let off = Modulation::new(ModulationSettings::OFF, &[5, 0, 12, 3]);
    let modulated = task_loss(&Value::leaf(&teacher), Some(&targets), &off).unwrap();
    let baseline = ops::cross_entropy(&Value::leaf(&teacher), &targets, None).unwrap();
    assert_repeated("loss", &[modulated.scalar().unwrap()], &[baseline.scalar().unwrap()]);
    let gradient = |loss: Value| numbers(loss.backward().unwrap().get(&teacher).unwrap());
    assert_repeated("gradient", &gradient(modulated), &gradient(baseline));
}

#[test]
fn adversarial_term_pulls_on_both_networks() {
    let golden = Golden::load();
    let (teacher, student) = logits();
    for (name, masked) in [("plain", false), ("masked", true)] {
        let loss = || adversarial_loss(&Value::leaf(&teacher), &Value::leaf(&student), masked).unwrap();
        golden.check(&format!("adversarial.{name}.loss"), &[loss().scalar().unwrap()], 1e-6);
        golden.check_gradient(&format!("adversarial.{name}.grad.teacher"), loss(), &teacher, 1e-5);
        golden.check_gradient(&format!("adversarial.{name}.grad.student"), loss(), &student, 1e-5);
    }
}

#[test]
fn student_loss_at_temperature_twenty_with_weights() {
    let golden = Golden::load();
    let (teacher, student) = logits();
    let weights = numbers(&(formula(12, &[6], 0.5) + 0.5).unwrap());
    let loss = distillation_loss(&Value::leaf(&teacher), &Value::leaf(&student), 20.0, Some(&weights)).unwrap();
    golden.check("student.loss", &[loss.scalar().unwrap()], 1e-5);
    let gradients = loss.backward().unwrap();
    golden.check("student.grad", &numbers(gradients.get(&student).unwrap()), 1e-4);
    assert!(gradients.get(&teacher).is_none(), "the teacher is not taught");
    golden.check("student.disagreement", &disagreement(&teacher, &student, 1).unwrap(), 1e-5);
}
