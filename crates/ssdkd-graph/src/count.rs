//! What a network costs: parameters and multiply-adds, node by node.

use std::collections::HashSet;

use crate::graph::{Graph, NodeId};
use crate::op::{Conv2d, ConvTranspose2d, Op};

/// What one node costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeCost {
    /// The node.
    pub node: NodeId,
    /// Trained numbers. A tensor that several nodes share counts at the first.
    pub parameters: u64,
    /// Multiplications with an addition for one image: those of convolutions and linear layers.
    pub multiply_adds: u64,
}

impl Graph {
    /// Returns the cost of every node for images of the size that the network was built for.
    pub fn costs(&self) -> Vec<NodeCost> {
        let mut counted = HashSet::new();
        self.ids()
            .map(|node| {
                let op = &self.node(node).op;
                let parameters = op
                    .tensors()
                    .into_iter()
                    .filter(|&(name, _)| self.tensors()[name].trained && counted.insert(name))
                    .map(|(name, _)| numbers(&self.tensors()[name].shape))
                    .fold(0, u64::saturating_add);
                NodeCost { node, parameters, multiply_adds: self.multiply_adds(node) }
            })
            .collect()
    }

    /// Returns all trained numbers.
    pub fn parameters(&self) -> u64 {
        self.costs().iter().map(|cost| cost.parameters).fold(0, u64::saturating_add)
    }

    /// Returns all multiply-adds for one image.
    pub fn total_multiply_adds(&self) -> u64 {
        self.costs().iter().map(|cost| cost.multiply_adds).fold(0, u64::saturating_add)
    }

    fn multiply_adds(&self, id: NodeId) -> u64 {
        let node = self.node(id);
        // The weight's numbers without its first dimension, for each number of the result (of the input, if transposed).
        let (weight, shape) = match &node.op {
            Op::Conv2d(Conv2d { weight, .. }) | Op::Linear { weight, .. } => (weight, self.shape(id)),
            Op::ConvTranspose2d(ConvTranspose2d { weight, .. }) => (weight, self.shape(node.inputs[0])),
            _ => return 0,
        };
        let taps = numbers(&self.tensors()[weight].shape[1..]);
        taps.saturating_mul(shape.numbers() as u64)
    }
}

fn numbers(sizes: &[usize]) -> u64 {
    sizes.iter().fold(1, |product, &size| product.saturating_mul(size as u64))
}
