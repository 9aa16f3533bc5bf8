//! A stage's unfinished output: the files that its execution writes, and its checkpoint.

use std::cell::RefCell;
use std::mem::Discriminant;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::Value;
use ssdkd_method::FailedCheck;
use ssdkd_shards::{Origin, Role, Row, tables};
use ssdkd_stage::{FingerprintInput, Progress, RunFolder, StageFolder, logging, signals};

use crate::output::Output;
use crate::outputs::table_file;
use crate::recipe::{OnFailedCheck, Recipe};

/// What to do with the checkpoint of an interrupted process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Resume from it.
    Resume,
    /// Discard it.
    Restart,
}

/// The kinds of failed health checks that the process has warned of.
pub(crate) type Warned = Rc<RefCell<Vec<Discriminant<FailedCheck>>>>;

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

/// A stage's unfinished output. It is invisible until its execution ends.
pub struct Job {
    pub(crate) output: Output,
    origin: Origin,
    pub(crate) folder: StageFolder,
    pub(crate) metrics: serde_json::Map<String, Value>,
    started: Instant,
    pub(crate) started_at: String,
    /// What interrupted processes spent on the state that this one resumes from.
    before: Spent,
    /// When the last checkpoint was made, or could have been.
    kept: Instant,
    /// Seconds between checkpoints.
    keep_every: f64,
    on_failed_check: OnFailedCheck,
    warned: Warned,
}

impl Job {
    pub(crate) fn begin(
        run: &RunFolder,
        recipe: &Recipe,
        output: Output,
        wanted: FingerprintInput,
        begin: Begin,
        warned: Warned,
    ) -> Result<Self> {
        let origin = Origin { stage: output.stage.into(), fingerprint: wanted.fingerprint() };
        let folder = StageFolder::begin(run, wanted)?;
        if begin == Begin::Restart {
            folder.discard_checkpoint()?;
        }
        ssdkd_ops::reset_peak();
        Ok(Self {
            output,
            origin,
            folder,
            metrics: serde_json::Map::new(),
            started: Instant::now(),
            started_at: logging::now(),
            before: Spent::default(),
            kept: Instant::now(),
            keep_every: recipe.keep.checkpoint,
            on_failed_check: recipe.run.on_failed_check,
            warned,
        })
    }

    /// Returns the origin that this job's Parquet files record.
    pub fn origin(&self) -> Origin {
        self.origin.clone()
    }

    /// Starts a progress bar.
    pub fn progress(&self, total: u64) -> Progress {
        Progress::start(self.output.to_string(), total)
    }

    /// Writes one table.
    pub fn write_table<R: Row>(&mut self, rows: &[R]) -> Result<()> {
        let bytes = tables::encode(rows, &self.origin)?;
        self.write(&table_file::<R>(), &bytes, Some(rows.len() as u64), Role::Data)?;
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

    /// Reports a failed health check: a warning, once in a process for each kind of check. Fails instead if the recipe says so.
    pub fn report_health(&self, failed: Option<FailedCheck>) -> Result<()> {
        let Some(failed) = failed else { return Ok(()) };
        if self.on_failed_check == OnFailedCheck::Stop {
            bail!("{}: {failed}\nhint: run.on_failed_check = \"warn\" lets the run continue", self.output);
        }
        let kind = std::mem::discriminant(&failed);
        if !self.warned.borrow().contains(&kind) {
            self.warned.borrow_mut().push(kind);
            tracing::warn!("{}: {failed}", self.output);
        }
        Ok(())
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
