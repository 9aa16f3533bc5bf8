//! Executing plans: the one place where a run's outputs are made.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Result;
use ssdkd_nn::TeacherCard;
use ssdkd_shards::{Role, Timing};
use ssdkd_stage::{RunArgs, RunFolder, RunLock, State, collect_state, judge, write_file};

use crate::cards::card_error;
use crate::command::{command_of, with_command};
use crate::inputs::Inputs;
use crate::job::{Begin, Job, Spent, Warned};
use crate::output::{Output, Rounds};
use crate::plan::Plan;
use crate::reader::Reader;
use crate::recipe::KeepShards;
use crate::run::{CARD, Run};

/// The weights of a network within a run folder.
const WEIGHTS: &str = "weights.safetensors";

/// The right to make outputs of a run, until it is dropped.
pub struct Writer {
    reader: Reader,
    threads: usize,
    warned: Warned,
    /// What was found to be fresh and was not said yet.
    fresh: Vec<Rounds>,
    /// Who asked, as long as their recipe and networks are not the run's.
    unfrozen: Option<RunArgs>,
    _lock: RunLock,
}

impl Writer {
    /// Creates the run folder if there is none, and takes its lock as `command`. `arguments` are those that `run` was opened with.
    pub fn open(run: Run, arguments: &RunArgs, command: &str, threads: usize) -> Result<Self> {
        let folder = RunFolder::create(run.folder().root())?;
        let lock = RunLock::acquire(&folder, command)?;
        let reader = Reader::new(run, arguments.common.device);
        let unfrozen = Some(arguments.clone());
        let mut writer = Self { reader, threads, warned: Warned::default(), fresh: Vec::new(), unfrozen, _lock: lock };
        // A run that has a recipe keeps it until there is something of another: a stage may yet fail.
        if !folder.recipe().exists() {
            writer.freeze()?;
        }
        Ok(writer)
    }

    /// Returns the run.
    pub fn run(&self) -> &Run {
        self.reader.run()
    }

    /// Returns what reads the run, with what is in memory already.
    pub fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }

    /// Returns whether a plan's output is there already. Warns if it is not the right one. With `verify` it compares the digests of all
    /// files.
    pub fn is_fresh(&mut self, plan: &Plan, verify: bool) -> Result<bool> {
        let output = plan.output;
        let wanted = plan.fingerprint(self.reader.run.cards(), &mut self.reader.outputs)?;
        let state = judge(self.reader.folder(), &wanted, verify)?;
        match &state {
            State::Fresh => {
                if !self.fresh.iter_mut().rev().any(|rounds| rounds.take(output)) {
                    self.fresh.push(Rounds::of(output));
                }
                self.freeze()?;
                if self.reader.folder().latest_complete(output.stage)? == Some(output.round) {
                    // A process that was killed between finishing this round and collecting left that to us.
                    self.collect(output)?;
                }
            }
            State::Stale { .. } | State::Corrupt { .. } => {
                self.say_fresh();
                tracing::warn!("{output}: {}", state.describe());
            }
            State::Partial | State::Missing => tracing::debug!("{output}: {}", state.describe()),
        }
        Ok(state == State::Fresh)
    }

    /// Says what was fresh since it was last said, a line for the rounds of a stage that follow each other.
    pub fn say_fresh(&mut self) {
        for rounds in self.fresh.drain(..) {
            tracing::info!("{rounds}: fresh, nothing to do");
        }
    }

    /// Returns the outputs that a plan reads files of that were collected. They have to be rebuilt before its execution.
    pub fn collected(&mut self, plan: &Plan) -> Result<Vec<(Output, Role)>> {
        let mut found = Vec::new();
        for &(input, role) in &plan.reads.outputs {
            let outputs = self.reader.outputs.collected(input, role)?;
            found.extend(outputs.into_iter().map(|output| (output, role)));
        }
        Ok(found)
    }

    /// Executes a plan. Its output replaces an older one.
    pub fn execute(&mut self, plan: Plan, begin: Begin) -> Result<()> {
        self.say_fresh();
        let wanted = plan.fingerprint(self.reader.run.cards(), &mut self.reader.outputs)?;
        let Plan { output, seed, reads, execute, .. } = plan;
        self.reader.outputs.forget(output);
        let run = &self.reader.run;
        let mut job = Job::begin(run.folder(), run.recipe(), output, wanted, begin, self.warned.clone())?;
        execute(&mut Inputs::new(&mut self.reader, output, seed, reads), &mut job)?;
        self.finish(job)
    }

    /// Makes a job's output the run's.
    fn finish(&mut self, job: Job) -> Result<()> {
        let Spent { seconds, peak_bytes } = job.spent();
        let Job { output, folder, metrics, started_at, .. } = job;
        let (threads, device) = (self.threads, self.reader.device.name());
        let timing = Timing { started_at, seconds, threads, device, machine: processor(), peak_bytes };
        let summary = metrics.iter().map(|(name, value)| format!("{name} {}", shown(value.as_f64().unwrap_or(0.0))));
        let summary = summary.collect::<Vec<_>>().join(", ");
        self.freeze()?;
        let complete = folder.commit(metrics, &timing)?;
        self.reader.outputs.replace(output, complete);
        self.collect(output)?;
        tracing::info!("{output}: {seconds:.1} s; {summary}");
        Ok(())
    }

    /// Removes the files that no round after `reached` needs: its stage's state, and after `balance` images, where the recipe wants that.
    pub fn collect(&self, reached: Output) -> Result<()> {
        let Output { stage, round } = reached;
        let (folder, recipe) = (self.reader.folder(), self.reader.recipe());
        collect_state(folder, stage, recipe.keep.states, &recipe.starting_points(), round)?;
        // An older round, made again, says nothing about what the newest buffer needs.
        let is_newest = || anyhow::Ok(folder.latest_complete(stage)? == Some(round));
        if stage == "balance" && recipe.keep.shards == KeepShards::Buffer && is_newest()? {
            let wanted = self.reader.outputs.wanted_shards(recipe, round)?;
            ssdkd_stage::remove(&folder.unused_shards("invert", &wanted)?)?;
        }
        Ok(())
    }

    /// Puts the resolved recipe and a copy of the networks into the run folder, once, where they are not there yet.
    fn freeze(&mut self) -> Result<()> {
        let Some(arguments) = self.unfrozen.take() else { return Ok(()) };
        let before = self.run().command().filter(|_| arguments.recipe.is_dir());
        let folder = self.reader.folder().clone();
        let cards = &mut self.reader.run.cards;
        freeze_network(Rc::make_mut(&mut cards.teacher), &mut cards.teacher_path, &folder.teacher())?;
        if let Some((student, path)) = &mut cards.student_card {
            freeze_network(student, path, &folder.student())?;
        }
        let mut frozen = self.reader.recipe().clone();
        frozen.teacher.card = Path::new("teacher").join(CARD);
        let toml = with_command(command_of(&arguments, before.as_deref()).as_deref(), &frozen.to_toml());
        write_if_changed(&folder.recipe(), toml.as_bytes())
    }
}

/// Copies a network into `folder`, where it is from now on.
fn freeze_network(card: &mut TeacherCard, path: &mut PathBuf, folder: &Path) -> Result<()> {
    let place = folder.join(CARD);
    if *path != place {
        let weights = card.read_weights(path).map_err(card_error)?;
        card.weights = WEIGHTS.into();
        // The weights first: a card without weights would be believed.
        write_if_changed(&folder.join(WEIGHTS), &weights)?;
        write_if_changed(&place, card.to_json().as_bytes())?;
    }
    *path = place;
    Ok(())
}

fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if !std::fs::read(path).is_ok_and(|there| there == bytes) {
        write_file(path, bytes)?;
    }
    Ok(())
}

/// Returns a metric for a line of the log: whole numbers are counts.
fn shown(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.4}") }
}

/// Returns the name of the processor, as Linux knows it.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    name.trim_start_matches([' ', '\t', ':']).into()
}
