//! `MobileNetV2` (Sandler et al. 2018) and `MobileNetV3`-small (Howard et al. 2019), with torchvision's names and settings.
//!
//! They have no dropout. Fresh convolutions are He et al.'s normal ones by the number of outputs, linear layers normal with 0.01, biases
//! zero.

use candle_nn::Init;
use ssdkd_graph::op::Activation;
use ssdkd_graph::{GraphError, NodeId, Op};

use super::RELU6;
use super::builder::{Builder, Built, Convolution, Draw};

const LINEAR: Draw = Draw::PYTORCH.weight(Init::Randn { mean: 0.0, stdev: 0.01 }).zero_bias();

/// Returns the nearest multiple of 8, and not less than 0.9 times the number.
fn of_eight(channels: f64) -> usize {
    let rounded = (((channels + 4.0) / 8.0) as usize * 8).max(8);
    if (rounded as f64) < 0.9 * channels { rounded + 8 } else { rounded }
}

fn convolution(outputs: usize, kernel: usize, stride: usize) -> Convolution {
    Convolution::new(outputs, kernel, stride, Draw::HE_OUTPUTS)
}

fn depthwise(channels: usize, kernel: usize, stride: usize) -> Convolution {
    Convolution { groups: channels, ..convolution(channels, kernel, stride) }
}

/// Factor of the channels in between, channels, blocks, stride of the first.
const V2: [(usize, usize, usize, usize); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];

/// Returns channels of the first convolution and of the blocks of each kind, with `percent` of the channels.
pub(crate) fn v2_channels(percent: usize) -> [usize; 8] {
    let wide = |channels: usize| of_eight(channels as f64 * percent as f64 / 100.0);
    let [first, second, third, fourth, fifth, sixth, seventh] = V2.map(|(_, channels, ..)| wide(channels));
    [wide(32), first, second, third, fourth, fifth, sixth, seventh]
}

/// Returns all but the last layer, with `percent` of the channels.
pub(super) fn v2(net: &mut Builder, x: NodeId, percent: usize) -> Built {
    let [first, channels @ ..] = v2_channels(percent);
    let names = ("features.0.0", "features.0.1");
    let mut x = net.conv_norm(x, names, convolution(first, 3, 2), Some(RELU6))?;
    let mut place = 1;
    for ((expansion, _, blocks, stride), channels) in V2.into_iter().zip(channels) {
        for index in 0..blocks {
            let stride = if index == 0 { stride } else { 1 };
            x = inverted_residual(net, x, place, expansion, channels, stride)?;
            net.mark(x);
            place += 1;
        }
    }
    let last = of_eight(1280.0 * (percent as f64 / 100.0).max(1.0));
    let names = (&*format!("features.{place}.0"), &*format!("features.{place}.1"));
    let x = net.conv_norm(x, names, convolution(last, 1, 1), Some(RELU6))?;
    net.mark(x);
    Ok(x)
}

fn inverted_residual(
    net: &mut Builder,
    x: NodeId,
    place: usize,
    expansion: usize,
    outputs: usize,
    stride: usize,
) -> Built {
    let place = format!("features.{place}.conv");
    let (inputs, mut y, mut entry) = (net.channels(x), x, 0);
    let hidden = inputs * expansion;
    if expansion > 1 {
        let names = (&*format!("{place}.0.0"), &*format!("{place}.0.1"));
        y = net.conv_norm(y, names, convolution(hidden, 1, 1), Some(RELU6))?;
        entry = 1;
    }
    let names = (&*format!("{place}.{entry}.0"), &*format!("{place}.{entry}.1"));
    y = net.conv_norm(y, names, depthwise(hidden, 3, stride), Some(RELU6))?;
    let names = (&*format!("{place}.{}", entry + 1), &*format!("{place}.{}", entry + 2));
    y = net.conv_norm(y, names, convolution(outputs, 1, 1), None)?;
    if stride == 1 && inputs == outputs { net.add(&format!("{place}.add"), y, x) } else { Ok(y) }
}

/// Returns the logits and the row before them.
pub(super) fn v2_head(net: &mut Builder, x: NodeId, classes: usize) -> Result<(NodeId, NodeId), GraphError> {
    let features = net.pooled_row(x)?;
    Ok((net.linear(features, "classifier.1", classes, LINEAR)?, features))
}

/// One block of `MobileNetV3`.
struct Block {
    kernel: usize,
    hidden: usize,
    outputs: usize,
    squeeze: bool,
    hard_swish: bool,
    stride: usize,
}

/// Kernel, channels in between, channels, squeeze-excite, hard swish, stride.
const V3_SMALL: [(usize, usize, usize, bool, bool, usize); 11] = [
    (3, 16, 16, true, false, 2),
    (3, 72, 24, false, false, 2),
    (3, 88, 24, false, false, 1),
    (5, 96, 40, true, true, 2),
    (5, 240, 40, true, true, 1),
    (5, 240, 40, true, true, 1),
    (5, 120, 48, true, true, 1),
    (5, 144, 48, true, true, 1),
    (5, 288, 96, true, true, 2),
    (5, 576, 96, true, true, 1),
    (5, 576, 96, true, true, 1),
];

/// Returns all but the last two layers.
pub(super) fn v3_small(net: &mut Builder, x: NodeId) -> Built {
    net.norms = (1e-3, 0.01);
    let names = ("features.0.0", "features.0.1");
    let mut x = net.conv_norm(x, names, convolution(16, 3, 2), Some(Activation::HardSwish))?;
    for (index, (kernel, hidden, outputs, squeeze, hard_swish, stride)) in V3_SMALL.into_iter().enumerate() {
        let block = Block { kernel, hidden, outputs, squeeze, hard_swish, stride };
        x = block.build(net, x, &format!("features.{}.block", index + 1))?;
        net.mark(x);
    }
    let names = ("features.12.0", "features.12.1");
    let x = net.conv_norm(x, names, convolution(576, 1, 1), Some(Activation::HardSwish))?;
    net.mark(x);
    Ok(x)
}

impl Block {
    fn build(&self, net: &mut Builder, x: NodeId, place: &str) -> Built {
        let activation = if self.hard_swish { Activation::HardSwish } else { Activation::Relu };
        let (inputs, mut y, mut entry) = (net.channels(x), x, 0);
        let mut layer = |net: &mut Builder, y, convolution, activation| {
            let names = (&*format!("{place}.{entry}.0"), &*format!("{place}.{entry}.1"));
            entry += 1;
            net.conv_norm(y, names, convolution, activation)
        };
        if self.hidden != inputs {
            y = layer(net, y, convolution(self.hidden, 1, 1), Some(activation.clone()))?;
        }
        y = layer(net, y, depthwise(self.hidden, self.kernel, self.stride), Some(activation))?;
        if self.squeeze {
            y = squeeze_excite(net, y, &format!("{place}.{entry}"))?;
            entry += 1;
        }
        let names = (&*format!("{place}.{entry}.0"), &*format!("{place}.{entry}.1"));
        y = net.conv_norm(y, names, convolution(self.outputs, 1, 1), None)?;
        let is_residual = self.stride == 1 && inputs == self.outputs;
        if is_residual { net.add(&format!("{place}.add"), y, x) } else { Ok(y) }
    }
}

/// Returns each channel times a number in `[0, 1]` that two 1×1 convolutions make of the mean of all channels.
fn squeeze_excite(net: &mut Builder, x: NodeId, place: &str) -> Built {
    let channels = net.channels(x);
    let biased = |outputs| Convolution { bias: true, ..convolution(outputs, 1, 1) };
    let mean = net.mean(x, &format!("{place}.avgpool"))?;
    let y = net.conv(mean, &format!("{place}.fc1"), biased(of_eight(channels as f64 / 4.0)))?;
    let y = net.relu(y)?;
    let y = net.conv(y, &format!("{place}.fc2"), biased(channels))?;
    let gate = net.activate(y, Activation::HARD_SIGMOID)?;
    net.apply(&format!("{place}.mul"), Op::Mul, &[x, gate])
}

/// Returns the logits and the row before them.
pub(super) fn v3_head(net: &mut Builder, x: NodeId, classes: usize) -> Result<(NodeId, NodeId), GraphError> {
    let x = net.pooled_row(x)?;
    let x = net.linear(x, "classifier.0", 1024, LINEAR)?;
    let features = net.activate(x, Activation::HardSwish)?;
    Ok((net.linear(features, "classifier.3", classes, LINEAR)?, features))
}
