//! VGG-11 with batch normalisation, as the public code of CMI and Fast-Datafree has it: five blocks, max pooling after the
//! first three (and after the fourth for 64×64 images).
//!
//! Fresh convolutions are He et al.'s normal ones by the number of outputs, biases are zero, as in that code.

use candle_core::Result;
use candle_nn::VarBuilder;
use ssdkd_ops as ops;
use ssdkd_ops::{Activation, Conv2dSpec, Value};

use crate::layers::{BatchNorm2d, Conv2d, Draw};
use crate::models::Group;
use crate::pass::Pass;

/// The maps of each block.
pub const BLOCKS: [Group; 5] = [
    Group { maps: 1, channels: 64 },
    Group { maps: 1, channels: 128 },
    Group { maps: 2, channels: 256 },
    Group { maps: 2, channels: 512 },
    Group { maps: 2, channels: 512 },
];

/// See the [module](self).
pub struct Vgg {
    blocks: Vec<Vec<(Conv2d, BatchNorm2d)>>,
}

impl Vgg {
    /// Asks `vb` for every tensor.
    pub fn new(channels: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let (mut inputs, mut blocks) = (channels, Vec::new());
        for (block, &Group { maps, channels: outputs }) in BLOCKS.iter().enumerate() {
            let vb = vb.pp(format!("block{block}"));
            let mut layers = Vec::new();
            for layer in 0..maps {
                // Convolution, norm, activation: three entries of PyTorch's Sequential.
                let conv =
                    Conv2d::with_bias((inputs, outputs, 3), Conv2dSpec::new(1, 1), Draw::HE_OUTPUTS, vb.pp(3 * layer))?;
                layers.push((conv, BatchNorm2d::new(outputs, vb.pp(3 * layer + 1))?));
                inputs = outputs;
            }
            blocks.push(layers);
        }
        Ok(Self { blocks })
    }

    /// The maps of normalised images (B, H, W, C), after each convolution's ReLU.
    pub fn forward(&self, x: &Value, pass: &Pass) -> Result<Vec<Value>> {
        let height = x.dims()[1];
        let (mut x, mut maps) = (x.clone(), Vec::new());
        for (block, layers) in self.blocks.iter().enumerate() {
            for (conv, bn) in layers {
                x = conv.forward_normed(&x, bn, None, Activation::Relu, pass)?;
                maps.push(x.clone());
            }
            if block < 3 || (block == 3 && height == 64) {
                x = ops::max_pool2d(&x, ops::Pool2dSpec::new(2, 2, 0))?;
            }
        }
        Ok(maps)
    }
}
