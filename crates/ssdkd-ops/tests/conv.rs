//! Convolution and linear layers against loops that anyone can check, finite differences and PyTorch, on every SIMD path
//! that the CPU has.

mod common;

use candle_core::{DType, Result, Tensor};
use common::{device, golden, on_cuda, skips, tolerance};
use proptest::prelude::*;
use ssdkd_ops::{
    Activation, Conv2dSpec, SimdPath, Value, activate, add, conv2d, conv2d_then, linear, with_direct_convolutions,
};

/// Those of the CPU; on a GPU, which knows none, one of them.
fn paths() -> impl Iterator<Item = SimdPath> {
    let available = SimdPath::ALL.into_iter().filter(|path| path.is_available());
    available.take(if on_cuda() { 1 } else { SimdPath::ALL.len() })
}

/// Numbers between −1 and 1 that differ from one another; the same for the same salt.
fn numbers(count: usize, salt: u32) -> Vec<f32> {
    let mut state = salt.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A convolution to try: channels are per group.
#[derive(Clone, Copy, Debug)]
struct Case {
    batch: usize,
    size: [usize; 2],
    channels: usize,
    outputs: usize,
    kernel: [usize; 2],
    spec: Conv2dSpec,
}

struct Arrays {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn input(&self) -> [usize; 4] {
        [self.batch, self.size[0], self.size[1], self.channels * self.spec.groups]
    }

    fn weight(&self) -> [usize; 4] {
        [self.outputs * self.spec.groups, self.channels, self.kernel[0], self.kernel[1]]
    }

    fn output(&self) -> [usize; 4] {
        let size = [0, 1].map(|axis| (self.padded(axis) - self.reach(axis)) / self.spec.stride[axis] + 1);
        [self.batch, size[0], size[1], self.outputs * self.spec.groups]
    }

    fn padded(&self, axis: usize) -> usize {
        self.size[axis] + self.spec.padding[2 * axis] + self.spec.padding[2 * axis + 1]
    }

    fn reach(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.spec.dilation[axis] + 1
    }

    fn is_possible(&self) -> bool {
        (0..2).all(|axis| self.padded(axis) >= self.reach(axis))
    }

    fn arrays(&self) -> Arrays {
        Arrays {
            x: numbers(self.input().iter().product(), 1),
            weight: numbers(self.weight().iter().product(), 2),
            bias: numbers(self.weight()[0], 3),
        }
    }

    /// Calls `visit` with the indices (x, weight, output) of every product that a convolution sums.
    fn visit(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let [_, height, width, channels] = self.input();
        let [batch, out_height, out_width, outputs] = self.output();
        let Conv2dSpec { stride, padding, dilation, .. } = self.spec;
        let inside = |out: usize, tap: usize, axis: usize| {
            let at = (out * stride[axis] + tap * dilation[axis]).checked_sub(padding[2 * axis]);
            at.filter(|at| *at < self.size[axis])
        };
        for b in 0..batch {
            for oy in 0..out_height {
                for ox in 0..out_width {
                    for o in 0..outputs {
                        let group = o / self.outputs;
                        for ky in 0..self.kernel[0] {
                            for kx in 0..self.kernel[1] {
                                let (Some(y), Some(x)) = (inside(oy, ky, 0), inside(ox, kx, 1)) else {
                                    continue;
                                };
                                for i in 0..self.channels {
                                    visit(
                                        ((b * height + y) * width + x) * channels + group * self.channels + i,
                                        ((o * self.channels + i) * self.kernel[0] + ky) * self.kernel[1] + kx,
                                        ((b * out_height + oy) * out_width + ox) * outputs + o,
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The output, and the gradients of x, weight and bias for an output gradient: by plain loops in f64.
fn reference(case: &Case, arrays: &Arrays, gradient: &[f32]) -> [Vec<f64>; 4] {
    let outputs = case.weight()[0];
    let mut y = (0..gradient.len()).map(|at| f64::from(arrays.bias[at % outputs])).collect::<Vec<_>>();
    let (mut to_x, mut to_weight) = (vec![0.0; arrays.x.len()], vec![0.0; arrays.weight.len()]);
    let mut to_bias = vec![0.0; outputs];
    case.visit(|x, weight, out| {
        let [a, w, g] = [arrays.x[x], arrays.weight[weight], gradient[out]].map(f64::from);
        y[out] += a * w;
        to_x[x] += w * g;
        to_weight[weight] += a * g;
    });
    for (at, gradient) in gradient.iter().enumerate() {
        to_bias[at % outputs] += f64::from(*gradient);
    }
    [y, to_x, to_weight, to_bias]
}

fn tensor(numbers: &[f32], dims: &[usize]) -> Result<Tensor> {
    Tensor::from_slice(numbers, dims, &device())
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// The same four by the crate.
fn computed(case: &Case, arrays: &Arrays, gradient: &[f32]) -> Result<[Vec<f32>; 4]> {
    let x = tensor(&arrays.x, &case.input())?;
    let weight = tensor(&arrays.weight, &case.weight())?;
    let bias = tensor(&arrays.bias, &[case.weight()[0]])?;
    let y = conv2d(&Value::leaf(&x), &Value::leaf(&weight), Some(&Value::leaf(&bias)), case.spec)?;
    assert_eq!(y.dims(), case.output());
    let result = flat(y.tensor())?;
    let gradients = y.backward_from(tensor(gradient, &case.output())?)?;
    let of = |tensor: &Tensor| flat(gradients.get(tensor).expect("a leaf has a gradient"));
    Ok([result, of(&x)?, of(&weight)?, of(&bias)?])
}

/// How far the plain sums may be off, relative to the largest number.
const DIRECT: f32 = 1e-5;

/// How far those by fewer multiplications may be off: their transforms cost two bits.
const TRANSFORMED: f32 = 4e-5;

#[track_caller]
fn assert_close(what: &str, case: &impl std::fmt::Debug, computed: &[f32], expected: &[f64], cpu: f32) {
    let tolerance = f64::from(tolerance(cpu));
    assert_eq!(computed.len(), expected.len(), "{what} of {case:?}");
    let scale = expected.iter().fold(1.0f64, |scale, number| scale.max(number.abs()));
    for (at, (computed, expected)) in computed.iter().zip(expected).enumerate() {
        let difference = (f64::from(*computed) - expected).abs();
        assert!(difference <= tolerance * scale, "{what}[{at}] of {case:?}: {computed}, expected {expected}");
    }
}

#[track_caller]
fn check(case: Case) {
    let spec = case.spec;
    let may_be_transformed = case.kernel == [3, 3]
        && (spec.stride, spec.dilation, spec.groups) == ([1; 2], [1; 2], 1)
        && case.channels.is_multiple_of(16)
        && case.outputs.is_multiple_of(16);
    check_within(case, if may_be_transformed { TRANSFORMED } else { DIRECT });
}

#[track_caller]
fn check_within(case: Case, tolerance: f32) {
    let arrays = case.arrays();
    let gradient = numbers(case.output().iter().product(), 4);
    let expected = reference(&case, &arrays, &gradient);
    for path in paths() {
        let computed = path.force(|| computed(&case, &arrays, &gradient)).expect("the shapes fit together");
        let names = ["output", "gradient of x", "gradient of weight", "gradient of bias"];
        for ((name, computed), expected) in names.iter().zip(&computed).zip(&expected) {
            assert_close(&format!("{name} on {}", path.name()), &case, computed, expected, tolerance);
        }
    }
}

fn plain(batch: usize, size: usize, channels: usize, outputs: usize, kernel: usize, spec: Conv2dSpec) -> Case {
    Case { batch, size: [size, size], channels, outputs, kernel: [kernel, kernel], spec }
}

#[test]
fn layers_of_the_networks() {
    for case in [
        plain(3, 8, 3, 16, 3, Conv2dSpec::new(1, 1)),
        plain(2, 8, 16, 16, 3, Conv2dSpec::new(1, 1)),
        plain(2, 8, 16, 32, 3, Conv2dSpec::new(2, 1)),
        plain(2, 8, 16, 32, 1, Conv2dSpec::new(2, 0)),
        plain(5, 4, 64, 64, 3, Conv2dSpec::new(1, 1)),
        plain(2, 8, 64, 3, 3, Conv2dSpec::new(1, 1)),
        plain(1, 16, 3, 8, 7, Conv2dSpec::new(2, 3)),
        plain(2, 9, 4, 6, 5, Conv2dSpec::new(1, 2)),
    ] {
        check(case);
    }
}

#[test]
fn fewer_multiplications() {
    for (batch, size, channels, outputs, padding) in [
        (3, [8, 8], 16, 16, 1),
        (2, [9, 7], 32, 48, 1),
        (2, [12, 9], 48, 16, 0),
        (5, [5, 4], 16, 80, 2),
        (40, [1, 1], 16, 16, 1),
        (33, [4, 4], 128, 144, 1),
        (35, [2, 2], 272, 32, 1),
    ] {
        check(Case { size, ..plain(batch, 0, channels, outputs, 3, Conv2dSpec::new(1, padding)) });
    }
}

#[test]
fn weights_larger_than_a_cache() {
    check(plain(2, 4, 300, 70, 3, Conv2dSpec::new(1, 1)));
    check(plain(3, 1, 2500, 33, 1, Conv2dSpec::default()));
}

#[test]
fn images_larger_than_a_window() {
    check(plain(1, 70, 40, 5, 3, Conv2dSpec::new(1, 1)));
    check(plain(1, 90, 40, 4, 3, Conv2dSpec::new(2, 1)));
}

#[test]
fn batches_of_small_images() {
    check(plain(40, 4, 16, 20, 3, Conv2dSpec::new(1, 1)));
    check(plain(130, 1, 12, 10, 1, Conv2dSpec::default()));
}

#[test]
fn groups_and_depthwise() {
    for (channels, outputs, groups) in [(4, 4, 2), (3, 5, 3), (1, 1, 20), (1, 1, 7), (1, 2, 5), (2, 1, 4)] {
        check(plain(2, 6, channels, outputs, 3, Conv2dSpec { groups, ..Conv2dSpec::new(1, 1) }));
        check(plain(2, 7, channels, outputs, 3, Conv2dSpec { groups, dilation: [2; 2], ..Conv2dSpec::new(2, 2) }));
    }
}

#[test]
fn each_axis_and_each_side_has_its_own_settings() {
    let same = Conv2dSpec { padding: [0, 1, 0, 1], ..Conv2dSpec::new(2, 0) };
    check(plain(2, 8, 16, 24, 3, same));
    check(plain(2, 9, 1, 1, 5, Conv2dSpec { groups: 40, padding: [1, 2, 2, 1], ..Conv2dSpec::new(2, 0) }));
    let row = Conv2dSpec { padding: [0, 0, 3, 3], ..Conv2dSpec::default() };
    check(Case { kernel: [1, 7], size: [6, 9], ..plain(2, 0, 16, 32, 0, row) });
    let column = Conv2dSpec { padding: [3, 3, 0, 0], ..Conv2dSpec::default() };
    check(Case { kernel: [7, 1], size: [9, 5], ..plain(2, 0, 16, 32, 0, column) });
    let any = Conv2dSpec { stride: [1, 3], padding: [2, 0, 1, 4], dilation: [2, 1], groups: 2 };
    check(Case { kernel: [3, 4], size: [8, 11], ..plain(2, 0, 5, 3, 0, any) });
}

#[test]
fn windows_that_lie_in_the_padding() {
    check(plain(1, 2, 3, 4, 3, Conv2dSpec::new(1, 5)));
    check(plain(1, 3, 2, 3, 1, Conv2dSpec::new(4, 3)));
    check(plain(1, 3, 2, 3, 2, Conv2dSpec { dilation: [4; 2], ..Conv2dSpec::new(3, 4) }));
}

/// The output and the gradients of x, weight, bias and residual: in one operation, or one after the other.
fn with_residual(case: &Case, activation: Activation, fused: bool) -> Result<[Vec<f32>; 5]> {
    let arrays = case.arrays();
    let x = tensor(&arrays.x, &case.input())?;
    let weight = tensor(&arrays.weight, &case.weight())?;
    let bias = tensor(&arrays.bias, &[case.weight()[0]])?;
    let len = case.output().iter().product();
    let residual = tensor(&numbers(len, 5), &case.output())?;
    let [in_x, in_weight, in_bias, in_residual] = [&x, &weight, &bias, &residual].map(Value::leaf);
    let y = if fused {
        conv2d_then(&in_x, &in_weight, Some(&in_bias), case.spec, Some(&in_residual), activation)?
    } else {
        activate(&add(&conv2d(&in_x, &in_weight, Some(&in_bias), case.spec)?, &in_residual)?, activation)?
    };
    let result = flat(y.tensor())?;
    let gradients = y.backward_from(tensor(&numbers(len, 4), &case.output())?)?;
    let of = |tensor: &Tensor| flat(gradients.get(tensor).expect("a leaf has a gradient"));
    Ok([result, of(&x)?, of(&weight)?, of(&bias)?, of(&residual)?])
}

#[test]
fn what_follows_is_the_same_in_one_operation() -> Result<()> {
    let depthwise = Conv2dSpec { groups: 20, ..Conv2dSpec::new(1, 1) };
    for case in [
        plain(3, 8, 16, 48, 3, Conv2dSpec::new(1, 1)),
        plain(9, 7, 16, 16, 3, Conv2dSpec::new(1, 0)),
        plain(2, 8, 16, 37, 3, Conv2dSpec::new(2, 1)),
        plain(2, 5, 3, 3, 3, Conv2dSpec::new(1, 1)),
        plain(2, 4, 300, 20, 3, Conv2dSpec::new(1, 1)),
        plain(2, 6, 1, 1, 3, depthwise),
    ] {
        for activation in [
            Activation::None,
            Activation::Relu,
            Activation::LeakyRelu(0.2),
            Activation::Clip(-0.5, 1.5),
            Activation::HardSigmoid,
            Activation::HardSwish,
            Activation::Silu,
        ] {
            for path in paths() {
                path.force(|| {
                    let apart = with_residual(&case, activation, false)?;
                    for (at, (fused, apart)) in
                        with_residual(&case, activation, true)?.into_iter().zip(apart).enumerate()
                    {
                        let what = format!("tensor {at}, {activation:?} on {}", path.name());
                        if on_cuda() {
                            let apart = apart.into_iter().map(f64::from).collect::<Vec<_>>();
                            assert_close(&what, &case, &fused, &apart, DIRECT);
                        } else {
                            assert_eq!(fused, apart, "{what} of {case:?}");
                        }
                    }
                    Ok(())
                })?;
            }
        }
    }
    Ok(())
}

#[test]
fn what_is_not_a_number_stays_so() -> Result<()> {
    let case = plain(1, 4, 4, 4, 3, Conv2dSpec::new(1, 1));
    let x = Value::constant(tensor(&vec![f32::NAN; 64], &case.input())?);
    let weight = Value::constant(tensor(&case.arrays().weight, &case.weight())?);
    for path in paths() {
        for activation in [Activation::Relu, Activation::RELU6, Activation::HardSwish, Activation::Silu] {
            let y = path.force(|| conv2d_then(&x, &weight, None, case.spec, None, activation))?;
            assert!(flat(y.tensor())?.iter().all(|number| number.is_nan()), "{activation:?} on {}", path.name());
        }
    }
    Ok(())
}

#[test]
fn a_residual_of_another_shape_is_refused() -> Result<()> {
    let case = plain(1, 4, 4, 4, 3, Conv2dSpec::new(1, 1));
    let arrays = case.arrays();
    let x = Value::constant(tensor(&arrays.x, &case.input())?);
    let weight = Value::constant(tensor(&arrays.weight, &case.weight())?);
    let residual = Value::constant(tensor(&arrays.x[..16], &[1, 2, 2, 4])?);
    let refused = conv2d_then(&x, &weight, None, case.spec, Some(&residual), Activation::None);
    assert!(refused.err().is_some_and(|error| error.to_string().contains("the residual has shape [1, 2, 2, 4]")));
    Ok(())
}

fn any_case() -> impl Strategy<Value = Case> {
    let sizes = (1usize..4, [1usize..12, 1usize..12], 1usize..40, 1usize..70);
    let steps = ([1usize..6, 1usize..8], prop_steps(), [0usize..4, 0usize..4, 0usize..4, 0usize..4], prop_groups());
    (sizes, steps).prop_map(|((batch, size, channels, outputs), (kernel, (stride, dilation), padding, groups))| Case {
        batch,
        size,
        channels,
        outputs,
        kernel,
        spec: Conv2dSpec { stride, padding, dilation, groups },
    })
}

/// Strides and dilations, each down and across.
fn prop_steps() -> impl Strategy<Value = ([usize; 2], [usize; 2])> {
    ([1usize..4, 1usize..4], [1usize..3, 1usize..3])
}

fn prop_groups() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(1usize), 1 => 2usize..4]
}

/// Depthwise convolutions, of channels that fill wide registers, narrow ones and none.
fn any_depthwise() -> impl Strategy<Value = Case> {
    let sizes = (1usize..4, [1usize..14, 1usize..14], 2usize..50);
    let steps = ([1usize..8, 1usize..9], prop_steps(), [0usize..4, 0usize..4, 0usize..4, 0usize..4]);
    (sizes, steps).prop_map(|((batch, size, groups), (kernel, (stride, dilation), padding))| Case {
        batch,
        size,
        channels: 1,
        outputs: 1,
        kernel,
        spec: Conv2dSpec { stride, padding, dilation, groups },
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_convolution(case in any_case().prop_filter("the kernel fits", Case::is_possible)) {
        check(case);
    }

    #[test]
    fn any_depthwise_convolution(case in any_depthwise().prop_filter("the kernel fits", Case::is_possible)) {
        check(case);
    }

    #[test]
    fn any_convolution_of_fewer_multiplications(
        batch in 1usize..5,
        size in [1usize..14, 1usize..14],
        channels in (1usize..5, 1usize..5),
        padding in [0usize..3, 0usize..3, 0usize..3, 0usize..3],
    ) {
        let spec = Conv2dSpec { padding, ..Conv2dSpec::default() };
        let case = Case { batch, size, channels: 16 * channels.0, outputs: 16 * channels.1, kernel: [3, 3], spec };
        if case.is_possible() {
            check(case);
            with_direct_convolutions(|| check_within(case, DIRECT));
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() -> Result<()> {
    let case = plain(2, 5, 3, 4, 3, Conv2dSpec::new(2, 1));
    let mut arrays = case.arrays();
    let gradient = numbers(case.output().iter().product(), 4);
    let [_, to_x, to_weight, to_bias] = computed(&case, &arrays, &gradient)?;
    // The convolution is linear in each of its inputs, so a wide step is exact but for rounding.
    let step = 0.5;
    let loss = |arrays: &Arrays| -> Result<f64> {
        let [y, ..] = computed(&case, arrays, &gradient)?;
        Ok(y.iter().zip(&gradient).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum())
    };
    for (gradient, pick) in [
        (to_x, (|arrays| &mut arrays.x) as fn(&mut Arrays) -> &mut Vec<f32>),
        (to_weight, |arrays| &mut arrays.weight),
        (to_bias, |arrays| &mut arrays.bias),
    ] {
        for at in (0..gradient.len()).step_by(7) {
            let middle = pick(&mut arrays)[at];
            pick(&mut arrays)[at] = middle + step;
            let above = loss(&arrays)?;
            pick(&mut arrays)[at] = middle - step;
            let below = loss(&arrays)?;
            pick(&mut arrays)[at] = middle;
            let slope = (above - below) / f64::from(2.0 * step);
            let difference = (slope - f64::from(gradient[at])).abs();
            assert!(difference < f64::from(tolerance(1e-4)), "{at}: {slope}, expected {}", gradient[at]);
        }
    }
    Ok(())
}

#[test]
fn the_same_bytes_on_any_number_of_threads() {
    if skips("the same bytes at any number of threads") {
        return;
    }
    for case in [
        plain(33, 8, 16, 40, 3, Conv2dSpec::new(1, 1)),
        plain(40, 4, 70, 64, 3, Conv2dSpec::new(1, 1)),
        plain(40, 8, 32, 48, 3, Conv2dSpec::new(1, 1)),
        plain(9, 4, 256, 64, 3, Conv2dSpec::new(1, 1)),
        plain(9, 8, 1, 1, 3, Conv2dSpec { groups: 24, ..Conv2dSpec::new(2, 1) }),
        plain(1, 64, 8, 8, 3, Conv2dSpec::new(2, 1)),
    ] {
        let arrays = case.arrays();
        let gradient = numbers(case.output().iter().product(), 4);
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a small pool starts");
            let results = pool.install(|| computed(&case, &arrays, &gradient)).expect("the shapes fit together");
            results.map(|numbers| numbers.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        let one = on(1);
        assert_eq!(on(2), one, "{case:?}");
        assert_eq!(on(3), one, "{case:?}");
    }
}

#[test]
fn only_wanted_gradients_are_made() -> Result<()> {
    let case = plain(1, 4, 2, 3, 3, Conv2dSpec::new(1, 1));
    let arrays = case.arrays();
    let x = tensor(&arrays.x, &case.input())?;
    let weight = tensor(&arrays.weight, &case.weight())?;
    let y = conv2d(&Value::leaf(&x), &Value::constant(weight.clone()), None, case.spec)?;
    let gradients = y.backward_from(Tensor::ones(&case.output(), DType::F32, &device())?)?;
    assert!(gradients.get(&x).is_some());
    assert!(gradients.get(&weight).is_none());
    let y = conv2d(&Value::constant(x), &Value::constant(weight), None, case.spec)?;
    assert!(!y.wants_gradient());
    Ok(())
}

#[test]
fn linear_layers() -> Result<()> {
    for (batch, inputs, outputs) in
        [(1, 1, 1), (128, 64, 10), (7, 513, 100), (200, 100, 300), (3, 2, 73_728), (3, 2, 70_001)]
    {
        let case = plain(batch, 1, inputs, outputs, 1, Conv2dSpec::default());
        let arrays = case.arrays();
        let gradient = numbers(batch * outputs, 4);
        let expected = reference(&case, &arrays, &gradient);
        for path in paths() {
            path.force(|| {
                let x = tensor(&arrays.x, &[batch, inputs])?;
                let weight = tensor(&arrays.weight, &[outputs, inputs])?;
                let bias = tensor(&arrays.bias, &[outputs])?;
                let y = linear(&Value::leaf(&x), &Value::leaf(&weight), Some(&Value::leaf(&bias)))?;
                assert_eq!(y.dims(), [batch, outputs]);
                assert_close("output", &case, &flat(y.tensor())?, &expected[0], DIRECT);
                let gradients = y.backward_from(tensor(&gradient, &[batch, outputs])?)?;
                for (leaf, expected) in [&x, &weight, &bias].into_iter().zip(&expected[1..]) {
                    let gradient = gradients.get(leaf).expect("a leaf has a gradient");
                    assert_eq!(gradient.dims(), leaf.dims());
                    assert_close("gradient", &case, &flat(gradient)?, expected, DIRECT);
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}

#[test]
fn wrong_shapes_are_explained() -> Result<()> {
    let zeros = |dims: &[usize]| -> Result<Value> { Ok(Value::constant(Tensor::zeros(dims, DType::F32, &device())?)) };
    let message = |x: &[usize], weight: &[usize], bias: Option<&[usize]>, spec: Conv2dSpec| -> Result<String> {
        let bias = bias.map(zeros).transpose()?;
        let result = conv2d(&zeros(x)?, &zeros(weight)?, bias.as_ref(), spec);
        Ok(result.err().map(|error| error.to_string()).unwrap_or_default())
    };
    for (x, weight, bias, spec, expected) in [
        (&[8, 8, 3][..], &[4, 3, 3, 3][..], None, Conv2dSpec::default(), "must be (B, H, W, C)"),
        (&[1, 8, 8, 3], &[4, 3, 9], None, Conv2dSpec::default(), "must be (O, C/groups, kh, kw)"),
        (
            &[1, 3, 8, 8],
            &[4, 3, 3, 3],
            None,
            Conv2dSpec::default(),
            "has 8 channels, the weight [4, 3, 3, 3] with 1 groups takes 3",
        ),
        (
            &[1, 8, 8, 3],
            &[4, 3, 3, 3],
            Some(&[3][..]),
            Conv2dSpec::default(),
            "bias has shape [3], the weight asks for [4]",
        ),
        (
            &[1, 2, 8, 3],
            &[4, 3, 3, 3],
            None,
            Conv2dSpec::default(),
            "does not fit into a 2×8 image with padding [0, 0, 0, 0]",
        ),
        (
            &[1, 8, 8, 4],
            &[3, 2, 3, 3],
            None,
            Conv2dSpec { groups: 2, ..Conv2dSpec::default() },
            "3 output channels do not split into 2 groups",
        ),
        (&[1, 8, 8, 3], &[4, 3, 3, 3], None, Conv2dSpec::new(0, 0), "stride [0, 0]"),
    ] {
        let message = message(x, weight, bias, spec)?;
        assert!(message.contains(expected), "`{message}` should contain `{expected}`");
    }
    let result = linear(&zeros(&[2, 5])?, &zeros(&[3, 4])?, None);
    assert!(result.err().is_some_and(|error| error.to_string().contains("has 5 features, the weight [3, 4] takes 4")));
    Ok(())
}

/// `s1p1d1g1`, as `tests/golden/conv.py` writes the settings of a case.
fn parse_spec(text: &str) -> Option<Conv2dSpec> {
    let mut numbers = text.split(|letter: char| letter.is_ascii_alphabetic()).skip(1).map(|number| number.parse().ok());
    let mut next = || numbers.next().flatten();
    let [stride, padding, dilation, groups] = [next()?, next()?, next()?, next()?];
    Some(Conv2dSpec { dilation: [dilation; 2], groups, ..Conv2dSpec::new(stride, padding) })
}

#[test]
fn the_same_numbers_as_pytorch() -> Result<()> {
    let golden = candle_core::safetensors::load(golden("conv.safetensors"), &device())?;
    let cases = golden.keys().filter_map(|name| name.strip_suffix("/x_gradient")).collect::<Vec<_>>();
    assert_eq!(cases.len(), 11);
    for case in cases {
        let of = |name: &str| &golden[&format!("{case}/{name}")];
        let leaf = |name: &str| Value::leaf(of(name));
        let spec = parse_spec(case.rsplit('/').next().unwrap_or_default());
        for path in paths() {
            path.force(|| {
                let y = match spec {
                    Some(spec) => conv2d(&leaf("x"), &leaf("weight"), Some(&leaf("bias")), spec)?,
                    None => linear(&leaf("x"), &leaf("weight"), Some(&leaf("bias")))?,
                };
                let check = |name: &str, computed: &Tensor| -> Result<()> {
                    assert_eq!(computed.dims(), of(name).dims());
                    let expected = flat(of(name))?.into_iter().map(f64::from).collect::<Vec<_>>();
                    assert_close(
                        &format!("{name} on {}", path.name()),
                        &case,
                        &flat(computed)?,
                        &expected,
                        TRANSFORMED,
                    );
                    Ok(())
                };
                check("y", y.tensor())?;
                let gradients = y.backward_from(of("gradient").clone())?;
                for name in ["x", "weight", "bias"] {
                    check(&format!("{name}_gradient"), gradients.get(of(name)).expect("a leaf has a gradient"))?;
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}
