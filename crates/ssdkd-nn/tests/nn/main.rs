//! The networks against PyTorch, against published teachers, and against files that mean harm.

mod adopted;
mod cards;
mod checkpoints;
mod entries;
mod exported;
mod foreign;
mod formats;
mod formula;
mod golden;
mod hostile;
mod optimizers;
mod parts;
mod passes;
#[path = "../../../ssdkd-ops/tests/common/place.rs"]
mod place;
mod prefixes;
mod reading;
mod teachers;
mod writer;
mod zoo;
