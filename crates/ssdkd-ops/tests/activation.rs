//! Activations that need their input, alone and fused, against PyTorch, finite differences and themselves.

mod common;

use common::{
    Golden, assert_close, assert_refuses, assert_same_kernel, check_gradients, check_same_bytes, flat, numbers, tensor,
};
use ssdkd_ops::{
    Activation, Conv2dSpec, Value, activate, add, batch_norm_eval, batch_norm_tapped, batch_norm_train, conv2d_then,
    relu,
};

const ACTIVATIONS: [(&str, Activation); 4] = [
    ("relu6", Activation::RELU6),
    ("hard_sigmoid", Activation::HardSigmoid),
    ("hard_swish", Activation::HardSwish),
    ("silu", Activation::Silu),
];

/// As MobileNetV3 and EfficientNet have it.
const EPS: f64 = 1e-3;

#[test]
fn agree_with_pytorch() {
    let golden = Golden::of("graph_ops.safetensors");
    for (name, activation) in ACTIVATIONS {
        golden.check(name, &["x"], |x| activate(&x[0], activation));
    }
}

#[test]
fn behind_a_normalization_agree_with_pytorch() {
    let golden = Golden::of("graph_ops.safetensors");
    let (mean, variance) = (golden.get("norm", "mean"), golden.get("norm", "variance"));
    let inputs = ["x", "gamma", "beta", "residual"];
    for (name, activation) in ACTIVATIONS {
        for (suffix, inputs) in [("", &inputs[..3]), ("_residual", &inputs[..])] {
            golden.check(&format!("train_{name}{suffix}"), inputs, |x| {
                Ok(batch_norm_train(&x[0], &x[1], &x[2], EPS, x.get(3), activation)?.0)
            });
            golden.check(&format!("eval_{name}{suffix}"), inputs, |x| {
                batch_norm_eval(&x[0], &x[1], &x[2], &mean, &variance, EPS, x.get(3), activation)
            });
            golden.check(&format!("eval_{name}{suffix}"), inputs, |x| {
                Ok(batch_norm_tapped(&x[0], &x[1], &x[2], &mean, &variance, EPS, x.get(3), activation)?.0)
            });
        }
    }
}

#[test]
fn gradients_agree_with_differences() {
    let x = numbers((2, 3, 4, 5), 1);
    let inputs = [(&x * 4.0).unwrap(), numbers(5, 2), numbers(5, 3), (numbers((2, 3, 4, 5), 4) * 3.0).unwrap()];
    let (mean, variance) = (numbers(5, 5), (numbers(5, 6) + 1.5).unwrap());
    for (_, activation) in ACTIVATIONS {
        check_gradients(|x| activate(&x[0], activation), &inputs[..1]);
        for count in [3, 4] {
            check_gradients(
                |x| Ok(batch_norm_train(&x[0], &x[1], &x[2], EPS, x.get(3), activation)?.0),
                &inputs[..count],
            );
            check_gradients(
                |x| batch_norm_eval(&x[0], &x[1], &x[2], &mean, &variance, EPS, x.get(3), activation),
                &inputs[..count],
            );
        }
        let weight = [numbers((2, 5, 5, 4), 7), numbers((6, 4, 3, 3), 8), numbers(6, 9), numbers((2, 5, 5, 6), 10)];
        check_gradients(
            |x| conv2d_then(&x[0], &x[1], Some(&x[2]), Conv2dSpec::new(1, 1), Some(&x[3]), activation),
            &weight,
        );
    }
}

#[test]
fn one_operation_gives_the_numbers_of_two() {
    let [x, gamma, beta] = [numbers((3, 4, 5, 20), 1), numbers(20, 2), numbers(20, 3)].map(Value::constant);
    let residual = Value::constant(numbers((3, 4, 5, 20), 4));
    let (mean, variance) = (numbers(20, 5), (numbers(20, 6) + 1.5).unwrap());
    let norm = |residual, activation| batch_norm_eval(&x, &gamma, &beta, &mean, &variance, EPS, residual, activation);
    for (name, activation) in ACTIVATIONS {
        let fused = norm(None, activation).unwrap();
        let apart = activate(&norm(None, Activation::None).unwrap(), activation).unwrap();
        assert_same_kernel(name, fused.tensor(), apart.tensor());
        let fused = norm(Some(&residual), activation).unwrap();
        let apart = activate(&add(&norm(None, Activation::None).unwrap(), &residual).unwrap(), activation).unwrap();
        assert_close(name, fused.tensor(), apart.tensor(), 1e-6);
    }
}

#[test]
fn a_clip_from_zero_on_is_a_relu() {
    let x = Value::constant(numbers((3, 7), 1));
    let clipped = activate(&x, Activation::Clip(0.0, f32::INFINITY)).unwrap();
    assert_close("numbers", clipped.tensor(), relu(&x).unwrap().tensor(), 0.0);
}

#[test]
fn far_from_zero_they_are_their_limits() {
    let x = Value::constant(tensor(&[-1e30, -200.0, 200.0, 1e30, f32::INFINITY], 5));
    let of = |activation| flat(activate(&x, activation).unwrap().tensor());
    assert_eq!(of(Activation::HardSigmoid), [0.0, 0.0, 1.0, 1.0, 1.0]);
    assert_eq!(of(Activation::RELU6), [0.0, 0.0, 6.0, 6.0, 6.0]);
    for activation in [Activation::HardSwish, Activation::Silu] {
        let y = of(activation);
        assert!(y[..2].iter().all(|y| y.abs() < 1e-6), "{activation:?}: {y:?}");
        assert!((y[2] - 200.0).abs() < 1e-3 && y[3] > 9e29 && y[4].is_infinite(), "{activation:?}: {y:?}");
    }
}

#[test]
fn nan_is_not_hidden() {
    let x = Value::constant(tensor(&[f32::NAN], 1));
    for (name, activation) in ACTIVATIONS {
        assert!(flat(activate(&x, activation).unwrap().tensor())[0].is_nan(), "{name}");
    }
}

#[test]
fn the_same_bytes_on_any_number_of_threads_and_path() {
    let shape = (7, 13, 11, 19);
    let inputs = [(numbers(shape, 1) * 5.0).unwrap(), numbers(19, 2), numbers(19, 3), numbers(shape, 4)];
    let grad = numbers(shape, 5);
    for (_, activation) in ACTIVATIONS {
        check_same_bytes(true, || {
            let leaves = inputs.iter().map(Value::leaf).collect::<Vec<_>>();
            let y = activate(&leaves[0], activation)?;
            let z = batch_norm_train(&leaves[0], &leaves[1], &leaves[2], EPS, Some(&leaves[3]), activation)?.0;
            let mut results = vec![y.tensor().clone(), z.tensor().clone()];
            results.push(y.backward_from(grad.clone())?.remove(&inputs[0]).unwrap());
            let mut gradients = z.backward_from(grad.clone())?;
            results.extend(inputs.iter().map(|input| gradients.remove(input).unwrap()));
            Ok(results)
        });
    }
}

#[test]
fn refuse_what_makes_no_sense() {
    let x = Value::constant(numbers(3, 1));
    assert_refuses(activate(&x, Activation::Clip(1.0, 0.0)), &["cannot clip to 1..0"]);
    assert_refuses(activate(&x, Activation::Clip(f32::NAN, 0.0)), &["cannot clip"]);
    assert_refuses(activate(&x, Activation::LeakyRelu(-1.0)), &["slope", "-1"]);
}
