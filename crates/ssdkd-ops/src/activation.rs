//! Activations, alone and as the part that convolutions and normalisations fuse.

use candle_core::{Result, bail};

use crate::value::Value;
use crate::vectorised::{map, map_pairs, vectorised};

/// What a convolution or a normalisation applies to its result, in the same pass over memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// max(x, 0).
    Relu,
    /// x where it is positive, the slope times x elsewhere. The slope is finite and not negative.
    LeakyRelu(f32),
    /// min(max(x, low), high), without a gradient at and beyond both ends. The lower end is not above the upper one.
    Clip(f32, f32),
    /// min(max(x + 3, 0), 6) / 6.
    HardSigmoid,
    /// x · min(max(x + 3, 0), 6) / 6.
    HardSwish,
    /// x / (1 + e^−x), also called swish.
    Silu,
}

impl Activation {
    /// min(max(x, 0), 6).
    pub const RELU6: Self = Self::Clip(0.0, 6.0);

    /// Checks the numbers of the activation.
    ///
    /// # Errors
    /// If a slope is negative or not finite (the sign of the output has to tell that of the input), or the ends of a range
    /// are in the wrong order.
    pub(crate) fn check(self, operation: &str) -> Result<()> {
        match self {
            Activation::LeakyRelu(slope) if !(slope.is_finite() && slope >= 0.0) => {
                bail!("{operation}: the slope of a leaky ReLU has to be finite and not negative, got {slope}")
            }
            Activation::Clip(low, high) if low.is_nan() || high.is_nan() || low > high => {
                bail!("{operation}: cannot clip to {low}..{high}: the lower end has to come first")
            }
            _ => Ok(()),
        }
    }

    /// Whether the gradient takes the input. For the others, the output tells as much.
    pub(crate) fn needs_input(self) -> bool {
        match self {
            Activation::None | Activation::Relu | Activation::LeakyRelu(_) | Activation::Clip(..) => false,
            Activation::HardSigmoid | Activation::HardSwish | Activation::Silu => true,
        }
    }
}

/// One activation as the kernels see it, so that each gets loops of its own.
///
/// `backward` takes the input, or the output unless [`Activation::needs_input`].
pub(crate) trait ActivationFunction: Copy + Send + Sync {
    fn forward(self, z: f32) -> f32;
    fn backward(self, z: f32, grad: f32) -> f32;
}

#[derive(Clone, Copy)]
pub(crate) struct Identity;

#[derive(Clone, Copy)]
pub(crate) struct Relu;

#[derive(Clone, Copy)]
pub(crate) struct Leaky(pub(crate) f32);

#[derive(Clone, Copy)]
pub(crate) struct Clip(pub(crate) f32, pub(crate) f32);

#[derive(Clone, Copy)]
pub(crate) struct HardSigmoid;

#[derive(Clone, Copy)]
pub(crate) struct HardSwish;

#[derive(Clone, Copy)]
pub(crate) struct Silu;

impl ActivationFunction for Identity {
    #[inline(always)]
    fn forward(self, z: f32) -> f32 {
        z
    }

    #[inline(always)]
    fn backward(self, _: f32, grad: f32) -> f32 {
        grad
    }
}

impl ActivationFunction for Relu {
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

impl ActivationFunction for Leaky {
    #[inline(always)]
    fn forward(self, z: f32) -> f32 {
        if z > 0.0 { z } else { z * self.0 }
    }

    #[inline(always)]
    fn backward(self, z: f32, grad: f32) -> f32 {
        if z > 0.0 { grad } else { grad * self.0 }
    }
}

impl ActivationFunction for Clip {
    #[inline(always)]
    fn forward(self, z: f32) -> f32 {
        let above = if z <= self.0 { self.0 } else { z };
        if above >= self.1 { self.1 } else { above }
    }

    #[inline(always)]
    fn backward(self, z: f32, grad: f32) -> f32 {
        if z <= self.0 || z >= self.1 { 0.0 } else { grad }
    }
}

/// min(max(z + 3, 0), 6).
const GATE: Clip = Clip(0.0, 6.0);

const SIXTH: f32 = 1.0 / 6.0;

impl ActivationFunction for HardSigmoid {
    #[inline(always)]
    fn forward(self, z: f32) -> f32 {
        GATE.forward(z + 3.0) * SIXTH
    }

    #[inline(always)]
    fn backward(self, z: f32, grad: f32) -> f32 {
        if z <= -3.0 || z >= 3.0 { 0.0 } else { grad * SIXTH }
    }
}

impl ActivationFunction for HardSwish {
    #[inline(always)]
    fn forward(self, z: f32) -> f32 {
        z * (GATE.forward(z + 3.0) * SIXTH)
    }

    #[inline(always)]
    fn backward(self, z: f32, grad: f32) -> f32 {
        let slope = if z >= 3.0 { 1.0 } else { z * (2.0 * SIXTH) + 0.5 };
        if z <= -3.0 { 0.0 } else { grad * slope }
    }
}

impl ActivationFunction for Silu {
    #[inline(always)]
    fn forward(self, z: f32) -> f32 {
        z / (1.0 + exponential(-z))
    }

    #[inline(always)]
    fn backward(self, z: f32, grad: f32) -> f32 {
        let share = 1.0 / (1.0 + exponential(-z));
        grad * (share * (1.0 + z * (1.0 - share)))
    }
}

vectorised! {
    /// `x = activation(x)`
    pub(crate) fn activate_in_place<A: ActivationFunction>(x: &mut [f32], activation: A) {
        for x in x {
            *x = activation.forward(*x);
        }
    }
}

/// Evaluates `$body` with `$function` bound to the activation as the kernels see it.
macro_rules! with_activation {
    ($activation:expr, |$function:ident| $body:expr) => {{
        use $crate::activation as functions;
        match $activation {
            functions::Activation::None => {
                let $function = functions::Identity;
                $body
            }
            functions::Activation::Relu => {
                let $function = functions::Relu;
                $body
            }
            functions::Activation::LeakyRelu(slope) => {
                let $function = functions::Leaky(slope);
                $body
            }
            functions::Activation::Clip(low, high) => {
                let $function = functions::Clip(low, high);
                $body
            }
            functions::Activation::HardSigmoid => {
                let $function = functions::HardSigmoid;
                $body
            }
            functions::Activation::HardSwish => {
                let $function = functions::HardSwish;
                $body
            }
            functions::Activation::Silu => {
                let $function = functions::Silu;
                $body
            }
        }
    }};
}
pub(crate) use with_activation;

/// Applies an activation to `x`, of any shape.
///
/// It keeps the output for the gradient, or the input where the gradient takes that; the layer before or after keeps the
/// same tensor.
///
/// # Errors
/// If the numbers of the activation make no sense; see [`Activation`].
pub fn activate(x: &Value, activation: Activation) -> Result<Value> {
    let operation = "activate";
    activation.check(operation)?;
    if activation == Activation::None {
        return Ok(x.clone());
    }
    on_gpu!(x.tensor() => crate::cuda::activate(operation, x, activation));
    with_activation!(activation, |function| apply(operation, x, function, activation.needs_input()))
}

/// max(x, 0).
pub fn relu(x: &Value) -> Result<Value> {
    on_gpu!(x.tensor() => crate::cuda::activate("relu", x, Activation::Relu));
    apply("relu", x, Relu, false)
}

/// x where it is positive, `slope · x` elsewhere.
///
/// # Errors
/// If the slope is negative or not finite.
pub fn leaky_relu(x: &Value, slope: f32) -> Result<Value> {
    Activation::LeakyRelu(slope).check("leaky_relu")?;
    on_gpu!(x.tensor() => crate::cuda::activate("leaky_relu", x, Activation::LeakyRelu(slope)));
    apply("leaky_relu", x, Leaky(slope), false)
}

/// Keeps the output for the gradient where that is enough: the layer that follows keeps it anyway.
fn apply(
    operation: &'static str,
    x: &Value,
    function: impl ActivationFunction + 'static,
    needs_input: bool,
) -> Result<Value> {
    let out = map(operation, x.tensor(), |x| function.forward(x))?;
    let kept = if needs_input { x.tensor().clone() } else { out.clone() };
    Ok(Value::record1(out, &[x], move |grad| {
        Ok(vec![Some(map_pairs(operation, &kept, grad, |z, grad| function.backward(z, grad))?)])
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
    /// Adding and subtracting it rounds to the nearest integer, which stands in the last bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first exact in few bits, so that `n` times it is exact.
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);

    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2.0) - n * LN_2.1;
    let mut series = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        series = series * r + coefficient;
    }
    // Not `n as i32`: that saturates, for which vectors have no instruction.
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
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
