//! Wide residual networks WRN-d-k (Zagoruyko and Komodakis 2016): pre-activation basic blocks, (d − 4) / 6 in each of
//! three groups of 16k, 32k and 64k channels. Tensor names are those of the public code of CMI and Fast-Datafree.
//!
//! Fresh convolutions are He et al.'s normal ones by the number of outputs, as in that code.

use candle_core::Result;
use candle_nn::VarBuilder;
use ssdkd_ops::{Activation, Conv2dSpec, Value};

use crate::layers::{BatchNorm2d, Conv2d, Draw};
use crate::models::Group;
use crate::pass::Pass;

/// See the [module](self).
pub struct Wrn {
    conv1: Conv2d,
    blocks: Vec<Block>,
    bn1: BatchNorm2d,
    groups: [Group; 3],
}

struct Block {
    bn1: BatchNorm2d,
    conv1: Conv2d,
    bn2: BatchNorm2d,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl Wrn {
    /// Asks `vb` for every tensor.
    pub fn new(depth: usize, width: usize, channels: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let groups = [16, 32, 64].map(|channels| Group { maps: (depth - 4) / 6, channels: channels * width });
        let conv1 = convolution((channels, 16, 3), 1, vb.pp("conv1"))?;
        let (mut inputs, mut blocks) = (16, Vec::new());
        for (group, &Group { maps, channels: outputs }) in groups.iter().enumerate() {
            let vb = vb.pp(format!("block{}", group + 1)).pp("layer");
            for index in 0..maps {
                let stride = if group > 0 && index == 0 { 2 } else { 1 };
                blocks.push(Block::new(inputs, outputs, stride, vb.pp(index))?);
                inputs = outputs;
            }
        }
        let bn1 = BatchNorm2d::new(inputs, vb.pp("bn1"))?;
        Ok(Self { conv1, blocks, bn1, groups })
    }

    /// Its maps.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The maps of normalised images (B, H, W, C), each as batch norm and ReLU hand it on.
    pub fn forward(&self, x: &Value, pass: &Pass) -> Result<Vec<Value>> {
        let mut x = self.conv1.forward(x, pass)?;
        // A block hands on a sum whose size nothing bounds; its map is that sum as the next block sees it.
        let mut maps = Vec::new();
        for (index, block) in self.blocks.iter().enumerate() {
            let activated = block.bn1.forward(&x, Activation::Relu, pass)?;
            if index > 0 {
                maps.push(activated.clone());
            }
            x = block.forward(&x, &activated, pass)?;
        }
        maps.push(self.bn1.forward(&x, Activation::Relu, pass)?);
        Ok(maps)
    }
}

impl Block {
    fn new(inputs: usize, outputs: usize, stride: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let shortcut = if inputs == outputs {
            None
        } else {
            Some(convolution((inputs, outputs, 1), stride, vb.pp("convShortcut"))?)
        };
        Ok(Self {
            bn1: BatchNorm2d::new(inputs, vb.pp("bn1"))?,
            conv1: convolution((inputs, outputs, 3), stride, vb.pp("conv1"))?,
            bn2: BatchNorm2d::new(outputs, vb.pp("bn2"))?,
            conv2: convolution((outputs, outputs, 3), 1, vb.pp("conv2"))?,
            shortcut,
        })
    }

    /// x (B, H, W, C): a sum; `activated`: the same behind `bn1` and ReLU.
    fn forward(&self, x: &Value, activated: &Value, pass: &Pass) -> Result<Value> {
        let y = self.conv1.forward_normed(activated, &self.bn2, None, Activation::Relu, pass)?;
        // Where the shape changes, the shortcut starts behind the activation.
        let residual = match &self.shortcut {
            Some(shortcut) => shortcut.forward(activated, pass)?,
            None => x.clone(),
        };
        self.conv2.forward_residual(&y, Some(&residual), pass)
    }
}

fn convolution(sizes: (usize, usize, usize), stride: usize, vb: VarBuilder<'_>) -> Result<Conv2d> {
    Conv2d::new(sizes, Conv2dSpec::new(stride, sizes.2 / 2), Draw::HE_OUTPUTS, vb)
}
