//! Sums, differences, products and quotients of two tensors, one of which may be smaller and is then repeated.

mod pair;
mod spread;

use candle_core::{Result, Tensor, bail};

use crate::value::Value;
use crate::vectorised::map_pairs;

pub(crate) use pair::{Operation, Pair};
use spread::Spread;

/// `a + b`. Either may be smaller: see [`multiply`].
///
/// # Errors
/// As [`multiply`].
pub fn add(a: &Value, b: &Value) -> Result<Value> {
    compute("add", Operation::Add, a, b)
}

/// `a − b`. Either may be smaller: see [`multiply`].
///
/// # Errors
/// As [`multiply`].
pub fn subtract(a: &Value, b: &Value) -> Result<Value> {
    compute("subtract", Operation::Subtract, a, b)
}

/// `a · b`. Both have one shape, or the smaller is repeated over the larger (B, …, C): one number, (C,), (B, 1, …, 1, C) as
/// squeeze-and-excitation has it, one number a pixel (B, H, W, 1), or one image for all (1, H, W, C).
///
/// # Errors
/// If neither shape can be repeated to the other.
pub fn multiply(a: &Value, b: &Value) -> Result<Value> {
    compute("multiply", Operation::Multiply, a, b)
}

/// `a / b`. Either may be smaller: see [`multiply`].
///
/// # Errors
/// As [`multiply`].
pub fn divide(a: &Value, b: &Value) -> Result<Value> {
    compute("divide", Operation::Divide, a, b)
}

/// `x` where it is positive, `slope · x` elsewhere: one slope, one for each channel (C,), or any shape that [`multiply`] repeats
/// over `x`. Slopes may have any sign.
///
/// # Errors
/// If the slopes do not fit `x`.
pub fn prelu(x: &Value, slope: &Value) -> Result<Value> {
    repeated("prelu", Operation::Prelu, x, slope, false)
}

fn compute(name: &'static str, operation: Operation, a: &Value, b: &Value) -> Result<Value> {
    if a.dims() == b.dims() {
        return same_shape(name, operation, a, b);
    }
    let size = |x: &Value| (x.tensor().elem_count(), x.dims().len());
    let swapped = size(a) < size(b);
    let (large, small) = if swapped { (b, a) } else { (a, b) };
    repeated(name, operation, large, small, swapped)
}

/// The operation of a larger tensor and a smaller one, which is the first operand where they are `swapped`.
fn repeated(name: &'static str, operation: Operation, large: &Value, small: &Value, swapped: bool) -> Result<Value> {
    let fits = Spread::new(large.dims(), small.dims()).filter(|spread| spread.len() > 0);
    let Some(spread) = fits else {
        bail!(
            "{name}: a tensor of shape {:?} cannot be repeated over one of shape {:?}\n\
             hint: a number, (C,), (B, 1, 1, C), (B, H, W, 1) or (1, H, W, C) over (B, H, W, C)",
            small.dims(),
            large.dims()
        );
    };
    let pair = Pair { name, operation, swapped, spread, small_stored: small.tensor().dtype() };
    let out = pair.forward(large.tensor(), small.tensor())?;
    let (to_large, to_small) = (large.wants_gradient(), small.wants_gradient());
    let kept_large = pair.keeps_large(to_large, to_small).then(|| large.tensor().clone());
    let kept_small = pair.keeps_small(to_large, to_small).then(|| small.tensor().clone());
    let small_shape = small.tensor().shape().clone();
    let inputs = if swapped { [small, large] } else { [large, small] };
    Ok(Value::record1(out, &inputs, move |grad| {
        // What an operation does not keep, its gradient does not read.
        let large = kept_large.as_ref().unwrap_or(grad);
        let to_large = to_large.then(|| pair.gradient_of_large(grad, large, kept_small.as_ref())).transpose()?;
        let to_small = to_small.then(|| pair.gradient_of_small(grad, large, kept_small.as_ref())).transpose()?;
        let to_small = to_small.map(|gradient| gradient.reshape(small_shape.clone())).transpose()?;
        Ok(if swapped { vec![to_small, to_large] } else { vec![to_large, to_small] })
    }))
}

fn same_shape(name: &'static str, operation: Operation, a: &Value, b: &Value) -> Result<Value> {
    let (a_wants, b_wants) = (a.wants_gradient(), b.wants_gradient());
    let out = elementwise(name, operation, [a.tensor(), b.tensor()])?;
    let product = matches!(operation, Operation::Multiply | Operation::Divide);
    let kept_a = (product && b_wants).then(|| a.tensor().clone());
    let kept_b = (product && (a_wants || operation == Operation::Divide)).then(|| b.tensor().clone());
    Ok(Value::record1(out, &[a, b], move |grad| {
        let (multiply, divide) = (Operation::Multiply, Operation::Divide);
        let pair = |operation, x: &Tensor, y: &Option<Tensor>| match y {
            Some(y) => elementwise(name, operation, [x, y]),
            None => Ok(x.clone()),
        };
        let to_a = |grad: &Tensor| match operation {
            Operation::Add | Operation::Subtract => Ok(grad.clone()),
            Operation::Divide => pair(divide, grad, &kept_b),
            _ => pair(multiply, grad, &kept_b),
        };
        let to_b = |grad: &Tensor| match operation {
            Operation::Add => Ok(grad.clone()),
            Operation::Subtract => negative(name, grad),
            // −grad · a / b²
            Operation::Divide => {
                let by_b = pair(divide, &pair(multiply, grad, &kept_a)?, &kept_b)?;
                negative(name, &pair(divide, &by_b, &kept_b)?)
            }
            _ => pair(multiply, grad, &kept_a),
        };
        Ok(vec![a_wants.then(|| to_a(grad)).transpose()?, b_wants.then(|| to_b(grad)).transpose()?])
    }))
}

/// The operation of two tensors of one shape.
fn elementwise(name: &str, operation: Operation, [a, b]: [&Tensor; 2]) -> Result<Tensor> {
    on_gpu!(a => crate::cuda::elementwise(name, operation, [a, b]));
    match operation {
        Operation::Add => map_pairs(name, a, b, |a, b| a + b),
        Operation::Subtract => map_pairs(name, a, b, |a, b| a - b),
        Operation::Multiply => map_pairs(name, a, b, |a, b| a * b),
        Operation::Divide => map_pairs(name, a, b, |a, b| a / b),
        Operation::Prelu => map_pairs(name, a, b, |a, b| if a > 0.0 { a } else { a * b }),
    }
}

fn negative(name: &str, x: &Tensor) -> Result<Tensor> {
    on_gpu!(x => crate::cuda::negative(name, x));
    crate::vectorised::map(name, x, |x| -x)
}
