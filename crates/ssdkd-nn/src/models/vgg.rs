//! VGG-11 with batch normalisation and one linear layer on the pooled features, as the public code of CMI and
//! Fast-Datafree has it: five blocks, max pooling after the first three (and after the fourth for 64×64 images),
//! global average pooling after the last.
//!
//! Fresh convolutions are He et al.'s normal ones by the number of outputs, the head is N(0, 0.01), biases are zero, as in
//! that code.

use candle_core::Result;
use candle_nn::{Init, VarBuilder};
use ssdkd_ops as ops;
use ssdkd_ops::{Activation, Conv2dSpec, Value};

use crate::layers::{BatchNorm2d, Conv2d, Draw, Linear};
use crate::models::Output;
use crate::pass::Pass;

const BLOCKS: [&[usize]; 5] = [&[64], &[128], &[256, 256], &[512, 512], &[512, 512]];

/// See the [module](self).
pub struct Vgg {
    blocks: Vec<Vec<(Conv2d, BatchNorm2d)>>,
    classifier: Linear,
}

impl Vgg {
    /// Asks `vb` for every tensor.
    pub fn new(classes: usize, channels: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let (mut inputs, mut blocks) = (channels, Vec::new());
        for (block, widths) in BLOCKS.iter().enumerate() {
            let vb = vb.pp(format!("block{block}"));
            let mut layers = Vec::new();
            for (layer, &outputs) in widths.iter().enumerate() {
                // Convolution, norm, activation: three entries of PyTorch's Sequential.
                let conv =
                    Conv2d::with_bias((inputs, outputs, 3), Conv2dSpec::new(1, 1), Draw::HE_OUTPUTS, vb.pp(3 * layer))?;
                layers.push((conv, BatchNorm2d::new(outputs, vb.pp(3 * layer + 1))?));
                inputs = outputs;
            }
            blocks.push(layers);
        }
        let head = Draw::PYTORCH.weight(Init::Randn { mean: 0.0, stdev: 0.01 }).zero_bias();
        let classifier = Linear::new(inputs, classes, head, vb.pp("classifier"))?;
        Ok(Self { blocks, classifier })
    }

    /// From normalised images (B, H, W, C).
    pub fn forward(&self, x: &Value, pass: &Pass) -> Result<Output> {
        let height = x.dims()[1];
        let (mut x, mut maps) = (x.clone(), Vec::new());
        for (block, layers) in self.blocks.iter().enumerate() {
            for (conv, bn) in layers {
                x = conv.forward_normed(&x, bn, None, Activation::Relu, pass)?;
                maps.push(x.clone());
            }
            if block < 3 || (block == 3 && height == 64) {
                x = ops::max_pool2d(&x, 2, 2, 0)?;
            }
        }
        let features = ops::global_avg_pool(&x)?; // (B, 512)
        let logits = self.classifier.forward(&features, pass)?;
        Ok(Output { maps, features, logits })
    }
}
