//! Batch normalization against PyTorch, finite differences and itself.

mod common;

use candle_core::{Result, Tensor};
use common::{
    Golden, assert_close, assert_refuses, assert_same_kernel, check_gradients, check_same_bytes, flat, numbers,
    on_cuda, tensor,
};
use ssdkd_ops::{
    Activation, BatchMoments, Conv2dSpec, FrozenNorm, Value, add, batch_norm_eval, batch_norm_tapped, batch_norm_train,
    channel_moments, conv2d, conv2d_then, fold_batch_norm, reshape, weighted_sum,
};

const EPS: f64 = 1e-5;
const ACTIVATIONS: [(&str, Activation); 3] =
    [("none", Activation::None), ("relu", Activation::Relu), ("leaky", Activation::LeakyRelu(0.2))];

/// Any of the three kinds, with statistics beside the output where there are any.
struct Case<'a> {
    kind: &'a str,
    activation: Activation,
    running_mean: Tensor,
    running_variance: Tensor,
}

/// The output; mean and variance of a tapped one; what a training one found in its batch.
type Outputs = (Value, Option<(Value, Value)>, Option<BatchMoments>);

impl Case<'_> {
    /// `values` are x, gamma, beta and perhaps the residual.
    fn run(&self, values: &[Value]) -> Result<Outputs> {
        let (mean, variance) = (&self.running_mean, &self.running_variance);
        let [x, gamma, beta, ..] = values else { panic!("x, gamma and beta") };
        let residual = values.get(3);
        Ok(match self.kind {
            "train" => {
                let (y, moments) = batch_norm_train(x, gamma, beta, EPS, residual, self.activation)?;
                (y, None, Some(moments))
            }
            "eval" => (batch_norm_eval(x, gamma, beta, mean, variance, EPS, residual, self.activation)?, None, None),
            _ => {
                let (y, mean, variance) =
                    batch_norm_tapped(x, gamma, beta, mean, variance, EPS, residual, self.activation)?;
                (y, Some((mean, variance)), None)
            }
        })
    }
}

/// `Σ grad · y`, so that several outputs can be walked back from one value.
fn dot(y: &Value, grad: &Tensor) -> Result<Value> {
    let (tensor, grad) = ((y.tensor() * grad)?.sum_all()?, grad.clone());
    Ok(Value::record1(tensor, &[y], move |flow| Ok(vec![Some(grad.broadcast_mul(flow)?)])))
}

#[test]
fn agrees_with_pytorch() {
    let golden = Golden::load();
    let given = |name: &str| golden.get("norm", name);
    for kind in ["train", "eval", "tapped"] {
        for (name, activation) in ACTIVATIONS {
            for residual in ["", "_residual"] {
                let case = format!("norm_{kind}_{name}{residual}");
                let normalise = Case {
                    kind,
                    activation,
                    running_mean: given("running_mean"),
                    running_variance: given("running_variance"),
                };
                let mut names = vec!["x", "gamma", "beta"];
                if !residual.is_empty() {
                    names.push("residual");
                }
                let leaves = names.iter().map(|name| given(name)).collect::<Vec<_>>();
                let values = leaves.iter().map(Value::leaf).collect::<Vec<_>>();
                let (y, taps, moments) = normalise.run(&values).unwrap();

                let expected = if kind == "tapped" { case.replace("tapped", "eval") } else { case.clone() };
                assert_close(&case, y.tensor(), &golden.get(&expected, "y"), 1e-5);
                let mut terms = vec![dot(&y, &given("grad")).unwrap()];
                if let Some((mean, variance)) = &taps {
                    assert_close(&case, mean.tensor(), &given("mean"), 1e-6);
                    assert_close(&case, variance.tensor(), &given("variance"), 1e-6);
                    terms.push(dot(mean, &given("grad_mean")).unwrap());
                    terms.push(dot(variance, &given("grad_variance")).unwrap());
                }
                if let Some(moments) = moments {
                    assert_close(&case, &moments.mean, &given("mean"), 1e-6);
                    assert_close(&case, &moments.variance, &given("variance"), 1e-6);
                    assert_eq!(moments.count, 60);
                }
                let total = weighted_sum(&terms.iter().map(|term| (1.0, term)).collect::<Vec<_>>()).unwrap();
                let gradients = total.backward().unwrap();
                for (name, leaf) in names.iter().zip(&leaves) {
                    let what = format!("{case}, gradient of {name}");
                    assert_close(&what, gradients.get(leaf).unwrap(), &golden.get(&case, &format!("d_{name}")), 2e-5);
                }
            }
        }
    }
}

#[test]
fn gradients_agree_with_differences() {
    for kind in ["train", "eval"] {
        for (_, activation) in ACTIVATIONS {
            let case = Case {
                kind,
                activation,
                running_mean: numbers(5, 1),
                running_variance: (numbers(5, 2) + 1.5).unwrap(),
            };
            let mut inputs = vec![numbers((3, 4, 2, 5), 3), numbers(5, 4), numbers(5, 5)];
            check_gradients(|values| Ok(case.run(values)?.0), &inputs);
            inputs.push(numbers((3, 4, 2, 5), 6));
            check_gradients(|values| Ok(case.run(values)?.0), &inputs);
        }
    }
}

#[test]
fn gradients_of_the_taps_agree_with_differences() {
    let case = Case {
        kind: "tapped",
        activation: Activation::Relu,
        running_mean: numbers(5, 1),
        running_variance: (numbers(5, 2) + 1.5).unwrap(),
    };
    let (gamma, beta) = (Value::constant(numbers(5, 3)), Value::constant(numbers(5, 4)));
    let (along_y, along_mean, along_variance) = (numbers((2, 3, 2, 5), 5), numbers(5, 6), numbers(5, 7));
    // Any of the three outputs may stay unused.
    for used in 1..8_u32 {
        let f = |values: &[Value]| {
            let (y, taps, _) = case.run(&[values[0].clone(), gamma.clone(), beta.clone()])?;
            let (mean, variance) = taps.expect("tapped");
            let terms = [dot(&y, &along_y)?, dot(&mean, &along_mean)?, dot(&variance, &along_variance)?]
                .into_iter()
                .enumerate();
            let terms = terms.filter(|(bit, _)| used & (1 << bit) != 0).map(|(_, term)| term).collect::<Vec<_>>();
            weighted_sum(&terms.iter().map(|term| (1.0, term)).collect::<Vec<_>>())
        };
        check_gradients(f, &[numbers((2, 3, 2, 5), 8)]);
    }
}

#[test]
fn channel_moments_agree_with_the_taps() {
    let x = numbers((2, 3, 4, 7), 1);
    let leaf = Value::leaf(&x);
    let (mean, variance) = channel_moments(&leaf).unwrap();
    let one = Value::constant(Tensor::ones_like(mean.tensor()).unwrap());
    let (zero, spread) = (numbers(7, 2), (numbers(7, 3) + 2.0).unwrap());
    let (_, tapped_mean, tapped_variance) =
        batch_norm_tapped(&leaf, &one, &one, &zero, &spread, EPS, None, Activation::None).unwrap();
    assert_same_kernel("mean", mean.tensor(), tapped_mean.tensor());
    assert_same_kernel("variance", variance.tensor(), tapped_variance.tensor());
    check_gradients(|x| Ok(channel_moments(&x[0])?.0), std::slice::from_ref(&x));
    check_gradients(|x| Ok(channel_moments(&x[0])?.1), std::slice::from_ref(&x));
    check_gradients(
        |x| {
            let (mean, variance) = channel_moments(&x[0])?;
            add(&mean, &variance)
        },
        &[x],
    );
}

#[test]
fn running_statistics_equal_to_the_batchs_give_the_same_output() {
    let [x, gamma, beta] =
        [numbers((4, 5, 6, 33), 1), numbers(33, 2), numbers(33, 3)].map(|tensor| Value::constant(tensor.clone()));
    for (_, activation) in ACTIVATIONS {
        let (train, moments) = batch_norm_train(&x, &gamma, &beta, EPS, None, activation).unwrap();
        let eval = batch_norm_eval(&x, &gamma, &beta, &moments.mean, &moments.variance, EPS, None, activation).unwrap();
        assert_close("eval", eval.tensor(), train.tensor(), 1e-6);
    }
}

#[test]
fn a_zero_residual_changes_nothing() {
    let inputs = [
        numbers((2, 4, 4, 6), 1),
        numbers(6, 2),
        numbers(6, 3),
        Tensor::zeros_like(&numbers((2, 4, 4, 6), 1)).unwrap(),
    ];
    let case = Case {
        kind: "train",
        activation: Activation::Relu,
        running_mean: numbers(6, 1),
        running_variance: numbers(6, 1),
    };
    let gradient = |count: usize| {
        let values = inputs[..count].iter().map(Value::leaf).collect::<Vec<_>>();
        let y = case.run(&values).unwrap().0;
        let tensor = y.tensor().clone();
        let mut gradients = y.backward_from(numbers((2, 4, 4, 6), 9)).unwrap();
        (tensor, gradients.remove(&inputs[0]).unwrap(), gradients.remove(&inputs[3]))
    };
    let (plain, plain_gradient, _) = gradient(3);
    let (sum, sum_gradient, residual_gradient) = gradient(4);
    assert_same_kernel("output", &sum, &plain);
    assert_close("gradient", &sum_gradient, &plain_gradient, 1e-6);
    assert!(residual_gradient.is_some());
}

/// A channel far from 0 keeps its variance, whatever the number of channels and of pieces.
#[test]
fn moments_are_precise_far_from_zero() {
    for channels in [1, 3, 16, 100, 700] {
        let rows = 60_000 / channels;
        let x = numbers((rows, channels), 4).affine(1.0, 1000.0).unwrap();
        let (mean, variance) = channel_moments(&Value::constant(x.clone())).unwrap();
        let numbers = flat(&x);
        for c in [0, channels / 2, channels - 1] {
            let column = numbers.iter().skip(c).step_by(channels).map(|x| f64::from(*x));
            let expected_mean = column.clone().sum::<f64>() / rows as f64;
            let expected = column.map(|x| (x - expected_mean).powi(2)).sum::<f64>() / rows as f64;
            let (mean, variance) = (f64::from(flat(mean.tensor())[c]), f64::from(flat(variance.tensor())[c]));
            // Neighbours of 1000 are 6e-5 apart: on a GPU the mean may be a few of them off.
            let (near, share) = if on_cuda() { (3e-4, 1e-4) } else { (1e-4, 1e-5) };
            assert!((mean - expected_mean).abs() < near, "{channels} channels: mean {mean}, not {expected_mean}");
            assert!((variance - expected).abs() < share * expected, "{channels} channels: {variance}, not {expected}");
        }
    }
}

#[test]
fn the_same_bytes_on_any_number_of_threads() {
    for channels in [3, 16, 130] {
        let shape = (9, 17, 13, channels);
        let inputs = [numbers(shape, 1), numbers(channels, 2), numbers(channels, 3), numbers(shape, 4)];
        let grad = numbers(shape, 5);
        for kind in ["train", "eval", "tapped"] {
            let case = Case {
                kind,
                activation: Activation::LeakyRelu(0.1),
                running_mean: numbers(channels, 6),
                running_variance: (numbers(channels, 7) + 1.5).unwrap(),
            };
            check_same_bytes(true, || {
                let values = inputs.iter().map(Value::leaf).collect::<Vec<_>>();
                let (y, taps, _) = case.run(&values)?;
                let mut results = vec![y.tensor().clone()];
                let mut total = dot(&y, &grad)?;
                if let Some((mean, variance)) = taps {
                    results.extend([mean.tensor().clone(), variance.tensor().clone()]);
                    total = add(&total, &dot(&variance, variance.tensor())?)?;
                }
                let mut gradients = total.backward()?;
                results.extend(inputs.iter().map(|input| gradients.remove(input).unwrap()));
                Ok(results)
            });
        }
    }
}

#[test]
fn works_on_rows_too() {
    let x = numbers((12, 5), 1);
    let [gamma, beta] = [numbers(5, 2), numbers(5, 3)].map(Value::constant);
    let rows = batch_norm_train(&Value::constant(x.clone()), &gamma, &beta, EPS, None, Activation::None).unwrap().0;
    let images = reshape(&Value::constant(x), (3, 2, 2, 5)).unwrap();
    let images = batch_norm_train(&images, &gamma, &beta, EPS, None, Activation::None).unwrap().0;
    assert_same_kernel("rows", rows.tensor(), reshape(&images, (12, 5)).unwrap().tensor());
}

#[test]
fn nan_is_not_hidden_by_the_activation() {
    let x = Value::constant(tensor(&[1.0, f32::NAN, 2.0, 3.0], (4, 1)));
    let one = Value::constant(tensor(&[1.0], 1));
    let (y, _) = batch_norm_train(&x, &one, &one, EPS, None, Activation::Relu).unwrap();
    assert!(flat(y.tensor()).iter().all(|y| y.is_nan()));
}

#[test]
fn refuses_what_does_not_fit() {
    let value = |shape: &[usize]| Value::constant(numbers(shape, 1));
    let (x, five, six) = (value(&[2, 3, 3, 5]), value(&[5]), value(&[6]));
    let train = |x: &Value, gamma: &Value, residual: Option<&Value>, activation: Activation| {
        batch_norm_train(x, gamma, &five, EPS, residual, activation)
    };
    assert_refuses(train(&x, &six, None, Activation::None), &["batch_norm_train", "gamma has shape [6]", "[5]"]);
    assert_refuses(train(&five, &five, None, Activation::None), &["rank 2 or more", "[5]"]);
    assert_refuses(train(&value(&[1, 1, 1, 5]), &five, None, Activation::None), &["at least two", "hint:"]);
    assert_refuses(train(&x, &five, Some(&value(&[2, 3, 3, 4])), Activation::None), &["residual", "[2, 3, 3, 4]"]);
    assert_refuses(train(&x, &five, None, Activation::LeakyRelu(-0.1)), &["slope", "-0.1"]);
    let negative = |variance: f32| tensor(&[1.0, 1.0, variance, 1.0, 1.0], 5);
    for variance in [-1.0, -EPS as f32 / 2.0] {
        let eval = batch_norm_eval(&x, &five, &five, five.tensor(), &negative(variance), EPS, None, Activation::None);
        if common::on_cuda() {
            // To look at the numbers, a GPU would have to be waited for in every layer. What comes out is not hidden.
            assert!(flat(eval.unwrap().tensor()).iter().any(|y| y.is_nan()));
        } else {
            assert_refuses(eval, &["batch_norm_eval", "channel 2", "negative"]);
        }
    }
    let tapped = batch_norm_tapped(&x, &five, &five, six.tensor(), &negative(-1.0), EPS, None, Activation::None);
    assert_refuses(tapped, &["batch_norm_tapped", "running mean", "[6]"]);
}

#[test]
fn a_folded_normalisation_is_the_same_layer() -> Result<()> {
    let (x, weight, bias) = (numbers((2, 6, 6, 5), 1), numbers((7, 5, 3, 3), 2), numbers(7, 3));
    let (gamma, beta, mean) = (numbers(7, 4), numbers(7, 5), numbers(7, 6));
    let variance = (numbers(7, 7) + 1.5)?;
    let norm = FrozenNorm { gamma: &gamma, beta: &beta, mean: &mean, variance: &variance, eps: EPS };
    let constant = |tensor: &Tensor| Value::constant(tensor.clone());
    for bias in [None, Some(&bias)] {
        let (folded, shift) = fold_batch_norm(&weight, bias, norm)?;
        let spec = Conv2dSpec::new(1, 1);
        let leaf = Value::leaf(&x);
        let one = conv2d_then(&leaf, &constant(&folded), Some(&constant(&shift)), spec, None, Activation::Relu)?;
        let y = conv2d(&leaf, &constant(&weight), bias.map(constant).as_ref(), spec)?;
        let (gamma, beta) = (constant(&gamma), constant(&beta));
        let two = batch_norm_eval(&y, &gamma, &beta, &mean, &variance, EPS, None, Activation::Relu)?;
        assert_close("output", one.tensor(), two.tensor(), 1e-6);
        let gradient = numbers((2, 6, 6, 7), 8);
        let [one, two] = [one.backward_from(gradient.clone())?, two.backward_from(gradient)?];
        let of = |gradients: &ssdkd_ops::Gradients| gradients.get(&x).expect("a gradient of x").clone();
        assert_close("gradient of x", &of(&one), &of(&two), 1e-6);
    }
    assert_refuses(fold_batch_norm(&weight, Some(&numbers(3, 1)), norm), &["fold_batch_norm", "the bias", "[7]"]);
    Ok(())
}
