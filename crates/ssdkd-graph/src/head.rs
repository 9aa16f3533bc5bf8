//! What a network ends in.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};

use crate::error::{GraphError, clean};
use crate::graph::{Graph, NodeId};
use crate::op::{Activation, Conv2d, Op, ResizeMethod, ResizeTo};
use crate::shape::Shape;
use crate::simplify::{Edit, apply};

impl Graph {
    /// Returns the network without a last softmax or sigmoid: its outputs are logits. The second result says what was removed.
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

    /// Returns the network with one of its outputs alone, by the position of the output.
    ///
    /// # Errors
    /// If there is no such output. The error lists all of them.
    pub fn with_output(&self, position: usize) -> Result<Self, GraphError> {
        let Some(&output) = self.outputs().get(position) else {
            let all = self.outputs().iter().enumerate().take(16).map(|(position, output)| {
                format!("\n  output {position}: {} {}", clean(&self.node(*output).name), self.shape(*output))
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

    /// Returns the network with logits of two classes instead of its one number x: 0 and x. Their softmax is the sigmoid of x. The tensors
    /// of the new layer are added to `tensors`.
    ///
    /// # Errors
    /// If the network's result is not one number, or one for each pixel.
    pub fn with_two_classes(&self, tensors: &mut BTreeMap<String, Tensor>) -> Result<Self, GraphError> {
        let [output] = self.outputs() else {
            return Err(GraphError::Graph("the network has several outputs".into()));
        };
        if self.shape(*output).channels() != 1 {
            return Err(GraphError::Graph(format!("the network's result {} is not one number", self.shape(*output))));
        }
        let (weight, bias) = ("two_classes.weight", "two_classes.bias");
        let mut graph = self.clone();
        let (shape, op) = match self.shape(*output) {
            Shape::Rows { .. } => (vec![2, 1], Op::Linear { weight: weight.into(), bias: Some(bias.into()) }),
            Shape::Map { .. } => {
                (vec![2, 1, 1, 1], Op::Conv2d(Conv2d { bias: Some(bias.into()), ..Conv2d::new(weight, 1, 0) }))
            }
        };
        graph.declare(weight, &shape, false)?;
        graph.declare(bias, &[2], false)?;
        let tensor = |numbers: [f32; 2], shape: &[usize]| {
            Tensor::from_slice(&numbers, shape, &Device::Cpu).map_err(|error| GraphError::Graph(error.to_string()))
        };
        tensors.insert(weight.into(), tensor([0.0, 1.0], &shape)?);
        tensors.insert(bias.into(), tensor([0.0, 0.0], &[2])?);
        let node = graph.push("two_classes", op, &[*output])?;
        graph.set_outputs(&[node])?;
        Ok(graph)
    }

    /// Returns the network with its scores of pixels at the size of the image, where they are coarser. `None`: they have that size, or the network
    /// scores whole images.
    ///
    /// # Errors
    /// If the scores cannot be resized.
    pub fn at_image_size(&self) -> Result<Option<Self>, GraphError> {
        let [_, height, width] = self.input();
        let (Some(&output), Some(input)) = (self.outputs().first(), self.ids().next()) else { return Ok(None) };
        match self.shape(output) {
            Shape::Map { height: rows, width: columns, .. }
                if rows * columns > 1 && [rows, columns] != [height, width] =>
            {
                let mut graph = self.clone();
                let method = ResizeMethod::Bilinear { align_corners: false };
                let node = graph.push("image_size", Op::Resize { size: ResizeTo::Like, method }, &[output, input])?;
                graph.set_outputs(&[node])?;
                Ok(Some(graph))
            }
            _ => Ok(None),
        }
    }
}
