//! Builds a graph from the operations of a file, whatever the format.

use std::collections::HashMap;
use std::rc::Rc;

use super::constant::{Budget, Constant, Scale, count};
use super::meaning::{Dim, Meaning, View, Whole};
use crate::error::GraphError;
use crate::graph::{Graph, NodeId};
use crate::op::Op;
use crate::shape::Shape;

/// What an operation of a file makes, or why it cannot be a node.
pub(crate) type Outcome = Result<Meaning, String>;

/// A graph under construction, and the numbers of its tensors.
pub(crate) struct Builder {
    pub graph: Graph,
    pub budget: Budget,
    /// The number of images that the file has everywhere, where it was not exported for any number.
    batch: Option<i64>,
    numbers: HashMap<String, Rc<Vec<f32>>>,
    pieces: HashMap<(NodeId, [usize; 2]), NodeId>,
    copies: HashMap<String, usize>,
    /// Nodes that multiply with the scale of a normalization.
    pub scaled: HashMap<NodeId, Rc<Scale>>,
}

impl Builder {
    /// Starts a graph: `input` is the image's channels, height and width; `file` the file's bytes.
    pub fn new(name: &str, input: [usize; 3], batch: Option<i64>, file: usize) -> Result<Self, GraphError> {
        Ok(Self {
            graph: Graph::new(name, input)?,
            budget: Budget::of_file(file),
            batch,
            numbers: HashMap::new(),
            pieces: HashMap::new(),
            copies: HashMap::new(),
            scaled: HashMap::new(),
        })
    }

    /// Returns the graph and the numbers of its tensors.
    pub fn finish(self) -> (Graph, HashMap<String, Rc<Vec<f32>>>) {
        (self.graph, self.numbers)
    }

    /// The image.
    pub const INPUT: Meaning = Meaning::Value(NodeId(0));

    /// Appends a node; a name that is taken gets a number.
    pub fn push(&mut self, name: &str, op: Op, inputs: &[NodeId]) -> Outcome {
        self.node(name, op, inputs).map(Meaning::Value)
    }

    /// As [`push`](Self::push), as a node.
    pub fn node(&mut self, name: &str, op: Op, inputs: &[NodeId]) -> Result<NodeId, String> {
        let name = if self.graph.find(name).is_none() { name.to_string() } else { self.unused(name) };
        self.graph.push(&name, op, inputs).map_err(|error| match error {
            GraphError::Node { reason, .. } | GraphError::Graph(reason) => reason,
        })
    }

    /// Returns `name` with the first number that makes it new.
    fn unused(&mut self, name: &str) -> String {
        loop {
            let copy = self.copies.entry(name.into()).or_insert(1);
            *copy += 1;
            let name = format!("{name}.{copy}");
            if self.graph.find(&name).is_none() && !self.graph.tensors().contains_key(&name) {
                return name;
            }
        }
    }

    /// Returns the node that has these numbers. Pieces become nodes here.
    pub fn value(&mut self, meaning: &Meaning) -> Result<NodeId, String> {
        match meaning {
            Meaning::Value(id) => Ok(*id),
            Meaning::Piece(source, [start, end]) => {
                let key = (*source, [*start, *end]);
                if let Some(id) = self.pieces.get(&key) {
                    return Ok(*id);
                }
                let name = format!("{}.channels{start}to{end}", self.graph.node(*source).name);
                let id = self.node(&name, Op::SliceChannels { start: *start, end: *end }, &[*source])?;
                self.pieces.insert(key, id);
                Ok(id)
            }
            Meaning::Strided(source, [down, right]) if down == right => {
                let name = format!("{}.every{down}", self.graph.node(*source).name);
                self.node(&name, Op::SubsamplePad { stride: *down, before: 0, after: 0 }, &[*source])
            }
            Meaning::Strided(..) => Err("its input has steps that differ in height and width".into()),
            Meaning::View(view) => Err(format!("its input is a view of {} dimensions", view.dims.len())),
            Meaning::Pieces(..) => Err("its input is a list of tensors".into()),
            Meaning::Constant(_) | Meaning::Whole(_) => Err("its input does not depend on the image".into()),
            Meaning::Nothing => Err("an input is missing".into()),
            Meaning::Unknown => Err("its input comes from an operation that is not supported".into()),
        }
    }

    /// Returns the shape of a node.
    pub fn shape(&self, id: NodeId) -> Shape {
        self.graph.shape(id)
    }

    /// Makes a constant a tensor of the graph, with the sizes `dims`, and returns its name.
    pub fn tensor(&mut self, constant: &Constant, dims: &[usize], trained: bool) -> Result<String, String> {
        if count(dims) != Some(constant.count()?) {
            return Err(format!("a tensor of sizes {:?} stands where {dims:?} is needed", constant.dims));
        }
        let numbers = constant.materialized(&mut self.budget)?;
        let same = |there: Option<&Rc<Vec<f32>>>, builder: &Self| {
            let spec = builder.graph.tensors().get(&*constant.name);
            there.is_some_and(|there| Rc::ptr_eq(there, &numbers))
                && spec.is_some_and(|spec| *spec.shape == *dims && spec.trained == trained)
        };
        if same(self.numbers.get(&*constant.name), self) {
            return Ok(constant.name.to_string());
        }
        let name = if self.graph.tensors().contains_key(&*constant.name) {
            // The numbers will be there twice.
            self.budget.take(numbers.len())?;
            self.unused(&constant.name)
        } else {
            constant.name.to_string()
        };
        self.graph.declare(&name, dims, trained).map_err(|error| error.to_string())?;
        self.numbers.insert(name.clone(), numbers);
        Ok(name)
    }

    /// Returns the sizes of what a name stands for.
    pub fn dims(&self, meaning: &Meaning) -> Result<Vec<Dim>, String> {
        let fixed = |size: usize| Dim::Fixed(size as i64);
        Ok(match meaning {
            Meaning::Value(id) => match self.shape(*id) {
                Shape::Map { channels, height, width } => {
                    vec![Dim::Batch, fixed(channels), fixed(height), fixed(width)]
                }
                Shape::Rows { features } => vec![Dim::Batch, fixed(features)],
            },
            Meaning::Piece(id, [start, end]) => {
                let mut dims = self.dims(&Meaning::Value(*id))?;
                dims[1] = fixed(end - start);
                dims
            }
            Meaning::Strided(id, [down, right]) => {
                let [height, width] = self.shape(*id).size();
                let channels = self.shape(*id).channels();
                vec![Dim::Batch, fixed(channels), fixed(height.div_ceil(*down)), fixed(width.div_ceil(*right))]
            }
            Meaning::View(view) => {
                let View { dims, order, .. } = &**view;
                order.iter().map(|&axis| dims[axis]).collect()
            }
            Meaning::Constant(constant) => constant.dims.iter().map(|&size| fixed(size)).collect(),
            Meaning::Whole(Whole { scalar: true, .. }) => Vec::new(),
            Meaning::Whole(whole) => vec![fixed(whole.values.len())],
            Meaning::Pieces(..) | Meaning::Nothing | Meaning::Unknown => return Err("its input has no sizes".into()),
        })
    }

    /// Returns an axis that may count from the end.
    pub fn axis(&self, meaning: &Meaning, axis: i64) -> Result<usize, String> {
        let rank = self.dims(meaning)?.len();
        normal_axis(axis, rank)
    }

    /// Returns the sizes that a reshape leads to: `-1` filled in, and the number of images known as such.
    ///
    /// `numbers` is how many numbers there are for one image.
    pub fn resolve(&self, dims: &[Dim], numbers: usize) -> Result<Vec<usize>, String> {
        let told = || format!("{numbers} numbers of an image cannot take the sizes {}", show(dims));
        let [first, rest @ ..] = dims else { return Err(told()) };
        let holes = rest.iter().filter(|dim| **dim == Dim::Fixed(-1)).count();
        let mut product = 1_usize;
        for dim in rest {
            match dim {
                Dim::Fixed(-1) => {}
                Dim::Fixed(size) => {
                    let size = usize::try_from(*size).map_err(|_| told())?;
                    product = product.checked_mul(size).ok_or_else(told)?;
                }
                Dim::Batch => return Err(told()),
            }
        }
        let is_batch = match first {
            Dim::Batch => true,
            Dim::Fixed(-1) => holes == 0,
            Dim::Fixed(size) => self.batch == Some(*size),
        };
        let fits = match holes {
            0 => product == numbers,
            1 => product > 0 && numbers.is_multiple_of(product),
            _ => false,
        };
        if !is_batch || !fits {
            return Err(told());
        }
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) if *size >= 0 => *size as usize,
            _ => numbers / product,
        };
        Ok(rest.iter().map(size).collect())
    }
}

/// Returns an axis that may count from the end.
pub(crate) fn normal_axis(axis: i64, rank: usize) -> Result<usize, String> {
    let from_start = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    match usize::try_from(from_start) {
        Ok(axis) if axis < rank => Ok(axis),
        _ => Err(format!("it has no axis {axis} of {rank}")),
    }
}

/// At most eight sizes, for errors.
pub(crate) fn show(dims: &[Dim]) -> String {
    let show = |dim: &Dim| match dim {
        Dim::Batch => "batch".to_string(),
        Dim::Fixed(size) => size.to_string(),
    };
    let more = if dims.len() > 8 { ", …" } else { "" };
    format!("[{}{more}]", dims.iter().take(8).map(show).collect::<Vec<_>>().join(", "))
}
