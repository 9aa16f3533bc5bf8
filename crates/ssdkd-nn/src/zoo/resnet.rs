//! Residual networks (He et al. 2016): the CIFAR family of depth 6n+2, and ResNet-18 to -101 with either stem.
//!
//! The CIFAR family has two kinds of shortcut where the shape changes. Kind A has no parameters: every other pixel, and
//! zero channels on both sides. Kind B is a 1×1 convolution and a batch norm, which the others always use.
//!
//! Fresh weights are He et al.'s normal ones: by the number of inputs with a CIFAR stem, as in the public CIFAR code, and by the
//! number of outputs otherwise, as in torchvision.

use ssdkd_graph::op::Activation;
use ssdkd_graph::{GraphError, NodeId, Op};

use super::builder::{Builder, Built, Convolution, Draw};
use crate::architecture::zoo::{Names, Shortcut, Stem};

/// A residual network but for its stem.
pub(super) struct Body<'a> {
    pub shortcut: Shortcut,
    /// Three convolutions in a block, 1×1, 3×3, 1×1, the last with four times the channels.
    pub bottleneck: bool,
    pub draw: Draw,
    pub names: &'a Names,
    /// Before each module's name.
    pub prefix: &'a str,
}

/// Blocks of one resolution.
pub(super) struct Group {
    pub blocks: usize,
    pub channels: usize,
    /// Of the first block.
    pub stride: usize,
    /// Of the 3×3 convolutions, from the second block on; the first block has half of it, but at least 1.
    pub dilation: usize,
}

/// Three groups of (depth − 2) / 6 blocks with 16, 32 and 64 channels.
pub(super) fn cifar(net: &mut Builder, x: NodeId, depth: usize, shortcut: Shortcut, names: &Names) -> Built {
    let body = Body { shortcut, bottleneck: false, draw: Draw::HE_INPUTS, names, prefix: "" };
    let x = body.stem(net, x, Stem::Cifar, 16)?;
    body.groups(net, x, &groups(&[(depth - 2) / 6; 3], &[16, 32, 64]))
}

/// Returns the networks of RepDistiller (Tian et al. 2020), called resnet8x4 and resnet32x4: the CIFAR family with 64, 128 and 256 channels.
pub(super) fn four_times_wide(net: &mut Builder, x: NodeId, depth: usize, names: &Names) -> Built {
    let body = Body { shortcut: Shortcut::Convolution, bottleneck: false, draw: Draw::HE_OUTPUTS, names, prefix: "" };
    let x = body.stem(net, x, Stem::Cifar, 32)?;
    body.groups(net, x, &groups(&[(depth - 2) / 6; 3], &[64, 128, 256]))
}

/// ResNet-18, -34, -50 or -101: four groups with 64, 128, 256 and 512 channels.
pub(super) fn imagenet(net: &mut Builder, x: NodeId, depth: usize, stem: Stem, names: &Names) -> Built {
    let draw = if stem == Stem::Cifar { Draw::HE_INPUTS } else { Draw::HE_OUTPUTS };
    let body = Body { shortcut: Shortcut::Convolution, bottleneck: depth >= 50, draw, names, prefix: "" };
    let x = body.stem(net, x, stem, 64)?;
    body.groups(net, x, &groups(blocks(depth), &[64, 128, 256, 512]))
}

/// Blocks of each group of ResNet-18, -34, -50 or -101.
pub(super) fn blocks(depth: usize) -> &'static [usize] {
    match depth {
        18 => &[2, 2, 2, 2],
        101 => &[3, 4, 23, 3],
        _ => &[3, 4, 6, 3],
    }
}

/// Groups that halve the resolution, all but the first.
fn groups(blocks: &[usize], channels: &[usize]) -> Vec<Group> {
    let group = |(index, (&blocks, &channels))| {
        let stride = if index == 0 { 1 } else { 2 };
        Group { blocks, channels, stride, dilation: 1 }
    };
    blocks.iter().zip(channels).enumerate().map(group).collect()
}

impl Body<'_> {
    fn module(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Returns the first convolution, and in an ImageNet stem the pooling.
    pub(super) fn stem(&self, net: &mut Builder, x: NodeId, stem: Stem, channels: usize) -> Built {
        let (kernel, stride) = if stem == Stem::Cifar { (3, 1) } else { (7, 2) };
        let (conv, norm) = (self.module("conv1"), self.module("bn1"));
        let convolution = Convolution::new(channels, kernel, stride, self.draw);
        let x = net.conv_norm(x, (&conv, &norm), convolution, Some(Activation::Relu))?;
        if stem == Stem::Cifar { Ok(x) } else { net.max_pool(x, &self.module("maxpool"), 3, 2, 1) }
    }

    /// Returns all blocks. Each block's result is a feature map.
    pub(super) fn groups(&self, net: &mut Builder, mut x: NodeId, groups: &[Group]) -> Built {
        for (group, &Group { blocks, channels, stride, dilation }) in groups.iter().enumerate() {
            for index in 0..blocks {
                let place = self.module(&format!("layer{}.{index}", group + 1));
                let (stride, dilation) = if index == 0 { (stride, (dilation / 2).max(1)) } else { (1, dilation) };
                x = self.block(net, x, &place, channels, stride, dilation)?;
                net.mark(x);
            }
        }
        Ok(x)
    }

    fn block(
        &self,
        net: &mut Builder,
        x: NodeId,
        place: &str,
        channels: usize,
        stride: usize,
        dilation: usize,
    ) -> Built {
        let outputs = if self.bottleneck { 4 * channels } else { channels };
        let convolution = |channels, kernel, stride, dilation| Convolution {
            dilation,
            ..Convolution::new(channels, kernel, stride, self.draw)
        };
        // Kernel, channels, stride and dilation of each convolution.
        let layers = if self.bottleneck {
            vec![
                convolution(channels, 1, 1, 1),
                convolution(channels, 3, stride, dilation),
                convolution(outputs, 1, 1, 1),
            ]
        } else {
            vec![convolution(channels, 3, stride, dilation), convolution(channels, 3, 1, dilation)]
        };
        let last = layers.len();
        let name = |kind: &str, index: usize| format!("{place}.{kind}{index}");
        let mut y = x;
        for (index, layer) in (1..last).zip(&layers) {
            y = net.conv_norm(y, (&name("conv", index), &name("bn", index)), *layer, Some(Activation::Relu))?;
        }
        let residual = self.shortcut(net, x, place, outputs, stride)?;
        let y = net.conv_norm(y, (&name("conv", last), &name("bn", last)), layers[last - 1], None)?;
        let sum = net.add(&format!("{place}.add"), y, residual)?;
        net.relu(sum)
    }

    fn shortcut(&self, net: &mut Builder, x: NodeId, place: &str, outputs: usize, stride: usize) -> Built {
        let inputs = net.channels(x);
        match self.shortcut {
            _ if inputs == outputs && stride == 1 => Ok(x),
            Shortcut::Pad => {
                let Some(zeros) = outputs.checked_sub(inputs).map(|zeros| zeros / 2) else {
                    return Err(GraphError::Graph("a shortcut without parameters cannot drop channels".into()));
                };
                let op = Op::SubsamplePad { stride, before: zeros, after: zeros };
                net.apply(&format!("{place}.shortcut"), op, &[x])
            }
            Shortcut::Convolution => {
                let place = format!("{place}.{}", self.names.shortcut);
                let names = (&*format!("{place}.0"), &*format!("{place}.1"));
                net.conv_norm(x, names, Convolution::new(outputs, 1, stride, self.draw), None)
            }
        }
    }
}
