//! Builds a graph layer by layer, with PyTorch's names, and says how each tensor is drawn.

use std::collections::BTreeMap;

use candle_nn::Init;
use candle_nn::init::{FanInOut, NonLinearity, NormalOrUniform};
use ssdkd_graph::op::{Activation, BatchNorm, Conv2d, Pool, PoolKind, ResizeMethod, ResizeTo};
use ssdkd_graph::{Graph, GraphError, NodeId, Op};

use super::Blueprint;

/// A node that was added, or why it does not fit.
pub(super) type Built = Result<NodeId, GraphError>;

/// How the fresh weight and bias of a layer are drawn.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    weight: Option<Init>,
    bias: Option<Init>,
}

impl Draw {
    /// PyTorch's default for both: uniform within ±1/√(inputs of one output).
    pub const PYTORCH: Self = Self { weight: None, bias: None };

    /// He et al.'s normal weights by the number of inputs.
    pub const HE_INPUTS: Self = Self::PYTORCH.weight(he_normal(FanInOut::FanIn));

    /// He et al.'s normal weights by the number of outputs, zero bias.
    pub const HE_OUTPUTS: Self = Self::PYTORCH.weight(he_normal(FanInOut::FanOut)).zero_bias();

    /// Returns it with weights as `how` says.
    #[must_use]
    pub const fn weight(self, how: Init) -> Self {
        Self { weight: Some(how), ..self }
    }

    /// Returns it with a bias of zeros.
    #[must_use]
    pub const fn zero_bias(self) -> Self {
        Self { bias: Some(Init::Const(0.0)), ..self }
    }

    /// Returns how weight and bias of a layer with `inputs` inputs for each output are drawn.
    pub fn of_layer(self, inputs: usize) -> (Init, Init) {
        let bound = 1.0 / (inputs as f64).sqrt();
        let default = Init::Uniform { lo: -bound, up: bound };
        (self.weight.unwrap_or(default), self.bias.unwrap_or(default))
    }
}

const fn he_normal(fan: FanInOut) -> Init {
    Init::Kaiming { dist: NormalOrUniform::Normal, fan, non_linearity: NonLinearity::ReLU }
}

/// A convolution but for its input: square kernel, "same" padding for a stride of 1, no bias.
#[derive(Debug, Clone, Copy)]
pub(super) struct Convolution {
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub dilation: usize,
    pub groups: usize,
    pub bias: bool,
    pub draw: Draw,
}

impl Convolution {
    pub(super) fn new(outputs: usize, kernel: usize, stride: usize, draw: Draw) -> Self {
        Self { outputs, kernel, stride, dilation: 1, groups: 1, bias: false, draw }
    }
}

/// A graph under construction.
pub(super) struct Builder {
    graph: Graph,
    fresh: BTreeMap<String, Init>,
    maps: Vec<NodeId>,
    apart: Vec<NodeId>,
    /// Epsilon and momentum of the batch norms.
    pub norms: (f64, f64),
}

impl Builder {
    /// Begins a graph whose input has these channels, rows and columns.
    pub(super) fn new(input: [usize; 3]) -> Result<(Self, NodeId), GraphError> {
        let graph = Graph::new("input", input)?;
        let first = graph.ids().next().ok_or_else(|| GraphError::Graph("the graph has no input".into()))?;
        Ok((Self { graph, fresh: BTreeMap::new(), maps: Vec::new(), apart: Vec::new(), norms: (1e-5, 0.1) }, first))
    }

    /// Returns channels of a node's result.
    pub(super) fn channels(&self, id: NodeId) -> usize {
        self.graph.shape(id).channels()
    }

    /// Returns height and width of a node's result.
    pub(super) fn size(&self, id: NodeId) -> [usize; 2] {
        self.graph.shape(id).size()
    }

    fn name(&self, id: NodeId) -> &str {
        &self.graph.node(id).name
    }

    /// Declares a tensor and how it is drawn.
    fn declare(&mut self, name: &str, shape: &[usize], trained: bool, how: Init) -> Result<(), GraphError> {
        self.graph.declare(name, shape, trained)?;
        self.fresh.insert(name.into(), how);
        Ok(())
    }

    /// Returns a convolution whose module is called `name`.
    pub(super) fn conv(&mut self, x: NodeId, name: &str, convolution: Convolution) -> Built {
        let Convolution { outputs, kernel, stride, dilation, groups, bias, draw } = convolution;
        let inputs = self.channels(x) / groups;
        let (weight_draw, bias_draw) = draw.of_layer(inputs * kernel * kernel);
        let weight = format!("{name}.weight");
        self.declare(&weight, &[outputs, inputs, kernel, kernel], true, weight_draw)?;
        let bias = bias.then(|| format!("{name}.bias"));
        if let Some(bias) = &bias {
            self.declare(bias, &[outputs], true, bias_draw)?;
        }
        let op =
            Conv2d { bias, dilation: [dilation; 2], groups, ..Conv2d::new(weight, stride, dilation * (kernel / 2)) };
        self.graph.push(name, Op::Conv2d(op), &[x])
    }

    /// Returns a batch norm whose module is called `name`.
    pub(super) fn norm(&mut self, x: NodeId, name: &str) -> Built {
        let (eps, momentum) = self.norms;
        let norm = BatchNorm { eps, momentum, ..BatchNorm::new(name) };
        let channels = self.channels(x);
        for (tensor, trained, value) in [
            (&norm.weight, true, 1.0),
            (&norm.bias, true, 0.0),
            (&norm.running_mean, false, 0.0),
            (&norm.running_var, false, 1.0),
        ] {
            self.declare(tensor, &[channels], trained, Init::Const(value))?;
        }
        self.declare(&norm.num_batches_tracked, &[], false, Init::Const(0.0))?;
        self.graph.push(name, Op::BatchNorm(norm), &[x])
    }

    /// Returns a function of each number.
    pub(super) fn activate(&mut self, x: NodeId, activation: Activation) -> Built {
        let name = format!("{}.{}", self.name(x), activation.kind());
        self.graph.push(&name, Op::Activation(activation), &[x])
    }

    /// max(x, 0).
    pub(super) fn relu(&mut self, x: NodeId) -> Built {
        self.activate(x, Activation::Relu)
    }

    /// Returns a convolution, its batch norm and an activation.
    pub(super) fn conv_norm(
        &mut self,
        x: NodeId,
        (conv, norm): (&str, &str),
        convolution: Convolution,
        activation: Option<Activation>,
    ) -> Built {
        let x = self.conv(x, conv, convolution)?;
        let x = self.norm(x, norm)?;
        activation.map_or(Ok(x), |activation| self.activate(x, activation))
    }

    /// Returns a sum of two values.
    pub(super) fn add(&mut self, name: &str, a: NodeId, b: NodeId) -> Built {
        self.graph.push(name, Op::Add, &[a, b])
    }

    /// Returns any operation without tensors.
    pub(super) fn apply(&mut self, name: &str, op: Op, inputs: &[NodeId]) -> Built {
        self.graph.push(name, op, inputs)
    }

    /// Returns the largest number of each square window.
    pub(super) fn max_pool(&mut self, x: NodeId, name: &str, kernel: usize, stride: usize, padding: usize) -> Built {
        self.graph.push(name, Op::MaxPool(Pool::new(kernel, stride, padding)), &[x])
    }

    /// Returns the mean over height and width of each channel, as a map of one pixel.
    pub(super) fn mean(&mut self, x: NodeId, name: &str) -> Built {
        self.graph.push(name, Op::AdaptivePool { kind: PoolKind::Average, size: [1, 1] }, &[x])
    }

    /// Returns the mean over height and width of each channel, as a row.
    pub(super) fn pooled_row(&mut self, x: NodeId) -> Built {
        let mean = self.mean(x, "avgpool")?;
        self.graph.push("flatten", Op::Flatten, &[mean])
    }

    /// Returns a change of resolution to a fixed size, or to that of another node.
    pub(super) fn resize(
        &mut self,
        x: NodeId,
        name: &str,
        size: ResizeTo,
        method: ResizeMethod,
        like: Option<NodeId>,
    ) -> Built {
        let inputs = [Some(x), like].into_iter().flatten().collect::<Vec<_>>();
        self.graph.push(name, Op::Resize { size, method }, &inputs)
    }

    /// Returns a linear layer whose module is called `name`.
    pub(super) fn linear(&mut self, x: NodeId, name: &str, outputs: usize, draw: Draw) -> Built {
        let inputs = self.channels(x);
        let (weight_draw, bias_draw) = draw.of_layer(inputs);
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        self.declare(&weight, &[outputs, inputs], true, weight_draw)?;
        self.declare(&bias, &[outputs], true, bias_draw)?;
        self.graph.push(name, Op::Linear { weight, bias: Some(bias) }, &[x])
    }

    /// Counts a node's result among the feature maps.
    pub(super) fn mark(&mut self, map: NodeId) {
        self.maps.push(map);
    }

    /// Has a node computed by itself.
    pub(super) fn keep_apart(&mut self, node: NodeId) {
        self.apart.push(node);
    }

    /// Returns the feature maps so far.
    pub(super) fn maps(&self) -> &[NodeId] {
        &self.maps
    }

    /// Returns the network that ends in `output`, whose penultimate row is `features`.
    pub(super) fn finish(mut self, output: NodeId, features: Option<NodeId>) -> Result<Blueprint, GraphError> {
        self.graph.set_outputs(&[output])?;
        let Self { graph, maps, apart, fresh, .. } = self;
        Ok(Blueprint { graph, maps, features, apart, fresh })
    }
}
