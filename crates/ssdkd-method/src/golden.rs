//! The method against PyTorch: `tests/golden/method.py` computes the same formulas with automatic gradients.

use candle_core::Tensor;
use ssdkd_nn::Tap;
use ssdkd_ops as ops;
use ssdkd_ops::Value;

use crate::distillation::{disagreement, distillation_loss};
use crate::fixtures::{Golden, assert_repeated, device, formula, numbers};
use crate::inversion::batch_norm::statistics;
use crate::inversion::loss::{adversarial_loss, class_loss};
use crate::inversion::{BatchNormForm, BatchNormMomentum};
use crate::modulation::{Diversity, Modulation, ModulationSettings};

/// Returns the taps of two layers. In the relative form the first channel of each is dead.
fn taps(layers: &[Value], form: BatchNormForm) -> Vec<Tap> {
    let running = [(3, 4, 2), (5, 6, 5)].map(|(mean, variance, channels)| {
        let variance = (formula(variance, &[channels], 1.0) + 1.5).unwrap();
        let mut alive = vec![1.0_f32; channels];
        if form == BatchNormForm::Relative {
            alive[0] = 1e-5;
        }
        let alive = Tensor::from_vec(alive, channels, variance.device()).unwrap();
        (formula(mean, &[channels], 1.0), (variance * alive).unwrap())
    });
    let tap = |(x, (running_mean, running_variance))| {
        let (mean, variance) = ops::channel_moments(x).unwrap();
        Tap { mean, variance, running_mean, running_variance }
    };
    layers.iter().zip(running).map(tap).collect()
}

#[test]
fn batch_norm_statistics_with_and_without_momentum() {
    check_batch_norm("bn", BatchNormForm::Absolute);
    check_batch_norm("bn.relative", BatchNormForm::Relative);
}

#[track_caller]
fn check_batch_norm(prefix: &str, form: BatchNormForm) {
    let golden = Golden::load();
    let inputs = [formula(1, &[3, 4, 4, 2], 1.0), formula(2, &[3, 2, 2, 5], 2.0)];
    let halves = inputs.clone().map(|x| ((x * 0.5).unwrap() + 0.25).unwrap());
    let mut momentum = BatchNormMomentum::new(form, 0.9);
    for (name, layers) in [("first", &inputs), ("second", &halves)] {
        let taps = taps(&layers.each_ref().map(Value::leaf), form);
        let loss = momentum.loss(&taps).unwrap();
        golden.check(&format!("{prefix}.{name}.loss"), &[loss.scalar().unwrap()], 1e-6);
        let gradients = loss.backward().unwrap();
        for (index, layer) in layers.iter().enumerate() {
            golden.check(&format!("{prefix}.{name}.grad.{index}"), &numbers(gradients.get(layer).unwrap()), 1e-5);
        }
        momentum.update(taps.iter().map(statistics).collect()).unwrap();
    }
    let third = taps(&inputs.each_ref().map(Value::leaf), form);
    golden.check(&format!("{prefix}.third.loss"), &[momentum.loss(&third).unwrap().scalar().unwrap()], 1e-6);

    // Restored averages are the same averages; rate 0 has none.
    let mut restored = BatchNormMomentum::new(form, 0.9);
    restored.load_state_dict(momentum.state_dict(), &device()).unwrap();
    let loss = |momentum: &BatchNormMomentum| [momentum.loss(&third).unwrap().scalar().unwrap()];
    assert_repeated("loss of the restored averages", &loss(&restored), &loss(&momentum));
    let mut without = BatchNormMomentum::new(form, 0.0);
    without.update(third.iter().map(statistics).collect()).unwrap();
    assert!(without.state_dict().is_empty());
    golden.check(&format!("{prefix}.first.loss"), &[without.loss(&third).unwrap().scalar().unwrap()], 1e-6);
    let error = momentum.loss(&third[..1]).err().unwrap();
    assert!(error.to_string().contains("another teacher"), "{error}");
}

fn logits() -> (Tensor, Tensor) {
    (formula(10, &[6, 4], 3.0), formula(11, &[6, 4], 3.0))
}

fn modulation(diversity: Diversity, gamma: f64) -> Modulation {
    Modulation::new(ModulationSettings { diversity, gamma }, &[5, 0, 12, 3])
}

fn phi(modulation: &Modulation, logits: &Tensor) -> Tensor {
    let diversities = modulation.diversities(logits.dims()[1]);
    modulation.weights(logits, &Tensor::new(diversities, logits.device()).unwrap()).unwrap()
}

#[test]
fn phi_in_its_three_forms() {
    let golden = Golden::load();
    for (name, diversity, gamma) in
        [("share", Diversity::Share, 1.0), ("ratio", Diversity::Ratio, 2.0), ("off", Diversity::Off, 0.5)]
    {
        golden.check(&format!("phi.{name}"), &numbers(&phi(&modulation(diversity, gamma), &logits().0)), 1e-5);
    }
}

#[test]
fn task_term_with_phi_as_a_constant() {
    let golden = Golden::load();
    let (teacher, _) = logits();
    for (name, targets) in [("targets", Some(&[0_u32, 3, 2, 2, 1, 0][..])), ("predicted", None)] {
        let targets = targets.map(|targets| Tensor::new(targets, teacher.device()).unwrap());
        let phi = phi(&modulation(Diversity::Share, 1.0), &teacher);
        let loss = class_loss(&Value::leaf(&teacher), targets.as_ref(), &phi).unwrap();
        golden.check(&format!("task.{name}.loss"), &[loss.scalar().unwrap()], 1e-6);
        golden.check_gradient(&format!("task.{name}.grad"), loss, &teacher, 1e-5);
    }
}

#[test]
fn phi_of_one_is_the_baseline_to_the_bit() {
    let (teacher, _) = logits();
    let targets = [0, 3, 2, 2, 1, 0];
    let off = Modulation::new(ModulationSettings::OFF, &[5, 0, 12, 3]);
    let on_device = Tensor::new(&targets, teacher.device()).unwrap();
    let modulated = class_loss(&Value::leaf(&teacher), Some(&on_device), &phi(&off, &teacher)).unwrap();
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
    let weights = (formula(12, &[6], 0.5) + 0.5).unwrap();
    let loss = distillation_loss(&Value::leaf(&teacher), &Value::leaf(&student), 20.0, Some(&weights)).unwrap();
    golden.check("student.loss", &[loss.scalar().unwrap()], 1e-5);
    let gradients = loss.backward().unwrap();
    golden.check("student.grad", &numbers(gradients.get(&student).unwrap()), 1e-4);
    assert!(gradients.get(&teacher).is_none(), "the teacher is not taught");
    golden.check("student.disagreement", &disagreement(&teacher, &student, 1).unwrap(), 1e-5);
}
