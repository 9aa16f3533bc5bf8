//! The recipe: one TOML file that says everything about a run.
//!
//! The sections of the four stages are the settings structs of `ssdkd-method`, each beside the formula it parametrises;
//! this module adds what surrounds them, reads the file, applies `--set`, and turns every mistake into an error that
//! names the file, the key and the nearest key that exists.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ssdkd_method::{BalanceSettings, DistillSettings, InvertSettings, SampleSettings};
use ssdkd_stage::StageError;

/// Everything about a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name, seed and length.
    pub run: RunSettings,
    /// The trained network whose data is not at hand.
    pub teacher: TeacherSettings,
    /// The network to train.
    pub student: StudentSettings,
    /// Synthesis: paper section "inversion".
    #[serde(default)]
    pub invert: InvertSettings,
    /// The replay buffer.
    #[serde(default)]
    pub balance: BalanceSettings,
    /// Priority sampling.
    #[serde(default)]
    pub sample: SampleSettings,
    /// The student's training.
    #[serde(default)]
    pub distill: DistillSettings,
    /// Measuring on real data, after the fact: it steers nothing.
    #[serde(default)]
    pub evaluate: EvaluateSettings,
    /// What to keep of old rounds.
    #[serde(default)]
    pub keep: KeepSettings,
}

/// `[run]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSettings {
    /// Folder name under the runs folder.
    pub name: String,
    /// What the method is called in tables; says nothing to the stages.
    #[serde(default = "default_method")]
    pub method: String,
    /// What follows from a sign that the run has gone wrong; says nothing to the results.
    #[serde(default)]
    pub trouble: OnTrouble,
    /// All randomness is a function of (seed, stage, round, step).
    #[serde(default)]
    pub seed: u64,
    /// Rounds that only synthesise and balance, before the student starts.
    pub warmup_rounds: u32,
    /// Rounds of all four stages, after the warm-up.
    pub rounds: u32,
}

/// What follows from a [`Trouble`](ssdkd_method::Trouble).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTrouble {
    /// A warning, and the run goes on.
    #[default]
    Warn,
    /// The stage fails, and nothing of it is kept.
    Stop,
}

fn default_method() -> String {
    "SSD-KD".into()
}

/// `[teacher]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherSettings {
    /// Path of the teacher's card; a relative path starts at the recipe's folder.
    pub card: PathBuf,
}

/// `[student]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudentSettings {
    /// Such as `resnet8`, `wrn-16-1`.
    pub architecture: String,
    /// What it is before its first step.
    #[serde(default)]
    pub start: Start,
}

/// What a student is before its first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Fresh weights, drawn from the run's seed, as all published methods do.
    #[default]
    Random,
    /// Blocks of the teacher, which must be deeper and otherwise alike: see [`ssdkd_nn::inherit`].
    Teacher,
}

/// `[evaluate]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateSettings {
    /// The data set to measure on: `shapes:SEED`, `shapes-masks:SEED`, or a path; empty: taken from `DATA=` / `SSDKD_DATA`.
    pub data: String,
    /// Measure the student of every so-many-th distilling round for the curve (0: only the last ones).
    pub every: u32,
    /// The last so many rounds give mean and spread.
    pub last: u32,
    /// Measure on at most so many images (0: all).
    pub limit: usize,
}

impl Default for EvaluateSettings {
    fn default() -> Self {
        Self { data: String::new(), every: 10, last: 5, limit: 0 }
    }
}

/// `[keep]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeepSettings {
    /// Generator and optimiser states of the newest so many rounds (0: all), and of those that a run with other settings goes on
    /// from: the last of the warm-up and the first distilling one. Students are always kept.
    pub states: usize,
    /// Image shards: all, or those that the buffer's images are in. Reports say less of rounds whose shards are gone.
    pub shards: KeepShards,
    /// Seconds between checkpoints within a round of `distill`, so that a killed process costs no more than that (0: one
    /// after every step).
    pub checkpoint: f64,
}

/// Which image shards to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeepShards {
    /// All of them.
    #[default]
    All,
    /// Those that images of the buffer are in, or of one that other settings would go on from, and the newest.
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

    /// As [`load`](Self::load), from the file's text; `path` is for messages.
    pub fn parse(text: &str, path: &Path, assignments: &[String]) -> Result<Self, RecipeError> {
        let invalid = |message: String| RecipeError::Invalid { path: path.into(), message };
        // The file alone first: its errors carry line and column.
        let _: Self = toml::from_str(text).map_err(|error| invalid(explain(&error.to_string())))?;
        let mut table: toml::Table = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
        for assignment in assignments {
            assign(&mut table, assignment)?;
        }
        let recipe: Self = table.try_into().map_err(|error: toml::de::Error| match assignments {
            [] => invalid(explain(&error.to_string())),
            _ => RecipeError::Set { assignment: assignments.join(" --set "), message: explain(&error.to_string()) },
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
        if self.run.warmup_rounds == 0 {
            return Err("run.warmup_rounds is 0; at least one round must fill the buffer".into());
        }
        if self.run.rounds == 0 {
            return Err("run.rounds is 0; at least one round must distil".into());
        }
        if self.run.warmup_rounds.saturating_add(self.run.rounds) > 9999 {
            return Err(format!(
                "run.warmup_rounds + run.rounds is more than 9999 ({} + {}); take more steps a round instead",
                self.run.warmup_rounds, self.run.rounds
            ));
        }
        if self.evaluate.last == 0 {
            return Err("evaluate.last is 0; the headline needs at least the last round".into());
        }
        if !(self.keep.checkpoint >= 0.0 && self.keep.checkpoint.is_finite()) {
            return Err(format!(
                "keep.checkpoint is {}; it must be a number of seconds, at least 0",
                self.keep.checkpoint
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
fn explain(message: &str) -> String {
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
        check_error(MINIMAL, &["run.rounds=0"], &["run.rounds is 0"]);
        check_error(MINIMAL, &["run.name=../up"], &["run.name"]);
        let short = ["distill.steps=4", "distill.warmup_steps=12"];
        check_error(MINIMAL, &short, &["distill.warmup_steps is 12", "the run has 12 steps"]);
        check_error(MINIMAL, &["keep.checkpoint=-1.0"], &["keep.checkpoint is -1"]);
        check_error(MINIMAL, &["keep.checkpoint=nan"], &["keep.checkpoint is NaN"]);
        check_error(MINIMAL, &["run.rounds=many"], &["run.rounds=many", "invalid type"]);
        check_error("[run", &[], &["r.toml"]);
    }

    #[test]
    fn set_takes_toml_values_and_bare_words() {
        let recipe = parse(MINIMAL, &["run.seed=7", "student.architecture=wrn-16-1"]).unwrap();
        assert_eq!((recipe.run.seed, recipe.student.architecture.as_str()), (7, "wrn-16-1"));
    }
}
