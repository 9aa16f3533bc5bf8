//! Residual networks of basic blocks (He et al. 2016): the CIFAR family of depth 6n+2, and ResNet-18/34 with the CIFAR
//! stem (a 3×3 convolution with stride 1, no max pooling).
//!
//! The CIFAR family has two kinds of shortcut where the shape changes. Kind A has no parameters: every other pixel, and
//! zero channels on both sides. Kind B is a 1×1 convolution and a batch norm, which ResNet-18/34 always use.
//!
//! Fresh weights are He et al.'s normal ones by the number of inputs, as in the public CIFAR code.

use candle_core::Result;
use candle_nn::VarBuilder;
use ssdkd_ops as ops;
use ssdkd_ops::{Activation, Conv2dSpec, Value};

use crate::architecture::{Names, Shortcut};
use crate::layers::{BatchNorm2d, Conv2d, Draw};
use crate::models::Group;
use crate::pass::Pass;

/// See the [module](self).
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    blocks: Vec<Block>,
    groups: Vec<Group>,
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
    pub fn cifar(depth: usize, shortcut: Shortcut, names: &Names, channels: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let maps = (depth - 2) / 6;
        let groups = [16, 32, 64].map(|channels| Group { maps, channels });
        Self::new(groups.to_vec(), shortcut, names, channels, vb)
    }

    /// ResNet-18 or -34: four groups with 64, 128, 256 and 512 channels.
    pub fn imagenet(depth: usize, names: &Names, channels: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let blocks = if depth == 18 { [2, 2, 2, 2] } else { [3, 4, 6, 3] };
        let groups = [64, 128, 256, 512].into_iter().zip(blocks).map(|(channels, maps)| Group { maps, channels });
        Self::new(groups.collect(), Shortcut::Convolution, names, channels, vb)
    }

    fn new(groups: Vec<Group>, shortcut: Shortcut, names: &Names, channels: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let mut width = groups[0].channels;
        let conv1 = conv3x3(channels, width, 1, vb.pp("conv1"))?;
        let bn1 = BatchNorm2d::new(width, vb.pp("bn1"))?;
        let mut blocks = Vec::new();
        for (group, &Group { maps: count, channels: outputs }) in groups.iter().enumerate() {
            let vb = vb.pp(format!("layer{}", group + 1));
            for index in 0..count {
                let stride = if group > 0 && index == 0 { 2 } else { 1 };
                blocks.push(Block::new((width, outputs, stride), shortcut, names, vb.pp(index))?);
                width = outputs;
            }
        }
        Ok(Self { conv1, bn1, blocks, groups })
    }

    /// Its maps.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The maps of normalised images (B, H, W, C).
    pub fn forward(&self, x: &Value, pass: &Pass) -> Result<Vec<Value>> {
        let mut x = self.conv1.forward_normed(x, &self.bn1, None, Activation::Relu, pass)?;
        let mut maps = Vec::new();
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
            maps.push(x.clone());
        }
        Ok(maps)
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
