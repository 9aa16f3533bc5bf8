//! What a network ends in.

use std::collections::HashMap;

use crate::error::{GraphError, clean};
use crate::graph::{Graph, NodeId};
use crate::op::{Activation, Op};
use crate::simplify::{Edit, apply};

impl Graph {
    /// The network without a last softmax or sigmoid: its outputs are logits. The second result says what was removed.
    ///
    /// # Errors
    /// If the network would be nothing but its input.
    pub fn without_probabilities(&self) -> Result<(Self, Vec<String>), GraphError> {
        let mut removed = Vec::new();
        let mut graph = self.clone();
        let mut outputs = Vec::new();
        for &output in self.outputs() {
            let node = self.node(output);
            let is_probability = matches!(node.op, Op::Softmax { .. } | Op::Activation(Activation::Sigmoid));
            if is_probability {
                removed.push(node.name.clone());
            }
            outputs.push(if is_probability { node.inputs[0] } else { output });
        }
        if outputs.contains(&NodeId(0)) {
            return Err(GraphError::Graph("the network does nothing but turn its input into probabilities".into()));
        }
        graph.set_outputs(&outputs)?;
        Ok((apply(&graph, &HashMap::<NodeId, Edit>::new())?, removed))
    }

    /// The network with one of its outputs alone, by the position of the output.
    ///
    /// # Errors
    /// If there is no such output. The error lists all of them.
    pub fn with_output(&self, position: usize) -> Result<Self, GraphError> {
        let Some(&output) = self.outputs().get(position) else {
            let all = self.outputs().iter().enumerate().take(16).map(|(position, output)| {
                format!("\n  {position}: {} {}", clean(&self.node(*output).name), self.shape(*output))
            });
            return Err(GraphError::Graph(format!(
                "the network has no output {position}; it has these:{}",
                all.collect::<String>()
            )));
        };
        let mut graph = self.clone();
        graph.set_outputs(&[output])?;
        apply(&graph, &HashMap::<NodeId, Edit>::new())
    }
}
