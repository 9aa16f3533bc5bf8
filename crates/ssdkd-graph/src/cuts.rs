//! Feature maps of a network without the names of its blocks.
//!
//! Where everything that follows depends on one tensor alone, the network could be cut in two: in ResNets, MobileNets or
//! DenseNets these places are the ends of blocks. A network with connections across all of its depth has no such places.
//! There, the last activation of each resolution is taken.

use std::collections::HashSet;

use crate::graph::{Graph, NodeId};
use crate::op::Op;
use crate::shape::Shape;

/// The rule that found the feature maps of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutRule {
    /// Everything that follows depends on one tensor alone.
    Bottlenecks,
    /// The last activation of each resolution.
    Resolutions,
}

/// Nodes whose results serve as feature maps, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureMaps {
    /// The nodes.
    pub nodes: Vec<NodeId>,
    /// The rule that found them.
    pub rule: CutRule,
}

/// Fewest feature maps by the first rule before the second one is tried.
const FEWEST: usize = 4;

/// Returns the feature maps of a network.
pub fn feature_maps(graph: &Graph) -> FeatureMaps {
    let nodes = bottlenecks(graph);
    let by_resolution = last_of_each_resolution(graph);
    // One cut in each resolution or more is what blocks look like.
    let resolutions = |nodes: &[NodeId]| {
        let mut sizes = nodes.iter().map(|node| graph.shape(*node).size()).collect::<Vec<_>>();
        sizes.sort_unstable();
        sizes.dedup();
        sizes.len()
    };
    if nodes.len() >= FEWEST && resolutions(&nodes) + 1 >= resolutions(&by_resolution) {
        FeatureMaps { nodes, rule: CutRule::Bottlenecks }
    } else {
        FeatureMaps { nodes: by_resolution, rule: CutRule::Resolutions }
    }
}

/// Maps that alone are alive: everything later depends on them alone. Of a chain of operations without a branch or a
/// convolution between them, the last one counts.
pub fn bottlenecks(graph: &Graph) -> Vec<NodeId> {
    let users = graph.data_users();
    let count = graph.nodes().len();
    let outputs = graph.outputs().iter().copied().collect::<HashSet<_>>();
    let last_use = |id: NodeId| match users[id.0].last() {
        _ if outputs.contains(&id) => count,
        Some(user) => user.index(),
        None => 0,
    };
    let mut furthest = 0;
    let mut cuts = Vec::new();
    for id in graph.ids() {
        // Nothing before this node is used after it.
        if furthest <= id.index() && id.index() > 0 {
            cuts.push(id);
        }
        furthest = furthest.max(last_use(id));
    }
    cuts.retain(|&id| {
        let is_map = matches!(graph.shape(id), Shape::Map { height, width, .. } if height * width > 1);
        let passes_on = match users[id.index()].as_slice() {
            &[user] => is_simple(&graph.node(user).op),
            _ => false,
        };
        is_map && !passes_on && is_result_of_block(&graph.node(id).op) && !outputs.contains(&id)
    });
    cuts
}

/// Returns the last activation, sum or concatenation of each resolution that is not an output.
pub fn last_of_each_resolution(graph: &Graph) -> Vec<NodeId> {
    let outputs = graph.outputs().iter().copied().collect::<HashSet<_>>();
    let mut last = Vec::<NodeId>::new();
    for id in graph.ids().skip(1) {
        let node = graph.node(id);
        let is_map = matches!(graph.shape(id), Shape::Map { height, width, .. } if height * width > 1);
        if !is_map || outputs.contains(&id) || !(matches!(node.op, Op::Activation(_)) || is_join(&node.op)) {
            continue;
        }
        // A resolution that comes again, on the way up, is another one.
        match last.last() {
            Some(before) if graph.shape(*before).size() == graph.shape(id).size() => {
                last.pop();
                last.push(id);
            }
            _ => last.push(id),
        }
    }
    last
}

fn is_join(op: &Op) -> bool {
    matches!(op, Op::Add | Op::Concat)
}

/// Operations that belong to what comes before them.
fn is_simple(op: &Op) -> bool {
    matches!(op, Op::Activation(_) | Op::BatchNorm(_) | Op::Affine { .. } | Op::MaxPool(_) | Op::AvgPool { .. })
}

/// Operations whose results are worth comparing: a bare convolution has no norm and no activation yet.
fn is_result_of_block(op: &Op) -> bool {
    !matches!(
        op,
        Op::Conv2d(_)
            | Op::ConvTranspose2d(_)
            | Op::Pad { .. }
            | Op::ChannelShuffle { .. }
            | Op::SliceChannels { .. }
            | Op::AdaptivePool { .. }
            | Op::Unflatten { .. }
            | Op::Softmax { .. }
    )
}
