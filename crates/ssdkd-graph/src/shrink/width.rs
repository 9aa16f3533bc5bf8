//! The same network with fewer channels: each group of channels that have to stay equally many is scaled and rounded to a multiple of 8.

use std::collections::{BTreeMap, HashMap};

use super::{Axis, GroupCut};
use crate::error::GraphError;
use crate::graph::{Graph, NodeId};
use crate::groups::ChannelGroups;
use crate::op::{Conv2d, ConvTranspose2d, Op, Role};

/// Channels are a multiple of this: vectors of processors are.
const MULTIPLE: usize = 8;

/// A network with fewer channels.
pub(super) struct Narrow {
    pub graph: Graph,
    /// Of each tensor, the channels along its axes.
    pub axes: BTreeMap<String, Vec<Axis>>,
    pub groups: Vec<GroupCut>,
}

impl Narrow {
    /// The network with all of its channels.
    pub(super) fn none(graph: &Graph) -> Self {
        let whole =
            |(name, spec): (&String, &crate::TensorSpec)| (name.clone(), vec![Axis::default(); spec.shape.len()]);
        Self { graph: graph.clone(), axes: graph.tensors().iter().map(whole).collect(), groups: Vec::new() }
    }
}

impl Graph {
    /// Returns the network with this share of each group of channels.
    ///
    /// # Errors
    /// If channels cannot be scaled. The error names the node.
    pub(super) fn narrowed(&self, share: f64) -> Result<Narrow, GraphError> {
        let channels = self.channel_groups()?;
        let groups = self.cut_groups(&channels, share);
        let axes = self.axes(&channels)?;
        let kept = |of: &[usize]| of.iter().map(|group| groups[*group].kept).sum::<usize>();
        let [colors, height, width] = self.input();
        let mut graph = Self::new(&self.nodes()[0].name, [colors, height, width])?;
        for (name, spec) in self.tensors() {
            let size = |(axis, size): (&Axis, &usize)| {
                if axis.groups.is_empty() { *size } else { kept(&axis.groups) * axis.repeat }
            };
            let shape = axes[name].iter().zip(&spec.shape).map(size).collect::<Vec<_>>();
            graph.declare(name, &shape, spec.trained)?;
        }
        for id in self.ids().skip(1) {
            let node = self.node(id);
            let mut op = node.op.clone();
            let inputs = || &channels.of_node[node.inputs[0].index()];
            match &mut op {
                Op::Conv2d(Conv2d { groups: of, .. }) | Op::ConvTranspose2d(ConvTranspose2d { groups: of, .. })
                    if *of > 1 =>
                {
                    *of = *of * kept(inputs()) / self.shape(node.inputs[0]).channels();
                }
                Op::SliceChannels { start, end } => {
                    let mut at = 0;
                    // The runs before the slice.
                    let before = inputs().iter().take_while(|group| {
                        at += channels.groups[**group].channels;
                        at <= *start
                    });
                    *start = before.map(|group| groups[*group].kept).sum();
                    *end = *start + kept(&channels.of_node[id.index()]);
                }
                _ => {}
            }
            graph.push(&node.name, op, &node.inputs)?;
        }
        graph.set_outputs(self.outputs())?;
        Ok(Narrow { graph, axes, groups })
    }

    /// How many channels of each group are kept.
    fn cut_groups(&self, channels: &ChannelGroups, share: f64) -> Vec<GroupCut> {
        let mut together = vec![1; channels.groups.len()];
        for id in self.ids() {
            let node = self.node(id);
            let (Op::Conv2d(Conv2d { groups, .. }) | Op::ConvTranspose2d(ConvTranspose2d { groups, .. })) = &node.op
            else {
                continue;
            };
            let width = self.shape(id).channels() / groups;
            for group in channels.of_node[id.index()].iter().filter(|_| *groups > 1 && width > 1) {
                together[*group] = least_common_multiple(together[*group], width);
            }
        }
        let cut = |(group, together): (&crate::groups::ChannelGroup, usize)| {
            let unit = least_common_multiple(MULTIPLE, together);
            let units = (group.channels as f64 * share / unit as f64).round() as usize;
            let kept = if group.fixed { group.channels } else { (units.max(1) * unit).min(group.channels) };
            // What stays whole is not taken apart.
            let together = if kept == group.channels { group.channels.max(1) } else { together };
            GroupCut { channels: group.channels, kept, together }
        };
        channels.groups.iter().zip(together).map(cut).collect()
    }

    /// The channels along the axes of each tensor.
    fn axes(&self, channels: &ChannelGroups) -> Result<BTreeMap<String, Vec<Axis>>, GraphError> {
        let mut axes = BTreeMap::<String, Vec<Axis>>::new();
        let mut users = HashMap::<&str, NodeId>::new();
        for id in self.ids() {
            let node = self.node(id);
            let fail = |reason: String| GraphError::Node { node: node.name.clone(), op: node.op.kind(), reason };
            for (name, role) in node.op.tensors() {
                let shape = &self.tensors()[name].shape;
                let own = self.node_axes(id, role, shape, channels).map_err(fail)?;
                match axes.get(name) {
                    Some(there) if *there != own => {
                        let other = &self.node(users[name]).name;
                        return Err(fail(format!(
                            "it shares a tensor with {other}: their channels cannot be scaled apart"
                        )));
                    }
                    Some(_) => {}
                    None => {
                        users.insert(name, id);
                        axes.insert(name.into(), own);
                    }
                }
            }
        }
        Ok(axes)
    }

    fn node_axes(
        &self,
        id: NodeId,
        role: Role,
        shape: &[usize],
        channels: &ChannelGroups,
    ) -> Result<Vec<Axis>, String> {
        let axis = |of: NodeId, size: usize| {
            let groups = channels.of_node[of.index()].clone();
            let many = groups.iter().map(|group| channels.groups[*group].channels).sum::<usize>();
            if many > 0 && size.is_multiple_of(many) {
                Ok(Axis { groups, repeat: size / many })
            } else {
                Err(format!("its {size} inputs or outputs are not made of {many} channels"))
            }
        };
        let node = self.node(id);
        let whole = Axis::default;
        let input = node.inputs.first().copied().unwrap_or(id);
        match (&node.op, role, shape) {
            (Op::Conv2d(Conv2d { groups, .. }), Role::Weight, &[outputs, inputs, _, _]) => {
                let inputs = if *groups > 1 { whole() } else { axis(input, inputs)? };
                Ok(vec![axis(id, outputs)?, inputs, whole(), whole()])
            }
            (Op::ConvTranspose2d(ConvTranspose2d { groups, .. }), Role::Weight, &[inputs, outputs, _, _]) => {
                let outputs = if *groups > 1 { whole() } else { axis(id, outputs)? };
                Ok(vec![axis(input, inputs)?, outputs, whole(), whole()])
            }
            (Op::Linear { .. }, Role::Weight, &[outputs, inputs]) => Ok(vec![axis(id, outputs)?, axis(input, inputs)?]),
            // One slope for all channels.
            (_, Role::Slope, &[1]) => Ok(vec![whole()]),
            (_, _, &[many]) => Ok(vec![axis(id, many)?]),
            (_, Role::BatchCount, _) => Ok(vec![whole(); shape.len()]),
            _ => Err(format!("a tensor of shape {shape:?} is not known here")),
        }
    }
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    a / x.max(1) * b
}
