//! The model zoo: one file for each family and each kind of head, all on channels-last activations.

mod generator;
mod pyramid;
mod resnet;
mod shapes;
mod vgg;
mod wrn;

use candle_core::{Result, bail};
use candle_nn::{Init, VarBuilder};
use ssdkd_ops as ops;
use ssdkd_ops::Value;

pub use generator::Generator;
pub use shapes::tensor_shapes;

use crate::architecture::{Architecture, Backbone, Names, Task};
use crate::layers::{Draw, Linear};
use crate::pass::Pass;

/// What a classifier computes.
pub struct Output {
    /// The activations (B, H, W, C) after each residual block, in a WRN as batch norm and ReLU hand them on, in a VGG after each
    /// convolution's ReLU. As the pass stored them: [`ops::to_f32`] for what takes nothing else.
    pub maps: Vec<Value>,
    /// The last map, averaged over height and width (B, F): what a linear head sees.
    pub features: Value,
    /// (B, K); where each pixel is put into a class, a row for each: (B·H·W, K), image by image, row by row.
    pub logits: Value,
}

/// Maps of one resolution that follow each other.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// How many.
    maps: usize,
    /// Of each.
    channels: usize,
}

/// A classifier of any architecture, of images or of their pixels.
pub struct Classifier {
    body: Body,
    head: Head,
}

enum Body {
    ResNet(resnet::ResNet),
    Wrn(wrn::Wrn),
    Vgg(vgg::Vgg),
}

enum Head {
    Linear(Linear),
    Pyramid(Box<pyramid::Pyramid>),
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
        let body = match architecture.backbone {
            Backbone::CifarResNet { depth, shortcut } => {
                Body::ResNet(resnet::ResNet::cifar(depth, shortcut, names, channels, vb.clone())?)
            }
            Backbone::ResNet { depth } => Body::ResNet(resnet::ResNet::imagenet(depth, names, channels, vb.clone())?),
            Backbone::Wrn { depth, width } => Body::Wrn(wrn::Wrn::new(depth, width, channels, vb.clone())?),
            Backbone::Vgg11 => Body::Vgg(vgg::Vgg::new(channels, vb.clone())?),
        };
        // As in the public code that each family's names and fresh weights are of.
        let (name, draw) = match architecture.backbone {
            Backbone::CifarResNet { .. } | Backbone::ResNet { .. } => (names.head.as_str(), Draw::HE_INPUTS),
            Backbone::Wrn { .. } => ("fc", Draw::PYTORCH.zero_bias()),
            Backbone::Vgg11 => ("classifier", Draw::PYTORCH.weight(Init::Randn { mean: 0.0, stdev: 0.01 }).zero_bias()),
        };
        let groups = body.groups();
        let head = match (architecture.task, groups.last()) {
            (_, None) => bail!("a {architecture} without blocks makes no maps"),
            (Task::Images, Some(last)) => Head::Linear(Linear::new(last.channels, classes, draw, vb.pp(name))?),
            (Task::Pixels, Some(_)) => Head::Pyramid(Box::new(pyramid::Pyramid::new(groups, classes, &vb)?)),
        };
        Ok(Self { body, head })
    }

    /// From normalised images (B, H, W, C).
    pub fn forward(&self, x: &Value, pass: &Pass) -> Result<Output> {
        let maps = match &self.body {
            Body::ResNet(body) => body.forward(x, pass)?,
            Body::Wrn(body) => body.forward(x, pass)?,
            Body::Vgg(body) => body.forward(x, pass)?,
        };
        let Some(last) = maps.last() else { bail!("a network without blocks makes no maps") };
        let features = ops::to_f32(&ops::global_avg_pool(last)?)?; // (B, F)
        let logits = match &self.head {
            Head::Linear(head) => head.forward(&features, pass)?,
            Head::Pyramid(head) => ops::to_f32(&head.forward(&maps, pass)?)?,
        };
        Ok(Output { maps, features, logits })
    }
}

impl Body {
    fn groups(&self) -> &[Group] {
        match self {
            Self::ResNet(body) => body.groups(),
            Self::Wrn(body) => body.groups(),
            Self::Vgg(_) => &vgg::BLOCKS,
        }
    }
}
