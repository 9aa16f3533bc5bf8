//! The recipe: one TOML file that says everything about a run.
//!
//! The sections of the four stages are the settings structs of `ssdkd-method`, each with the formula it parametrizes.
//! `settings.rs` adds what surrounds them. `load.rs` reads the file, applies `--set`, and turns every mistake into an error that
//! names the file, the key and the nearest key that exists; `renamed.rs` knows the old keys. `keys.rs` and `document.rs`
//! describe every key, from the same declarations that read it.

mod document;
mod keys;
mod load;
mod renamed;
mod settings;

pub use document::{explain, markdown, schema_json};
pub use keys::{Key, Section, keys, schema, sections};
pub use load::RecipeError;
pub use settings::{
    EvaluateSettings, KeepSettings, KeepShards, OnFailedCheck, RECIPE_VERSION, Recipe, RunSettings, Start,
    StudentSettings, TeacherSettings,
};
