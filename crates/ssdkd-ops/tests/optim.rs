//! Optimizer steps against PyTorch's, and running averages.

mod common;

use candle_core::{Result, Tensor};
use common::{Golden, assert_close, assert_refuses, assert_same, check_same_bytes, flat, numbers, tensor};
use ssdkd_ops::{
    AdamSlot, SgdSlot, adam_rates, adam_step, adam_steps, adam_steps_at, copy_assign, lerp_assign, sgd_step, sgd_steps,
    sgd_steps_at,
};

#[test]
fn sgd_agrees_with_pytorch() {
    let golden = Golden::load();
    for (case, momentum, weight_decay, nesterov) in
        [("sgd", 0.0, 0.0, false), ("sgd_momentum", 0.9, 0.05, false), ("sgd_nesterov", 0.9, 0.05, true)]
    {
        let parameter = golden.get("optim", "start").copy().unwrap();
        let velocity = parameter.zeros_like().unwrap();
        for step in 1..=3 {
            let grad = golden.get("optim", &format!("grad_{step}"));
            sgd_step(&parameter, &grad, &velocity, 0.1, momentum, weight_decay, nesterov).unwrap();
            assert_close(case, &parameter, &golden.get("optim", &format!("{case}_{step}")), 1e-6);
        }
    }
}

#[test]
fn adam_agrees_with_pytorch() {
    let golden = Golden::load();
    for (case, beta1, beta2, eps, weight_decay) in
        [("adam", 0.5, 0.999, 1e-8, 0.0), ("adam_decay", 0.9, 0.99, 1e-3, 0.05)]
    {
        let parameter = golden.get("optim", "start").copy().unwrap();
        let (m, v) = (parameter.zeros_like().unwrap(), parameter.zeros_like().unwrap());
        for step in 1..=3 {
            let grad = golden.get("optim", &format!("grad_{step}"));
            adam_step(&parameter, &grad, &m, &v, step, 0.01, beta1, beta2, eps, weight_decay).unwrap();
            assert_close(case, &parameter, &golden.get("optim", &format!("{case}_{step}")), 1e-6);
        }
    }
}

#[test]
fn rates_in_a_tensor_are_those_of_the_program() {
    let (start, grad) = (numbers(700, 1), numbers(700, 2));
    let state = || [start.copy().unwrap(), start.zeros_like().unwrap(), start.zeros_like().unwrap()];
    let ([p, m, v], [q, n, w]) = (state(), state());
    for step in 1..4 {
        let rate = 0.1 / f64::from(step);
        sgd_steps(&[SgdSlot { parameter: &p, grad: &grad, velocity: &m }], rate, 0.9, 1e-4, true).unwrap();
        let rates = tensor(&[rate as f32], 1);
        sgd_steps_at(&[SgdSlot { parameter: &q, grad: &grad, velocity: &n }], &rates, 0.9, 1e-4, true).unwrap();
        assert_same("SGD", &q, &p);
    }
    let m = m.zeros_like().unwrap();
    let n = n.zeros_like().unwrap();
    for step in 1..4 {
        let rate = 0.1 / step as f64;
        let slots = [AdamSlot { parameter: &p, grad: &grad, m: &m, v: &v }];
        adam_steps(&slots, step, rate, 0.9, 0.999, 1e-8, 1e-4).unwrap();
        let slots = [AdamSlot { parameter: &q, grad: &grad, m: &n, v: &w }];
        let rates = tensor(&adam_rates(step, rate, 0.9, 0.999), 2);
        adam_steps_at(&slots, &rates, 0.9, 0.999, 1e-8, 1e-4).unwrap();
        assert_same("Adam", &q, &p);
    }
    assert_refuses(sgd_steps_at(&[], &numbers(2, 1), 0.9, 0.0, false), &["sgd_step", "has 2 numbers, not 1"]);
}

#[test]
fn what_is_written_is_seen_by_all_who_share_the_storage() {
    let parameter = candle_core::Var::from_tensor(&numbers((4, 3), 1)).unwrap();
    let view = parameter.as_tensor().narrow(0, 1, 2).unwrap();
    let (zeros, twos) =
        (Tensor::zeros_like(&parameter).unwrap(), Tensor::ones_like(&parameter).unwrap().affine(2.0, 0.0));
    sgd_step(&parameter, &twos.unwrap(), &zeros, 0.5, 0.0, 0.0, false).unwrap();
    let expected = (numbers((4, 3), 1).narrow(0, 1, 2).unwrap() - 1.0).unwrap();
    assert_close("view", &view, &expected, 1e-6);
}

#[test]
fn averages_and_copies() {
    let (target, source) = (numbers(1000, 1), numbers(1000, 2));
    let before = target.copy().unwrap();
    lerp_assign(&target, &source, 0.1).unwrap();
    let expected = ((&before * 0.9).unwrap() + (&source * 0.1).unwrap()).unwrap();
    assert_close("lerp", &target, &expected, 1e-6);
    lerp_assign(&target, &source, 0.0).unwrap();
    assert_close("lerp by nothing", &target, &expected, 1e-6);
    copy_assign(&target, &source).unwrap();
    assert_same("copy", &target, &source);
    assert!(flat(&before) != flat(&source));
}

#[test]
fn the_same_bytes_on_any_number_of_threads_and_path() {
    let (start, grad) = (numbers(70_001, 1), numbers(70_001, 2));
    check_same_bytes(true, || -> Result<Vec<Tensor>> {
        let [sgd, adam, average] = [start.copy()?, start.copy()?, start.copy()?];
        let [velocity, m, v] = [start.zeros_like()?, start.zeros_like()?, start.zeros_like()?];
        for step in 1..4 {
            sgd_step(&sgd, &grad, &velocity, 0.1, 0.9, 1e-4, true)?;
            adam_step(&adam, &grad, &m, &v, step, 0.01, 0.9, 0.999, 1e-8, 1e-4)?;
            lerp_assign(&average, &adam, 0.1)?;
        }
        Ok(vec![sgd, velocity, adam, m, v, average])
    });
}

#[test]
fn refuse_what_does_not_fit() {
    let (x, y, z, w) = (numbers((2, 3), 1), numbers((2, 3), 2), numbers((2, 3), 3), numbers((2, 3), 4));
    let other = numbers((3, 2), 1);
    let sgd = |parameter, grad, velocity| sgd_step(parameter, grad, velocity, 0.1, 0.9, 0.0, false);
    assert_refuses(sgd(&x, &other, &y), &["sgd_step", "[2, 3]", "[3, 2]"]);
    assert_refuses(sgd(&x, &y, &x), &["sgd_step", "share one storage", "hint:"]);
    let view = x.reshape((3, 2)).unwrap().reshape((2, 3)).unwrap();
    assert_refuses(sgd(&x, &view, &y), &["share one storage"]);
    let adam = |v, step| adam_step(&x, &y, &z, v, step, 0.1, 0.9, 0.999, 1e-8, 0.0);
    assert_refuses(adam(&w, 0), &["adam_step", "count from 1"]);
    assert_refuses(adam(&z, 1), &["adam_step", "share one storage"]);
    assert_refuses(lerp_assign(&x, &x, 0.5), &["lerp_assign", "share one storage"]);
    assert_refuses(copy_assign(&x, &other), &["copy_assign", "[2, 3]", "[3, 2]"]);
    assert_same("the parameter, after all refusals", &x, &numbers((2, 3), 1));
}
