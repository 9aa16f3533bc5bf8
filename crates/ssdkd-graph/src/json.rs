//! `graph.json`: a graph as text. The same graph makes the same bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{GraphError, clean};
use crate::graph::{Graph, TensorSpec};
use crate::op::Op;

/// The version of `graph.json` that this program writes and reads.
pub const GRAPH_VERSION: u32 = 1;

/// What the field `format` says.
const FORMAT: &str = "ssdkd-graph";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    version: u32,
    outputs: Vec<String>,
    nodes: Vec<FileNode>,
    tensors: BTreeMap<String, TensorSpec>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileNode {
    name: String,
    op: Op,
    inputs: Vec<String>,
}

/// The fields that every version has.
#[derive(Deserialize)]
struct Header {
    format: Option<String>,
    version: Option<u32>,
}

impl Graph {
    /// The graph as `graph.json`.
    ///
    /// # Errors
    /// If the graph does not pass [`Graph::check`].
    pub fn to_json(&self) -> Result<String, GraphError> {
        self.check()?;
        let name = |id| self.node(id).name.clone();
        let file = File {
            format: FORMAT.into(),
            version: GRAPH_VERSION,
            outputs: self.outputs().iter().copied().map(name).collect(),
            nodes: self
                .nodes()
                .iter()
                .map(|node| FileNode {
                    name: node.name.clone(),
                    op: node.op.clone(),
                    inputs: node.inputs.iter().copied().map(name).collect(),
                })
                .collect(),
            tensors: self.tensors().clone(),
        };
        let mut text = serde_json::to_string_pretty(&file).map_err(|error| GraphError::Graph(error.to_string()))?;
        text.push('\n');
        Ok(text)
    }

    /// Reads and checks `graph.json`.
    ///
    /// # Errors
    /// If the text is no such file, is of another version, has unknown fields, or a node does not fit.
    pub fn from_json(text: &str) -> Result<Self, GraphError> {
        let damaged = |error: serde_json::Error| {
            GraphError::Graph(format!("the text is no graph.json: {}", clean(&error.to_string())))
        };
        let Header { format, version } = serde_json::from_str(text).map_err(damaged)?;
        match (format.as_deref(), version) {
            (Some(FORMAT), Some(GRAPH_VERSION)) => {}
            (Some(FORMAT), Some(version)) => {
                return Err(GraphError::Graph(format!(
                    "graph.json has version {version}; this program reads version {GRAPH_VERSION}\n\
                     hint: import the network again with this program"
                )));
            }
            _ => return Err(GraphError::Graph(format!("the text is no graph.json: it has no format {FORMAT:?}"))),
        }
        let file = serde_json::from_str::<File>(text).map_err(damaged)?;
        let mut graph = Self::default();
        for (name, spec) in file.tensors {
            graph.declare(&name, &spec.shape, spec.trained)?;
        }
        for FileNode { name, op, inputs } in file.nodes {
            let missing = |input: &str| GraphError::Node {
                node: name.clone(),
                op: op.kind(),
                reason: format!("it uses {}, which is no node before it", clean(input)),
            };
            let inputs = inputs.iter().map(|input| graph.find(input).ok_or_else(|| missing(input)));
            let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
            graph.push(&name, op, &inputs)?;
        }
        let missing = |name: &str| GraphError::Graph(format!("the output {} is no node", clean(name)));
        let outputs = file.outputs.iter().map(|name| graph.find(name).ok_or_else(|| missing(name)));
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        graph.set_outputs(&outputs)?;
        graph.check()?;
        Ok(graph)
    }
}
