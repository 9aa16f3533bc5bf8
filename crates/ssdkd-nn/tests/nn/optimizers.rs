//! Optimizers and schedules against PyTorch, and what is saved of them.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use ssdkd_nn::{Adam, Optimizer, Sgd, StateDict, schedule};
use ssdkd_ops::{Gradients, Value};

use crate::formula::{Golden, formula, numbers};
use crate::place::device;

const LENGTH: usize = 7;

fn parameter() -> Var {
    Var::from_tensor(&formula(50, &[LENGTH], 1.0)).unwrap()
}

/// As in nn.py: the parameter plus a formula.
fn gradients(parameter: &Var, step: u32) -> Gradients {
    let gradient = (parameter.detach() + formula(51 + step, &[LENGTH], 1.0)).unwrap();
    Value::leaf(parameter).backward_from(gradient).unwrap()
}

/// Returns an optimizer of [`OPTIMIZERS`].
fn create(name: &str, parameter: &Var) -> Box<dyn Optimizer> {
    let parameters = vec![("p".to_string(), parameter.clone())];
    match name {
        "sgd.plain" => Box::new(Sgd::new(parameters, 0.0, 0.0, false).unwrap()),
        "sgd.momentum" => Box::new(Sgd::new(parameters, 0.9, 5e-2, false).unwrap()),
        "sgd.nesterov" => Box::new(Sgd::new(parameters, 0.9, 5e-2, true).unwrap()),
        "adam.generator" => Box::new(Adam::new(parameters, 0.5, 0.999, 0.0).unwrap()),
        "adam.decay" => Box::new(Adam::new(parameters, 0.9, 0.999, 0.1).unwrap()),
        other => panic!("no optimizer {other}"),
    }
}

/// Returns the learning rate of an optimizer of [`OPTIMIZERS`].
fn lr(name: &str) -> f64 {
    if name.starts_with("sgd") { 0.1 } else { 0.05 }
}

const OPTIMIZERS: [&str; 5] = ["sgd.plain", "sgd.momentum", "sgd.nesterov", "adam.generator", "adam.decay"];

#[test]
fn steps_are_those_of_pytorch() {
    let golden = Golden::load();
    for name in OPTIMIZERS {
        let parameter = parameter();
        let mut optimizer = create(name, &parameter);
        for step in 0..5 {
            optimizer.step(&gradients(&parameter, step), lr(name)).unwrap();
        }
        golden.check(&format!("optimizer.{name}"), &numbers(&parameter), 1e-5);
    }
}

#[test]
fn a_restored_optimizer_goes_on_to_the_same_bits() {
    for name in OPTIMIZERS {
        let straight = parameter();
        let mut optimizer = create(name, &straight);
        (0..3).for_each(|step| optimizer.step(&gradients(&straight, step), lr(name)).unwrap());

        // Through bytes, as a run does it, which may be on the CPU still.
        let bytes = optimizer.state_dict().to_safetensors().unwrap();
        let resumed = Var::from_tensor(&straight.copy().unwrap()).unwrap();
        let mut restored = create(name, &resumed);
        restored.load_state_dict(StateDict::from_safetensors(&bytes, &Device::Cpu).unwrap()).unwrap();

        for step in 3..6 {
            optimizer.step(&gradients(&straight, step), lr(name)).unwrap();
            restored.step(&gradients(&resumed, step), lr(name)).unwrap();
        }
        assert_eq!(numbers(&straight), numbers(&resumed), "{name}");
        let mut fresh = create(name, &resumed);
        fresh.step(&gradients(&resumed, 6), lr(name)).unwrap();
        optimizer.step(&gradients(&straight, 6), lr(name)).unwrap();
        assert_eq!(name == "sgd.plain", numbers(&straight) == numbers(&resumed), "{name}: the state matters");
    }
}

#[test]
fn gradients_can_be_given_by_name() {
    let (by_leaf, by_name) = (parameter(), parameter());
    let mut first = Adam::new(vec![("p".into(), by_leaf.clone())], 0.5, 0.999, 0.0).unwrap();
    let mut second = Adam::new(vec![("p".into(), by_name.clone())], 0.5, 0.999, 0.0).unwrap();
    first.step(&gradients(&by_leaf, 0), 0.05).unwrap();
    let summed = BTreeMap::from([("p".to_string(), gradients(&by_name, 0).remove(&by_name).unwrap())]);
    second.step_with(&summed, 0.05).unwrap();
    assert_eq!(numbers(&by_leaf), numbers(&by_name));
    second.step_with(&BTreeMap::new(), 0.05).unwrap();
    assert_eq!(numbers(&by_leaf), numbers(&by_name), "without a gradient a parameter stays");
}

#[track_caller]
fn check_refused(name: &str, change: impl Fn(&mut StateDict), message: &str) {
    let parameter = parameter();
    let mut optimizer = create(name, &parameter);
    optimizer.step(&gradients(&parameter, 0), lr(name)).unwrap();
    let memory = |state: StateDict| state.values().map(ToString::to_string).collect::<Vec<_>>();
    let before = memory(optimizer.state_dict());
    let mut state = create(name, &parameter).state_dict();
    change(&mut state);
    let error = optimizer.load_state_dict(state).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
    assert_eq!(memory(optimizer.state_dict()), before, "a refused state changes nothing");
}

#[test]
fn a_state_of_something_else_is_refused() {
    let zeros = |length: usize| Tensor::zeros(length, DType::F32, &device()).unwrap();
    check_refused("sgd.momentum", |s| drop(s.remove("p.velocity")), "lacks p.velocity");
    check_refused(
        "sgd.momentum",
        |s| drop(s.insert("q.velocity".into(), zeros(7))),
        "q.velocity, which no parameter needs",
    );
    check_refused("sgd.momentum", |s| drop(s.insert("p.velocity".into(), zeros(8))), "[8]");
    check_refused("adam.decay", |s| drop(s.remove("p.second")), "lacks p.second");
    check_refused("adam.decay", |s| drop(s.remove("steps")), "lacks steps");
    check_refused("adam.decay", |s| drop(s.insert("steps".into(), zeros(1))), "no number of steps");
    let negative = Tensor::new(-1_i64, &device()).unwrap();
    check_refused("adam.decay", |s| drop(s.insert("steps".into(), negative.clone())), "no number of steps");
}

#[test]
fn learning_rates_are_those_of_pytorch() {
    let golden = Golden::load();
    let check = |name: &str, rate: &dyn Fn(u64) -> f64| {
        let found = (0..40).map(|step| rate(step) as f32).collect::<Vec<_>>();
        golden.check(&format!("schedule.{name}"), &found, 1e-5);
    };
    check("cosine", &|step| schedule::cosine(0.2, 2e-4, step, 40));
    check("milestones", &|step| schedule::milestones(0.2, 0.1, &[10, 25], step));
    check("one_cycle", &|step| schedule::one_cycle(0.2, step, 41));
    check("warm_up", &|step| schedule::warm_up(0.2, step, 8));
}
