//! Which nodes are computed together.
//!
//! A convolution, a normalization, the sum with a residual and an activation that follow each other are one step, if nobody
//! else asks for what lies between. The graph stays as it is: a plan only says what the executor does in one call.

use std::collections::HashSet;

use crate::graph::{Graph, NodeId};
use crate::op::{Activation, Op};

/// Nodes that are computed together; the last one's result is that of the step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The convolution it begins with.
    pub convolution: Option<NodeId>,
    /// The normalization.
    pub norm: Option<NodeId>,
    /// The sum, and what is added.
    pub residual: Option<(NodeId, NodeId)>,
    /// The activation.
    pub activation: Option<NodeId>,
    /// Any other node, alone.
    pub other: Option<NodeId>,
}

impl Step {
    /// Returns the node whose result the step makes.
    ///
    /// # Panics
    /// If the step has no node, which [`plan`] never makes.
    pub fn output(&self) -> NodeId {
        let sum = self.residual.map(|(sum, _)| sum);
        let last = self.other.or(self.activation).or(sum).or(self.norm).or(self.convolution);
        last.expect("a step has a node")
    }

    /// Returns the results of other steps that it needs.
    pub fn inputs(&self, graph: &Graph) -> Vec<NodeId> {
        let first = self.other.or(self.convolution).or(self.norm);
        let inputs = first.map(|first| graph.node(first).data_inputs().to_vec()).unwrap_or_default();
        inputs.into_iter().chain(self.residual.map(|(_, residual)| residual)).collect()
    }
}

/// Returns the steps that compute the graph, in order. The results of `keep` and of the outputs are results of steps.
pub fn plan(graph: &Graph, keep: &[NodeId]) -> Vec<Step> {
    let planner =
        Planner { graph, users: graph.data_users(), kept: keep.iter().chain(graph.outputs()).copied().collect() };
    let mut taken = HashSet::new();
    let mut steps = Vec::new();
    for id in graph.ids().skip(1).filter(|id| planner.starts(*id)) {
        if !taken.contains(&id) {
            let step = planner.chain(id, &mut taken);
            steps.push(step);
        }
    }
    for id in graph.ids().skip(1).filter(|id| !taken.contains(id)) {
        steps.push(Step { convolution: None, norm: None, residual: None, activation: None, other: Some(id) });
    }
    // A step is computed where its last node stands: everything it needs is there by then.
    steps.sort_by_key(Step::output);
    steps
}

struct Planner<'a> {
    graph: &'a Graph,
    users: Vec<Vec<NodeId>>,
    kept: HashSet<NodeId>,
}

impl Planner<'_> {
    fn op(&self, id: NodeId) -> &Op {
        &self.graph.node(id).op
    }

    fn starts(&self, id: NodeId) -> bool {
        matches!(self.op(id), Op::Conv2d(_) | Op::BatchNorm(_))
    }

    /// Returns the only node that uses `id`, if nobody else asks for it.
    fn next(&self, id: NodeId) -> Option<NodeId> {
        match self.users[id.0].as_slice() {
            &[user] if !self.kept.contains(&id) => Some(user),
            _ => None,
        }
    }

    fn chain(&self, start: NodeId, taken: &mut HashSet<NodeId>) -> Step {
        let mut step = Step { convolution: None, norm: None, residual: None, activation: None, other: None };
        let mut last = start;
        taken.insert(start);
        if let Op::Conv2d(_) = self.op(start) {
            step.convolution = Some(start);
            if let Some(norm) = self.next(last).filter(|next| matches!(self.op(*next), Op::BatchNorm(_))) {
                (step.norm, last) = (Some(norm), norm);
                taken.insert(norm);
            }
        } else {
            step.norm = Some(start);
        }
        if let Some((sum, residual)) = self.next(last).and_then(|sum| Some((sum, self.residual(sum, last)?)))
            && taken.insert(sum)
        {
            (step.residual, last) = (Some((sum, residual)), sum);
        }
        if let Some(activation) = self.next(last).filter(|next| self.is_fusible(*next))
            && taken.insert(activation)
        {
            step.activation = Some(activation);
        }
        step
    }

    /// Returns what `sum` adds to `last`, if both have one shape. A sum of two convolutions or norms belongs to the later one.
    fn residual(&self, sum: NodeId, last: NodeId) -> Option<NodeId> {
        let &[a, b] = self.graph.node(sum).inputs.as_slice() else { return None };
        let other = if a == last { b } else { a };
        let same = self.graph.shape(other) == self.graph.shape(last) && other != last;
        let is_later = other > last && self.starts(other) && self.next(other) == Some(sum);
        (*self.op(sum) == Op::Add && same && !is_later).then_some(other)
    }

    /// Returns whether convolutions and normalizations can apply it themselves.
    fn is_fusible(&self, id: NodeId) -> bool {
        match self.op(id) {
            Op::Activation(activation) => match activation {
                Activation::Relu | Activation::Clip { .. } | Activation::HardSwish | Activation::Silu => true,
                Activation::LeakyRelu { slope } => *slope >= 0.0,
                Activation::HardSigmoid { .. } => *activation == Activation::HARD_SIGMOID,
                Activation::Prelu { .. } | Activation::Sigmoid => false,
            },
            _ => false,
        }
    }
}
