//! The model zoo: one file for each family and each kind of head. Each builds a graph.

mod builder;
mod deeplab;
mod generator;
mod mobilenet;
mod pyramid;
mod resnet;
mod vgg;
mod wrn;

use std::collections::BTreeMap;

use candle_nn::Init;
use ssdkd_graph::op::{Activation, ResizeMethod, ResizeTo, Role};
use ssdkd_graph::{Cut, Graph, GraphError, NodeId, Op, feature_maps};

pub use builder::Draw;
pub use generator::Generator;
pub(crate) use mobilenet::v2_channels;

use crate::architecture::zoo::{Backbone, Names, Stem, Task, ZooArchitecture};
use builder::Builder;

/// A network without its weights: what it computes, what is looked at, and how fresh weights are drawn.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// What it computes. It has one output.
    pub graph: Graph,
    /// Nodes whose results (B, H, W, C) are its feature maps, in order.
    pub maps: Vec<NodeId>,
    /// The node whose rows (B, F) the last layer sees. `None`: the last map, averaged over height and width.
    pub features: Option<NodeId>,
    /// Nodes that are computed by themselves, though they could be folded into the next one.
    pub apart: Vec<NodeId>,
    /// How the tensors are drawn, by name.
    pub fresh: BTreeMap<String, Init>,
}

impl Blueprint {
    /// Returns a network of the zoo for images of `input` (channels, height, width).
    ///
    /// # Errors
    /// If an image is too small for the network. The error names the layer that it does not reach.
    pub fn of_zoo(
        architecture: ZooArchitecture,
        names: &Names,
        classes: usize,
        input: [usize; 3],
    ) -> Result<Self, GraphError> {
        let [_, height, width] = input;
        Self::build(architecture, names, classes, input).map_err(|error| match error {
            GraphError::Node { node, op, reason } => {
                GraphError::Node { node, op, reason: format!("{reason}, for images of {height} by {width} pixels") }
            }
            other => other,
        })
    }

    fn build(
        architecture: ZooArchitecture,
        names: &Names,
        classes: usize,
        input: [usize; 3],
    ) -> Result<Self, GraphError> {
        let (mut net, x) = Builder::new(input)?;
        let x = match architecture.backbone {
            Backbone::CifarResNet { depth, shortcut } => resnet::cifar(&mut net, x, depth, shortcut, names)?,
            Backbone::ResNet { depth, stem } => resnet::imagenet(&mut net, x, depth, stem, names)?,
            Backbone::WideCifarResNet { depth } => resnet::four_times_wide(&mut net, x, depth, names)?,
            Backbone::Wrn { depth, width } => wrn::body(&mut net, x, depth, width)?,
            Backbone::Vgg11 => vgg::of_blocks(&mut net, x)?,
            Backbone::Vgg { depth, .. } => vgg::torchvision(&mut net, x, depth)?,
            Backbone::MobileNetV2 { percent } => mobilenet::v2(&mut net, x, percent)?,
            Backbone::MobileNetV3Small => mobilenet::v3_small(&mut net, x)?,
            Backbone::DeepLabV3 { depth } => return deeplab::deeplab(net, x, depth, classes),
        };
        if architecture.task == Task::Pixels {
            let scores = pyramid::head(&mut net, classes)?;
            let scores = at_full_size(&mut net, scores, input)?;
            return net.finish(scores, None);
        }
        let (output, features) = match architecture.backbone {
            Backbone::Vgg { head, .. } => vgg::head(&mut net, x, head, classes)?,
            Backbone::MobileNetV2 { .. } => mobilenet::v2_head(&mut net, x, classes)?,
            Backbone::MobileNetV3Small => mobilenet::v3_head(&mut net, x, classes)?,
            backbone => {
                // As in the public code that each family's names and fresh weights are of.
                let (name, draw) = match backbone {
                    Backbone::CifarResNet { .. } | Backbone::ResNet { stem: Stem::Cifar, .. } => {
                        (names.head.as_str(), Draw::HE_INPUTS)
                    }
                    Backbone::ResNet { .. } | Backbone::WideCifarResNet { .. } => (names.head.as_str(), Draw::PYTORCH),
                    Backbone::Wrn { .. } => ("fc", Draw::PYTORCH.zero_bias()),
                    _ => ("classifier", Draw::PYTORCH.weight(Init::Randn { mean: 0.0, stdev: 0.01 }).zero_bias()),
                };
                let features = net.pooled_row(x)?;
                (net.linear(features, name, classes, draw)?, features)
            }
        };
        net.finish(output, Some(features))
    }

    /// Returns a network that came as a graph.
    ///
    /// Fresh weights are drawn as in most public code: convolutions by the number of their outputs, linear layers as PyTorch's.
    ///
    /// # Errors
    /// If it has no feature maps.
    pub fn of_graph(graph: Graph) -> Result<Self, GraphError> {
        let maps = feature_maps(&graph).nodes;
        if maps.is_empty() {
            return Err(GraphError::Graph(
                "it has no feature maps: no convolution is followed by a batch norm or an activation".into(),
            ));
        }
        let features = graph.outputs().first().and_then(|output| match graph.node(*output).op {
            Op::Linear { .. } => graph.node(*output).inputs.first().copied(),
            _ => None,
        });
        let mut fresh = BTreeMap::new();
        for node in graph.nodes() {
            let draw = if matches!(node.op, Op::Linear { .. }) { Draw::PYTORCH } else { Draw::HE_OUTPUTS };
            for (name, role) in node.op.tensors() {
                let shape = graph.tensors().get(name).map(|spec| spec.shape.as_slice()).unwrap_or_default();
                let (weight, bias) = draw.of_layer(shape.iter().skip(1).product::<usize>().max(1));
                fresh.entry(name.to_string()).or_insert(match role {
                    Role::Weight => weight,
                    Role::Bias if matches!(node.op, Op::Linear { .. }) => bias,
                    Role::Bias | Role::RunningMean | Role::BatchCount => Init::Const(0.0),
                    Role::Scale | Role::RunningVar => Init::Const(1.0),
                    Role::Slope => Init::Const(0.25),
                });
            }
        }
        Ok(Self { graph, maps, features, apart: Vec::new(), fresh })
    }
}

impl Blueprint {
    /// Returns a smaller copy of the network.
    ///
    /// # Errors
    /// If its blocks or channels cannot be fewer. The error names the node.
    pub fn shrunk(self, cut: Cut) -> Result<Self, GraphError> {
        let shrunk = self.graph.shrunk(cut).map_err(|error| {
            GraphError::Graph(format!(
                "{error}\nhint: `ssdkd shrink CARD --list` shows the smaller copies that a network has; or set \
                 student.architecture to another network, such as resnet8"
            ))
        })?;
        let left = |ids: Vec<NodeId>| ids.into_iter().filter_map(|id| shrunk.nodes[id.index()]).collect::<Vec<_>>();
        let inputs = |graph: &Graph, name: &str| {
            graph.tensors().get(name).map_or(1, |spec| spec.shape.iter().skip(1).product::<usize>().max(1))
        };
        let mut fresh = BTreeMap::new();
        for (name, part) in &shrunk.tensors {
            let Some(how) = self.fresh.get(&part.name) else { continue };
            // PyTorch draws weight and bias of a layer within ±1/√inputs, and the layer has fewer inputs now.
            let of =
                |tensor: &str| tensor.strip_suffix(".bias").map_or(tensor.into(), |layer| format!("{layer}.weight"));
            let growth = (inputs(&self.graph, &of(&part.name)) as f64 / inputs(&shrunk.graph, &of(name)) as f64).sqrt();
            fresh.insert(
                name.clone(),
                match *how {
                    Init::Uniform { lo, up } => Init::Uniform { lo: lo * growth, up: up * growth },
                    other => other,
                },
            );
        }
        Ok(Self {
            maps: left(self.maps),
            features: self.features.and_then(|id| shrunk.nodes[id.index()]),
            apart: left(self.apart),
            graph: shrunk.graph,
            fresh,
        })
    }
}

/// Scores of pixels, brought to the size of the image where they are coarser.
fn at_full_size(net: &mut Builder, scores: NodeId, [_, height, width]: [usize; 3]) -> builder::Built {
    if net.size(scores) == [height, width] {
        return Ok(scores);
    }
    let method = ResizeMethod::Bilinear { align_corners: false };
    net.resize(scores, "resize", ResizeTo::Fixed([height, width]), method, None)
}

/// PyTorch's ReLU6.
const RELU6: Activation = Activation::RELU6;
