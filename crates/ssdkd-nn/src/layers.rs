//! Convolution, batch normalisation and linear layers on channels-last activations.
//!
//! candle's dialect: plain structs with `new(…, vb)` and `forward(…)`. How fresh tensors are drawn is for the model to
//! say.

use candle_core::{Result, Tensor};
use candle_nn::init::{FanInOut, NonLinearity, NormalOrUniform};
use candle_nn::{Init, VarBuilder};
use ssdkd_ops as ops;
use ssdkd_ops::{Activation, Conv2dSpec, FrozenNorm, Running, Value};

use crate::pass::{Pass, Statistics, Tap};

/// How a layer's fresh weight and bias are drawn.
#[derive(Clone, Copy)]
pub struct Draw {
    weight: Option<Init>,
    bias: Option<Init>,
}

impl Draw {
    /// PyTorch's default for both: uniform within ±1/√(inputs of one output).
    pub const PYTORCH: Self = Self { weight: None, bias: None };

    /// He et al.'s normal weights by the number of inputs.
    pub const HE_INPUTS: Self = Self::PYTORCH.weight(he_normal(FanInOut::FanIn));

    /// He et al.'s normal weights by the number of outputs, zero bias.
    pub const HE_OUTPUTS: Self = Self::PYTORCH.weight(he_normal(FanInOut::FanOut)).zero_bias();

    /// With weights as `how` says.
    #[must_use]
    pub const fn weight(self, how: Init) -> Self {
        Self { weight: Some(how), ..self }
    }

    /// With a bias of zeros.
    #[must_use]
    pub const fn zero_bias(self) -> Self {
        Self { bias: Some(Init::Const(0.0)), ..self }
    }
}

const fn he_normal(fan: FanInOut) -> Init {
    Init::Kaiming { dist: NormalOrUniform::Normal, fan, non_linearity: NonLinearity::ReLU }
}

/// The draws of weight and bias of a layer with `fan_in` inputs for each output.
fn draws(draw: Draw, fan_in: usize) -> (Init, Init) {
    let bound = 1.0 / (fan_in as f64).sqrt();
    let default = Init::Uniform { lo: -bound, up: bound };
    (draw.weight.unwrap_or(default), draw.bias.unwrap_or(default))
}

/// A square convolution.
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    spec: Conv2dSpec,
}

impl Conv2d {
    /// Without bias; the weight is (out, in/groups, kernel, kernel).
    pub fn new(
        (inputs, outputs, kernel): (usize, usize, usize),
        spec: Conv2dSpec,
        draw: Draw,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let inputs = inputs / spec.groups;
        let (weight, _) = draws(draw, inputs * kernel * kernel);
        Ok(Self { weight: vb.get_with_hints((outputs, inputs, kernel, kernel), "weight", weight)?, bias: None, spec })
    }

    /// With a bias (out,).
    pub fn with_bias(
        (inputs, outputs, kernel): (usize, usize, usize),
        spec: Conv2dSpec,
        draw: Draw,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let (_, bias) = draws(draw, inputs / spec.groups * kernel * kernel);
        let bias = Some(vb.get_with_hints(outputs, "bias", bias)?);
        Ok(Self { bias, ..Self::new((inputs, outputs, kernel), spec, draw, vb)? })
    }

    /// (B, H, W, in) to (B, H', W', out).
    pub fn forward(&self, x: &Value, pass: &Pass) -> Result<Value> {
        self.forward_residual(x, None, pass)
    }

    /// `conv(x) + residual`.
    pub fn forward_residual(&self, x: &Value, residual: Option<&Value>, pass: &Pass) -> Result<Value> {
        if pass.keeps() {
            return self.forward_prepared(x, None, residual, Activation::None, pass);
        }
        let bias = self.bias.as_ref().map(|bias| pass.parameter(bias));
        ops::conv2d_then(x, &pass.parameter(&self.weight), bias.as_ref(), self.spec, residual, Activation::None)
    }

    /// `activation(norm(conv(x)) + residual)`; one operation where nobody asks for what lies between.
    pub fn forward_normed(
        &self,
        x: &Value,
        norm: &BatchNorm2d,
        residual: Option<&Value>,
        activation: Activation,
        pass: &Pass,
    ) -> Result<Value> {
        if !pass.is_frozen() {
            return norm.forward_residual(&self.forward(x, pass)?, residual, activation, pass);
        }
        self.forward_prepared(x, Some(norm), residual, activation, pass)
    }

    /// With constants for weight and bias, and the normalisation folded in.
    fn forward_prepared(
        &self,
        x: &Value,
        norm: Option<&BatchNorm2d>,
        residual: Option<&Value>,
        activation: Activation,
        pass: &Pass,
    ) -> Result<Value> {
        let key = (self.weight.id(), norm.map(|norm| norm.weight.id()));
        let (bias, norm) = (self.bias.as_ref(), norm.map(BatchNorm2d::frozen));
        let prepare = || ops::prepare_convolution(&self.weight, bias, norm, x.tensor().dtype());
        ops::conv2d_prepared(x, &*pass.prepared(key, prepare)?, self.spec, residual, activation)
    }
}

/// Batch normalisation over (B, H, W), with what follows it fused in.
pub struct BatchNorm2d {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor,
}

/// PyTorch's defaults.
const EPS: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

impl BatchNorm2d {
    /// Over `channels` channels.
    pub fn new(channels: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let constant = |name, value| vb.get_with_hints(channels, name, Init::Const(value));
        Ok(Self {
            weight: constant("weight", 1.0)?,
            bias: constant("bias", 0.0)?,
            running_mean: constant("running_mean", 0.0)?,
            running_var: constant("running_var", 1.0)?,
            num_batches_tracked: vb.get_with_hints((), "num_batches_tracked", Init::Const(0.0))?,
        })
    }

    /// `activation(norm(x))`; shapes stay.
    pub fn forward(&self, x: &Value, activation: Activation, pass: &Pass) -> Result<Value> {
        self.forward_residual(x, None, activation, pass)
    }

    /// `activation(norm(x) + residual)`; shapes stay.
    pub fn forward_residual(
        &self,
        x: &Value,
        residual: Option<&Value>,
        activation: Activation,
        pass: &Pass,
    ) -> Result<Value> {
        let (weight, bias) = (pass.parameter(&self.weight), pass.parameter(&self.bias));
        let (mean, var) = (&self.running_mean, &self.running_var);
        match pass.statistics {
            Statistics::Batch => {
                let (y, moments) = ops::batch_norm_train(x, &weight, &bias, EPS, residual, activation)?;
                self.running().follow(&moments, MOMENTUM)?;
                Ok(y)
            }
            Statistics::BatchOnly => {
                let (y, _) = ops::batch_norm_train(x, &weight, &bias, EPS, residual, activation)?;
                Ok(y)
            }
            Statistics::Running => ops::batch_norm_eval(x, &weight, &bias, mean, var, EPS, residual, activation),
            Statistics::Tapped => {
                let (y, tap_mean, tap_variance) =
                    ops::batch_norm_tapped(x, &weight, &bias, mean, var, EPS, residual, activation)?;
                pass.leave_tap(Tap {
                    mean: tap_mean,
                    variance: tap_variance,
                    running_mean: mean.detach(),
                    running_variance: var.detach(),
                });
                Ok(y)
            }
        }
    }

    fn frozen(&self) -> FrozenNorm<'_> {
        FrozenNorm {
            gamma: &self.weight,
            beta: &self.bias,
            mean: &self.running_mean,
            variance: &self.running_var,
            eps: EPS,
        }
    }

    fn running(&self) -> Running<'_> {
        Running { mean: &self.running_mean, variance: &self.running_var, batches: &self.num_batches_tracked }
    }
}

/// A linear layer.
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// With a bias; the weight is (out, in).
    pub fn new(inputs: usize, outputs: usize, draw: Draw, vb: VarBuilder<'_>) -> Result<Self> {
        let (weight, bias) = draws(draw, inputs);
        Ok(Self {
            weight: vb.get_with_hints((outputs, inputs), "weight", weight)?,
            bias: vb.get_with_hints(outputs, "bias", bias)?,
        })
    }

    /// (B, in) to (B, out).
    pub fn forward(&self, x: &Value, pass: &Pass) -> Result<Value> {
        ops::linear(x, &pass.parameter(&self.weight), Some(&pass.parameter(&self.bias)))
    }
}
