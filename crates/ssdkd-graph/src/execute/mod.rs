//! Computes what a graph describes, on the channels-last operations of `ssdkd-ops`.
//!
//! A value is dropped as soon as no later step needs it. What gradients need, the tape keeps.

mod fused;
mod single;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use candle_core::{Result, Tensor, bail};
use ssdkd_ops as ops;
use ssdkd_ops::{PreparedConvolution, Value};

use crate::error::{GraphError, clean};
use crate::fuse::{Step, plan};
use crate::graph::{Graph, NodeId};
use crate::shape::Shape;

/// Which statistics normalize, and what wants a gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Running statistics, no gradient of any parameter.
    Eval,
    /// As [`Mode::Eval`], and every batch normalization hands out the moments of its input.
    Tapped,
    /// The batch's statistics, which the running ones follow, and gradients of the parameters.
    Train,
    /// The batch's statistics, but nothing of the network changes.
    TrainFrozen,
}

/// What one batch normalization saw at its input, and what it saw in training.
#[derive(Clone)]
pub struct Tap {
    /// Mean over batch, height and width (C,); gradients flow through it.
    pub mean: Value,
    /// Biased variance of each channel.
    pub variance: Value,
    /// Running mean (C,).
    pub running_mean: Tensor,
    /// Running variance (C,).
    pub running_variance: Tensor,
}

/// What a pass through the network makes.
pub struct Run {
    /// The network's outputs: rows (B, F), or maps (B, H, W, C).
    pub outputs: Vec<Value>,
    /// The results of the nodes that were asked for.
    pub maps: Vec<Value>,
    /// What the normalizations saw in a [tapped](Mode::Tapped) pass, in the order of the graph.
    pub taps: Vec<Tap>,
}

/// Convolutions by their node and whether a normalization is folded in.
type Kept = HashMap<(NodeId, bool), Rc<PreparedConvolution>>;

/// A network that can be computed: a graph, its tensors, and the order of its steps.
pub struct Executor {
    graph: Graph,
    tensors: BTreeMap<String, Tensor>,
    maps: Vec<NodeId>,
    steps: Vec<Step>,
    /// Of each step, the values that nothing needs afterwards.
    dropped: Vec<Vec<NodeId>>,
    /// Convolutions as the kernels take them, with their normalizations folded in or not, where the weights do not change.
    kept: Option<RefCell<Kept>>,
}

impl Executor {
    /// Creates a network with these tensors. Passes also return the results of `maps`. Training changes the tensors in place: for that
    /// they have to be variables.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape, or a node cannot be computed. The error names the tensor or the node.
    pub fn new(
        graph: Graph,
        tensors: BTreeMap<String, Tensor>,
        maps: &[NodeId],
    ) -> std::result::Result<Self, GraphError> {
        graph.check()?;
        for (name, spec) in graph.tensors() {
            let found = tensors.get(name).map(Tensor::dims);
            if found != Some(&*spec.shape) {
                let found = found.map_or_else(|| "is missing".to_string(), |found| format!("has shape {found:?}"));
                return Err(GraphError::Graph(format!(
                    "the tensor {} {found}; the network needs it with shape {:?}",
                    clean(name),
                    spec.shape
                )));
            }
        }
        for id in graph.ids() {
            let node = graph.node(id);
            let shapes = node.inputs.iter().map(|input| graph.shape(*input)).collect::<Vec<_>>();
            single::check(&node.op, &shapes).map_err(|reason| GraphError::Node {
                node: node.name.clone(),
                op: node.op.kind(),
                reason,
            })?;
        }
        let steps = plan(&graph, maps);
        let dropped = last_uses(&graph, &steps, maps);
        Ok(Self { graph, tensors, maps: maps.to_vec(), steps, dropped, kept: None })
    }

    /// Returns the same network, whose weights will not change: what passes compute from them alone is kept. Changing the weights
    /// afterwards leaves stale results.
    #[must_use]
    pub fn frozen(self) -> Self {
        Self { kept: Some(RefCell::default()), ..self }
    }

    /// Returns what it computes.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Returns its tensors.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Computes the network on normalized images (B, H, W, C) of any number, and of any size that the network can take.
    ///
    /// # Errors
    /// If the images do not fit. The error names the node.
    pub fn run(&self, images: &Value, mode: Mode) -> Result<Run> {
        let &[_, height, width, channels] = images.dims() else {
            bail!("a network takes images (B, H, W, C), these have shape {:?}", images.dims());
        };
        let [wanted, ..] = self.graph.input();
        if channels != wanted {
            bail!("the network takes images of {wanted} channels, these have {channels}");
        }
        let [_, usual_height, usual_width] = self.graph.input();
        let shapes = if [height, width] == [usual_height, usual_width] {
            self.graph.ids().map(|id| self.graph.shape(id)).collect()
        } else {
            self.graph.shapes_at(height, width).map_err(candle_core::Error::wrap)?
        };
        let mut pass =
            Pass { executor: self, mode, shapes, values: vec![None; self.graph.nodes().len()], taps: Vec::new() };
        pass.values[0] = Some(images.clone());
        for (step, dropped) in self.steps.iter().zip(&self.dropped) {
            let value = pass.step(step).map_err(|error| {
                let node = self.graph.node(step.output());
                candle_core::Error::Msg(format!("the node {} ({}): {error}", clean(&node.name), node.op.kind()))
            })?;
            pass.values[step.output().index()] = Some(value);
            for id in dropped {
                pass.values[id.index()] = None;
            }
        }
        let take = |pass: &Pass<'_>, id: NodeId| match &pass.values[id.index()] {
            Some(value) => Ok(value.clone()),
            None => bail!("the node {} was not computed", clean(&self.graph.node(id).name)),
        };
        let maps = self.maps.iter().map(|id| take(&pass, *id)).collect::<Result<Vec<_>>>()?;
        let outputs =
            self.graph.outputs().iter().map(|id| ops::to_f32(&take(&pass, *id)?)).collect::<Result<Vec<_>>>()?;
        pass.taps.sort_by_key(|(node, _)| *node);
        let taps = pass.taps.into_iter().map(|(_, tap)| tap).collect();
        Ok(Run { outputs, maps, taps })
    }
}

/// Of each step, the values that no later step needs. Outputs and `maps` stay.
fn last_uses(graph: &Graph, steps: &[Step], maps: &[NodeId]) -> Vec<Vec<NodeId>> {
    let mut last = HashMap::new();
    for (position, step) in steps.iter().enumerate() {
        last.insert(step.output(), position);
        step.inputs(graph).into_iter().for_each(|input| {
            last.insert(input, position);
        });
    }
    for id in graph.outputs().iter().chain(maps) {
        last.remove(id);
    }
    let mut dropped = vec![Vec::new(); steps.len()];
    for (id, position) in last {
        dropped[position].push(id);
    }
    dropped
}

/// One pass under way.
struct Pass<'a> {
    executor: &'a Executor,
    mode: Mode,
    /// Of every node, for the size of these images.
    shapes: Vec<Shape>,
    values: Vec<Option<Value>>,
    /// By the node of the normalization.
    taps: Vec<(NodeId, Tap)>,
}

impl Pass<'_> {
    fn step(&mut self, step: &Step) -> Result<Value> {
        match step.other {
            Some(id) => self.single(id),
            None => self.fused(step),
        }
    }

    fn value(&self, id: NodeId) -> Result<&Value> {
        match &self.values[id.index()] {
            Some(value) => Ok(value),
            None => bail!("its input {} is not there any more", clean(&self.executor.graph.node(id).name)),
        }
    }

    fn tensor(&self, name: &str) -> &Tensor {
        &self.executor.tensors[name]
    }

    /// Returns a tensor as this pass sees it: a leaf to train, or a constant.
    fn parameter(&self, name: &str) -> Value {
        let tensor = self.tensor(name);
        let trained = self.executor.graph.tensors()[name].trained;
        if trained && self.mode == Mode::Train { Value::leaf(tensor) } else { Value::constant(tensor.clone()) }
    }
}
