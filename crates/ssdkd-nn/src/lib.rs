//! Layers, models, optimisers and weight files.
//!
//! Models are written in candle's dialect, against the channels-last operations of `ssdkd-ops`. Tensors have PyTorch's
//! names, shapes and layouts, in memory and on disk. This crate knows nothing of the paper.

pub mod architecture;
mod card;
mod device;
mod inherit;
mod layers;
pub mod models;
mod network;
mod optimizer;
mod pass;
pub mod random;
pub mod schedule;
mod store;
pub mod views;
pub mod weights;

pub use architecture::{
    Adopted, Architecture, Backbone, Identity, Names, Shortcut, Task, adopt, identify, identify_as,
};
pub use card::{CARD_VERSION, CardError, Normalization, TeacherCard};
pub use device::{OPEN_GPU, OpenGpu, device_name};
pub use inherit::inherit;
pub use layers::{BatchNorm2d, Conv2d, Draw, Linear};
pub use models::{Classifier, Generator, Output};
pub use network::{Network, NetworkSpec};
pub use optimizer::{Adam, Sgd};
pub use pass::{Pass, Tap};
pub use store::Store;
pub use views::{CropFlipSettings, ViewSettings};
