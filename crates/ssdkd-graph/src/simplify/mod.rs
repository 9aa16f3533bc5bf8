//! The same network with fewer nodes: what exporters write in several operations becomes one again, and nodes that no output
//! needs are dropped.
//!
//! A rule looks at one node and says what it becomes. It may use earlier nodes alone, so that the order stays.

mod rules;

use std::collections::HashMap;

use crate::error::GraphError;
use crate::graph::{Graph, Node, NodeId};

/// What becomes of a node.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    /// The node computes something else, with other inputs.
    Become(Node),
    /// Users of the node use this one instead.
    Vanish(NodeId),
}

/// Rounds of rules: each makes room for the next one.
const MOST_ROUNDS: usize = 8;

/// Returns the same network with fewer nodes.
///
/// # Errors
/// If a rule leads to a node that does not fit, which is a mistake of this crate.
pub fn simplify(graph: &Graph) -> Result<Graph, GraphError> {
    let mut graph = apply(graph, &HashMap::new())?;
    for _ in 0..MOST_ROUNDS {
        let edits = rules::edits(&graph);
        if edits.is_empty() {
            break;
        }
        graph = apply(&graph, &edits)?;
    }
    Ok(graph)
}

/// Returns the graph after edits, without nodes and tensors that no output needs.
pub(crate) fn apply(graph: &Graph, edits: &HashMap<NodeId, Edit>) -> Result<Graph, GraphError> {
    // A node vanishes in favor of an earlier one, which may have vanished itself.
    let mut standing = Vec::<NodeId>::with_capacity(graph.nodes().len());
    for id in graph.ids() {
        standing.push(match edits.get(&id) {
            Some(Edit::Vanish(earlier)) => standing[earlier.0],
            _ => id,
        });
    }
    let resolve = |id: NodeId| standing[id.0];
    let edited = |id: NodeId| match edits.get(&id) {
        Some(Edit::Become(node)) => node,
        _ => graph.node(id),
    };
    let mut needed = vec![false; graph.nodes().len()];
    needed[0] = true;
    graph.outputs().iter().for_each(|output| needed[resolve(*output).0] = true);
    for id in graph.ids().rev().filter(|id| !matches!(edits.get(id), Some(Edit::Vanish(_)))) {
        if needed[id.0] {
            edited(id).inputs.iter().for_each(|input| needed[resolve(*input).0] = true);
        }
    }
    let [channels, height, width] = graph.input();
    let mut result = Graph::new(&graph.nodes()[0].name, [channels, height, width])?;
    let mut places = HashMap::from([(NodeId(0), NodeId(0))]);
    for id in graph.ids().skip(1).filter(|id| needed[id.0]) {
        let node = edited(id);
        for (name, _) in node.op.tensors() {
            let spec = &graph.tensors()[name];
            result.declare(name, &spec.shape, spec.trained)?;
        }
        let inputs = node.inputs.iter().map(|input| places[&resolve(*input)]).collect::<Vec<_>>();
        places.insert(id, result.push(&node.name, node.op.clone(), &inputs)?);
    }
    let outputs = graph.outputs().iter().map(|output| places[&resolve(*output)]).collect::<Vec<_>>();
    result.set_outputs(&outputs)?;
    Ok(result)
}
