//! Reading what the stages of a run left: networks and images, kept in memory between reads.

use std::collections::HashSet;
use std::rc::Rc;

use anyhow::Result;
use candle_core::Device;
use ssdkd_nn::TeacherCard;
use ssdkd_stage::{DeviceChoice, RunArgs, RunFolder};

use crate::device::LazyDevice;
use crate::memory::Memory;
use crate::output::Output;
use crate::outputs::Outputs;
use crate::recipe::Recipe;
use crate::run::Run;

/// Reads what the stages of a run left. It changes nothing in the run folder.
pub struct Reader {
    pub(crate) run: Run,
    pub(crate) outputs: Outputs,
    pub(crate) memory: Memory,
    pub(crate) device: LazyDevice,
    /// Outputs that count, if they were determined.
    current: Option<HashSet<Output>>,
}

impl Reader {
    /// Reads `run`, and computes on `device`.
    pub fn new(run: Run, device: DeviceChoice) -> Self {
        let outputs = Outputs::new(run.folder().clone());
        Self { run, outputs, memory: Memory::default(), device: LazyDevice::new(device), current: None }
    }

    /// Reads the run that `arguments` name. See [`Run::existing`].
    pub fn existing(arguments: &RunArgs) -> Result<Self> {
        Ok(Self::new(Run::existing(arguments)?, arguments.common.device))
    }

    /// Returns the run.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Returns the run's recipe.
    pub fn recipe(&self) -> &Recipe {
        self.run.recipe()
    }

    /// Returns the run folder.
    pub fn folder(&self) -> &RunFolder {
        self.run.folder()
    }

    /// Returns the teacher's card.
    pub fn teacher_card(&self) -> Rc<TeacherCard> {
        self.run.cards().teacher().clone()
    }

    /// Returns the tables and manifests.
    pub fn outputs(&mut self) -> &mut Outputs {
        &mut self.outputs
    }

    /// Returns where to compute.
    ///
    /// # Errors
    /// If a GPU was asked for by name and cannot be opened.
    pub fn device(&self) -> Result<&Device> {
        Ok(self.device.get()?)
    }

    /// From now on [`rounds`](Self::rounds) are of these outputs alone: a run that was begun again with other settings, and not
    /// finished, has some of both.
    pub fn count_only(&mut self, current: HashSet<Output>) {
        self.current = Some(current);
    }

    /// Returns the complete rounds of a stage, ascending, that are the recipe's: a longer run before may have left more.
    pub fn rounds(&self, stage: &'static str) -> Result<Vec<u32>> {
        let mut rounds = self.folder().rounds(stage)?;
        let counts = |round| self.current.as_ref().is_none_or(|current| current.contains(&Output { stage, round }));
        rounds.retain(|&round| round < self.recipe().total_rounds() && counts(round));
        Ok(rounds)
    }

    /// Returns the last of these.
    pub fn last_round(&self, stage: &'static str) -> Result<Option<u32>> {
        Ok(self.rounds(stage)?.pop())
    }
}
