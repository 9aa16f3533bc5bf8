//! Convolutions and normalizations with what follows them.

use std::rc::Rc;

use candle_core::{Result, bail};
use ssdkd_ops as ops;
use ssdkd_ops::{Conv2dSpec, FrozenNorm, Running, Value};

use super::{Mode, Pass, Tap};
use crate::fuse::Step;
use crate::graph::NodeId;
use crate::op::{Activation, BatchNorm, Conv2d, Op};

/// Top, left, bottom, right in the order of `ssdkd-ops`: top, bottom, left, right.
pub(super) fn sides([top, left, bottom, right]: [usize; 4]) -> [usize; 4] {
    [top, bottom, left, right]
}

/// Returns an activation that convolutions and normalizations apply themselves.
pub(super) fn fusible(activation: &Activation) -> Option<ops::Activation> {
    Some(match activation {
        Activation::Relu => ops::Activation::Relu,
        Activation::Clip { min, max } => ops::Activation::Clip(*min, *max),
        Activation::LeakyRelu { slope } => ops::Activation::LeakyRelu(*slope),
        Activation::HardSwish => ops::Activation::HardSwish,
        Activation::Silu => ops::Activation::Silu,
        Activation::HardSigmoid { .. } if *activation == Activation::HARD_SIGMOID => ops::Activation::HardSigmoid,
        Activation::HardSigmoid { .. } | Activation::Prelu { .. } | Activation::Sigmoid => return None,
    })
}

impl Pass<'_> {
    pub(super) fn fused(&mut self, step: &Step) -> Result<Value> {
        let graph = &self.executor.graph;
        let op = |id: NodeId| &graph.node(id).op;
        let activation = match step.activation.map(op) {
            None => ops::Activation::None,
            Some(Op::Activation(activation)) => match fusible(activation) {
                Some(activation) => activation,
                None => bail!("the activation cannot be fused"),
            },
            Some(other) => bail!("{} is no activation", other.kind()),
        };
        let norm = match step.norm.map(|id| (id, op(id))) {
            None => None,
            Some((id, Op::BatchNorm(norm))) => Some((id, norm)),
            Some((_, other)) => bail!("{} is no normalization", other.kind()),
        };
        let residual = step.residual.map(|(_, residual)| self.value(residual).cloned()).transpose()?;
        let residual = residual.as_ref();
        match (step.convolution.map(|id| (id, op(id))), norm) {
            (Some((id, Op::Conv2d(conv))), norm) => {
                let x = self.value(graph.node(id).inputs[0])?.clone();
                self.convolution(id, conv, &x, norm, residual, activation)
            }
            (None, Some((id, norm))) => {
                let x = self.value(graph.node(id).inputs[0])?.clone();
                self.normalized(id, norm, &x, residual, activation)
            }
            _ => bail!("a step without a convolution or a normalization"),
        }
    }

    fn convolution(
        &mut self,
        id: NodeId,
        conv: &Conv2d,
        x: &Value,
        norm: Option<(NodeId, &BatchNorm)>,
        residual: Option<&Value>,
        activation: ops::Activation,
    ) -> Result<Value> {
        let Conv2d { stride, dilation, groups, .. } = *conv;
        let spec = Conv2dSpec { stride, padding: sides(conv.padding), dilation, groups };
        let folded = match self.mode {
            Mode::Eval => norm.map(|(_, norm)| norm),
            _ => None,
        };
        // Where the weights do not change, their order for the kernels is kept, folded or not.
        if folded.is_some() || self.mode != Mode::Train && self.executor.kept.is_some() {
            let prepared = self.prepared(id, conv, folded, x)?;
            let Some((norm_id, norm)) = norm.filter(|_| folded.is_none()) else {
                return ops::conv2d_prepared(x, &prepared, spec, residual, activation);
            };
            let y = ops::conv2d_prepared(x, &prepared, spec, None, ops::Activation::None)?;
            return self.normalized(norm_id, norm, &y, residual, activation);
        }
        let weight = self.parameter(&conv.weight);
        let bias = conv.bias.as_ref().map(|bias| self.parameter(bias));
        let Some((norm_id, norm)) = norm else {
            return ops::conv2d_then(x, &weight, bias.as_ref(), spec, residual, activation);
        };
        let y = ops::conv2d_then(x, &weight, bias.as_ref(), spec, None, ops::Activation::None)?;
        self.normalized(norm_id, norm, &y, residual, activation)
    }

    fn prepared(
        &self,
        id: NodeId,
        conv: &Conv2d,
        norm: Option<&BatchNorm>,
        x: &Value,
    ) -> Result<Rc<ops::PreparedConvolution>> {
        let prepare = || {
            let norm = norm.map(|norm| FrozenNorm {
                gamma: self.tensor(&norm.weight),
                beta: self.tensor(&norm.bias),
                mean: self.tensor(&norm.running_mean),
                variance: self.tensor(&norm.running_var),
                eps: norm.eps,
            });
            let bias = conv.bias.as_ref().map(|bias| self.tensor(bias));
            ops::prepare_convolution(self.tensor(&conv.weight), bias, norm, x.tensor().dtype()).map(Rc::new)
        };
        let Some(kept) = &self.executor.kept else { return prepare() };
        let key = (id, norm.is_some());
        if let Some(there) = kept.borrow().get(&key) {
            return Ok(there.clone());
        }
        let prepared = prepare()?;
        kept.borrow_mut().insert(key, prepared.clone());
        Ok(prepared)
    }

    fn normalized(
        &mut self,
        id: NodeId,
        norm: &BatchNorm,
        x: &Value,
        residual: Option<&Value>,
        activation: ops::Activation,
    ) -> Result<Value> {
        let (weight, bias) = (self.parameter(&norm.weight), self.parameter(&norm.bias));
        let (mean, variance) = (self.tensor(&norm.running_mean), self.tensor(&norm.running_var));
        match self.mode {
            Mode::Eval => ops::batch_norm_eval(x, &weight, &bias, mean, variance, norm.eps, residual, activation),
            Mode::Tapped => {
                let (y, tap_mean, tap_variance) =
                    ops::batch_norm_tapped(x, &weight, &bias, mean, variance, norm.eps, residual, activation)?;
                let (running_mean, running_variance) = (mean.detach(), variance.detach());
                let tap = Tap { mean: tap_mean, variance: tap_variance, running_mean, running_variance };
                self.taps.push((id, tap));
                Ok(y)
            }
            Mode::Train => {
                let (y, moments) = ops::batch_norm_train(x, &weight, &bias, norm.eps, residual, activation)?;
                let batches = self.tensor(&norm.num_batches_tracked);
                Running { mean, variance, batches }.follow(&moments, norm.momentum)?;
                Ok(y)
            }
            Mode::TrainFrozen => {
                let (y, _) = ops::batch_norm_train(x, &weight, &bias, norm.eps, residual, activation)?;
                Ok(y)
            }
        }
    }
}
