//! Smaller copies of a network: fewer residual blocks, fewer channels, the same kind of layers in the same order.
//!
//! A copy says of each of its tensors which part of which tensor of the original it is, so it can start from the original's
//! weights.

mod blocks;
mod names;
mod width;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::GraphError;
use crate::graph::{Graph, NodeId};

/// The share of a network that a smaller copy keeps.
///
/// As text `teacher*0.5`, `teacher-blocks*0.33` or `teacher*0.5-blocks*0.33`; `teacher-blocks` keeps half of the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// The share of each layer's channels, above 0 and up to 1.
    pub width: f64,
    /// The share of the residual blocks of one shape, above 0 and up to 1.
    pub blocks: f64,
}

/// The blocks that `teacher-blocks` keeps.
const HALF: f64 = 0.5;

impl Cut {
    /// Returns whether `text` names a smaller copy, be it well formed or not.
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with("teacher")
    }

    /// Checks that both shares are above 0 and at most 1.
    ///
    /// # Errors
    /// If not, with both shares.
    pub fn check(self) -> Result<(), String> {
        let is_share = |share: f64| share > 0.0 && share <= 1.0;
        let Self { width, blocks } = self;
        if !is_share(width) || !is_share(blocks) {
            return Err(format!("the shares of a smaller copy are above 0 and at most 1, not {width} and {blocks}"));
        }
        Ok(())
    }
}

impl FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || {
            format!(
                "{text:?} names no smaller copy of the teacher\n\
                 hint: write teacher*0.5 for half of each layer's channels, teacher-blocks*0.5 for half of the blocks, or \
                 teacher*0.5-blocks*0.5 for both"
            )
        };
        let share = |text: &str| text.strip_prefix('*').and_then(|share| share.parse::<f64>().ok()).ok_or_else(unknown);
        let rest = text.strip_prefix("teacher").filter(|rest| !rest.is_empty()).ok_or_else(unknown)?;
        let (width, blocks) = match rest.split_once("-blocks") {
            Some((width, blocks)) => (width, if blocks.is_empty() { HALF } else { share(blocks)? }),
            None => (rest, 1.0),
        };
        let cut = Self { width: if width.is_empty() { 1.0 } else { share(width)? }, blocks };
        cut.check().map_err(|reason| {
            format!("{text:?} cannot be made: {reason}\nhint: teacher*0.5 keeps half of each layer's channels")
        })?;
        Ok(cut)
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("teacher")?;
        if self.width < 1.0 || self.blocks >= 1.0 {
            write!(f, "*{}", self.width)?;
        }
        if self.blocks < 1.0 {
            write!(f, "-blocks*{}", self.blocks)?;
        }
        Ok(())
    }
}

/// A smaller copy of a network.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// What it computes.
    pub graph: Graph,
    /// Of each node of the original, the node of the copy; `None` for one that was dropped.
    pub nodes: Vec<Option<NodeId>>,
    /// The tensors of the copy by name, and the part of the original that each one is.
    pub tensors: BTreeMap<String, Part>,
    groups: Vec<GroupCut>,
}

/// The part of a tensor of the original that a tensor of the copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The tensor's name in the original.
    pub name: String,
    /// Of each axis, the channels that lie along it.
    pub axes: Vec<Axis>,
}

/// The channels along an axis of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Axis {
    /// The groups of channels, one behind the other. Empty: the axis stays whole.
    groups: Vec<usize>,
    /// Numbers for each channel: the pixels of a flattened map.
    repeat: usize,
}

/// How a group of channels is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GroupCut {
    channels: usize,
    kept: usize,
    /// Channels that stay together: those of one group of a grouped convolution.
    together: usize,
}

/// Which channels of each group are kept, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptChannels(Vec<Vec<usize>>);

impl Graph {
    /// Returns a smaller copy of the network: first blocks are dropped, then channels.
    ///
    /// # Errors
    /// If the network has no blocks to drop, or its channels cannot be scaled. The error names the node.
    pub fn shrunk(&self, cut: Cut) -> Result<Shrunk, GraphError> {
        cut.check().map_err(GraphError::Graph)?;
        let fewer = if cut.blocks < 1.0 { self.with_fewer_blocks(cut.blocks)? } else { blocks::Fewer::none(self) };
        let narrow = if cut.width < 1.0 { fewer.graph.narrowed(cut.width)? } else { width::Narrow::none(&fewer.graph) };
        let tensors = narrow.axes.into_iter().map(|(name, axes)| {
            let original = fewer.tensors.get(&name).unwrap_or(&name).clone();
            (name, Part { name: original, axes })
        });
        let tensors = tensors.collect();
        Ok(Shrunk { graph: narrow.graph, nodes: fewer.nodes, tensors, groups: narrow.groups })
    }
}

impl Shrunk {
    /// Chooses the channels with the largest weights. `weights` returns the numbers of a tensor of the original.
    ///
    /// A channel's score is the sum over all kernels and batch-norm factors that have it. Each is measured by the norm of
    /// its slice, relative to the mean over the channels, so that no layer outweighs another.
    ///
    /// # Errors
    /// Those of `weights`.
    pub fn largest<E>(
        &self,
        weights: impl FnMut(&str) -> Result<(Vec<usize>, Vec<f32>), E>,
    ) -> Result<KeptChannels, E> {
        let mut scores = self.groups.iter().map(|group| vec![0.0; group.channels]).collect::<Vec<_>>();
        self.score(weights, &mut scores)?;
        let kept = self.groups.iter().zip(&scores).map(|(group, scores)| {
            let of_block = |block: usize| scores[block * group.together..][..group.together].iter().sum::<f64>();
            let mut blocks =
                (0..group.channels / group.together).map(|block| (of_block(block), block)).collect::<Vec<_>>();
            // The largest first; of equal ones the earlier.
            blocks.sort_by(|(a, i), (b, j)| b.total_cmp(a).then(i.cmp(j)));
            blocks.truncate(group.kept / group.together);
            let mut blocks = blocks.into_iter().map(|(_, block)| block).collect::<Vec<_>>();
            blocks.sort_unstable();
            let channels = |block: usize| block * group.together..(block + 1) * group.together;
            blocks.into_iter().flat_map(channels).collect()
        });
        Ok(KeptChannels(kept.collect()))
    }

    fn score<E>(
        &self,
        mut weights: impl FnMut(&str) -> Result<(Vec<usize>, Vec<f32>), E>,
        scores: &mut [Vec<f64>],
    ) -> Result<(), E> {
        for node in self.graph.nodes() {
            for (name, role) in node.op.tensors() {
                let Some(part) = self.tensors.get(name).filter(|_| role.is_measured()) else { continue };
                if part.axes.iter().all(|axis| axis.groups.is_empty()) {
                    continue;
                }
                let (shape, numbers) = weights(&part.name)?;
                for (position, axis) in part.axes.iter().enumerate().filter(|(_, axis)| !axis.groups.is_empty()) {
                    let inner = shape[position + 1..].iter().product::<usize>().max(1);
                    let mut squares = vec![0.0; shape[position] / axis.repeat];
                    for (at, number) in numbers.iter().enumerate() {
                        squares[at / inner % shape[position] / axis.repeat] += f64::from(*number).powi(2);
                    }
                    let norms = squares.iter().map(|square: &f64| square.sqrt()).collect::<Vec<_>>();
                    let mean = norms.iter().sum::<f64>() / norms.len() as f64;
                    let mut norms = norms.iter().map(|norm| if mean > 0.0 { norm / mean } else { 0.0 });
                    for group in &axis.groups {
                        scores[*group].iter_mut().zip(&mut norms).for_each(|(score, norm)| *score += norm);
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the places along an axis that are kept; `None` for an axis that stays whole.
    pub fn places(&self, axis: &Axis, kept: &KeptChannels) -> Option<Vec<usize>> {
        if axis.groups.iter().all(|group| self.groups[*group].kept == self.groups[*group].channels) {
            return None;
        }
        let (mut start, mut places) = (0, Vec::new());
        for group in &axis.groups {
            for channel in &kept.0[*group] {
                places.extend((start + channel) * axis.repeat..(start + channel + 1) * axis.repeat);
            }
            start += self.groups[*group].channels;
        }
        Some(places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_written_as_they_are_read() {
        for text in ["teacher*0.5", "teacher-blocks*0.33", "teacher*0.25-blocks*0.5", "teacher*1"] {
            assert_eq!(text.parse::<Cut>().unwrap().to_string(), text);
        }
        assert_eq!("teacher-blocks".parse(), Ok(Cut { width: 1.0, blocks: 0.5 }));
    }

    #[test]
    fn what_is_no_cut_is_refused_with_an_example() {
        for text in ["teacher", "teacher*", "teacher*two", "teacher0.5", "teacher-block*0.5", "teacher*0.5-blocks0.5"] {
            let error = text.parse::<Cut>().unwrap_err();
            assert!(error.contains(&format!("{text:?}")) && error.contains("teacher*0.5"), "{error}");
        }
        for text in ["teacher*0", "teacher*1.5", "teacher*-1", "teacher*nan", "teacher-blocks*2"] {
            assert!(text.parse::<Cut>().unwrap_err().contains("above 0 and at most 1"), "{text}");
        }
    }
}
