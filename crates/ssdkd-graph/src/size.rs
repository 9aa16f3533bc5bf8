//! The same network for images of another size.
//!
//! An export bakes numbers in that depend on the size of its images: the sizes that maps are resized to, and the padding that keeps
//! TensorFlow's networks at the size of their input ("SAME"). Both are recomputed.

use crate::error::GraphError;
use crate::graph::{Graph, NodeId};
use crate::op::{Op, ResizeTo};
use crate::shape::Shape;

impl Graph {
    /// Returns the same network for images of another size.
    ///
    /// # Errors
    /// If a node cannot work on images of that size. The error names the node.
    pub fn resized(&self, height: usize, width: usize) -> Result<Self, GraphError> {
        let [channels, old_height, old_width] = self.input();
        if [height, width] == [old_height, old_width] {
            return Ok(self.clone());
        }
        let keeps_size = self.pads_to_keep_size();
        let mut graph = Self::new(&self.nodes()[0].name, [channels, height, width])?;
        for (name, spec) in self.tensors() {
            graph.declare(name, &spec.shape, spec.trained)?;
        }
        for id in self.ids().skip(1) {
            let node = self.node(id);
            let mut op = node.op.clone();
            let input = node.inputs.first().copied();
            match &mut op {
                Op::Resize { size: ResizeTo::Fixed(size), .. } => {
                    *size = self.size_in(&graph, id, *size).unwrap_or(*size);
                }
                op => {
                    if let (true, Some(input), Some(window)) = (keeps_size, input, Window::of(op, self))
                        && window.keeps(self.shape(input))
                    {
                        *window.padding = window.needed(graph.shape(input));
                    }
                }
            }
            graph.push(&node.name, op, &node.inputs).map_err(|error| match error {
                GraphError::Node { node, op, reason } => {
                    GraphError::Node { node, op, reason: format!("{reason}, for images of {height} by {width} pixels") }
                }
                other => other,
            })?;
        }
        graph.set_outputs(self.outputs())?;
        Ok(graph)
    }

    /// Returns the size in another graph, whose nodes before `id` are there, of what has the size `size` in this one.
    fn size_in(&self, graph: &Self, id: NodeId, size: [usize; 2]) -> Option<[usize; 2]> {
        let same =
            |other: &NodeId| matches!(self.shape(*other), Shape::Map { .. }) && self.shape(*other).size() == size;
        let before = self.ids().take(id.index()).filter(same).last();
        let [_, old_height, old_width] = self.input();
        let [_, height, width] = graph.input();
        // Otherwise in proportion, where that gives whole pixels.
        let scale = |size: usize, old: usize, new: usize| (size * new).is_multiple_of(old).then(|| size * new / old);
        let in_proportion = || Some([scale(size[0], old_height, height)?, scale(size[1], old_width, width)?]);
        before.map(|node| graph.shape(node).size()).or_else(in_proportion)
    }

    /// Returns whether the network has TensorFlow's padding: more at the bottom or on the right, as much as keeps the size.
    fn pads_to_keep_size(&self) -> bool {
        self.nodes().iter().any(|node| {
            let mut op = node.op.clone();
            let input = node.inputs.first().map(|input| self.shape(*input));
            let (Some(window), Some(input)) = (Window::of(&mut op, self), input) else { return false };
            let [top, left, bottom, right] = *window.padding;
            (top != bottom || left != right) && window.keeps(input)
        })
    }
}

/// The windows of a convolution or pooling.
struct Window<'a> {
    /// Pixels that a window spans in each direction.
    span: [usize; 2],
    stride: [usize; 2],
    /// Top, left, bottom, right.
    padding: &'a mut [usize; 4],
}

impl<'a> Window<'a> {
    fn of(op: &'a mut Op, graph: &Graph) -> Option<Self> {
        let span =
            |kernel: [usize; 2], dilation: [usize; 2]| [0, 1].map(|side| dilation[side] * (kernel[side] - 1) + 1);
        match op {
            Op::MaxPool(pool) | Op::AvgPool { pool, .. } => {
                Some(Self { span: span(pool.kernel, pool.dilation), stride: pool.stride, padding: &mut pool.padding })
            }
            Op::Conv2d(conv) => {
                let &[.., height, width] = graph.tensors().get(&conv.weight)?.shape.as_slice() else { return None };
                Some(Self {
                    span: span([height, width], conv.dilation),
                    stride: conv.stride,
                    padding: &mut conv.padding,
                })
            }
            _ => None,
        }
    }

    /// Returns the padding, top to right, that gives ⌈size / stride⌉ windows.
    fn needed(&self, input: Shape) -> [usize; 4] {
        let size = input.size();
        let total = |side: usize| {
            let windows = size[side].div_ceil(self.stride[side]);
            ((windows.max(1) - 1) * self.stride[side] + self.span[side]).saturating_sub(size[side])
        };
        let (vertical, horizontal) = (total(0), total(1));
        [vertical / 2, horizontal / 2, vertical.div_ceil(2), horizontal.div_ceil(2)]
    }

    fn keeps(&self, input: Shape) -> bool {
        *self.padding == self.needed(input)
    }
}
