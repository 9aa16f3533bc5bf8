//! The front: runs whole pipelines, looks into runs, brings teachers in and students out.

mod asked;
mod cli;
mod commands;
mod current;
mod estimate;
mod footprint;
mod measure;
mod network_file;
mod preflight;
mod report;
mod stages;

pub use cli::{Program, run};
