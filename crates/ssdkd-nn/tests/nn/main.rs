//! The networks against PyTorch, against published teachers, and against files that mean harm.

mod cards;
mod checkpoints;
mod formula;
mod golden;
mod hostile;
mod optimizers;
#[path = "../../../ssdkd-ops/tests/common/place.rs"]
mod place;
mod teachers;
