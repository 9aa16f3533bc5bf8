//! A run as its stages and the commands about it see it: its recipe, what each stage plans, and what the stages left.
//!
//! A stage is a [`Stage`]: a pure function from recipe, cards and round to a [`Plan`], which declares the inputs, holds the settings
//! and knows how to execute them. A [`Judge`] says which plans would be executed. A [`Writer`] executes them: each sees only the
//! [`Inputs`] that it declared, and writes its files through a [`Job`]. A [`Reader`] reads what stages left. Every file is checked
//! against its digest first.
//!
//! A file uses only files before it in this list: `recipe`, `preflight`, `command`, `cards`, `run`, `images`, `device`, `memory`,
//! `output`, `outputs`, `reader`, `networks`, `shards`, `inputs`, `job`, `plan`, `stage`, `judge`, `writer`, `program`.

mod cards;
mod command;
mod device;
pub mod images;
mod inputs;
mod job;
mod judge;
mod memory;
mod networks;
mod output;
mod outputs;
mod plan;
pub mod preflight;
mod program;
mod reader;
pub mod recipe;
mod run;
mod shards;
mod stage;
mod writer;

pub use cards::{Cards, card_error};
pub use inputs::Inputs;
pub use job::{Begin, Job};
pub use judge::{Judge, Judgement};
pub use memory::{Memory, Slot};
pub use networks::STUDENT;
pub use output::Output;
pub use outputs::{Outputs, SHARD, shard_path};
pub use plan::Plan;
pub use preflight::{Finding, Severity, preflight, preflight_teacher};
pub use program::{finish, stage_main};
pub use reader::Reader;
pub use recipe::{
    EvaluateSettings, KeepSettings, KeepShards, OnFailedCheck, Recipe, RecipeError, RunSettings, Start,
    StudentSettings, TeacherSettings,
};
pub use run::{Run, start_command};
pub use ssdkd_shards::Role;
pub use ssdkd_stage::{quote, signals};
pub use stage::Stage;
pub use writer::Writer;
