//! Transposed convolutions, and general ones, against PyTorch, finite differences and one another.

mod common;

use common::{Golden, assert_close, assert_refuses, check_gradients, check_same_bytes, numbers, on_cuda};
use ssdkd_ops::{Conv2dSpec, SimdPath, Value, conv_transpose2d, conv2d};

fn paths() -> impl Iterator<Item = SimdPath> {
    let available = SimdPath::ALL.into_iter().filter(|path| path.is_available());
    available.take(if on_cuda() { 1 } else { SimdPath::ALL.len() })
}

/// Kernel, output padding and settings as in the golden values.
fn cases() -> [(usize, usize, Conv2dSpec); 3] {
    [
        (2, 0, Conv2dSpec::new(2, 0)),
        (3, 1, Conv2dSpec::new(2, 1)),
        (4, 0, Conv2dSpec { groups: 2, ..Conv2dSpec::new(2, 1) }),
    ]
}

#[test]
fn agree_with_pytorch() {
    let golden = Golden::of("graph_ops.safetensors");
    for path in paths() {
        for (kernel, output_padding, spec) in cases() {
            golden.check(&format!("conv_transpose_{kernel}"), &["x", "weight", "bias"], |x| {
                path.force(|| conv_transpose2d(&x[0], &x[1], Some(&x[2]), spec, [output_padding; 2]))
            });
        }
    }
}

#[test]
fn convolutions_with_settings_for_each_side_agree_with_pytorch() {
    let golden = Golden::of("graph_ops.safetensors");
    let spec = |padding| Conv2dSpec { padding, ..Conv2dSpec::default() };
    for path in paths() {
        for (case, spec) in [
            ("conv_same", Conv2dSpec { stride: [2; 2], ..spec([0, 1, 0, 1]) }),
            ("conv_row", spec([0, 0, 3, 3])),
            ("conv_winograd", spec([0, 2, 1, 0])),
            ("conv_steps", Conv2dSpec { stride: [1, 3], dilation: [2, 1], groups: 2, ..spec([2, 0, 1, 4]) }),
            ("conv_depthwise", Conv2dSpec { stride: [2; 2], groups: 20, ..spec([1, 2, 1, 2]) }),
        ] {
            golden.check(case, &["x", "weight", "bias"], |x| path.force(|| conv2d(&x[0], &x[1], Some(&x[2]), spec)));
        }
    }
}

#[test]
fn gradients_agree_with_differences() {
    for (kernel, output_padding, spec) in cases() {
        let weight = numbers((4, 3, kernel, kernel), 2);
        let inputs = [numbers((2, 3, 5, 4), 1), weight, numbers(3 * spec.groups, 3)];
        check_gradients(|x| conv_transpose2d(&x[0], &x[1], Some(&x[2]), spec, [output_padding; 2]), &inputs);
    }
}

#[test]
fn the_result_is_the_gradient_of_a_convolution() {
    let any = Conv2dSpec { stride: [2, 3], padding: [1, 0, 2, 1], dilation: [1, 2], groups: 1 };
    for (spec, output_padding) in [(any, [1, 2]), (Conv2dSpec::new(1, 1), [0, 0])] {
        let (x, weight) = (numbers((2, 5, 4, 16), 1), Value::constant(numbers((16, 32, 3, 3), 2)));
        let y = conv_transpose2d(&Value::constant(x.clone()), &weight, None, spec, output_padding).unwrap();
        let image = numbers(y.dims(), 3);
        let forward = conv2d(&Value::leaf(&image), &weight, None, spec).unwrap();
        assert_eq!(forward.dims(), x.dims());
        let gradients = forward.backward_from(x).unwrap();
        assert_close("result", y.tensor(), gradients.get(&image).unwrap(), 0.0);
    }
}

#[test]
fn the_same_bytes_on_any_number_of_threads() {
    let inputs = [numbers((9, 8, 7, 24), 1), numbers((24, 20, 3, 3), 2), numbers(20, 3)];
    check_same_bytes(false, || {
        let [x, weight, bias] = [0, 1, 2].map(|at| Value::leaf(&inputs[at]));
        let y = conv_transpose2d(&x, &weight, Some(&bias), Conv2dSpec::new(2, 1), [1, 1])?;
        let mut results = vec![y.tensor().clone()];
        let grad = numbers(y.dims(), 4);
        let mut gradients = y.backward_from(grad)?;
        results.extend(inputs.iter().map(|input| gradients.remove(input).unwrap()));
        Ok(results)
    });
}

#[test]
fn wrong_shapes_are_explained() {
    let value = |shape: &[usize]| Value::constant(numbers(shape, 1));
    let x = value(&[1, 4, 4, 6]);
    let run =
        |weight: &[usize], bias: Option<&Value>, spec, more| conv_transpose2d(&x, &value(weight), bias, spec, more);
    assert_refuses(run(&[5, 3, 2, 2], None, Conv2dSpec::new(2, 0), [0, 0]), &["6 channels", "takes 5", "hint:"]);
    assert_refuses(run(&[6, 3, 2, 2], None, Conv2dSpec::new(2, 0), [0, 2]), &["output padding [0, 2]", "[2, 2]"]);
    assert_refuses(run(&[6, 3, 2, 2], None, Conv2dSpec::new(1, 9), [0, 0]), &["leaves nothing"]);
    assert_refuses(
        run(&[6, 3, 2, 2], Some(&value(&[4])), Conv2dSpec::new(2, 0), [0, 0]),
        &["bias has shape [4]", "[3]"],
    );
    assert_refuses(run(&[6, 3, 2], None, Conv2dSpec::new(2, 0), [0, 0]), &["(I, O/groups, kh, kw)"]);
}
