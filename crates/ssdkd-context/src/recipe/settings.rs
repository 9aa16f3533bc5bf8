//! The recipe's sections and keys. The doc comments of the fields are the text of `docs/recipe.md`.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssdkd_method::{BalanceSettings, DistillSettings, InvertSettings, SampleSettings, prior, range};
use ssdkd_nn::Cut;
use ssdkd_stage::StageError;

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
    /// How common the classes are: one positive number for each, of any sum, in the order of the card's class_names. Empty: all alike.
    #[serde(default)]
    pub class_prior: Vec<f64>,
}

/// The student: the network to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StudentSettings {
    /// A smaller copy of the teacher: "teacher*0.5" has half of each layer's channels, "teacher-blocks*0.5" half of the residual blocks,
    /// "teacher*0.5-blocks*0.5" both. Or an architecture of the zoo, such as "resnet8" or "torchvision/mobilenet_v2*0.5". Empty: `card`
    /// names the student.
    #[serde(default)]
    pub architecture: String,
    /// Path of the card of your own network, from `ssdkd import`. Then `architecture` is empty. A relative path starts at the
    /// recipe's folder.
    #[serde(default)]
    pub card: PathBuf,
    /// Weights before the first step.
    #[serde(default)]
    pub start: Start,
    /// The result is the mean of the students of this share of the distilling rounds, the last ones. It is what `evaluate`, `export` and
    /// `predict` take; training does not depend on it. 0: the student of the last round.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub average: f64,
}

impl StudentSettings {
    /// Returns what training depends on.
    pub fn of_training(&self) -> impl Serialize + use<> {
        #[derive(Serialize)]
        struct OfTraining {
            architecture: String,
            card: PathBuf,
            start: Start,
        }
        let Self { architecture, card, start, average: _ } = self.clone();
        OfTraining { architecture, card, start }
    }
}

/// What a student is before its first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// "teacher" for a smaller copy of the teacher, "random" for any other network. The run's own recipe names which.
    #[default]
    Auto,
    /// Random weights, as in all published methods.
    Random,
    /// The teacher's weights, for a smaller copy of it: of each layer the channels with the largest batch-norm factors and kernels.
    Teacher,
    /// The weights of student.card.
    Card,
}

impl Start {
    /// Returns what [`Auto`](Self::Auto) means for this student.
    pub(super) fn of_student(self, architecture: &str) -> Self {
        match self {
            Self::Auto if Cut::is_meant_by(architecture) => Self::Teacher,
            Self::Auto => Self::Random,
            other => other,
        }
    }
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

impl Recipe {
    /// Returns every default written out: what `--print-config` shows and the run folder keeps.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a recipe is plain data")
    }

    /// Returns all rounds, warm-up included.
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

    /// Returns the rounds that a run with other settings resumes from, so their state always stays: the last of the warm-up, if the
    /// student or the adversary changes, and the first distilling one, whose generator has met an untaught student alone, if
    /// distillation does.
    pub fn starting_points(&self) -> [u32; 2] {
        let first = self.run.warmup_rounds;
        [first.saturating_sub(1), first]
    }

    /// Returns the index among distilling rounds, `None` for a warm-up round.
    pub fn distilling_round(&self, round: u32) -> Option<u32> {
        round.checked_sub(self.run.warmup_rounds)
    }

    /// Does the same for a `stage` that has no part in the warm-up: a warm-up round is an error.
    pub fn distilling_round_of(&self, stage: &str, round: u32) -> Result<u32, StageError> {
        let warmup = self.run.warmup_rounds;
        self.distilling_round(round).ok_or_else(|| {
            StageError::Usage(format!(
                "round {round} is a warm-up round, in which {stage} has no part\nhint: its first round is {warmup} (run.warmup_rounds)"
            ))
        })
    }

    /// Returns the rounds whose students make the result after `round`, a distilling one, by `student.average`.
    pub fn averaged_rounds(&self, round: u32) -> RangeInclusive<u32> {
        let students = round.saturating_sub(self.run.warmup_rounds) + 1;
        let averaged = (self.student.average * f64::from(students)).ceil() as u32;
        round + 1 - averaged.clamp(1, students)..=round
    }

    /// Checks every value; the error names the key.
    pub(super) fn validate(&self) -> Result<(), String> {
        let name = &self.run.name;
        if name.is_empty()
            || name.starts_with('.')
            || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        {
            return Err(format!("run.name is {name:?}; it names a folder: letters, digits, `-`, `_` and `.`"));
        }
        range::check("run", &self.run)?;
        range::check("student", &self.student)?;
        range::check("evaluate", &self.evaluate)?;
        range::check("keep", &self.keep)?;
        if self.run.warmup_rounds.saturating_add(self.run.rounds) > 9999 {
            return Err(format!(
                "run.warmup_rounds + run.rounds is more than 9999 ({} + {}); take more steps a round instead",
                self.run.warmup_rounds, self.run.rounds
            ));
        }
        prior::check_weights(&self.teacher.class_prior)?;
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
