//! What a stage does in one round: the outputs that it reads, and the settings that decide its results.

use anyhow::Result;
use serde::Serialize;
use serde_json::{Value, json};
use ssdkd_shards::{Role, canonical, digest};
use ssdkd_stage::FingerprintInput;

use crate::cards::Cards;
use crate::inputs::{Inputs, Reads};
use crate::job::Job;
use crate::output::Output;
use crate::outputs::Outputs;
use crate::recipe::Recipe;

type Execute = Box<dyn FnOnce(&mut Inputs<'_>, &mut Job) -> Result<()>>;

/// What a stage does in one round. Making a plan touches no disk, and its execution can read nothing that it does not declare.
pub struct Plan {
    pub(crate) output: Output,
    version: u32,
    pub(crate) seed: u64,
    parameters: Value,
    pub(crate) reads: Reads,
    pub(crate) execute: Execute,
}

impl Plan {
    /// Plans `execute` with `settings`. As JSON, the settings are the fingerprint's parameters. `version` is raised by hand when the
    /// same settings give other results.
    pub fn new<S: Serialize + 'static>(
        output: Output,
        version: u32,
        seed: u64,
        settings: S,
        execute: fn(&S, &mut Inputs<'_>, &mut Job) -> Result<()>,
    ) -> Self {
        Self {
            output,
            version,
            seed,
            parameters: json!(settings),
            reads: Reads::default(),
            execute: Box::new(move |inputs, job| execute(&settings, inputs, job)),
        }
    }

    /// Declares the teacher's weights and card.
    #[must_use]
    pub fn reads_teacher(mut self) -> Self {
        self.reads.teacher = true;
        self
    }

    /// Declares the student as it is before this round: as `distill` left it in the round before, or as the recipe starts it.
    #[must_use]
    pub fn reads_student(mut self, recipe: &Recipe) -> Self {
        self.reads.student = true;
        let Output { round, .. } = self.output;
        if let Some(1..) = recipe.distilling_round(round) {
            return self.reads(Output::distill(round - 1));
        }
        self.parameters["student"] = json!(recipe.student.of_training());
        self
    }

    /// Declares the data of an output: its tables and weights.
    #[must_use]
    pub fn reads(self, output: impl Into<Option<Output>>) -> Self {
        self.reads_files(output, Role::Data)
    }

    /// Declares the data of an output and the state that its stage resumes from.
    #[must_use]
    pub fn reads_state(self, output: impl Into<Option<Output>>) -> Self {
        self.reads_files(output, Role::State)
    }

    /// Declares the data of an output and its images: of `balance`, those in the buffer.
    #[must_use]
    pub fn reads_images(self, output: impl Into<Option<Output>>) -> Self {
        self.reads_files(output, Role::Shard)
    }

    fn reads_files(mut self, output: impl Into<Option<Output>>, role: Role) -> Self {
        self.reads.outputs.extend(output.into().map(|output| (output, role)));
        self
    }

    /// Declares the buffer's class counts after `balance` of `round`, and nothing else of it: of another buffer with the same counts the
    /// results are the same.
    #[must_use]
    pub fn reads_class_counts(mut self, round: impl Into<Option<u32>>) -> Self {
        self.reads.class_counts = round.into();
        self
    }

    /// Returns the output that it makes.
    pub fn output(&self) -> Output {
        self.output
    }

    /// Returns what its results depend on, with the digests of the inputs as they are now.
    pub(crate) fn fingerprint(&self, cards: &Cards, outputs: &mut Outputs) -> Result<FingerprintInput> {
        let Output { stage, round } = self.output;
        let mut wanted = FingerprintInput::new(stage, self.version, round, self.seed, self.parameters.clone());
        if self.reads.teacher {
            wanted.inputs.insert("teacher".into(), cards.teacher_digest().into());
        }
        if let Some(digest) = cards.student_digest() {
            wanted.inputs.insert("student".into(), digest.into());
        }
        for &(output, _) in &self.reads.outputs {
            wanted.inputs.insert(output.path(), outputs.complete(output)?.digest.clone());
        }
        if let Some(round) = self.reads.class_counts {
            let counts = canonical::to_string(&json!(outputs.class_counts(round)?));
            wanted.inputs.insert(format!("class counts of {round:04}"), digest::of_bytes(counts.as_bytes()));
        }
        Ok(wanted)
    }
}
