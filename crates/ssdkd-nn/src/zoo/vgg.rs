//! VGG with batch norm (Simonyan and Zisserman 2015).
//!
//! Fresh convolutions are He et al.'s normal ones by the number of outputs, biases are zero.

use candle_nn::Init;
use ssdkd_graph::op::{Activation, PoolKind};
use ssdkd_graph::{GraphError, NodeId, Op};

use super::builder::{Builder, Built, Convolution, Draw};
use crate::architecture::zoo::VggHead;

/// Convolutions of each block, of VGG-11, -13, -16 and -19.
fn layers(depth: usize) -> [usize; 5] {
    match depth {
        11 => [1, 1, 2, 2, 2],
        13 => [2, 2, 2, 2, 2],
        16 => [2, 2, 3, 3, 3],
        _ => [2, 2, 4, 4, 4],
    }
}

const CHANNELS: [usize; 5] = [64, 128, 256, 512, 512];

fn convolution(outputs: usize) -> Convolution {
    Convolution { bias: true, ..Convolution::new(outputs, 3, 1, Draw::HE_OUTPUTS) }
}

/// VGG-11 as the public code of CMI and Fast-Datafree has it: five blocks, max pooling after the first three, and after the
/// fourth for 64×64 images.
pub(super) fn of_blocks(net: &mut Builder, mut x: NodeId) -> Built {
    let [height, _] = net.size(x);
    for (block, (layers, channels)) in layers(11).into_iter().zip(CHANNELS).enumerate() {
        for layer in 0..layers {
            // Convolution, norm, activation: three entries of PyTorch's Sequential.
            let names = (&*format!("block{block}.{}", 3 * layer), &*format!("block{block}.{}", 3 * layer + 1));
            x = net.conv_norm(x, names, convolution(channels), Some(Activation::Relu))?;
            net.mark(x);
        }
        if block < 3 || (block == 3 && height == 64) {
            x = net.max_pool(x, &format!("block{block}.pool"), 2, 2, 0)?;
        }
    }
    Ok(x)
}

/// VGG-11, -13, -16 or -19 as torchvision has it: max pooling after each of the five blocks.
pub(super) fn torchvision(net: &mut Builder, mut x: NodeId, depth: usize) -> Built {
    let mut place = 0;
    for (layers, channels) in layers(depth).into_iter().zip(CHANNELS) {
        for _ in 0..layers {
            let names = (&*format!("features.{place}"), &*format!("features.{}", place + 1));
            x = net.conv_norm(x, names, convolution(channels), Some(Activation::Relu))?;
            net.mark(x);
            place += 3;
        }
        x = net.max_pool(x, &format!("features.{place}"), 2, 2, 0)?;
        place += 1;
    }
    Ok(x)
}

/// Adds the last layers. Returns the logits and the row before them. There is no dropout.
pub(super) fn head(
    net: &mut Builder,
    x: NodeId,
    head: VggHead,
    classes: usize,
) -> Result<(NodeId, NodeId), GraphError> {
    let draw = Draw::PYTORCH.weight(Init::Randn { mean: 0.0, stdev: 0.01 }).zero_bias();
    let (side, hidden, last) = match head {
        VggHead::ImageNet => (7, Some(4096), "classifier.6"),
        VggHead::Mlp => (1, Some(512), "classifier.6"),
        VggHead::Linear => (1, None, "classifier"),
    };
    let x = net.apply("avgpool", Op::AdaptivePool { kind: PoolKind::Average, size: [side; 2] }, &[x])?;
    let mut x = net.apply("flatten", Op::Flatten, &[x])?;
    for (name, outputs) in ["classifier.0", "classifier.3"].into_iter().zip(hidden.into_iter().cycle()) {
        x = net.linear(x, name, outputs, draw)?;
        x = net.relu(x)?;
    }
    Ok((net.linear(x, last, classes, draw)?, x))
}
