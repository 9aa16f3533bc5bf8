//! The tape: what is recorded, and how gradients meet.

mod common;

use std::cell::Cell;
use std::rc::Rc;

use candle_core::{Result, Tensor};
use common::{assert_close, assert_refuses, assert_same, device, flat, numbers, tensor};
use ssdkd_ops::{Value, add, channel_moments, mean_all, relu, scale, sum_all};

/// An operation that counts how often it is walked back.
fn counted(x: &Value, count: &Rc<Cell<usize>>) -> Value {
    let count = count.clone();
    Value::record1(x.tensor().clone(), &[x], move |grad| {
        count.set(count.get() + 1);
        Ok(vec![Some(grad.clone())])
    })
}

fn ones(x: &Tensor) -> Tensor {
    x.ones_like().unwrap()
}

#[test]
fn constants_record_nothing() -> Result<()> {
    let x = Value::constant(numbers((2, 3), 1));
    let y = sum_all(&relu(&add(&x, &x)?)?)?;
    assert!(!y.wants_gradient());
    assert!(y.backward()?.is_empty());
    let [first, second] = Value::record([x.tensor().clone(), x.tensor().clone()], &[&x], |_| {
        panic!("nobody may ask for these gradients")
    });
    assert!(!first.wants_gradient() && !second.wants_gradient());
    Ok(())
}

#[test]
fn detached_values_pass_nothing_on() -> Result<()> {
    let x = numbers(4, 1);
    let leaf = Value::leaf(&x);
    let y = add(&leaf, &scale(&leaf, 10.0)?.detach())?;
    let gradients = y.backward_from(ones(&x))?;
    assert_same("gradient", gradients.get(&x).unwrap(), &ones(&x));
    Ok(())
}

#[test]
fn a_value_used_twice_collects_both_gradients() -> Result<()> {
    let x = numbers(5, 1);
    let leaf = Value::leaf(&x);
    let doubled = scale(&leaf, 2.0)?;
    let y = add(&doubled, &scale(&doubled, 3.0)?)?;
    let gradients = y.backward_from(ones(&x))?;
    assert_same("gradient", gradients.get(&x).unwrap(), &(ones(&x) * 8.0)?);
    let same = add(&leaf, &leaf)?.backward_from(ones(&x))?;
    assert_same("both inputs", same.get(&x).unwrap(), &(ones(&x) * 2.0)?);
    Ok(())
}

#[test]
fn two_leaves_of_one_tensor_are_one() -> Result<()> {
    let x = numbers(5, 1);
    let y = add(&scale(&Value::leaf(&x), 2.0)?, &add(&Value::leaf(&x), &Value::leaf(&x.clone()))?)?;
    let gradients = y.backward_from(ones(&x))?;
    assert_eq!(gradients.len(), 1);
    assert_same("gradient", gradients.get(&x).unwrap(), &(ones(&x) * 4.0)?);
    Ok(())
}

#[test]
fn accumulating_leaves_other_gradients_alone() -> Result<()> {
    // `add` hands one tensor to both sides; what is added to on one side must not change on the other.
    let (x, y) = (numbers(5, 1), numbers(5, 2));
    let (a, b) = (Value::leaf(&x), Value::leaf(&y));
    let total = add(&add(&a, &b)?, &add(&a, &scale(&a, 5.0)?)?)?;
    let start = ones(&x);
    let gradients = total.backward_from(start.clone())?;
    assert_same("a", gradients.get(&x).unwrap(), &(ones(&x) * 7.0)?);
    assert_same("b", gradients.get(&y).unwrap(), &ones(&y));
    assert_same("the gradient that was given", &start, &ones(&x));
    Ok(())
}

#[test]
fn shared_subexpressions_are_walked_once() -> Result<()> {
    let x = numbers(3, 1);
    let count = Rc::new(Cell::new(0));
    let mut y = counted(&Value::leaf(&x), &count);
    // Each doubling uses the one before twice: a tree would have 2^20 paths.
    for _ in 0..20 {
        y = add(&y, &y)?;
    }
    let gradients = y.backward_from(ones(&x))?;
    assert_eq!(count.get(), 1);
    assert_same("gradient", gradients.get(&x).unwrap(), &(ones(&x) * f64::from(1 << 20))?);
    Ok(())
}

#[test]
fn operations_of_several_outputs_get_one_entry_each() -> Result<()> {
    let x = numbers((4, 3), 1);
    for used in 0..2 {
        let leaf = Value::leaf(&x);
        let outputs = Value::record([x.clone(), x.clone()], &[&leaf], move |grads| {
            assert_eq!(grads.len(), 2);
            assert!(grads[used].is_some() && grads[1 - used].is_none());
            Ok(vec![grads[used].clone()])
        });
        let gradients = sum_all(&outputs[used])?.backward()?;
        assert_same("gradient", gradients.get(&x).unwrap(), &ones(&x));
    }
    // Both outputs, through different ways.
    let (mean, variance) = channel_moments(&Value::leaf(&x))?;
    let both = add(&sum_all(&mean)?, &sum_all(&scale(&variance, 2.0)?)?)?.backward()?;
    let numbers = flat(&x);
    let expected = numbers.iter().enumerate().map(|(index, number)| {
        let mean = (0..4).map(|row| numbers[row * 3 + index % 3]).sum::<f32>() / 4.0;
        0.25 + 2.0 * 2.0 * (number - mean) / 4.0
    });
    assert_close("gradient", both.get(&x).unwrap(), &tensor(&expected.collect::<Vec<_>>(), (4, 3)), 1e-6);
    Ok(())
}

#[test]
fn only_leaves_on_the_way_get_gradients() -> Result<()> {
    let (x, unused) = (numbers(3, 1), numbers(3, 2));
    let leaves = [Value::leaf(&x), Value::leaf(&unused)];
    let _aside = add(&leaves[0], &leaves[1])?;
    let mut gradients = mean_all(&leaves[0])?.backward()?;
    assert!(gradients.get(&unused).is_none());
    assert!(gradients.remove(&x).is_some() && gradients.is_empty());
    Ok(())
}

#[test]
fn activations_are_freed_on_the_way() -> Result<()> {
    struct Flag(Rc<Cell<bool>>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let freed = Rc::new(Cell::new(false));
    let x = numbers(3, 1);
    let seen = freed.clone();
    let first = Value::record1(x.clone(), &[&Value::leaf(&x)], move |grad| {
        assert!(seen.get(), "the later operation should be gone by now");
        Ok(vec![Some(grad.clone())])
    });
    let kept = Flag(freed.clone());
    let last = Value::record1(x.clone(), &[&first], move |grad| {
        assert!(!kept.0.get());
        Ok(vec![Some(grad.clone())])
    });
    drop(first);
    last.backward_from(ones(&x))?;
    assert!(freed.get());
    Ok(())
}

#[test]
fn long_tapes_are_walked_without_recursion() -> Result<()> {
    let x = tensor(&[1.0], 1);
    let mut y = Value::leaf(&x);
    for _ in 0..50_000 {
        y = scale(&y, 1.0)?;
    }
    let gradients = y.backward()?;
    assert_eq!(flat(gradients.get(&x).unwrap()), [1.0]);
    Ok(())
}

#[test]
fn scalars() -> Result<()> {
    for shape in [vec![], vec![1], vec![1, 1, 1]] {
        let x = Value::constant(Tensor::from_vec(vec![2.5_f32], shape, &device())?);
        assert_eq!(x.scalar()?.to_bits(), 2.5_f32.to_bits());
    }
    assert!(Value::constant(numbers(2, 1)).scalar().is_err());
    Ok(())
}

#[test]
fn refuses_what_does_not_fit() {
    let x = numbers((2, 3), 1);
    let leaf = Value::leaf(&x);
    assert_refuses(relu(&leaf).unwrap().backward(), &["one element", "[2, 3]"]);
    assert_refuses(relu(&leaf).unwrap().backward_from(numbers(6, 1)), &["[6]", "[2, 3]"]);
}
