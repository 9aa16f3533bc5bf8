//! Networks as graphs.
//!
//! A [`Graph`] is a list of nodes over a small closed set of [operations](Op), with PyTorch's meaning and tensors named as in
//! the `state_dict`. It comes from a file of PyTorch or ONNX ([`read`]), is saved as JSON, within the card of its
//! network, and is [written](mod@write) for other programs.
//!
//! This crate knows nothing of the paper, of stages or of layers written by hand.

mod averages;
mod count;
pub mod cuts;
mod error;
pub mod execute;
pub mod fuse;
mod graph;
mod groups;
mod head;
mod json;
pub mod op;
pub mod read;
mod shape;
mod shrink;
mod simplify;
mod size;
pub mod write;

pub use count::NodeCost;
pub use cuts::{CutRule, FeatureMaps, feature_maps};
pub use error::GraphError;
pub use execute::{Executor, Mode, Run, Tap};
pub use graph::{Graph, Node, NodeId};
pub use groups::{ChannelGroup, ChannelGroups};
pub use json::{GRAPH_VERSION, to_lines};
pub use op::Op;
pub use read::{Imported, ReadError, import, parse};
pub use shape::{Shape, TensorSpec};
pub use shrink::{Axis, Cut, KeptChannels, Part, Shrunk};
pub use simplify::simplify;
