//! Activations, alone and as the part that normalisation fuses.

use candle_core::{Result, bail};

use crate::value::Value;
use crate::vectorised::{map, map_pairs, vectorised};

/// What a normalisation applies to its result, in the same pass over memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// max(x, 0).
    Relu,
    /// x where it is positive, the slope times x elsewhere. The slope is finite and not negative.
    LeakyRelu(f32),
}

impl Activation {
    /// # Errors
    /// If the slope is negative or not finite: the sign of the output has to tell that of the input.
    pub(crate) fn check(self, operation: &str) -> Result<()> {
        match self {
            Activation::LeakyRelu(slope) if !(slope.is_finite() && slope >= 0.0) => {
                bail!("{operation}: the slope of a leaky ReLU has to be finite and not negative, got {slope}")
            }
            _ => Ok(()),
        }
    }
}

/// One activation as the kernels see it, so that each gets loops of its own.
///
/// `backward` takes the input or the output, whichever is at hand: they have the same sign.
pub(crate) trait Rectifier: Copy + Send + Sync {
    fn forward(self, z: f32) -> f32;
    fn backward(self, z: f32, grad: f32) -> f32;
}

#[derive(Clone, Copy)]
pub(crate) struct Identity;

#[derive(Clone, Copy)]
pub(crate) struct Relu;

#[derive(Clone, Copy)]
pub(crate) struct Leaky(pub(crate) f32);

impl Rectifier for Identity {
    #[inline(always)]
    fn forward(self, z: f32) -> f32 {
        z
    }

    #[inline(always)]
    fn backward(self, _: f32, grad: f32) -> f32 {
        grad
    }
}

impl Rectifier for Relu {
    /// Not `max`, which would turn NaN into 0 and hide a training run that diverged.
    #[inline(always)]
    fn forward(self, z: f32) -> f32 {
        if z <= 0.0 { 0.0 } else { z }
    }

    #[inline(always)]
    fn backward(self, z: f32, grad: f32) -> f32 {
        if z <= 0.0 { 0.0 } else { grad }
    }
}

impl Rectifier for Leaky {
    #[inline(always)]
    fn forward(self, z: f32) -> f32 {
        if z > 0.0 { z } else { z * self.0 }
    }

    #[inline(always)]
    fn backward(self, z: f32, grad: f32) -> f32 {
        if z > 0.0 { grad } else { grad * self.0 }
    }
}

vectorised! {
    /// `x = activation(x)`
    pub(crate) fn rectify_in_place<A: Rectifier>(x: &mut [f32], activation: A) {
        for x in x {
            *x = activation.forward(*x);
        }
    }
}

/// Evaluates `$body` with `$rectifier` bound to the activation as the kernels see it.
macro_rules! with_rectifier {
    ($activation:expr, |$rectifier:ident| $body:expr) => {
        match $activation {
            $crate::activation::Activation::None => {
                let $rectifier = $crate::activation::Identity;
                $body
            }
            $crate::activation::Activation::Relu => {
                let $rectifier = $crate::activation::Relu;
                $body
            }
            $crate::activation::Activation::LeakyRelu(slope) => {
                let $rectifier = $crate::activation::Leaky(slope);
                $body
            }
        }
    };
}
pub(crate) use with_rectifier;

/// max(x, 0).
pub fn relu(x: &Value) -> Result<Value> {
    on_gpu!(x.tensor() => crate::cuda::rectify("relu", x, Activation::Relu));
    rectify("relu", x, Relu)
}

/// x where it is positive, `slope · x` elsewhere.
///
/// # Errors
/// If the slope is negative or not finite.
pub fn leaky_relu(x: &Value, slope: f32) -> Result<Value> {
    Activation::LeakyRelu(slope).check("leaky_relu")?;
    on_gpu!(x.tensor() => crate::cuda::rectify("leaky_relu", x, Activation::LeakyRelu(slope)));
    rectify("leaky_relu", x, Leaky(slope))
}

/// Keeps the output for the gradient, not the input: the layer that follows keeps it anyway.
fn rectify(operation: &'static str, x: &Value, activation: impl Rectifier + 'static) -> Result<Value> {
    let out = map(operation, x.tensor(), |x| activation.forward(x))?;
    let kept = out.clone();
    Ok(Value::record1(out, &[x], move |grad| {
        Ok(vec![Some(map_pairs(operation, &kept, grad, |y, grad| activation.backward(y, grad))?)])
    }))
}

/// 1 / (1 + e^−x).
pub fn sigmoid(x: &Value) -> Result<Value> {
    on_gpu!(x.tensor() => crate::cuda::sigmoid(x));
    let out = map("sigmoid", x.tensor(), |x| 1.0 / (1.0 + exponential(-x)))?;
    let kept = out.clone();
    Ok(Value::record1(out, &[x], move |grad| {
        Ok(vec![Some(map_pairs("sigmoid", &kept, grad, |y, grad| grad * y * (1.0 - y))?)])
    }))
}

/// e^x within two units in the last place, saturating at both ends of the range; NaN stays NaN.
///
/// The standard library's is a call for every number, and differs from one C library to the next. This one is
/// vectorised with the loop around it and the same everywhere: x = n ln 2 + r, then 2^n times a polynomial in r
/// (coefficients of Cephes' `expf`).
#[inline(always)]
fn exponential(x: f32) -> f32 {
    /// Adding and subtracting it rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first exact in few bits, so that `n` times it is exact.
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);

    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - n * LN_2.0) - n * LN_2.1;
    let mut series = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        series = series * r + coefficient;
    }
    let power = f32::from_bits((((n as i32) + 127) as u32) << 23);
    (series * r * r + r + 1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_the_last_places() {
        for step in -8700..8800_i16 {
            let x = f32::from(step) / 100.0 + 0.003;
            let expected = f64::from(x.min(88.0)).exp();
            let error = (f64::from(exponential(x)) - expected).abs() / expected;
            assert!(error < 3e-7, "e^{x} is off by {error:e}");
        }
        assert!(exponential(f32::NAN).is_nan());
        assert!(exponential(-1000.0) < 1e-37 && exponential(1000.0) > 1e38);
    }
}
