//! What every stage of a run sees: the recipe, the run folder, the teacher and the student.
//!
//! A stage is a function `run(&mut Context, round)`. It makes a [`Plan`] of what its results depend on, asks
//! [`Context::begin`] whether they are there already, and otherwise gets a [`Job`] to write its files with. All reading
//! of what other stages left goes through the [`Context`], which checks every file against its digest first.

mod command;
mod context;
mod job;
mod kept;
mod models;
pub mod preflight;
mod program;
pub mod recipe;
mod tables;

pub mod images;

pub use context::{Context, Judgement, Mode, Options, card_error, start_command};
pub use job::{Job, Outcome, Plan};
pub use models::STUDENT;
pub use preflight::{Finding, Severity, preflight, preflight_teacher};
pub use program::{Program, finish, stage_main};
pub use recipe::{
    EvaluateSettings, KeepSettings, KeepShards, OnFailedCheck, Recipe, RecipeError, RunSettings, Start,
    StudentSettings, TeacherSettings,
};
pub use ssdkd_shards::Role;
pub use ssdkd_stage::quote;
pub use tables::{SHARD, shard_path};
