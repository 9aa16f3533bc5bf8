//! A network as a list of nodes, each of which uses the results of earlier ones.

use std::collections::{BTreeMap, HashMap};

use crate::error::{GraphError, clean};
use crate::op::{Op, ResizeTo};
use crate::shape::{Shape, TensorSpec, infer};

/// A node of a graph: its position in [`Graph::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) usize);

impl NodeId {
    /// Returns the position in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// One operation of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// A name of its own: the path of the module it comes from, where there is one.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// What it computes with.
    pub inputs: Vec<NodeId>,
}

impl Node {
    /// Returns the inputs whose numbers it needs: all but one that only tells a size.
    pub fn data_inputs(&self) -> &[NodeId] {
        match self.op {
            Op::Resize { size: ResizeTo::Like, .. } => &self.inputs[..1],
            _ => &self.inputs,
        }
    }
}

/// A network: what [the nodes](Self::nodes) compute, and which of them are its results.
///
/// Whatever builds a graph goes through [`push`](Self::push), so every node fits its inputs and tensors.
///
/// ```
/// use ssdkd_graph::op::{BatchNorm, Conv2d};
/// use ssdkd_graph::{Graph, Op};
///
/// let mut graph = Graph::new("image", [3, 32, 32])?;
/// graph.declare("conv.weight", &[16, 3, 3, 3], true)?;
/// for (name, trained) in [("weight", true), ("bias", true), ("running_mean", false), ("running_var", false)] {
///     graph.declare(&format!("bn.{name}"), &[16], trained)?;
/// }
/// graph.declare("bn.num_batches_tracked", &[], false)?;
/// let image = graph.find("image").expect("the input node");
/// let conv = graph.push("conv", Op::Conv2d(Conv2d::new("conv.weight", 2, 1)), &[image])?;
/// let norm = graph.push("bn", Op::BatchNorm(BatchNorm::new("bn")), &[conv])?;
/// graph.set_outputs(&[norm])?;
///
/// graph.check()?;
/// assert_eq!(graph.shape(norm).size(), [16, 16]);
/// assert_eq!(graph.parameters(), 3 * 3 * 3 * 16 + 2 * 16);
/// # Ok::<(), ssdkd_graph::GraphError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    outputs: Vec<NodeId>,
    tensors: BTreeMap<String, TensorSpec>,
    /// Of each node, for the image size of the input node.
    shapes: Vec<Shape>,
    names: HashMap<String, NodeId>,
}

/// Most nodes of a graph.
const MOST_NODES: usize = 1 << 20;

impl Graph {
    /// Creates a graph that takes an image of this many channels, rows and columns. The input node is called `name`.
    ///
    /// # Errors
    /// If a size is 0 or too large.
    pub fn new(name: &str, [channels, height, width]: [usize; 3]) -> Result<Self, GraphError> {
        let mut graph = Self::default();
        graph.push(name, Op::Input { channels, height, width }, &[])?;
        Ok(graph)
    }

    /// Declares a tensor; one that is there already has to be the same.
    ///
    /// # Errors
    /// If there is another tensor of that name.
    pub fn declare(&mut self, name: &str, shape: &[usize], trained: bool) -> Result<(), GraphError> {
        let spec = TensorSpec { shape: shape.to_vec(), trained };
        match self.tensors.get(name) {
            None => {
                self.tensors.insert(name.into(), spec);
                Ok(())
            }
            Some(there) if *there == spec => Ok(()),
            Some(there) => Err(GraphError::Graph(format!(
                "the tensor {} is used with shape {:?} and with {shape:?}",
                clean(name),
                there.shape
            ))),
        }
    }

    /// Appends a node and returns it.
    ///
    /// # Errors
    /// If the name is taken, or the operation does not fit its inputs or tensors. The error names the node.
    pub fn push(&mut self, name: &str, op: Op, inputs: &[NodeId]) -> Result<NodeId, GraphError> {
        let fail = |reason: String| GraphError::Node { node: name.into(), op: op.kind(), reason };
        let id = NodeId(self.nodes.len());
        if id.0 >= MOST_NODES {
            return Err(fail(format!("the graph has more than {MOST_NODES} nodes")));
        }
        if name.is_empty() {
            return Err(fail("it has no name".into()));
        }
        if self.names.contains_key(name) {
            return Err(fail("another node has the same name".into()));
        }
        if matches!(op, Op::Input { .. }) != (id.0 == 0) {
            return Err(fail("a graph has one input, as its first node".into()));
        }
        if let Some(input) = inputs.iter().find(|input| input.0 >= id.0) {
            return Err(fail(format!("it uses node number {}, which is not before it", input.0)));
        }
        let shapes = inputs.iter().map(|input| self.shapes[input.0]).collect::<Vec<_>>();
        let shape = infer(&op, &shapes, &self.tensors).map_err(fail)?;
        self.names.insert(name.into(), id);
        self.nodes.push(Node { name: name.into(), op, inputs: inputs.to_vec() });
        self.shapes.push(shape);
        Ok(id)
    }

    /// Sets the results of the network.
    ///
    /// # Errors
    /// If there is none, or one is no node of this graph.
    pub fn set_outputs(&mut self, outputs: &[NodeId]) -> Result<(), GraphError> {
        if outputs.is_empty() {
            return Err(GraphError::Graph("the graph has no output".into()));
        }
        if let Some(output) = outputs.iter().find(|output| output.0 >= self.nodes.len()) {
            return Err(GraphError::Graph(format!("the output {} is no node of the graph", output.0)));
        }
        self.outputs = outputs.to_vec();
        Ok(())
    }

    /// Returns the nodes, each after those that it uses.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node.
    ///
    /// # Panics
    /// If `id` is of a longer graph.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// Returns the ids of all nodes, in order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    /// Returns the node of that name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.names.get(name).copied()
    }

    /// Returns the results of the network.
    pub fn outputs(&self) -> &[NodeId] {
        &self.outputs
    }

    /// Returns all tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorSpec> {
        &self.tensors
    }

    /// Channels, height and width of the image that the network was built for.
    pub fn input(&self) -> [usize; 3] {
        let [height, width] = self.shapes[0].size();
        [self.shapes[0].channels(), height, width]
    }

    /// Returns the shape of a node's result for the image size that the network was built for.
    pub fn shape(&self, id: NodeId) -> Shape {
        self.shapes[id.0]
    }

    /// Returns the shapes of all results for images of another size.
    ///
    /// # Errors
    /// If a node cannot work on images of that size. The error names the node.
    pub fn shapes_at(&self, height: usize, width: usize) -> Result<Vec<Shape>, GraphError> {
        let mut shapes = Vec::<Shape>::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let inputs = node.inputs.iter().map(|input| shapes[input.0]).collect::<Vec<_>>();
            let shape = match &node.op {
                Op::Input { channels, .. } => {
                    infer(&Op::Input { channels: *channels, height, width }, &[], &self.tensors)
                }
                op => infer(op, &inputs, &self.tensors),
            };
            let fail = |reason: String| GraphError::Node {
                node: node.name.clone(),
                op: node.op.kind(),
                reason: format!("{reason}, for images of {height} by {width} pixels"),
            };
            shapes.push(shape.map_err(fail)?);
        }
        Ok(shapes)
    }

    /// Returns the nodes that use each node's result, be it for its size alone.
    pub fn users(&self) -> Vec<Vec<NodeId>> {
        self.users_by(|node| &node.inputs)
    }

    /// Returns the nodes that use the numbers of each node's result.
    pub fn data_users(&self) -> Vec<Vec<NodeId>> {
        self.users_by(Node::data_inputs)
    }

    fn users_by(&self, inputs: impl Fn(&Node) -> &[NodeId]) -> Vec<Vec<NodeId>> {
        let mut users = vec![Vec::new(); self.nodes.len()];
        for id in self.ids() {
            for input in inputs(self.node(id)) {
                if users[input.0].last() != Some(&id) {
                    users[input.0].push(id);
                }
            }
        }
        users
    }

    /// Checks the graph as a whole: it has an output, and every tensor is used.
    ///
    /// # Errors
    /// If it has no output, or a tensor is left over.
    pub fn check(&self) -> Result<(), GraphError> {
        if self.outputs.is_empty() {
            return Err(GraphError::Graph("the graph has no output".into()));
        }
        let used = self.nodes.iter().flat_map(|node| node.op.tensors()).map(|(name, _)| name);
        let used = used.collect::<std::collections::HashSet<_>>();
        match self.tensors.keys().find(|name| !used.contains(name.as_str())) {
            Some(name) => Err(GraphError::Graph(format!("the tensor {} is left over: no node uses it", clean(name)))),
            None => Ok(()),
        }
    }
}
