//! The recipe: one TOML file that says everything about a run.
//!
//! The sections of the four stages are the settings structs of `ssdkd-method`, each with the formula it parametrizes.
//! This module adds what surrounds them, reads the file, applies `--set`, and turns every mistake into an error that
//! names the file, the key and the nearest key that exists. The doc comments of the fields are the text of `docs/recipe.md`.

mod document;
mod keys;
mod renamed;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssdkd_method::{BalanceSettings, DistillSettings, InvertSettings, SampleSettings, range};
use ssdkd_shards::LAST_PROGRAM_BEFORE;
use ssdkd_stage::StageError;

pub use document::{explain, markdown, schema_json};
pub use keys::{Key, Section, keys, schema, sections};

/// The version of recipes that this program reads.
pub const RECIPE_VERSION: u32 = 1;

/// What stands above all sections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Version of the recipe's keys. A recipe without it is of the current version.
    #[serde(default = "current_version")]
    pub version: u32,
    /// The run: its name, its seed and its length.
    pub run: RunSettings,
    /// The teacher: the trained network whose data is not available.
    pub teacher: TeacherSettings,
    /// The student: the network to train.
    pub student: StudentSettings,
    /// Synthesis: how images are made from the teacher.
    #[serde(default)]
    pub invert: InvertSettings,
    /// The replay buffer: how many images it holds, and which it evicts.
    #[serde(default)]
    pub balance: BalanceSettings,
    /// Priority sampling: which images of the buffer the student sees.
    #[serde(default)]
    pub sample: SampleSettings,
    /// Distillation: the student's training.
    #[serde(default)]
    pub distill: DistillSettings,
    /// Evaluation on real data, after the fact. It changes nothing in a run.
    #[serde(default)]
    pub evaluate: EvaluateSettings,
    /// Retention: which files of old rounds a run keeps.
    #[serde(default)]
    pub keep: KeepSettings,
}

fn current_version() -> u32 {
    RECIPE_VERSION
}

/// The run: its name, its seed and its length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunSettings {
    /// Name of the run's folder, below the runs folder.
    pub name: String,
    /// Name of the method in tables. It changes no result.
    #[serde(default = "default_method")]
    pub method: String,
    /// What a failed health check leads to. It changes no result.
    #[serde(default)]
    pub on_failed_check: OnFailedCheck,
    /// Seed of all random draws.
    #[serde(default)]
    pub seed: u64,
    /// Rounds that only synthesize and balance, before the student starts.
    #[schemars(range(min = 1, max = 9999))]
    pub warmup_rounds: u32,
    /// Rounds of all four stages, after the warm-up.
    #[schemars(range(min = 1, max = 9999))]
    pub rounds: u32,
}

/// What a [failed health check](ssdkd_method::FailedCheck) leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailedCheck {
    /// A warning; the run continues.
    #[default]
    Warn,
    /// The stage fails, and its output is discarded.
    Stop,
}

fn default_method() -> String {
    "SSD-KD".into()
}

/// The teacher: the trained network whose data is not available.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TeacherSettings {
    /// Path of the teacher's card. A relative path starts at the recipe's folder.
    pub card: PathBuf,
}

/// The student: the network to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StudentSettings {
    /// Architecture, such as "resnet8" or "wrn-16-1".
    pub architecture: String,
    /// Weights before the first step.
    #[serde(default)]
    pub start: Start,
}

/// What a student is before its first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Random weights, as in all published methods.
    #[default]
    Random,
    /// Blocks of the teacher, which must be a deeper network of the same family and width.
    Teacher,
}

/// Evaluation on real data, after the fact. It changes nothing in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateSettings {
    /// Data set: "shapes:SEED", "shapes-masks:SEED" or a path. Empty: `SSDKD_DATA` names it, or `DATA=` of make.
    pub data: String,
    /// Evaluate the student of every so many distilling rounds for the curve; 0: only the last ones.
    pub every: u32,
    /// The last so many rounds give mean and spread.
    #[schemars(range(min = 1))]
    pub last: u32,
    /// Evaluate on at most so many images; 0: all.
    pub limit: usize,
}

impl Default for EvaluateSettings {
    fn default() -> Self {
        Self { data: String::new(), every: 10, last: 5, limit: 0 }
    }
}

/// Retention: which files of old rounds a run keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeepSettings {
    /// Keep generator and optimizer states of the newest so many rounds; 0: of all. The states of the last warm-up round and of the first
    /// distilling round always stay, as a run with other settings can start from them. Students always stay.
    pub states: usize,
    /// Which image shards to keep. Reports say less of rounds without shards.
    pub shards: KeepShards,
    /// Seconds between checkpoints within a round of `distill`: a killed process loses no more than that. 0: one after every step.
    #[schemars(range(min = 0.0))]
    pub checkpoint: f64,
}

/// Which image shards to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeepShards {
    /// All of them.
    #[default]
    All,
    /// Those with images of the buffer, or of a buffer that other settings would start from, and the newest.
    Buffer,
}

impl Default for KeepSettings {
    fn default() -> Self {
        Self { states: 3, shards: KeepShards::All, checkpoint: 60.0 }
    }
}

/// What is wrong with a recipe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error(
        "cannot read the recipe {path}: {source}\nhint: `ls pipelines/` shows the recipes that come with the project"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a wrong key or value.
    #[error("the recipe {path} cannot be used: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What, where, and the nearest key.
        message: String,
    },
    /// A run folder of a program before recipes had a version.
    #[error(
        "{path} is the recipe of a run that an older program made; {LAST_PROGRAM_BEFORE}\nhint: start the run again from its recipe, in another runs folder"
    )]
    OlderRun {
        /// The run's recipe.
        path: PathBuf,
    },
    /// A `--set` cannot be applied.
    #[error("cannot apply --set {assignment}: {message}")]
    Set {
        /// As given.
        assignment: String,
        /// Why.
        message: String,
    },
}

impl Recipe {
    /// Reads `path`, applies `assignments` (`section.key=value`), checks every value.
    pub fn load(path: &Path, assignments: &[String]) -> Result<Self, RecipeError> {
        let text = std::fs::read_to_string(path).map_err(|source| RecipeError::Read { path: path.into(), source })?;
        Self::parse(&text, path, assignments)
    }

    /// Reads a run folder's recipe, as [`load`](Self::load) does. A folder of an older program is refused.
    pub fn load_frozen(path: &Path, assignments: &[String]) -> Result<Self, RecipeError> {
        let text = std::fs::read_to_string(path).map_err(|source| RecipeError::Read { path: path.into(), source })?;
        // Every recipe in a run folder has a version since there are versions.
        if toml::from_str::<toml::Table>(&text).is_ok_and(|table| !table.contains_key("version")) {
            return Err(RecipeError::OlderRun { path: path.into() });
        }
        Self::parse(&text, path, assignments)
    }

    /// As [`load`](Self::load), from the file's text; `path` is for messages.
    pub fn parse(text: &str, path: &Path, assignments: &[String]) -> Result<Self, RecipeError> {
        let invalid = |message: String| RecipeError::Invalid { path: path.into(), message };
        let mut table: toml::Table = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
        check_version(&table).map_err(invalid)?;
        renamed::check(&table, keys::paths_of).map_err(invalid)?;
        // The file alone first: its errors carry line and column.
        let _: Self = toml::from_str(text).map_err(|error| invalid(explain_unknown(&error.to_string())))?;
        let set = |message: String| RecipeError::Set { assignment: assignments.join(" --set "), message };
        for assignment in assignments {
            assign(&mut table, assignment)?;
        }
        renamed::check(&table, keys::paths_of).map_err(set)?;
        let recipe: Self = table.try_into().map_err(|error: toml::de::Error| match assignments {
            [] => invalid(explain_unknown(&error.to_string())),
            _ => set(explain_unknown(&error.to_string())),
        })?;
        recipe.validate().map_err(invalid)?;
        Ok(recipe)
    }

    /// Every default written out: what `--print-config` shows and the run folder keeps.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a recipe is plain data")
    }

    /// All rounds, warm-up included.
    pub fn total_rounds(&self) -> u32 {
        self.run.warmup_rounds + self.run.rounds
    }

    /// Refuses a round that the run does not have.
    pub fn check_round(&self, round: u32) -> Result<(), StageError> {
        let last = self.total_rounds() - 1;
        if round > last {
            return Err(StageError::Usage(format!("round {round} is not one of this run's rounds, 0 to {last}")));
        }
        Ok(())
    }

    /// The rounds that a run with other settings goes on from, so that their state is always kept: the last of the warm-up, if the
    /// student or the adversary changes, and the first distilling one, whose generator has met an untaught student alone, if
    /// distillation does.
    pub fn starting_points(&self) -> [u32; 2] {
        let first = self.run.warmup_rounds;
        [first.saturating_sub(1), first]
    }

    /// The index among distilling rounds, `None` for a warm-up round.
    pub fn distilling_round(&self, round: u32) -> Option<u32> {
        round.checked_sub(self.run.warmup_rounds)
    }

    /// The same for a `stage` that has no part in the warm-up.
    pub fn distilling_round_of(&self, stage: &str, round: u32) -> Result<u32, StageError> {
        let warmup = self.run.warmup_rounds;
        self.distilling_round(round).ok_or_else(|| {
            StageError::Usage(format!(
                "round {round} is a warm-up round, in which {stage} has no part\nhint: its first round is {warmup} (run.warmup_rounds)"
            ))
        })
    }

    fn validate(&self) -> Result<(), String> {
        let name = &self.run.name;
        if name.is_empty()
            || name.starts_with('.')
            || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        {
            return Err(format!("run.name is {name:?}; it names a folder: letters, digits, `-`, `_` and `.`"));
        }
        range::check("run", &self.run)?;
        range::check("evaluate", &self.evaluate)?;
        range::check("keep", &self.keep)?;
        if self.run.warmup_rounds.saturating_add(self.run.rounds) > 9999 {
            return Err(format!(
                "run.warmup_rounds + run.rounds is more than 9999 ({} + {}); take more steps a round instead",
                self.run.warmup_rounds, self.run.rounds
            ));
        }
        self.invert.validate()?;
        self.balance.validate()?;
        self.sample.validate()?;
        self.distill.validate()?;
        let steps = self.distill.steps as u64 * u64::from(self.run.rounds);
        if self.distill.warmup_steps as u64 >= steps {
            return Err(format!(
                "distill.warmup_steps is {}, and the run has {steps} steps (distill.steps × run.rounds); it must be less",
                self.distill.warmup_steps
            ));
        }
        Ok(())
    }
}

/// Refuses a recipe of a version that this program does not read.
fn check_version(table: &toml::Table) -> Result<(), String> {
    match table.get("version") {
        None => Ok(()),
        Some(toml::Value::Integer(version)) if *version == i64::from(RECIPE_VERSION) => Ok(()),
        Some(other) => {
            // A string may be of any length.
            let found =
                other.as_integer().map_or_else(|| format!("a {}", other.type_str()), |version| version.to_string());
            Err(format!("version is {found}; this program reads recipes of version {RECIPE_VERSION}"))
        }
    }
}

/// `a.b.c=value`, where value is TOML, or a bare word taken as a string.
fn assign(table: &mut toml::Table, assignment: &str) -> Result<(), RecipeError> {
    let error = |message: &str| RecipeError::Set { assignment: assignment.into(), message: message.into() };
    let (key, value) =
        assignment.split_once('=').ok_or_else(|| error("it must read section.key=value, as in distill.lr=0.1"))?;
    let value = value.trim();
    let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.into()));
    let mut path = key.trim().split('.').peekable();
    let mut here = table;
    while let Some(part) = path.next() {
        if path.peek().is_none() {
            // An integer where the recipe has a float is a float.
            let value = match (here.get(part), value) {
                (Some(toml::Value::Float(_)), toml::Value::Integer(n)) => toml::Value::Float(n as f64),
                (_, value) => value,
            };
            here.insert(part.into(), value);
            return Ok(());
        }
        here = here
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| error(&format!("`{part}` is a value, not a section")))?;
    }
    Err(error("the key is empty"))
}

/// Adds the nearest existing key to serde's "unknown field `x`, expected one of `a`, `b`".
fn explain_unknown(message: &str) -> String {
    let message = message.trim_end();
    let Some(rest) = message.split("unknown field `").nth(1).or_else(|| message.split("unknown variant `").nth(1))
    else {
        return message.into();
    };
    let mut quoted = rest.split('`');
    let Some(unknown) = quoted.next() else { return message.into() };
    let known = quoted.skip(1).step_by(2);
    // Of a long one nobody wants to hear what it resembles, and to compare it would take time and memory in proportion.
    let known = known.filter(|key| unknown.len() <= 2 * key.len());
    let nearest = known
        .map(|key| (strsim::damerau_levenshtein(unknown, key), key))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, key)| *distance <= key.len().max(unknown.len()) / 2);
    match nearest {
        Some((_, key)) => format!("{message}\nhint: did you mean `{key}`?"),
        None => message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
        [run]
        name = "t"
        warmup_rounds = 2
        rounds = 3
        [teacher]
        card = "teacher.json"
        [student]
        architecture = "resnet8"
    "#;

    fn parse(text: &str, set: &[&str]) -> Result<Recipe, String> {
        let set = set.iter().map(ToString::to_string).collect::<Vec<_>>();
        Recipe::parse(text, Path::new("r.toml"), &set).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_fill_what_is_not_said_and_survive_a_round_trip() {
        let recipe = parse(MINIMAL, &[]).unwrap();
        assert_eq!(recipe.run.seed, 0);
        assert_eq!(parse(&recipe.to_toml(), &[]).unwrap(), recipe);
    }

    #[track_caller]
    fn check_error(text: &str, set: &[&str], parts: &[&str]) {
        let message = parse(text, set).unwrap_err();
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        check_error(&format!("{MINIMAL}\n[distil]\n"), &[], &["unknown field `distil`", "did you mean `distill`"]);
        check_error(&format!("{MINIMAL}\n[distill]\nlearning = 1\n"), &[], &["unknown field `learning`"]);
        check_error(MINIMAL, &["run.sed=3"], &["--set run.sed=3", "did you mean `seed`"]);
        check_error(MINIMAL, &["run.rounds"], &["section.key=value"]);
        check_error(MINIMAL, &["run.rounds=0"], &["run.rounds is 0; it must be a whole number from 1 to 9999"]);
        check_error(MINIMAL, &["run.name=../up"], &["run.name"]);
        let short = ["distill.steps=4", "distill.warmup_steps=12"];
        check_error(MINIMAL, &short, &["distill.warmup_steps is 12", "the run has 12 steps"]);
        check_error(MINIMAL, &["keep.checkpoint=-1.0"], &["keep.checkpoint is -1"]);
        check_error(MINIMAL, &["keep.checkpoint=nan"], &["keep.checkpoint is not a finite number"]);
        check_error(MINIMAL, &["run.rounds=many"], &["run.rounds=many", "invalid type"]);
        check_error("[run", &[], &["r.toml"]);
    }

    #[test]
    fn an_unknown_version_is_refused_and_none_is_the_current() {
        assert_eq!(parse(MINIMAL, &[]).unwrap().version, RECIPE_VERSION);
        assert!(parse(MINIMAL, &[]).unwrap().to_toml().starts_with("version = 1\n"));
        check_error(&format!("version = 2\n{MINIMAL}"), &[], &["version is 2", "reads recipes of version 1"]);
        check_error(&format!("version = 'new'\n{MINIMAL}"), &[], &["version is a string"]);
    }

    #[test]
    fn an_old_key_is_refused_in_the_file_and_in_set() {
        let new = "`distill.colour` is now `distill.views.channel_mix`";
        check_error(&format!("{MINIMAL}\n[distill]\ncolour = 0.5\n"), &[], &["r.toml", new]);
        check_error(MINIMAL, &["distill.colour=0.5"], &["--set distill.colour=0.5", new]);
    }

    #[test]
    fn a_key_of_another_strategy_is_refused_by_both_names() {
        let expected = "invert.meta belongs to strategy \"meta\"; this recipe's strategy is \"persistent\"";
        check_error(&format!("{MINIMAL}\n[invert.meta]\nlatent_lr = 0.1\n"), &[], &[expected]);
        check_error(MINIMAL, &["invert.meta.latent_lr=0.1"], &[expected]);
        assert!(parse(MINIMAL, &["invert.strategy=meta", "invert.meta.latent_lr=0.1"]).is_ok());
    }

    #[test]
    fn a_run_folder_of_an_older_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        std::fs::write(&path, MINIMAL).unwrap();
        let error = Recipe::load_frozen(&path, &[]).unwrap_err().to_string();
        assert!(error.contains("the last program that reads it is that of commit 172d8de"), "{error}");
        std::fs::write(&path, parse(MINIMAL, &[]).unwrap().to_toml()).unwrap();
        assert!(Recipe::load_frozen(&path, &[]).is_ok());
    }

    #[test]
    fn set_takes_toml_values_and_bare_words() {
        let recipe = parse(MINIMAL, &["run.seed=7", "student.architecture=wrn-16-1"]).unwrap();
        assert_eq!((recipe.run.seed, recipe.student.architecture.as_str()), (7, "wrn-16-1"));
    }
}
