//! A stage's plan, the check whether it is fresh, and the job that writes its files.

use std::time::Instant;

use anyhow::Result;
use serde_json::Value;
use ssdkd_shards::{Origin, Role, Row, tables};
use ssdkd_stage::{StageFolder, signals};

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to do: everything is there.
    Fresh,
    /// Rebuilt.
    Done,
}

/// What the results of one stage in one round depend on.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) stage: &'static str,
    pub(crate) version: u32,
    pub(crate) round: u32,
    pub(crate) parameters: Value,
    pub(crate) teacher: bool,
    pub(crate) inputs: Vec<(&'static str, u32)>,
    /// The round after whose `balance` the buffer's class counts are read.
    pub(crate) class_counts: Option<u32>,
}

impl Plan {
    /// Stage, its hand-raised version, the round, and the part of the recipe that matters (a JSON object).
    pub fn new(stage: &'static str, version: u32, round: u32, parameters: Value) -> Self {
        Self { stage, version, round, parameters, teacher: false, inputs: Vec::new(), class_counts: None }
    }

    /// One more part of the recipe that matters.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.parameters[key] = value;
        self
    }

    /// Adds that the results depend on the teacher's weights and card.
    #[must_use]
    pub fn reads_teacher(mut self) -> Self {
        self.teacher = true;
        self
    }

    /// Adds that the results depend on what `stage` left in `round`.
    #[must_use]
    pub fn reads(mut self, stage: &'static str, round: u32) -> Self {
        self.inputs.push((stage, round));
        self
    }

    /// Adds that the results depend on how many members of the buffer are of each class after `balance` of `round`, and on nothing else that
    /// it left: of another buffer with the same counts they are the same.
    #[must_use]
    pub fn reads_class_counts(mut self, round: u32) -> Self {
        self.class_counts = Some(round);
        self
    }
}

/// What work cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Spent {
    /// Wall clock.
    pub(crate) seconds: f64,
    /// Of tensors, at most.
    pub(crate) peak_bytes: u64,
}

impl Spent {
    /// As it stands before the state in a checkpoint.
    fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.seconds.to_bits()) | u128::from(self.peak_bytes) << 64).to_le_bytes()
    }

    fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_le_bytes(bytes);
        Self { seconds: f64::from_bits(both as u64), peak_bytes: (both >> 64) as u64 }
    }
}

/// A stage's unfinished output: it is invisible until [`Context::finish`](crate::Context::finish).
pub struct Job {
    pub(crate) stage: &'static str,
    pub(crate) round: u32,
    pub(crate) origin: Origin,
    pub(crate) folder: StageFolder,
    pub(crate) metrics: serde_json::Map<String, Value>,
    pub(crate) started: Instant,
    pub(crate) started_at: String,
    /// What interrupted processes spent on the state that this one resumes from.
    pub(crate) before: Spent,
    /// When the last checkpoint was made, or could have been.
    pub(crate) kept: Instant,
    /// Seconds between checkpoints.
    pub(crate) keep_every: f64,
}

impl Job {
    /// Returns the round whose output this is.
    pub fn round(&self) -> u32 {
        self.round
    }

    /// Returns the origin that this job's Parquet files record.
    pub fn origin(&self) -> Origin {
        self.origin.clone()
    }

    /// Writes one table.
    pub fn write_table<R: Row>(&mut self, name: &str, rows: &[R]) -> Result<()> {
        let bytes = tables::encode(rows, &self.origin)?;
        self.write(name, &bytes, Some(rows.len() as u64), Role::Data)?;
        Ok(())
    }

    /// Writes one file and returns its digest.
    pub fn write(&mut self, name: &str, bytes: &[u8], rows: Option<u64>, role: Role) -> Result<String> {
        Ok(self.folder.write(name, bytes, rows, role)?)
    }

    /// A number for the manifest: same inputs, same number.
    pub fn metric(&mut self, name: &str, value: f64) {
        self.metrics.insert(name.into(), value.into());
    }

    /// Keeps `state`, for a later process to go on from if this one does not come to its end; at most every so often, as
    /// the recipe says, and when the user has asked to stop. `state` is asked only then.
    pub fn checkpoint(&mut self, state: impl FnOnce() -> Result<Vec<u8>>) -> Result<()> {
        if self.kept.elapsed().as_secs_f64() >= self.keep_every || signals::interrupted().is_some() {
            let state = state()?;
            self.folder.save_checkpoint(&[&self.spent().to_bytes()[..], &state].concat())?;
            self.kept = Instant::now();
        }
        Ok(())
    }

    /// Returns what an interrupted process kept of this same job, whose cost from now on counts that process's.
    pub fn kept(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(mut bytes) = self.folder.checkpoint()? else { return Ok(None) };
        let Some(spent) = bytes.first_chunk() else { return Ok(None) };
        self.before = Spent::from_bytes(*spent);
        Ok(Some(bytes.split_off(spent.len())))
    }

    /// Discards what [`Job::kept`] returned, and its cost, if the stage cannot resume from it.
    pub fn start_over(&mut self) -> Result<()> {
        self.before = Spent::default();
        Ok(self.folder.discard_checkpoint()?)
    }

    /// Returns what all processes spent on this so far.
    pub(crate) fn spent(&self) -> Spent {
        Spent {
            seconds: self.before.seconds + self.started.elapsed().as_secs_f64(),
            peak_bytes: self.before.peak_bytes.max(ssdkd_ops::peak_bytes() as u64),
        }
    }

    /// Fails when the user has asked to stop.
    pub fn check_interrupted(&self) -> Result<()> {
        Ok(signals::check()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_work_cost_survives_a_checkpoint() {
        let spent = Spent { seconds: 12.25, peak_bytes: 3 << 33 };
        assert_eq!(Spent::from_bytes(spent.to_bytes()), spent);
    }
}
