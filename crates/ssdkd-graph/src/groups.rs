//! Which channels have to stay equally many: what is added has as many channels, a depthwise convolution as many outputs as
//! inputs. Networks can be made narrower group by group.

use std::cmp::Ordering;

use crate::error::GraphError;
use crate::graph::{Graph, NodeId};
use crate::op::{Conv2d, ConvTranspose2d, Op};

/// Channels of several nodes that have to stay equally many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelGroup {
    /// How many.
    pub channels: usize,
    /// The nodes whose results have these channels, alone or as a part.
    pub nodes: Vec<NodeId>,
    /// Whether the number is given from outside: the image's channels, or the classes.
    pub fixed: bool,
}

/// The groups of a network, and which groups the channels of each node are made of, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelGroups {
    /// All groups.
    pub groups: Vec<ChannelGroup>,
    /// Of each node, the groups of its channels: several after a concatenation. A row of a flattened map has the groups of
    /// the map.
    pub of_node: Vec<Vec<usize>>,
}

/// Most groups that the channels of one node are made of.
const MOST_PARTS: usize = 1024;

/// Sets of runs of channels; each run has a parent, or is its own.
#[derive(Default)]
struct Runs {
    parent: Vec<usize>,
    channels: Vec<usize>,
}

impl Runs {
    fn new_run(&mut self, channels: usize) -> usize {
        self.parent.push(self.parent.len());
        self.channels.push(channels);
        self.parent.len() - 1
    }

    fn root(&mut self, mut run: usize) -> usize {
        while self.parent[run] != run {
            self.parent[run] = self.parent[self.parent[run]];
            run = self.parent[run];
        }
        run
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        // The older one stays, so that groups come in the order of the network.
        self.parent[a.max(b)] = a.min(b);
    }
}

impl Graph {
    /// Returns the groups of channels that have to stay equally many.
    ///
    /// # Errors
    /// At channel shuffles, and where the parts of two values that are added or sliced do not match. The error names the node.
    pub fn channel_groups(&self) -> Result<ChannelGroups, GraphError> {
        let mut runs = Runs::default();
        let mut of_node = Vec::<Vec<usize>>::with_capacity(self.nodes().len());
        let mut fixed = Vec::new();
        for id in self.ids() {
            let node = self.node(id);
            let fail = |reason: String| GraphError::Node { node: node.name.clone(), op: node.op.kind(), reason };
            let channels = self.shape(id).channels();
            let input = |position: usize| of_node[node.inputs[position].index()].clone();
            let own = match &node.op {
                Op::Input { .. } => {
                    let run = runs.new_run(channels);
                    fixed.push(run);
                    vec![run]
                }
                Op::Conv2d(Conv2d { groups, .. }) | Op::ConvTranspose2d(ConvTranspose2d { groups, .. })
                    if *groups > 1 =>
                {
                    let inputs = input(0);
                    let many = self.shape(node.inputs[0]).channels();
                    if *groups == many && channels == many {
                        inputs
                    } else if let (&[run], true) = (inputs.as_slice(), channels == many) {
                        // Groups of several channels: as many outputs as inputs, and both stay a multiple of the groups.
                        vec![run]
                    } else {
                        let reason = format!(
                            "{groups} groups of its {many} channels make {channels}: they cannot be scaled together"
                        );
                        return Err(fail(reason));
                    }
                }
                Op::Conv2d(_) | Op::ConvTranspose2d(_) | Op::Linear { .. } => vec![runs.new_run(channels)],
                Op::Add | Op::Mul => {
                    let (a, b) = (input(0), input(1));
                    let (of_a, of_b) = (self.shape(node.inputs[0]).channels(), self.shape(node.inputs[1]).channels());
                    match of_a.cmp(&of_b) {
                        // One channel is repeated for all of the other's.
                        Ordering::Greater => a,
                        Ordering::Less => b,
                        Ordering::Equal => {
                            join_all(&mut runs, &a, &b).ok_or_else(|| {
                                fail("the parts of what it joins have different numbers of channels".into())
                            })?;
                            a
                        }
                    }
                }
                Op::SliceChannels { .. }
                    if numbers_of_each(&runs, &input(0), self.shape(node.inputs[0]).channels()) != Some(1) =>
                {
                    return Err(fail("it takes a part of a flattened map: a network with it cannot be scaled".into()));
                }
                Op::Concat
                    if {
                        let each =
                            |at: usize| numbers_of_each(&runs, &input(at), self.shape(node.inputs[at]).channels());
                        (1..node.inputs.len()).any(|at| each(at) != each(0))
                    } =>
                {
                    return Err(fail(
                        "it joins flattened maps of several sizes: a network with it cannot be scaled".into(),
                    ));
                }
                Op::Concat => node.inputs.iter().flat_map(|input| of_node[input.index()].iter().copied()).collect(),
                Op::SliceChannels { start, end } => part(&mut runs, &input(0), *start, *end).ok_or_else(|| {
                    fail(format!("the channels {start} to {end} are parts of groups that cannot be scaled apart"))
                })?,
                Op::ChannelShuffle { .. } => {
                    return Err(fail(
                        "a channel shuffle mixes the channels of groups: a network with it cannot be scaled".into(),
                    ));
                }
                Op::SubsamplePad { before, after, .. } if before + after > 0 => {
                    return Err(fail("it adds channels of zeros: a network with it cannot be scaled".into()));
                }
                Op::Unflatten { .. } => {
                    return Err(fail("it makes a map of a row: a network with it cannot be scaled".into()));
                }
                _ => input(0),
            };
            if own.len() > MOST_PARTS {
                return Err(fail(format!("its channels come from more than {MOST_PARTS} parts")));
            }
            of_node.push(own);
        }
        for output in self.outputs() {
            fixed.extend(&of_node[output.index()]);
        }
        Ok(collect(&mut runs, &of_node, &fixed))
    }
}

/// How many numbers each channel of these runs has in a value of `numbers`: 1 in a map, the pixels in a flattened map. `None` if they
/// do not have equally many.
fn numbers_of_each(runs: &Runs, of: &[usize], numbers: usize) -> Option<usize> {
    let channels = of.iter().map(|&run| runs.channels[run]).sum::<usize>();
    (channels > 0 && numbers.is_multiple_of(channels)).then(|| numbers / channels)
}

/// Joins runs one by one; `None` if they differ.
fn join_all(runs: &mut Runs, a: &[usize], b: &[usize]) -> Option<()> {
    let equal = a.len() == b.len() && a.iter().zip(b).all(|(&a, &b)| runs.channels[a] == runs.channels[b]);
    if !equal {
        return None;
    }
    a.iter().zip(b).for_each(|(&a, &b)| runs.join(a, b));
    Some(())
}

/// Returns the runs of the channels from `start` to `end`, if these are whole runs.
fn part(runs: &mut Runs, all: &[usize], start: usize, end: usize) -> Option<Vec<usize>> {
    let (mut at, mut found) = (0, Vec::new());
    for &run in all {
        let next = at + runs.channels[run];
        if at >= start && next <= end {
            found.push(run);
        } else if at < end && next > start {
            return None;
        }
        at = next;
    }
    Some(found)
}

fn collect(runs: &mut Runs, of_node: &[Vec<usize>], fixed: &[usize]) -> ChannelGroups {
    let mut groups = Vec::<ChannelGroup>::new();
    let mut place = vec![usize::MAX; runs.parent.len()];
    let mut numbered = Vec::with_capacity(of_node.len());
    for (node, own) in of_node.iter().enumerate() {
        let mut numbers = Vec::with_capacity(own.len());
        for &run in own {
            let root = runs.root(run);
            if place[root] == usize::MAX {
                place[root] = groups.len();
                groups.push(ChannelGroup { channels: runs.channels[root], nodes: Vec::new(), fixed: false });
            }
            let group = &mut groups[place[root]];
            if group.nodes.last() != Some(&NodeId(node)) {
                group.nodes.push(NodeId(node));
            }
            numbers.push(place[root]);
        }
        numbered.push(numbers);
    }
    for &run in fixed {
        let root = runs.root(run);
        groups[place[root]].fixed = true;
    }
    ChannelGroups { groups, of_node: numbered }
}
