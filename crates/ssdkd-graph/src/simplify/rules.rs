//! The rules: what each node can become.

use std::collections::{HashMap, HashSet};

use super::Edit;
use crate::graph::{Graph, Node, NodeId};
use crate::op::{Activation, Conv2d, Op, PadValue, Pool, ResizeTo};
use crate::shape::{Shape, infer};

/// Returns what can be simplified now. No two edits touch the same node.
pub(super) fn edits(graph: &Graph) -> HashMap<NodeId, Edit> {
    let rules = Rules { graph, users: graph.users(), outputs: graph.outputs().iter().copied().collect() };
    let mut edits = HashMap::new();
    let mut touched = HashSet::new();
    for id in graph.ids() {
        let Some((edit, others)) = rules.of(id) else { continue };
        let involved = others.iter().copied().chain([id]).collect::<Vec<_>>();
        if involved.iter().all(|id| !touched.contains(id)) {
            touched.extend(involved);
            edits.insert(id, edit);
        }
    }
    edits
}

struct Rules<'a> {
    graph: &'a Graph,
    users: Vec<Vec<NodeId>>,
    outputs: HashSet<NodeId>,
}

/// An edit of a node, and the other nodes that it goes by.
type Change = (Edit, Vec<NodeId>);

impl Rules<'_> {
    fn of(&self, id: NodeId) -> Option<Change> {
        let node = self.graph.node(id);
        match &node.op {
            Op::Mul => self.gate(node),
            Op::Conv2d(conv) => self.padded(node, |sides, value| {
                let padding = sum(conv.padding, sides);
                (value == PadValue::Zero).then(|| Op::Conv2d(Conv2d { padding, ..conv.clone() }))
            }),
            Op::MaxPool(pool) => self.padded(node, |sides, value| {
                let padding = sum(pool.padding, sides);
                (value == PadValue::NegativeInfinity && fits(padding, pool))
                    .then_some(Op::MaxPool(Pool { padding, ..*pool }))
            }),
            Op::AvgPool { pool, count_padding: false } if pool.padding[..2] == [0, 0] && pool.padding != [0; 4] => {
                self.rounded_up(id, node, pool)
            }
            Op::AvgPool { pool, count_padding } => self.padded(node, |sides, value| {
                let padding = sum(pool.padding, sides);
                let counts = (*count_padding || pool.padding == [0; 4]) && !pool.ceil_mode && fits(padding, pool);
                let pool = Pool { padding, ..*pool };
                (value == PadValue::Zero && counts).then_some(Op::AvgPool { pool, count_padding: true })
            }),
            Op::Affine { scale, shift: Some(shift) } => self.shifted(node, scale.as_ref(), shift),
            Op::Resize { size: ResizeTo::Fixed(size), method } => {
                let reference = self.reference(id, *size)?;
                let op = Op::Resize { size: ResizeTo::Like, method: *method };
                Some((become_op(node, op, vec![node.inputs[0], reference]), vec![reference]))
            }
            Op::ChannelShuffle { groups: 1 } => Some((Edit::Vanish(node.inputs[0]), vec![])),
            Op::AdaptivePool { size, .. } if self.graph.shape(node.inputs[0]).size() == *size && *size == [1, 1] => {
                Some((Edit::Vanish(node.inputs[0]), vec![]))
            }
            _ => None,
        }
    }

    /// Returns whether a node's result goes to one other node and nowhere else.
    fn is_private(&self, id: NodeId) -> bool {
        self.users[id.0].len() == 1 && !self.outputs.contains(&id)
    }

    /// x · sigmoid(x) and x · hard_sigmoid(x).
    fn gate(&self, node: &Node) -> Option<Change> {
        let &[a, b] = node.inputs.as_slice() else { return None };
        let found = [(a, b), (b, a)].into_iter().find_map(|(x, gate)| {
            let source = self.graph.node(gate);
            let activation = match &source.op {
                Op::Activation(Activation::Sigmoid) => Activation::Silu,
                Op::Activation(activation) if *activation == Activation::HARD_SIGMOID => Activation::HardSwish,
                _ => return None,
            };
            (source.inputs == [x]).then_some((x, gate, activation))
        });
        let (x, gate, activation) = found?;
        Some((become_op(node, Op::Activation(activation), vec![x]), vec![gate]))
    }

    /// Returns a padding before an operation that can pad itself.
    fn padded(&self, node: &Node, op: impl Fn([usize; 4], PadValue) -> Option<Op>) -> Option<Change> {
        let pad = node.inputs[0];
        let Op::Pad { sides, value } = self.graph.node(pad).op else { return None };
        let op = op(sides, value)?;
        Some((become_op(node, op, self.graph.node(pad).inputs.clone()), vec![pad]))
    }

    /// Zeros around an image that count, and windows that reach beyond them, where nothing counts: windows that are rounded up.
    fn rounded_up(&self, id: NodeId, node: &Node, pool: &Pool) -> Option<Change> {
        self.padded(node, |sides, value| {
            let pool = Pool { padding: sides, ceil_mode: true, ..*pool };
            let op = Op::AvgPool { pool, count_padding: true };
            let input = self.graph.shape(self.graph.node(node.inputs[0]).inputs[0]);
            let is_same = infer(&op, &[input], self.graph.tensors()).ok()? == self.graph.shape(id);
            (value == PadValue::Zero && fits(sides, &pool) && is_same).then_some(op)
        })
    }

    /// Returns a sum after a linear layer, a convolution or a product, which they can add themselves.
    fn shifted(&self, node: &Node, scale: Option<&String>, shift: &str) -> Option<Change> {
        let before = node.inputs[0];
        if scale.is_some() || !self.is_private(before) {
            return None;
        }
        let bias = Some(shift.to_string());
        let op = match &self.graph.node(before).op {
            Op::Linear { weight, bias: None } => Op::Linear { weight: weight.clone(), bias },
            Op::Conv2d(conv @ Conv2d { bias: None, .. }) => Op::Conv2d(Conv2d { bias, ..conv.clone() }),
            Op::Affine { scale: Some(scale), shift: None } => Op::Affine { scale: Some(scale.clone()), shift: bias },
            _ => return None,
        };
        let source = self.graph.node(before);
        let merged = Node { name: source.name.clone(), op, inputs: source.inputs.clone() };
        Some((Edit::Become(merged), vec![before]))
    }

    /// Returns an earlier node that a fixed size is the size of: what the result is joined with, or the image.
    fn reference(&self, id: NodeId, size: [usize; 2]) -> Option<NodeId> {
        let joined =
            self.users[id.0].iter().filter(|user| matches!(self.graph.node(**user).op, Op::Concat | Op::Add | Op::Mul));
        let others = joined.flat_map(|user| self.graph.node(*user).inputs.iter().copied());
        let fits = |other: &NodeId| {
            let fixed = matches!(self.graph.node(*other).op, Op::Resize { size: ResizeTo::Fixed(_), .. });
            *other < id && !fixed && self.is_map(*other, size)
        };
        others.into_iter().find(fits).or_else(|| self.is_map(NodeId(0), size).then_some(NodeId(0)))
    }

    fn is_map(&self, id: NodeId, size: [usize; 2]) -> bool {
        matches!(self.graph.shape(id), Shape::Map { height, width, .. } if [height, width] == size)
    }
}

fn become_op(node: &Node, op: Op, inputs: Vec<NodeId>) -> Edit {
    Edit::Become(Node { name: node.name.clone(), op, inputs })
}

fn sum(a: [usize; 4], b: [usize; 4]) -> [usize; 4] {
    [0, 1, 2, 3].map(|side| a[side] + b[side])
}

/// Returns whether a pooling may have this padding.
fn fits([top, left, bottom, right]: [usize; 4], pool: &Pool) -> bool {
    top.max(bottom) < pool.kernel[0] && left.max(right) < pool.kernel[1]
}
