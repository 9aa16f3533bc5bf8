//! Trains a teacher on real data.
//!
//! Data-free distillation starts from a trained network. This makes such a network where none is at hand:
//! plain supervised training with SGD, and at its end the weights and the card that every other program of the project
//! takes. It can be stopped and resumed at any step; the result is the same to the byte.

mod checkpoint;
mod checks;
mod command;
mod files;
mod log;
mod settings;
mod teacher;
mod trainer;

pub use command::{TeachArgs, run};
pub use settings::{Schedule, TeachSettings};
pub use trainer::{EpochReport, Position, Trainer};
