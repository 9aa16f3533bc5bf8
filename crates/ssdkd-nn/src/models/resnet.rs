//! Residual networks of basic blocks (He et al. 2016): the CIFAR family of depth 6n+2, and ResNet-18/34 with the CIFAR
//! stem (a 3×3 convolution with stride 1, no max pooling).
//!
//! The CIFAR family has two kinds of shortcut where the shape changes. Kind A has no parameters: every other pixel, and
//! zero channels on both sides. Kind B is a 1×1 convolution and a batch norm, which ResNet-18/34 always use.
//!
//! Fresh weights are He et al.'s normal ones by the number of inputs, the head's too, as in the public CIFAR code.

use candle_core::Result;
use candle_nn::VarBuilder;
use ssdkd_ops as ops;
use ssdkd_ops::{Activation, Conv2dSpec, Value};

use crate::architecture::{Names, Shortcut};
use crate::layers::{BatchNorm2d, Conv2d, Draw, Linear};
use crate::models::Output;
use crate::pass::Pass;

/// See the [module](self).
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    blocks: Vec<Block>,
    head: Linear,
}

struct Block {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    shortcut: Path,
}

enum Path {
    Identity,
    /// Stride and zero channels on each side.
    Pad(usize, usize),
    Convolution(Conv2d, BatchNorm2d),
}

impl ResNet {
    /// Three groups of (depth − 2) / 6 blocks with 16, 32 and 64 channels.
    pub fn cifar(
        depth: usize,
        shortcut: Shortcut,
        names: &Names,
        classes: usize,
        channels: usize,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let blocks = (depth - 2) / 6;
        Self::new(&[(16, blocks), (32, blocks), (64, blocks)], shortcut, names, classes, channels, vb)
    }

    /// ResNet-18 or -34: four groups with 64, 128, 256 and 512 channels.
    pub fn imagenet(depth: usize, names: &Names, classes: usize, channels: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let blocks = if depth == 18 { [2, 2, 2, 2] } else { [3, 4, 6, 3] };
        let groups = [64, 128, 256, 512].into_iter().zip(blocks).collect::<Vec<_>>();
        Self::new(&groups, Shortcut::Convolution, names, classes, channels, vb)
    }

    fn new(
        groups: &[(usize, usize)],
        shortcut: Shortcut,
        names: &Names,
        classes: usize,
        channels: usize,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let mut width = groups[0].0;
        let conv1 = conv3x3(channels, width, 1, vb.pp("conv1"))?;
        let bn1 = BatchNorm2d::new(width, vb.pp("bn1"))?;
        let mut blocks = Vec::new();
        for (group, &(outputs, count)) in groups.iter().enumerate() {
            let vb = vb.pp(format!("layer{}", group + 1));
            for index in 0..count {
                let stride = if group > 0 && index == 0 { 2 } else { 1 };
                blocks.push(Block::new((width, outputs, stride), shortcut, names, vb.pp(index))?);
                width = outputs;
            }
        }
        let head = Linear::new(width, classes, Draw::HE_INPUTS, vb.pp(&names.head))?;
        Ok(Self { conv1, bn1, blocks, head })
    }

    /// From normalised images (B, H, W, C).
    pub fn forward(&self, x: &Value, pass: &Pass) -> Result<Output> {
        let mut x = self.conv1.forward_normed(x, &self.bn1, None, Activation::Relu, pass)?;
        let mut maps = Vec::new();
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
            maps.push(x.clone());
        }
        let features = ops::global_avg_pool(&x)?; // (B, F)
        let logits = self.head.forward(&features, pass)?;
        Ok(Output { maps, features, logits })
    }
}

impl Block {
    fn new(
        (inputs, outputs, stride): (usize, usize, usize),
        shortcut: Shortcut,
        names: &Names,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let path = match shortcut {
            _ if inputs == outputs && stride == 1 => Path::Identity,
            Shortcut::Pad => Path::Pad(stride, (outputs - inputs) / 2),
            Shortcut::Convolution => {
                let vb = vb.pp(&names.shortcut);
                let spec = Conv2dSpec::new(stride, 0);
                Path::Convolution(
                    Conv2d::new((inputs, outputs, 1), spec, Draw::HE_INPUTS, vb.pp(0))?,
                    BatchNorm2d::new(outputs, vb.pp(1))?,
                )
            }
        };
        Ok(Self {
            conv1: conv3x3(inputs, outputs, stride, vb.pp("conv1"))?,
            bn1: BatchNorm2d::new(outputs, vb.pp("bn1"))?,
            conv2: conv3x3(outputs, outputs, 1, vb.pp("conv2"))?,
            bn2: BatchNorm2d::new(outputs, vb.pp("bn2"))?,
            shortcut: path,
        })
    }

    fn forward(&self, x: &Value, pass: &Pass) -> Result<Value> {
        let y = self.conv1.forward_normed(x, &self.bn1, None, Activation::Relu, pass)?;
        let residual = match &self.shortcut {
            Path::Identity => x.clone(),
            Path::Pad(stride, channels) => ops::subsample_pad(x, *stride, *channels)?,
            Path::Convolution(conv, bn) => conv.forward_normed(x, bn, None, Activation::None, pass)?,
        };
        self.conv2.forward_normed(&y, &self.bn2, Some(&residual), Activation::Relu, pass)
    }
}

fn conv3x3(inputs: usize, outputs: usize, stride: usize, vb: VarBuilder<'_>) -> Result<Conv2d> {
    Conv2d::new((inputs, outputs, 3), Conv2dSpec::new(stride, 1), Draw::HE_INPUTS, vb)
}
