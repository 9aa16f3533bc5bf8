//! A graph as JSON, in a file of its own or within another. The same graph makes the same bytes.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

use crate::error::{GraphError, clean};
use crate::graph::{Graph, Node};
use crate::op::Op;
use crate::shape::TensorSpec;

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
    /// Returns the graph as `graph.json`.
    ///
    /// # Errors
    /// If the graph does not pass [`Graph::check`].
    pub fn to_json(&self) -> Result<String, GraphError> {
        self.check()?;
        to_lines(&self.to_file(), 2).map_err(|error| GraphError::Graph(error.to_string()))
    }

    fn to_file(&self) -> File {
        let name = |id| self.node(id).name.clone();
        let node = |node: &Node| FileNode {
            name: node.name.clone(),
            op: node.op.clone(),
            inputs: node.inputs.iter().copied().map(name).collect(),
        };
        File {
            format: FORMAT.into(),
            version: GRAPH_VERSION,
            outputs: self.outputs().iter().copied().map(name).collect(),
            nodes: self.nodes().iter().map(node).collect(),
            tensors: self.tensors().clone(),
        }
    }

    /// Reads and checks `graph.json`.
    ///
    /// # Errors
    /// If the text is no such file, is of another version, has unknown fields, or a node does not fit.
    pub fn from_json(text: &str) -> Result<Self, GraphError> {
        Self::from_value(serde_json::from_str(text).map_err(|error| damaged(&error))?)
    }

    fn from_value(value: serde_json::Value) -> Result<Self, GraphError> {
        let Header { format, version } = Header::deserialize(&value).map_err(|error| damaged(&error))?;
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
        let file = serde_json::from_value::<File>(value).map_err(|error| damaged(&error))?;
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

fn damaged(error: &serde_json::Error) -> GraphError {
    GraphError::Graph(format!("the text is no graph.json: {}", clean(&error.to_string())))
}

impl Serialize for Graph {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_file().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Graph {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(serde_json::Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Returns a value as JSON with a line for each entry down to `depth`, and entries below in the line of theirs.
///
/// # Errors
/// If the value cannot be JSON.
pub fn to_lines<T: Serialize>(value: &T, depth: usize) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    let lines = Lines { pretty: PrettyFormatter::new(), compact: CompactFormatter, depth, level: 0 };
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, lines))?;
    bytes.push(b'\n');
    String::from_utf8(bytes).map_err(serde::ser::Error::custom)
}

/// Pretty down to a depth, compact below.
struct Lines {
    pretty: PrettyFormatter<'static>,
    compact: CompactFormatter,
    depth: usize,
    level: usize,
}

/// Writes a method that chooses a formatter by the level before (`$up`) or after the call.
macro_rules! by_level {
    ($($name:ident($($argument:ident: $type:ty),*) $change:ident;)*) => {
        $(fn $name<W: ?Sized + std::io::Write>(&mut self, writer: &mut W $(, $argument: $type)*) -> std::io::Result<()> {
            self.$change();
            if self.level <= self.depth {
                self.pretty.$name(writer $(, $argument)*)
            } else {
                self.compact.$name(writer $(, $argument)*)
            }
        })*
    };
}

impl Lines {
    fn enter(&mut self) {
        self.level += 1;
    }

    #[expect(clippy::unused_self, reason = "one of three changes")]
    fn stay(&mut self) {}
}

impl Formatter for Lines {
    by_level! {
        begin_array() enter;
        begin_array_value(first: bool) stay;
        end_array_value() stay;
        begin_object() enter;
        begin_object_key(first: bool) stay;
        begin_object_value() stay;
        end_object_value() stay;
    }

    fn end_array<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.level -= 1;
        if self.level < self.depth { self.pretty.end_array(writer) } else { self.compact.end_array(writer) }
    }

    fn end_object<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.level -= 1;
        if self.level < self.depth { self.pretty.end_object(writer) } else { self.compact.end_object(writer) }
    }
}
