//! The names of a file's values, and the nodes and tensors that are written so far.

use std::collections::{BTreeMap, HashMap, HashSet};

use candle_core::Tensor;

use super::super::wire::Message;
use super::{FLOAT, INPUT, INT64, OUTPUT};
use crate::error::{GraphError, clean};
use crate::graph::{Graph, NodeId};

/// An attribute of a node.
pub(super) enum Attribute {
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
    Text(&'static str),
}

/// A file under construction.
pub(super) struct Values<'a> {
    pub graph: &'a Graph,
    tensors: &'a BTreeMap<String, Tensor>,
    pub nodes: Vec<Message>,
    pub initializers: Vec<Message>,
    /// Of each node of the graph, the name of its result.
    names: Vec<String>,
    taken: HashSet<String>,
    /// Of each tensor of the graph, its name in the file: its own, if that is possible.
    own: HashMap<&'a str, String>,
    /// Tensors that are written, by their name in the graph and their sizes in the file.
    placed: HashMap<(String, Vec<usize>), String>,
    wholes: HashMap<Vec<i64>, String>,
    constants: HashMap<(Vec<usize>, Vec<u32>), String>,
}

impl<'a> Values<'a> {
    pub fn new(graph: &'a Graph, tensors: &'a BTreeMap<String, Tensor>) -> Self {
        let mut values = Self {
            graph,
            tensors,
            nodes: Vec::new(),
            initializers: Vec::new(),
            names: Vec::new(),
            taken: HashSet::from([INPUT.to_string(), OUTPUT.to_string()]),
            own: HashMap::new(),
            placed: HashMap::new(),
            wholes: HashMap::new(),
            constants: HashMap::new(),
        };
        for name in graph.tensors().keys() {
            let unique = values.unused(name);
            values.own.insert(name, unique);
        }
        for id in graph.ids() {
            let name = match graph.outputs().first() {
                _ if id.index() == 0 => INPUT.to_string(),
                Some(output) if *output == id => OUTPUT.to_string(),
                _ => values.unused(&clean(&graph.node(id).name)),
            };
            values.names.push(name);
        }
        values
    }

    /// `name`, or with a number where it is taken or empty, which in ONNX means nothing.
    pub fn unused(&mut self, name: &str) -> String {
        let name = if name.is_empty() { "unnamed" } else { name };
        let numbered = (2..).map(|count| format!("{name}.{count}"));
        let mut names = std::iter::once(name.to_string()).chain(numbered);
        let name = names.find(|name| !self.taken.contains(name)).unwrap_or_default();
        self.taken.insert(name.clone());
        name
    }

    /// The name of a node's result.
    pub fn value(&self, id: NodeId) -> String {
        self.names[id.index()].clone()
    }

    /// Appends a node that makes `output`.
    pub fn emit(&mut self, op: &str, inputs: &[&str], output: &str, attributes: Vec<(&str, Attribute)>) {
        let node = inputs.iter().fold(Message::default(), |node, input| node.text(1, input));
        let node = node.text(2, output).text(3, output).text(4, op);
        self.nodes.push(node.messages(5, attributes.into_iter().map(|(name, value)| attribute(name, value))));
    }

    /// Appends a node whose result has a name of its own, which is returned.
    pub fn emit_part(&mut self, op: &str, inputs: &[&str], name: &str, attributes: Vec<(&str, Attribute)>) -> String {
        let name = self.unused(name);
        self.emit(op, inputs, &name, attributes);
        name
    }

    /// The name of a tensor of the graph, with its own sizes.
    pub fn tensor(&mut self, name: &str) -> Result<String, GraphError> {
        let shape = self.graph.tensors().get(name).map(|spec| spec.shape.clone()).unwrap_or_default();
        self.tensor_as(name, &shape)
    }

    /// The name of a tensor of the graph, with other sizes for the same numbers.
    pub fn tensor_as(&mut self, name: &str, dims: &[usize]) -> Result<String, GraphError> {
        let key = (name.to_string(), dims.to_vec());
        if let Some(there) = self.placed.get(&key) {
            return Ok(there.clone());
        }
        let numbers = super::super::numbers(self.tensors, name)?;
        if numbers.len() != dims.iter().product::<usize>() {
            let (name, found) = (clean(name), numbers.len());
            return Err(GraphError::Graph(format!(
                "the tensor {name} has {found} numbers instead of those of {dims:?}"
            )));
        }
        let unique = match self.own.remove(name) {
            Some(own) => own,
            None => self.unused(name),
        };
        self.place(&unique, dims, FLOAT, numbers.into_iter().flat_map(f32::to_le_bytes).collect());
        self.placed.insert(key, unique.clone());
        Ok(unique)
    }

    /// The name of a list of whole numbers.
    pub fn wholes(&mut self, numbers: &[i64]) -> String {
        if let Some(there) = self.wholes.get(numbers) {
            return there.clone();
        }
        let name = self.unused("whole");
        self.place(&name, &[numbers.len()], INT64, numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
        self.wholes.insert(numbers.to_vec(), name.clone());
        name
    }

    /// The name of numbers of these sizes.
    pub fn constant(&mut self, dims: &[usize], numbers: &[f32]) -> String {
        let key = (dims.to_vec(), numbers.iter().map(|number| number.to_bits()).collect());
        if let Some(there) = self.constants.get(&key) {
            return there.clone();
        }
        let name = self.unused("constant");
        self.place(&name, dims, FLOAT, numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
        self.constants.insert(key, name.clone());
        name
    }

    fn place(&mut self, name: &str, dims: &[usize], kind: i64, bytes: Vec<u8>) {
        let tensor = dims.iter().fold(Message::default(), |tensor, size| tensor.int(1, *size as i64));
        self.initializers.push(tensor.int(2, kind).text(8, name).bytes(9, bytes));
    }

    /// The names of the outputs. An output that is the image, or the same as another one, gets a node of its own.
    pub fn outputs(&mut self) -> Vec<String> {
        let mut outputs = Vec::<String>::new();
        for id in self.graph.outputs() {
            let value = self.value(*id);
            let name = if outputs.contains(&value) || value == INPUT {
                self.emit_part("Identity", &[&value], "output", Vec::new())
            } else {
                value
            };
            outputs.push(name);
        }
        outputs
    }
}

/// The message of an attribute, with its kind.
fn attribute(name: &str, value: Attribute) -> Message {
    let message = Message::default().text(1, name);
    match value {
        Attribute::Float(number) => message.float(2, number).int(20, 1),
        Attribute::Int(number) => message.int(3, number).int(20, 2),
        Attribute::Text(text) => message.text(4, text).int(20, 3),
        Attribute::Ints(numbers) => numbers.into_iter().fold(message, |all, number| all.int(8, number)).int(20, 7),
    }
}
