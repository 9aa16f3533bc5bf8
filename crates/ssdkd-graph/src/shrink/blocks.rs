//! Residual blocks: x + f(x). Where both have one shape, the block can be left out, and x goes on.
//!
//! A block refines what it is given, so some blocks of a trained network are a better start than random weights
//! \[C: DistilBERT, Sanh et al. 2019, starts from every second layer of its teacher\].

use std::collections::{BTreeMap, HashMap, HashSet};

use super::names::Renumbering;
use crate::error::GraphError;
use crate::graph::{Graph, NodeId};
use crate::op::Op;
use crate::simplify::{Edit, apply};

/// A network with fewer blocks.
pub(super) struct Fewer {
    pub graph: Graph,
    /// Of each node of the original, the node that is left.
    pub nodes: Vec<Option<NodeId>>,
    /// The original name of each tensor.
    pub tensors: BTreeMap<String, String>,
}

impl Fewer {
    /// The network with all of its blocks.
    pub(super) fn none(graph: &Graph) -> Self {
        Self { graph: graph.clone(), nodes: graph.ids().map(Some).collect(), tensors: BTreeMap::new() }
    }
}

/// A residual block that can be left out.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// What it takes.
    x: NodeId,
    /// x + f(x).
    sum: NodeId,
    /// What it gives: the sum, or the activation that follows it.
    result: NodeId,
}

impl Graph {
    /// Returns the network with this share of the residual blocks of one shape. Of m blocks in a row n stay: the first, and of the
    /// others the ⌈k/n · m⌉-th.
    ///
    /// # Errors
    /// If there is no block that can be left out.
    pub(super) fn with_fewer_blocks(&self, share: f64) -> Result<Fewer, GraphError> {
        let chains = self.chains();
        if chains.is_empty() {
            return Err(GraphError::Graph("it has no residual blocks whose input and output have one shape".into()));
        }
        let mut edits = HashMap::new();
        for Chain { follows_a_sum, blocks } in chains {
            // A first block that changes the shape counts, and stays.
            let first = usize::from(follows_a_sum);
            let count = blocks.len() + first;
            let kept = ((share * count as f64).round() as usize).max(1);
            let stay = (1..=kept).map(|k| if k == 1 { 1 } else { (k * count).div_ceil(kept) }).collect::<HashSet<_>>();
            for (place, block) in (1 + first..).zip(&blocks) {
                if stay.contains(&place) {
                    continue;
                }
                edits.insert(block.sum, Edit::Vanish(block.x));
                if block.result != block.sum && self.node(block.x).op == self.node(block.result).op {
                    // The same activation twice is the activation.
                    edits.insert(block.result, Edit::Vanish(block.sum));
                }
            }
        }
        self.without(&edits)
    }

    fn without(&self, edits: &HashMap<NodeId, Edit>) -> Result<Fewer, GraphError> {
        let left = apply(self, edits)?;
        let names = |graph: &Self| {
            let nodes = graph.nodes().iter().map(|node| node.name.clone());
            nodes.chain(graph.tensors().keys().cloned()).collect::<Vec<_>>()
        };
        let (before, after) = (names(self), names(&left));
        let new = Renumbering::new(before.iter().map(String::as_str), after.iter().map(String::as_str));
        let (graph, tensors) = left.renamed(&|name| new.name(name))?;
        let nodes = self.nodes().iter().map(|node| left.find(&node.name)).collect();
        Ok(Fewer { graph, nodes, tensors })
    }

    /// Returns the network with other names of nodes and tensors, and the old names of the tensors.
    fn renamed(&self, name: &dyn Fn(&str) -> String) -> Result<(Self, BTreeMap<String, String>), GraphError> {
        let mut graph = Self::new(&name(&self.nodes()[0].name), self.input())?;
        let mut old = BTreeMap::new();
        for (tensor, spec) in self.tensors() {
            graph.declare(&name(tensor), &spec.shape, spec.trained)?;
            old.insert(name(tensor), tensor.clone());
        }
        for node in &self.nodes()[1..] {
            let mut op = node.op.clone();
            op.tensors_mut().into_iter().for_each(|tensor| *tensor = name(tensor));
            graph.push(&name(&node.name), op, &node.inputs)?;
        }
        graph.set_outputs(self.outputs())?;
        Ok((graph, old))
    }

    /// The blocks that can be left out, those in a row together.
    fn chains(&self) -> Vec<Chain> {
        let users = self.users();
        let mut chains = Vec::<Chain>::new();
        for sum in self.ids() {
            let Some(x) = self.skipped_by(sum, &users) else { continue };
            let block = Block { x, sum, result: self.activated(sum, &users) };
            let goes_on = |chain: &&mut Chain| chain.blocks.last().is_some_and(|last| last.result == x);
            if let Some(chain) = chains.iter_mut().find(goes_on) {
                chain.blocks.push(block);
                continue;
            }
            let follows_a_sum = self.ids().any(|other| {
                matches!(self.node(other).op, Op::Add)
                    && self.shape(other) == self.shape(x)
                    && (other == x || self.activated(other, &users) == x)
            });
            chains.push(Chain { follows_a_sum, blocks: vec![block] });
        }
        chains
    }

    /// The activation that alone uses a sum, or the sum.
    fn activated(&self, sum: NodeId, users: &[Vec<NodeId>]) -> NodeId {
        match users[sum.index()].as_slice() {
            &[user] if matches!(self.node(user).op, Op::Activation(_)) => user,
            _ => sum,
        }
    }

    /// The x of a sum x + f(x) of one shape, where nothing else uses what f computes.
    fn skipped_by(&self, sum: NodeId, users: &[Vec<NodeId>]) -> Option<NodeId> {
        let node = self.node(sum);
        let (&[a, b], Op::Add) = (node.inputs.as_slice(), &node.op) else { return None };
        // The earlier one is x: f computes after it.
        let (x, f) = (a.min(b), a.max(b));
        if x == f || self.shape(x) != self.shape(f) {
            return None;
        }
        let (mut branch, mut open) = (HashSet::from([f]), vec![f]);
        while let Some(id) = open.pop() {
            for &input in &self.node(id).inputs {
                if input < x {
                    return None;
                }
                if input != x && branch.insert(input) {
                    open.push(input);
                }
            }
        }
        let is_inside = |user: &NodeId| *user == sum || branch.contains(user);
        let is_used_outside = |id: &NodeId| self.outputs().contains(id) || !users[id.index()].iter().all(is_inside);
        let has_weights = branch.iter().any(|id| matches!(self.node(*id).op, Op::Conv2d(_) | Op::ConvTranspose2d(_)));
        (has_weights && !branch.iter().any(is_used_outside)).then_some(x)
    }
}

/// Blocks of one shape in a row: each takes what the one before gives.
struct Chain {
    /// Whether the first one takes a sum: that of a block that changes the shape.
    follows_a_sum: bool,
    blocks: Vec<Block>,
}
