//! Measures a network on real data: how often it is right, where it is wrong, and whether it agrees with its teacher.
//!
//! Nothing of a run depends on what is measured here. Data-free distillation has no data to choose an epoch or a setting
//! with, so measuring comes after the fact.

mod agreement;
mod command;
mod confusion;
mod evaluation;
mod fit;
mod inputs;
mod measure;
mod tally;

pub use agreement::{Agreement, compare};
pub use command::{EvaluateArgs, SplitChoice, run};
pub use evaluation::Evaluation;
pub use fit::{check_fit, check_task};
pub use inputs::{
    Model, fit_of, load_card, load_model, look_for_data, open_data, open_data_for, open_image, open_unlabeled,
};
pub use measure::{evaluate, evaluate_beside};
