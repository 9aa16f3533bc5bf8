//! Activations in bf16, on a GPU: what is made of numbers that bf16 has is that of f32, rounded.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use ssdkd_ops as ops;
use ssdkd_ops::{Activation, Conv2dSpec, Value};

/// A GPU whose settings ask for bf16; `None` on the CPU, which has none.
fn device() -> Option<Device> {
    let device = common::device();
    if !device.is_cuda() {
        eprintln!("skipped: activations in bf16 are for a GPU");
        return None;
    }
    #[cfg(feature = "cuda")]
    ops::set_cuda_settings(ops::CudaSettings { bf16: true, ..ops::cuda_settings() });
    Some(device)
}

/// Numbers between −1 and 1 that bf16 has.
fn numbers(seed: u64, shape: &[usize]) -> Tensor {
    let numbers = common::numbers(shape, seed);
    ((numbers * 64.0).unwrap().round().unwrap() / 64.0).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    let tensor = ops::to_f32(&Value::constant(tensor.clone())).unwrap().tensor().clone();
    common::flat(&tensor)
}

/// Within a hundredth of the largest: bf16 has eight bits, and gradients pass several numbers that were rounded.
fn assert_rounded(what: &str, bf16: &Tensor, f32: &Tensor) {
    let (bf16, f32) = (flat(bf16), flat(f32));
    assert_eq!(bf16.len(), f32.len(), "{what}");
    let largest = f32.iter().fold(0_f32, |largest, x| largest.max(x.abs()));
    assert!(largest > 0.0, "{what}: nothing but zeros");
    for (i, (rounded, exact)) in bf16.iter().zip(&f32).enumerate() {
        assert!((rounded - exact).abs() <= largest / 100.0, "{what}: number {i} is {rounded}, not {exact}");
    }
}

/// `operation` of inputs of these shapes, the first of which are activations, and the gradients of all: in bf16 and in f32.
fn agrees(what: &str, shapes: &[&[usize]], activations: usize, operation: impl Fn(&[Value]) -> Result<Value>) {
    if device().is_none() {
        return;
    }
    let inputs = shapes.iter().enumerate().map(|(i, shape)| numbers(i as u64, shape)).collect::<Vec<_>>();
    let compute = |reduced: bool| {
        let values = inputs.iter().enumerate().map(|(i, input)| {
            let value = Value::leaf(input);
            if reduced && i < activations { ops::to_reduced_precision(&value).unwrap() } else { value }
        });
        let out = operation(&values.collect::<Vec<_>>()).unwrap();
        let kind = if reduced { DType::BF16 } else { DType::F32 };
        assert_eq!(out.tensor().dtype(), kind, "{what}");
        let (kept, out) = (out.tensor().clone(), ops::to_f32(&out).unwrap());
        let gradient = numbers(99, out.dims());
        let gradients = out.backward_from(gradient).unwrap();
        (kept, inputs.iter().map(|input| gradients.get(input).expect("a gradient").clone()).collect::<Vec<_>>())
    };
    let ((exact, exact_gradients), (rounded, gradients)) = (compute(false), compute(true));
    assert_rounded(what, &rounded, &exact);
    for (i, (rounded, exact)) in gradients.iter().zip(&exact_gradients).enumerate() {
        // Whoever trains an input sees f32.
        assert_eq!(rounded.dtype(), DType::F32, "{what}");
        assert_rounded(&format!("{what}: the gradient of input {i}"), rounded, exact);
    }
}

#[test]
fn conversions_round_to_the_nearest() {
    let Some(device) = device() else { return };
    // 1 + 2⁻⁸ lies in the middle, and goes to the even 1; 1 + 3·2⁻⁸ to 1 + 2⁻⁶.
    let exact = [1.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -1.004, 3.0e38, 1e-40, f32::INFINITY, f32::MAX];
    let rounded =
        [0x3f80, 0x3f80, 0x3f82, 0xbf81, 0x7f62, 0x0001, 0x7f80, 0x7f80].map(|bits: u32| f32::from_bits(bits << 16));
    let x = Value::constant(Tensor::new(&exact, &device).unwrap());
    assert_eq!(flat(ops::to_reduced_precision(&x).unwrap().tensor()), rounded);
    let nan = Value::constant(Tensor::new(&[f32::NAN, -f32::NAN, f32::from_bits(0x7fff_ffff)], &device).unwrap());
    let back = flat(ops::to_f32(&ops::to_reduced_precision(&nan).unwrap()).unwrap().tensor());
    assert!(back.iter().all(|x| x.is_nan()), "{back:?}");
}

#[test]
fn convolutions() {
    let with = |spec: Conv2dSpec, activation: Activation| {
        move |inputs: &[Value]| {
            let [x, weight, bias] = inputs else { unreachable!() };
            ops::conv2d_then(x, weight, Some(bias), spec, None, activation)
        }
    };
    let relu = Activation::Relu;
    let x: &[usize] = &[2, 7, 6, 8];
    agrees("3×3", &[x, &[12, 8, 3, 3], &[12]], 1, with(Conv2dSpec::new(1, 1), relu));
    agrees("3×3 of 5 channels", &[&[2, 7, 6, 5], &[3, 5, 3, 3], &[3]], 1, with(Conv2dSpec::new(1, 1), relu));
    agrees("1×1", &[x, &[12, 8, 1, 1], &[12]], 1, with(Conv2dSpec::new(1, 0), Activation::LeakyRelu(0.2)));
    agrees("1×1 of one pixel", &[&[5, 1, 1, 8], &[4, 8, 1, 1], &[4]], 1, with(Conv2dSpec::new(1, 0), Activation::None));
    agrees("with stride", &[x, &[4, 8, 3, 3], &[4]], 1, with(Conv2dSpec::new(2, 1), Activation::None));
    let same = Conv2dSpec { padding: [0, 1, 0, 1], ..Conv2dSpec::new(2, 0) };
    agrees("with padding on one side", &[x, &[4, 8, 3, 3], &[4]], 1, with(same, Activation::Silu));
    agrees("transposed", &[x, &[8, 3, 3, 3], &[3]], 1, |inputs| {
        ops::conv_transpose2d(&inputs[0], &inputs[1], Some(&inputs[2]), Conv2dSpec::new(2, 1), [1, 0])
    });
    let grouped = Conv2dSpec { groups: 4, ..Conv2dSpec::new(1, 1) };
    agrees("in groups", &[x, &[8, 2, 3, 3], &[8]], 1, with(grouped, relu));
    agrees("with a residual", &[x, &[2, 7, 6, 12], &[12, 8, 3, 3]], 2, |inputs| {
        let [x, residual, weight] = inputs else { unreachable!() };
        ops::conv2d_then(x, weight, None, Conv2dSpec::new(1, 1), Some(residual), Activation::Relu)
    });
}

#[test]
fn what_is_prepared_for_another_type_is_packed_again() {
    if device().is_none() {
        return;
    }
    let (x, weight) = (numbers(0, &[2, 5, 5, 4]), numbers(1, &[6, 4, 3, 3]));
    let x = Value::constant(x);
    let of = |x: &Value, packed: DType| {
        let prepared = ops::prepare_convolution(&weight, None, None, packed).unwrap();
        ops::conv2d_prepared(x, &prepared, Conv2dSpec::new(1, 1), None, Activation::None).unwrap().tensor().clone()
    };
    let reduced = ops::to_reduced_precision(&x).unwrap();
    let exact = of(&x, DType::F32);
    assert_eq!(flat(&of(&x, DType::BF16)), flat(&exact));
    assert_eq!(flat(&of(&reduced, DType::F32)), flat(&of(&reduced, DType::BF16)));
    assert_rounded("prepared", &of(&reduced, DType::BF16), &exact);
}

#[test]
fn normalisations() {
    for channels in [8, 3] {
        let activations: &[usize] = &[3, 4, 5, channels];
        let shapes: &[&[usize]] = &[activations, activations, &[channels], &[channels]];
        let leaky = Activation::LeakyRelu(0.2);
        agrees("of the batch", shapes, 2, |inputs| {
            let [x, residual, gamma, beta] = inputs else { unreachable!() };
            Ok(ops::batch_norm_train(x, gamma, beta, 1e-5, Some(residual), leaky)?.0)
        });
        let statistics = || {
            let mean = numbers(7, &[channels]);
            let variance = mean.sqr().unwrap().affine(1.0, 0.5).unwrap();
            (mean, variance)
        };
        agrees("of earlier batches", shapes, 2, |inputs| {
            let [x, residual, gamma, beta] = inputs else { unreachable!() };
            let (mean, variance) = statistics();
            ops::batch_norm_eval(x, gamma, beta, &mean, &variance, 1e-5, Some(residual), Activation::Relu)
        });
        // The taps stay f32. Their gradients, which join these, are looked at in whole networks.
        agrees("tapped", shapes, 2, |inputs| {
            let [x, residual, gamma, beta] = inputs else { unreachable!() };
            let (mean, variance) = statistics();
            let (out, tap_mean, tap_variance) =
                ops::batch_norm_tapped(x, gamma, beta, &mean, &variance, 1e-5, Some(residual), leaky)?;
            for tap in [&tap_mean, &tap_variance] {
                assert_eq!(tap.tensor().dtype(), DType::F32);
            }
            Ok(out)
        });
    }
}

#[test]
fn pools_and_changes_of_resolution() {
    let x: &[usize] = &[2, 6, 4, 5];
    agrees("global_avg_pool", &[x], 1, |x| ops::global_avg_pool(&x[0]));
    agrees("avg_pool2d", &[x], 1, |x| ops::avg_pool2d(&x[0], ops::Pool2dSpec::new(2, 2, 0)));
    agrees("max_pool2d", &[x], 1, |x| ops::max_pool2d(&x[0], ops::Pool2dSpec::new(3, 2, 1)));
    agrees("upsample_nearest", &[x], 1, |x| ops::upsample_nearest(&x[0], 2));
    agrees("subsample_pad", &[x], 1, |x| ops::subsample_pad(&x[0], 2, 3));
    agrees("relu", &[x], 1, |x| ops::relu(&x[0]));
    agrees("a sum of two", &[x, x], 2, |x| ops::add(&x[0], &x[1]));
    // Three gradients arrive at one place.
    agrees("a sum of three", &[x], 1, |x| ops::add(&ops::add(&x[0], &x[0])?, &x[0]));
    agrees("reshape", &[x], 1, |x| ops::reshape(&x[0], (12, 20)));
    agrees("adaptive_avg_pool2d", &[x], 1, |x| ops::adaptive_avg_pool2d(&x[0], [4, 3]));
    let bilinear = ops::Interpolation::Bilinear { align_corners: false };
    agrees("resize", &[x], 1, |x| ops::resize(&x[0], [9, 3], bilinear));
}

#[test]
fn operations_of_two_tensors_and_channels() {
    let x: &[usize] = &[2, 6, 4, 5];
    agrees("by image and channel", &[x, &[2, 1, 1, 5]], 2, |x| ops::multiply(&x[0], &x[1]));
    // A parameter is f32, and so is its gradient.
    agrees("by channel", &[x, &[5]], 1, |x| ops::multiply(&x[0], &x[1]));
    agrees("by pixel", &[x, &[2, 6, 4, 1]], 2, |x| ops::subtract(&x[1], &x[0]));
    agrees("prelu", &[x, &[5]], 1, |x| ops::prelu(&x[0], &x[1]));
    agrees("sigmoid", &[x], 1, |x| ops::sigmoid(&x[0]));
    agrees("hard_swish", &[x], 1, |x| ops::activate(&x[0], Activation::HardSwish));
    agrees("concat_channels", &[x, x], 2, |x| ops::concat_channels(&[&x[0], &x[1]]));
    agrees("slice_channels", &[x], 1, |x| ops::slice_channels(&x[0], 1, 3));
    agrees("shuffle_channels", &[x], 1, |x| ops::shuffle_channels(&x[0], 5));
}

#[test]
fn two_types_do_not_mix() {
    if device().is_none() {
        return;
    }
    let x = Value::constant(numbers(0, &[2, 3, 3, 4]));
    let reduced = ops::to_reduced_precision(&x).unwrap();
    assert_eq!(reduced.tensor().dtype(), DType::BF16);
    assert!(ops::add(&x, &reduced).is_err());
    let error = ops::mean_absolute_difference(&reduced, &reduced).err().unwrap().to_string();
    assert!(error.contains("f32"), "{error}");
    let weight = Value::constant(numbers(1, &[4, 4, 1, 1]));
    let error = ops::conv2d_then(&reduced, &weight, None, Conv2dSpec::new(1, 0), Some(&x), Activation::None);
    assert!(error.is_err());
}
