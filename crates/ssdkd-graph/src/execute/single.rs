//! Operations that are computed alone.

use candle_core::{DType, Result, Tensor, bail};
use ssdkd_ops as ops;
use ssdkd_ops::{Conv2dSpec, Interpolation, Pool2dSpec, Value};

use super::Pass;
use super::fused::{fusible, sides};
use crate::graph::NodeId;
use crate::op::{Activation, ConvTranspose2d, Op, Pool, PoolKind, ResizeMethod, ResizeTo};
use crate::shape::Shape;

/// Returns why an operation cannot be computed, if so. What depends on the images' size is checked when images come.
pub(super) fn check(op: &Op, inputs: &[Shape]) -> std::result::Result<(), String> {
    match op {
        Op::Pad { .. } => Err("padding can be computed only right before a convolution or a pooling".into()),
        Op::MaxPool(pool) | Op::AvgPool { pool, .. } if pool.dilation != [1, 1] => {
            Err(format!("pooling with dilation {:?} cannot be computed", pool.dilation))
        }
        Op::SubsamplePad { before, after, .. } if before != after => Err(format!(
            "{before} channels of zeros before and {after} after cannot be computed: they have to be equal"
        )),
        Op::Activation(Activation::LeakyRelu { slope }) if *slope < 0.0 => {
            Err(format!("a leaky ReLU with the slope {slope} cannot be computed"))
        }
        Op::Softmax { .. } => {
            Err("a softmax cannot be computed within a network: remove it, so that the results are logits".into())
        }
        Op::Resize { size: ResizeTo::Factor(factors), .. } => {
            let [height, width] = inputs[0].size();
            let whole = |size: usize, factor: f64| (size as f64 * factor).fract() == 0.0;
            if whole(height, factors[0]) && whole(width, factors[1]) {
                Ok(())
            } else {
                Err(format!("{height} by {width} pixels times {factors:?} are no whole pixels"))
            }
        }
        _ => Ok(()),
    }
}

impl Pass<'_> {
    pub(super) fn single(&self, id: NodeId) -> Result<Value> {
        let node = self.executor.graph.node(id);
        let inputs = node.data_inputs().iter().map(|input| self.value(*input)).collect::<Result<Vec<_>>>()?;
        let Some(&x) = inputs.first() else { bail!("it has no input") };
        match &node.op {
            Op::ConvTranspose2d(conv) => self.transposed(conv, x),
            Op::Affine { scale, shift } => self.affine(scale.as_ref(), shift.as_ref(), x),
            Op::Linear { weight, bias } => {
                let bias = bias.as_ref().map(|bias| self.parameter(bias));
                ops::linear(&ops::to_f32(x)?, &self.parameter(weight), bias.as_ref())
            }
            // Probabilities need all their bits.
            Op::Activation(Activation::Sigmoid) if self.executor.graph.outputs().contains(&id) => {
                ops::sigmoid(&ops::to_f32(x)?)
            }
            Op::Activation(activation) => self.activation(activation, x),
            Op::Add => ops::add(x, inputs[1]),
            Op::Mul => ops::multiply(x, inputs[1]),
            Op::Concat => ops::concat_channels(&inputs),
            Op::SliceChannels { start, end } => ops::slice_channels(x, *start, end - start),
            Op::ChannelShuffle { groups } => ops::shuffle_channels(x, *groups),
            Op::SubsamplePad { stride, before, .. } => ops::subsample_pad(x, *stride, *before),
            Op::MaxPool(pool) => ops::max_pool2d(x, spec(pool, false)),
            Op::AvgPool { pool, count_padding } => ops::avg_pool2d(x, spec(pool, *count_padding)),
            Op::AdaptivePool { kind, size } => adaptive(*kind, *size, x),
            Op::Resize { method, .. } => {
                let method = match *method {
                    ResizeMethod::Nearest => Interpolation::Nearest,
                    ResizeMethod::Bilinear { align_corners } => Interpolation::Bilinear { align_corners },
                };
                let size = self.shapes[id.index()].size();
                match factor(x, size).filter(|_| method == Interpolation::Nearest) {
                    Some(factor) => ops::upsample_nearest(x, factor),
                    None => ops::resize(x, size, method),
                }
            }
            Op::Flatten => flatten(x),
            Op::Unflatten { channels, height, width } => unflatten(x, [*channels, *height, *width]),
            Op::Input { .. } | Op::Conv2d(_) | Op::BatchNorm(_) | Op::Pad { .. } | Op::Softmax { .. } => {
                bail!("it cannot be computed alone")
            }
        }
    }

    fn transposed(&self, conv: &ConvTranspose2d, x: &Value) -> Result<Value> {
        let ConvTranspose2d { stride, dilation, groups, output_padding, .. } = *conv;
        let spec = Conv2dSpec { stride, padding: sides(conv.padding), dilation, groups };
        let bias = conv.bias.as_ref().map(|bias| self.parameter(bias));
        ops::conv_transpose2d(x, &self.parameter(&conv.weight), bias.as_ref(), spec, output_padding)
    }

    /// As a normalization with the mean 0 and the variance 1, through which gradients flow into scale and shift.
    fn affine(&self, scale: Option<&String>, shift: Option<&String>, x: &Value) -> Result<Value> {
        let channels = x.dims().last().copied().unwrap_or(0);
        let device = x.tensor().device();
        let (zeros, ones) = (Tensor::zeros(channels, DType::F32, device)?, Tensor::ones(channels, DType::F32, device)?);
        let or = |name: Option<&String>, default: &Tensor| match name {
            Some(name) => self.parameter(name),
            None => Value::constant(default.clone()),
        };
        let (scale, shift) = (or(scale, &ones), or(shift, &zeros));
        ops::batch_norm_eval(x, &scale, &shift, &zeros, &ones, 0.0, None, ops::Activation::None)
    }

    fn activation(&self, activation: &Activation, x: &Value) -> Result<Value> {
        if let Some(activation) = fusible(activation) {
            return ops::activate(x, activation);
        }
        match activation {
            Activation::Sigmoid => ops::sigmoid(x),
            Activation::Prelu { weight } => ops::prelu(x, &self.parameter(weight)),
            Activation::HardSigmoid { alpha, beta } => {
                let channels = x.dims().last().copied().unwrap_or(0);
                let line = ops::affine_channels(x, &vec![*alpha; channels], &vec![*beta; channels])?;
                ops::activate(&line, ops::Activation::Clip(0.0, 1.0))
            }
            other => bail!("{} cannot be computed", other.kind()),
        }
    }
}

/// Returns the whole number of times that both sides of a map grow, if it is one.
fn factor(x: &Value, [height, width]: [usize; 2]) -> Option<usize> {
    let &[_, old_height, old_width, _] = x.dims() else { return None };
    let factor = height / old_height.max(1);
    (factor > 0 && [factor * old_height, factor * old_width] == [height, width]).then_some(factor)
}

fn spec(pool: &Pool, count_padding: bool) -> Pool2dSpec {
    let Pool { kernel, stride, ceil_mode, .. } = *pool;
    Pool2dSpec { kernel, stride, padding: sides(pool.padding), ceil_mode, count_include_pad: count_padding }
}

fn adaptive(kind: PoolKind, size: [usize; 2], x: &Value) -> Result<Value> {
    let &[batch, height, width, channels] = x.dims() else { bail!("it takes maps, not {:?}", x.dims()) };
    match kind {
        PoolKind::Average if size == [1, 1] => ops::reshape(&ops::global_avg_pool(x)?, (batch, 1, 1, channels)),
        PoolKind::Average => ops::adaptive_avg_pool2d(x, size),
        PoolKind::Max if height.is_multiple_of(size[0]) && width.is_multiple_of(size[1]) => {
            let kernel = [height / size[0], width / size[1]];
            let spec = Pool2dSpec { kernel, stride: kernel, ..Pool2dSpec::new(1, 1, 0) };
            ops::max_pool2d(x, spec)
        }
        PoolKind::Max => {
            bail!("the largest numbers of {height} by {width} pixels for {} by {} cannot be computed", size[0], size[1])
        }
    }
}

/// Returns (B, H, W, C) to (B, C·H·W), channel by channel.
fn flatten(x: &Value) -> Result<Value> {
    let &[batch, height, width, channels] = x.dims() else { bail!("it takes maps, not {:?}", x.dims()) };
    let pixels = height * width;
    if pixels == 1 {
        return ops::reshape(x, (batch, channels));
    }
    // Pixels and channels change places, as if pixels were the channels of images of one column.
    let turned = ops::nchw_to_nhwc(&ops::reshape(x, (batch, pixels, channels, 1))?)?;
    ops::reshape(&turned, (batch, channels * pixels))
}

/// Returns (B, C·H·W), channel by channel, to (B, H, W, C).
fn unflatten(x: &Value, [channels, height, width]: [usize; 3]) -> Result<Value> {
    let batch = x.dims().first().copied().unwrap_or(0);
    if height * width == 1 {
        return ops::reshape(x, (batch, 1, 1, channels));
    }
    // What follows are convolutions, which may compute in fewer bits.
    ops::to_reduced_precision(&ops::nchw_to_nhwc(&ops::reshape(x, (batch, channels, height, width))?)?)
}
