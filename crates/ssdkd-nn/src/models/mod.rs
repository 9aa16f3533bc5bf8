//! The model zoo: one file for each family, all on channels-last activations.

mod generator;
mod resnet;
mod vgg;
mod wrn;

use candle_core::Result;
use candle_nn::VarBuilder;
use ssdkd_ops::Value;

pub use generator::Generator;

use crate::architecture::{Architecture, Names};
use crate::pass::Pass;

/// What a classifier computes.
pub struct Output {
    /// The activations (B, H, W, C) after each residual block, in a WRN as batch norm and ReLU hand them on, in a VGG after each
    /// convolution's ReLU.
    pub maps: Vec<Value>,
    /// The penultimate features (B, F): what the head sees.
    pub features: Value,
    /// (B, K)
    pub logits: Value,
}

/// A classifier of any architecture.
pub enum Classifier {
    /// CIFAR ResNets, ResNet-18 and ResNet-34.
    ResNet(resnet::ResNet),
    /// Wide residual networks.
    Wrn(wrn::Wrn),
    /// VGG-11 with batch normalisation.
    Vgg(vgg::Vgg),
}

impl Classifier {
    /// Asks `vb` for every tensor of the architecture.
    pub fn new(
        architecture: &Architecture,
        names: &Names,
        classes: usize,
        channels: usize,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        Ok(match *architecture {
            Architecture::CifarResNet { depth, shortcut } => {
                Self::ResNet(resnet::ResNet::cifar(depth, shortcut, names, classes, channels, vb)?)
            }
            Architecture::ResNet { depth } => {
                Self::ResNet(resnet::ResNet::imagenet(depth, names, classes, channels, vb)?)
            }
            Architecture::Wrn { depth, width } => Self::Wrn(wrn::Wrn::new(depth, width, classes, channels, vb)?),
            Architecture::Vgg11 => Self::Vgg(vgg::Vgg::new(classes, channels, vb)?),
        })
    }

    /// From normalised images (B, H, W, C).
    pub fn forward(&self, x: &Value, pass: &Pass) -> Result<Output> {
        match self {
            Self::ResNet(network) => network.forward(x, pass),
            Self::Wrn(network) => network.forward(x, pass),
            Self::Vgg(network) => network.forward(x, pass),
        }
    }
}
