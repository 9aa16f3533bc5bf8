//! Operations of two tensors, and channels put together, taken apart and reordered.

mod common;

use candle_core::Tensor;
use common::{
    Golden, assert_close, assert_refuses, assert_same, check_gradients, check_same_bytes, flat, numbers, tensor,
};
use ssdkd_ops::{
    Value, add, concat_channels, divide, multiply, prelu, shuffle_channels, slice_channels, split_channels, subtract,
};

type Operation = fn(&Value, &Value) -> candle_core::Result<Value>;

const OPERATIONS: [(&str, Operation); 4] =
    [("add", add), ("subtract", subtract), ("multiply", multiply), ("divide", divide)];

#[test]
fn agree_with_pytorch() {
    let golden = Golden::of("graph_ops.safetensors");
    for (name, operation) in OPERATIONS {
        for shape in ["same", "images", "channels", "number"] {
            golden.check(&format!("{name}_{shape}"), &["a", "b"], |x| operation(&x[0], &x[1]));
        }
    }
    golden.check("divide_swapped", &["a", "b"], |x| divide(&x[0], &x[1]));
    golden.check("prelu", &["x", "slope"], |x| prelu(&x[0], &x[1]));
    golden.check("prelu_1", &["x", "slope"], |x| prelu(&x[0], &x[1]));
    golden.check("concat", &["a", "b", "c"], |x| concat_channels(&[&x[0], &x[1], &x[2]]));
    golden.check("slice", &["x"], |x| slice_channels(&x[0], 1, 3));
    golden.check("shuffle", &["x"], |x| shuffle_channels(&x[0], 3));
}

/// Shapes that are repeated over (2, 3, 4, 5).
const SHAPES: [&[usize]; 9] =
    [&[2, 3, 4, 5], &[], &[5], &[1, 1, 1, 5], &[2, 1, 1, 5], &[2, 1, 1, 1], &[2, 3, 4, 1], &[3, 4, 5], &[1, 3, 4, 1]];

#[test]
fn gradients_agree_with_differences() {
    let x = numbers((2, 3, 4, 5), 1);
    let away_from_zero = |x: Tensor| ((x.abs().unwrap() * 0.5).unwrap() + 0.75).unwrap();
    for shape in SHAPES {
        let other = away_from_zero(numbers(shape, 2));
        for (_, operation) in OPERATIONS {
            check_gradients(|x| operation(&x[0], &x[1]), &[x.clone(), other.clone()]);
            check_gradients(|x| operation(&x[0], &x[1]), &[other.clone(), away_from_zero(x.clone())]);
        }
        check_gradients(|x| prelu(&x[0], &x[1]), &[x.clone(), numbers(shape, 3)]);
    }
    let parts = [numbers((2, 3, 5), 1), numbers((2, 3, 1), 2), numbers((2, 3, 7), 3)];
    check_gradients(|x| concat_channels(&x.iter().collect::<Vec<_>>()), &parts);
    check_gradients(|x| slice_channels(&x[0], 2, 4), &parts[2..]);
    check_gradients(|x| shuffle_channels(&x[0], 2), &[numbers((2, 3, 6), 4)]);
    check_gradients(|x| split_channels(&x[0], &[2, 1, 4])?.swap_remove(2).pipe(), &parts[2..]);
}

/// As a result.
trait Pipe: Sized {
    fn pipe(self) -> candle_core::Result<Self> {
        Ok(self)
    }
}

impl Pipe for Value {}

#[test]
fn a_repeated_tensor_gives_the_numbers_of_the_whole_one() {
    let x = Value::constant(numbers((2, 3, 4, 5), 1));
    for shape in SHAPES {
        let small = (numbers(shape, 2) + 2.0).unwrap();
        let whole = Value::constant(small.broadcast_as((2, 3, 4, 5)).unwrap().contiguous().unwrap());
        let small = Value::constant(small);
        for (name, operation) in OPERATIONS {
            assert_same(name, operation(&x, &small).unwrap().tensor(), operation(&x, &whole).unwrap().tensor());
            assert_same(name, operation(&small, &x).unwrap().tensor(), operation(&whole, &x).unwrap().tensor());
        }
    }
}

#[test]
fn parts_of_a_split_are_put_together_again() {
    let x = numbers((3, 2, 2, 9), 1);
    let leaf = Value::leaf(&x);
    let parts = split_channels(&leaf, &[4, 2, 3]).unwrap();
    let whole = concat_channels(&parts.iter().collect::<Vec<_>>()).unwrap();
    assert_same("whole", whole.tensor(), &x);
    let grad = numbers((3, 2, 2, 9), 2);
    drop(parts);
    assert_same("gradient", whole.backward_from(grad.clone()).unwrap().get(&x).unwrap(), &grad);
}

#[test]
fn channels_of_a_split_that_nobody_used_have_no_gradient() {
    let x = tensor(&[1.0, 2.0, 3.0, 4.0], (1, 4));
    let [_, second] = <[Value; 2]>::try_from(split_channels(&Value::leaf(&x), &[3, 1]).unwrap()).ok().unwrap();
    let gradients = second.backward_from(tensor(&[5.0], (1, 1))).unwrap();
    assert_eq!(flat(gradients.get(&x).unwrap()), [0.0, 0.0, 0.0, 5.0]);
}

#[test]
fn shuffling_by_the_other_factor_undoes_it() {
    let x = Value::constant(numbers((2, 3, 12), 1));
    let shuffled = shuffle_channels(&x, 3).unwrap();
    assert_eq!(flat(shuffled.tensor())[..4].to_vec(), [0, 4, 8, 1].map(|at| flat(x.tensor())[at]));
    assert_same("numbers", shuffle_channels(&shuffled, 4).unwrap().tensor(), x.tensor());
}

#[test]
fn sums_of_a_small_gradient_are_precise() {
    let x = numbers((3, 40, 50, 7), 1);
    let factor = numbers((3, 1, 1, 7), 2);
    let y = multiply(&Value::constant(x.clone()), &Value::leaf(&factor)).unwrap();
    let gradient = y.backward_from(x.clone()).unwrap().remove(&factor).unwrap();
    let expected = (&x * &x).unwrap().sum_keepdim((1, 2)).unwrap();
    assert_close("gradient", &gradient, &expected, 1e-6);
}

#[test]
fn the_same_bytes_on_any_number_of_threads_and_path() {
    let shape = [5, 33, 31, 19];
    let (x, grad) = ((numbers(&shape[..], 1) + 2.0).unwrap(), numbers(&shape[..], 2));
    for small in [&[19][..], &[5, 1, 1, 19], &[1], &[5, 33, 31, 1]] {
        let other = (numbers(small, 3) + 2.0).unwrap();
        check_same_bytes(true, || {
            let mut results = Vec::new();
            for operation in OPERATIONS.map(|(_, operation)| operation).into_iter().chain([prelu as Operation]) {
                let y = operation(&Value::leaf(&x), &Value::leaf(&other))?;
                results.push(y.tensor().clone());
                let mut gradients = y.backward_from(grad.clone())?;
                results.extend([&x, &other].map(|leaf| gradients.remove(leaf).unwrap()));
            }
            Ok(results)
        });
    }
    check_same_bytes(true, || {
        let leaf = Value::leaf(&x);
        let wide = concat_channels(&[&leaf, &slice_channels(&leaf, 3, 8)?, &shuffle_channels(&leaf, 19)?])?;
        let grad = numbers(wide.dims(), 4);
        Ok(vec![wide.tensor().clone(), wide.backward_from(grad)?.remove(&x).unwrap()])
    });
}

#[test]
fn refuse_what_does_not_fit() {
    let value = |shape: &[usize]| Value::constant(numbers(shape, 1));
    let x = value(&[2, 3, 4, 5]);
    assert_refuses(multiply(&x, &value(&[4])), &["multiply", "[4]", "[2, 3, 4, 5]", "hint:"]);
    assert_refuses(add(&value(&[2, 3]), &value(&[3, 2])), &["add", "[2, 3]", "[3, 2]"]);
    assert_refuses(prelu(&x, &value(&[3])), &["prelu", "[3]"]);
    assert_refuses(concat_channels(&[]), &["concat_channels", "at least one"]);
    assert_refuses(concat_channels(&[&x, &value(&[2, 3, 3, 5])]), &["[2, 3, 4, 5]", "[2, 3, 3, 5]"]);
    assert_refuses(slice_channels(&x, 3, 3), &["slice_channels", "3 channels from 3", "[2, 3, 4, 5]"]);
    assert_refuses(slice_channels(&x, 3, 0), &["slice_channels", "0 channels"]);
    assert_refuses(split_channels(&x, &[2, 2]), &["split_channels", "[2, 2]", "the 5"]);
    assert_refuses(shuffle_channels(&x, 2), &["shuffle_channels", "5 channels", "2 groups"]);
}
