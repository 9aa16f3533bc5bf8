//! Networks, optimizers and weight files.
//!
//! A network is a graph of `ssdkd-graph`: one of the zoo, or one that came from a file. Tensors have PyTorch's names, shapes and
//! layouts, in memory and on disk. This crate knows nothing of the paper.

pub mod architecture;
mod card;
mod device;
mod network;
mod optimizer;
mod preprocessing;
pub mod random;
pub mod schedule;
mod shrink;
mod state_dict;
mod store;
pub mod views;
pub mod weights;
pub mod zoo;

pub use architecture::{
    Adopted, Architecture, Backbone, Identity, Names, Shortcut, Stem, Task, ZooArchitecture, adopt, identify,
    identify_as,
};
pub use card::{CARD_VERSION, CardError, Normalization, TeacherCard};
pub use device::{OPEN_GPU, OpenGpu, device_name};
pub use network::{FeatureMap, Network, NetworkSpec, Output};
pub use optimizer::{Adam, Optimizer, Sgd};
pub use preprocessing::{ChannelOrder, Interpolation, Preprocessing, Resize};
pub use shrink::start_from_teacher;
pub use ssdkd_graph::{Cut, Mode, Tap};
pub use state_dict::StateDict;
pub use store::Store;
pub use views::{Border, CropFlipSettings, DifferentiableViewSettings, ViewSettings};
pub use zoo::{Blueprint, Draw, Generator};
