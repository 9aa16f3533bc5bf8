//! Passes of a network against golden values: evaluation, inversion, and a step of training.

use candle_core::{DType, Tensor, Var};
use ssdkd_nn::{Mode, Network, Store};
use ssdkd_ops::{self as ops, Gradients, Value};

use crate::formula::{Golden, numbers, summary};

/// A network with formula weights, and what is fed into it.
pub struct Case<'a> {
    pub golden: &'a Golden,
    /// What the names of its golden values begin with.
    pub name: &'a str,
    pub network: &'a Network,
    /// (B, H, W, C), normalized.
    pub images: Tensor,
    /// The class of each image, and of all of its pixels.
    pub targets: &'a [u32],
    /// Whether the golden values are summaries of the features, and about a hundred rows of the logits.
    pub is_short: bool,
}

pub fn gradient_rows(store: &Store, gradients: &Gradients) -> Vec<(String, [f32; 5])> {
    let row = |(name, var): (String, Var)| {
        let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
        assert_eq!(gradient.dims(), var.dims(), "{name}");
        (name, summary(gradient))
    };
    store.parameters().into_iter().map(row).collect()
}

pub fn buffer_rows(store: &Store) -> Vec<(String, [f32; 5])> {
    let floats = store.buffers().into_iter().filter(|(_, var)| var.dtype() == DType::F32);
    floats.map(|(name, var)| (name, summary(&var))).collect()
}

fn batch_counts(store: &Store) -> Vec<i64> {
    let counts = store.buffers().into_iter().filter(|(_, var)| var.dtype() == DType::I64);
    counts.map(|(_, var)| var.to_scalar().unwrap()).collect()
}

impl Case<'_> {
    fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    fn targets(&self, logits: &Value) -> Vec<u32> {
        let rows = logits.dims()[0] / self.targets.len();
        self.targets.iter().flat_map(|&target| std::iter::repeat_n(target, rows)).collect()
    }

    #[track_caller]
    fn check_logits(&self, part: &str, logits: &Value, cpu: f32) {
        let (rows, classes) = logits.tensor().dims2().unwrap();
        let step = if self.is_short { 1 + rows / 100 } else { 1 };
        let all = numbers(logits.tensor());
        let kept = all.chunks_exact(classes).step_by(step).flatten().copied().collect::<Vec<_>>();
        self.golden.check(&self.name(part), &kept, cpu);
    }

    #[track_caller]
    pub fn check_evaluation(&self) {
        let output = self.network.forward(&Value::constant(self.images.clone()), Mode::Eval).unwrap();
        assert!(output.taps.is_empty() && !output.logits.wants_gradient());
        let features = output.features.tensor();
        let features = if self.is_short {
            (0..self.targets.len()).flat_map(|row| summary(&features.get(row).unwrap())).collect()
        } else {
            numbers(features)
        };
        self.golden.check(&self.name("eval.features"), &features, 2e-5);
        self.check_logits("eval.logits", &output.logits, 5e-5);
    }

    /// The gradient into the images through network and taps: what inversion follows.
    #[track_caller]
    pub fn check_inversion(&self) {
        let output = self.network.forward(&Value::leaf(&self.images), Mode::Tapped).unwrap();
        self.check_logits("eval.logits", &output.logits, 5e-5);
        let distance = |tap: &ssdkd_nn::Tap| {
            let mean = ops::l2_distance(&tap.mean, &tap.running_mean).unwrap();
            let variance = ops::l2_distance(&tap.variance, &tap.running_variance).unwrap();
            ops::add(&mean, &variance).unwrap()
        };
        let distances = output.taps.iter().map(distance).collect::<Vec<_>>();
        let mut sorted = distances.iter().map(|distance| distance.scalar().unwrap()).collect::<Vec<_>>();
        sorted.sort_by(f32::total_cmp);
        self.golden.check(&self.name("taps"), &sorted, 2e-5);
        let task = ops::cross_entropy(&output.logits, &self.targets(&output.logits), None).unwrap();
        let mut terms = distances.iter().map(|distance| (0.1, distance)).collect::<Vec<_>>();
        terms.push((1.0, &task));
        let gradients = ops::weighted_sum(&terms).unwrap().backward().unwrap();
        self.golden.check(&self.name("inverted"), &summary(gradients.get(&self.images).unwrap()), 2e-4);
        assert_eq!(gradients.len(), 1, "a network that is looked through gets no gradients");
        assert!(batch_counts(self.network.store()).iter().all(|&count| count == 0));
    }

    #[track_caller]
    pub fn check_training(&self, of_gradients: f32) {
        let store = self.network.store();
        // A frozen network with batch statistics gives the logits of training, and stays as it is.
        let before = buffer_rows(store);
        let frozen = self.network.forward(&Value::constant(self.images.clone()), Mode::TrainFrozen).unwrap();
        self.check_logits("train.logits", &frozen.logits, 1e-4);
        assert!(!frozen.logits.wants_gradient());
        assert_eq!(buffer_rows(store), before);

        let output = self.network.forward(&Value::leaf(&self.images), Mode::Train).unwrap();
        self.check_logits("train.logits", &output.logits, 1e-4);
        let loss = ops::cross_entropy(&output.logits, &self.targets(&output.logits), None).unwrap();
        self.golden.check(&self.name("train.loss"), &[loss.scalar().unwrap()], of_gradients / 50.0);
        let gradients = loss.backward().unwrap();
        self.golden.check(&self.name("train.images"), &summary(gradients.get(&self.images).unwrap()), of_gradients);
        self.golden.check_rows(&self.name("train.gradients"), &gradient_rows(store, &gradients), of_gradients);
        self.golden.check_rows(&self.name("train.buffers"), &buffer_rows(store), 2e-5);
        assert!(batch_counts(store).iter().all(|&count| count == 1));
    }
}
