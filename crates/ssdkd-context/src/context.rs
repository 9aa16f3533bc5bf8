//! The context of a run: opened once by a program, passed to each stage.

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::mem::Discriminant;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use candle_core::Device;
use serde_json::json;
use ssdkd_method::{ClassPrior, FailedCheck};
use ssdkd_nn::{Architecture, CardError, Cut, NetworkSpec, OPEN_GPU, Preprocessing, TeacherCard, device_name};
use ssdkd_shards::{FileEntry, Timing, canonical, digest};
use ssdkd_stage::exit::{self, Code};
use ssdkd_stage::{
    Complete, DeviceChoice, FingerprintInput, Progress, RunArgs, RunFolder, RunLock, StageArgs, StageError,
    StageFolder, State, collect_state, judge, logging, quote, write_file,
};

use crate::command::{command_in, command_of, with_command};
use crate::job::{Job, Plan, Spent};
use crate::kept::Kept;
use crate::preflight::{Finding, preflight};
use crate::recipe::{OnFailedCheck, Recipe, RecipeError, Start};
use crate::tables::Line;

/// How a stage deals with what is there.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Do it again even if it is fresh.
    pub force: bool,
    /// Whether anything is done.
    pub mode: Mode,
    /// Fail if there is nothing to go on from.
    pub resume: bool,
    /// Compare digests before calling anything fresh.
    pub verify: bool,
}

/// Whether stages do anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// They do what has to be done.
    #[default]
    Work,
    /// They say what they would do.
    DryRun,
    /// Stages are only checked for freshness, for [`Context::judgements`].
    Look,
    /// None is asked: what they left is read.
    Read,
}

/// What a dry run found of one stage and round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The stage's name.
    pub stage: &'static str,
    /// From 0.
    pub round: u32,
    /// Whether what is there is right, as far as can be told before what it reads is made.
    pub state: State,
}

/// What every stage of a run sees.
pub struct Context {
    recipe: Recipe,
    run: RunFolder,
    options: Options,
    threads: usize,
    choice: DeviceChoice,
    /// Opened when something is computed: a fresh stage needs no GPU.
    device: OnceCell<Device>,
    kept: Kept,
    complete: HashMap<(String, u32), Rc<Complete>>,
    /// What is known of where the buffer at hand came from.
    line: Option<Line>,
    /// Rounds that count, if they were determined.
    own: Option<HashSet<(&'static str, u32)>>,
    /// In a dry run: stages that would have been run by now.
    would_run: HashSet<(&'static str, u32)>,
    judgements: Vec<Judgement>,
    /// Kinds of failed health checks that were warned of.
    warned: RefCell<Vec<Discriminant<FailedCheck>>>,
    card: Rc<TeacherCard>,
    card_path: PathBuf,
    /// The card of the student and where it is, for a network that is not of the zoo.
    student_card: Option<(TeacherCard, PathBuf)>,
    /// Who asked, as long as their recipe and teacher are not the run's.
    unfrozen: Option<RunArgs>,
    _lock: Option<RunLock>,
}

/// The teacher's card and weights within a run folder.
const CARD: &str = "card.json";
const WEIGHTS: &str = "weights.safetensors";

impl Context {
    /// Opens the run that `arguments` name, to write into it as `command`; or only to look, in a dry run.
    pub fn open(arguments: &StageArgs, command: &str, threads: usize) -> Result<Self> {
        let mode = if arguments.ask.dry_run { Mode::DryRun } else { Mode::Work };
        let &StageArgs { force, resume, verify, .. } = arguments;
        let context = Self::open_with(&arguments.run, command, threads, Options { force, mode, resume, verify })?;
        context.warn_of_teacher();
        Ok(context)
    }

    /// Opens the run that `arguments` name to check its stages' freshness, by digests of all files if `verify`: nothing is made,
    /// locked or said.
    pub fn look(arguments: &RunArgs, verify: bool, threads: usize) -> Result<Self> {
        let options = Options { mode: Mode::Look, verify, ..Options::default() };
        Self::open_with(arguments, "", threads, options)
    }

    /// Opens the run that `arguments` name to read what its stages left, with the teacher that the run carries. It must be
    /// there, and nothing of it is made, changed or locked: a command that only describes a run may not replace its recipe.
    pub fn read_only(arguments: &RunArgs, threads: usize) -> Result<Self> {
        let options = Options { mode: Mode::Read, ..Options::default() };
        let context = Self::open_with(arguments, "", threads, options)?;
        context.warn_of_another_recipe();
        Ok(context)
    }

    fn open_with(arguments: &RunArgs, command: &str, threads: usize, options: Options) -> Result<Self> {
        let (mut recipe, mut card_path, mut student_path) = load_recipe(arguments)?;
        let root =
            if arguments.recipe.is_dir() { arguments.recipe.clone() } else { arguments.runs.join(&recipe.run.name) };
        refuse_older_run(&RunFolder::at(&root))?;
        if options.mode == Mode::Read {
            let run = RunFolder::at(&root);
            if !run.recipe().is_file() {
                return Err(run.absent(format!("`{}` starts it", start_command(arguments))).into());
            }
            let carried = run.teacher().join(CARD);
            card_path = if carried.is_file() { carried } else { card_path };
            let carried = run.student().join(CARD);
            student_path = student_path.map(|named| if carried.is_file() { carried } else { named });
        }
        check_is_named(&recipe)?;
        check_is_card("teacher.card", &recipe.teacher.card, &card_path)?;
        let card = TeacherCard::load(&card_path).map_err(card_error)?;
        let student_card = if let Some(path) = student_path {
            check_is_card("student.card", &recipe.student.card, &path)?;
            let student = TeacherCard::load(&path).map_err(card_error)?;
            check_student_card(&path, &student, &card)?;
            // The run has a copy, so its digest is used and not its path.
            recipe.student.card = Path::new("student").join(CARD);
            Some((student, path))
        } else {
            student_architecture(&recipe, &card)?;
            None
        };
        let choice = arguments.common.device;
        choice.check(OPEN_GPU.is_some())?;
        if options.resume && RunFolder::at(&root).latest_complete("invert")?.is_none() {
            let what = format!("{} holds nothing to resume\nhint: leave out --resume", root.display());
            return Err(StageError::Usage(what).into());
        }
        let (run, lock) = if options.mode == Mode::Work {
            let run = RunFolder::create(root)?;
            let lock = RunLock::acquire(&run, command)?;
            (run, Some(lock))
        } else {
            (RunFolder::at(root), None)
        };
        let mut context = Self {
            recipe,
            run,
            options,
            threads,
            choice,
            device: OnceCell::new(),
            kept: Kept::default(),
            complete: HashMap::new(),
            line: None,
            own: None,
            would_run: HashSet::new(),
            judgements: Vec::new(),
            warned: RefCell::default(),
            card: Rc::new(card),
            card_path,
            student_card,
            unfrozen: (options.mode == Mode::Work).then(|| arguments.clone()),
            _lock: lock,
        };
        // A run that has a recipe keeps it until there is something of another: a stage may yet fail.
        if !context.run.recipe().exists() {
            context.freeze()?;
        }
        Ok(context)
    }

    /// Returns the recipe that `arguments` name, without opening its run.
    pub fn recipe_of(arguments: &RunArgs) -> Result<Recipe> {
        Ok(load_recipe(arguments)?.0)
    }

    /// Checks the recipe and the teacher of a run that was not begun with them yet; see [`preflight`](crate::preflight()).
    pub fn preflight(&self) -> Result<Vec<Finding>> {
        if self.was_begun() {
            return Ok(Vec::new());
        }
        Ok(preflight(&self.recipe, &self.card, &self.student_spec()?.architecture))
    }

    /// Returns whether the run folder holds this recipe and this teacher already.
    pub fn was_begun(&self) -> bool {
        let carried = TeacherCard::load(&self.run.teacher().join(CARD));
        let same_student = self.student_card.as_ref().is_none_or(|(card, _)| {
            TeacherCard::load(&self.run.student().join(CARD)).is_ok_and(|carried| carried.digest == card.digest)
        });
        self.has_recipe() == Some(true)
            && same_student
            && carried.is_ok_and(|carried| carried.digest == self.card.digest)
    }

    /// Returns whether the run folder's recipe is this one; `None` if it has none or a damaged one. What to measure and what to keep
    /// may differ.
    fn has_recipe(&self) -> Option<bool> {
        let mut frozen = Recipe::load(&self.run.recipe(), &[]).ok()?;
        frozen.teacher.card.clone_from(&self.recipe.teacher.card);
        (frozen.evaluate, frozen.keep) = (self.recipe.evaluate.clone(), self.recipe.keep.clone());
        Some(frozen == self.recipe)
    }

    /// Warns if the run was made with other settings than these: what is said of it may then be wrong.
    fn warn_of_another_recipe(&self) {
        if self.has_recipe() == Some(false) {
            let root = self.run.root().display();
            tracing::warn!(
                "{root} was made with other settings than these\nhint: name {root}, without --set, to take its own"
            );
        }
    }

    /// Warns if the teacher's card holds a guess. Call it once in a command; [`open`](Self::open) does.
    pub fn warn_of_teacher(&self) {
        if let Some(warning) = self.card.warning(&self.card_path) {
            tracing::warn!("{}", exit::plain(&warning));
        }
    }

    /// Returns the command that makes the run from nothing, as its recipe has it.
    pub fn command(&self) -> Option<String> {
        command_in(&std::fs::read_to_string(self.run.recipe()).ok()?).map(String::from)
    }

    /// Puts the resolved recipe and a copy of the teacher into the run folder, once, where they are not there yet.
    fn freeze(&mut self) -> Result<()> {
        let Some(arguments) = self.unfrozen.take() else { return Ok(()) };
        let mut card = (*self.card).clone();
        card.weights = WEIGHTS.into();
        let card_path = self.run.teacher().join(CARD);
        if self.card_path != card_path {
            let weights = self.card.read_weights(&self.card_path).map_err(card_error)?;
            // The weights first: a card without weights would be believed.
            write_if_changed(&self.run.teacher().join(WEIGHTS), &weights)?;
            write_if_changed(&card_path, card.to_json().as_bytes())?;
        }
        (self.card, self.card_path) = (Rc::new(card), card_path);
        if let Some((student, path)) = &mut self.student_card {
            let (mut copy, place) = (student.clone(), self.run.student().join(CARD));
            copy.weights = WEIGHTS.into();
            if *path != place {
                let weights = student.read_weights(path).map_err(card_error)?;
                write_if_changed(&self.run.student().join(WEIGHTS), &weights)?;
                write_if_changed(&place, copy.to_json().as_bytes())?;
            }
            (*student, *path) = (copy, place);
        }
        let mut frozen = self.recipe.clone();
        frozen.teacher.card = Path::new("teacher").join(CARD);
        let before = self.command().filter(|_| arguments.recipe.is_dir());
        let toml = with_command(command_of(&arguments, before.as_deref()).as_deref(), &frozen.to_toml());
        write_if_changed(&self.run.recipe(), toml.as_bytes())
    }

    /// Returns how common the recipe says that the teacher's classes are.
    pub fn class_prior(&self) -> Result<ClassPrior, StageError> {
        ClassPrior::new(&self.recipe.teacher.class_prior, self.card.classes).map_err(StageError::Usage)
    }

    /// Returns the recipe, with all changes of the command line.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Returns the run folder.
    pub fn run(&self) -> &RunFolder {
        &self.run
    }

    /// Returns where to compute.
    ///
    /// # Errors
    /// If a GPU was asked for by name and cannot be opened.
    pub fn device(&self) -> Result<&Device> {
        if let Some(device) = self.device.get() {
            return Ok(device);
        }
        let device = self.choice.open(Device::Cpu, OPEN_GPU)?;
        Ok(self.device.get_or_init(|| device))
    }

    /// Returns what is in memory already.
    pub fn kept(&mut self) -> &mut Kept {
        &mut self.kept
    }

    pub(crate) fn line(&mut self) -> &mut Option<Line> {
        &mut self.line
    }

    /// Returns the teacher's card.
    pub fn teacher_card(&self) -> Rc<TeacherCard> {
        self.card.clone()
    }

    /// Returns the card's path: its copy in the run folder, or the original for read-only commands.
    pub fn teacher_card_path(&self) -> &Path {
        &self.card_path
    }

    /// Stands for everything about the teacher that results depend on.
    pub fn teacher_digest(&self) -> String {
        digest_of(&self.card)
    }

    /// Returns the student, without weights.
    pub fn student_spec(&self) -> Result<NetworkSpec> {
        let teacher = self.card.spec();
        match &self.student_card {
            Some((card, _)) => Ok(NetworkSpec { input: teacher.input, classes: teacher.classes, ..card.spec() }),
            None => Ok(NetworkSpec { architecture: student_architecture(&self.recipe, &self.card)?, ..teacher }),
        }
    }

    /// Returns the card of the student and where it is; `None` for a student of the zoo.
    pub(crate) fn student_card(&self) -> Option<&(TeacherCard, PathBuf)> {
        self.student_card.as_ref()
    }

    /// Returns the index of `round` among the distilling rounds; a warm-up round is an error, as `stage` has no part in it.
    pub fn distilling_round(&self, stage: &str, round: u32) -> Result<u32> {
        Ok(self.recipe.distilling_round_of(stage, round)?)
    }

    /// Starts a progress bar for a stage.
    pub fn progress(&self, stage: &str, round: u32, total: u64) -> Progress {
        Progress::start(format!("{stage} {round:04}"), total)
    }

    /// Checks whether the plan's results exist already: `None`, or a job that makes them.
    pub fn begin(&mut self, plan: Plan) -> Result<Option<Job>> {
        let (stage, round) = (plan.stage, plan.round);
        self.recipe.check_round(round)?;
        if self.options.mode != Mode::Work {
            self.judge_for_dry_run(plan)?;
            return Ok(None);
        }
        let wanted = self.fingerprint(plan)?;
        let state = judge(&self.run, &wanted, self.options.verify)?;
        if state == State::Fresh && !self.options.force {
            tracing::info!("{stage} {round:04}: fresh, nothing to do");
            self.freeze()?;
            if self.run.latest_complete(stage)? == Some(round) {
                // A process that was killed between finishing this round and collecting left that to us.
                self.collect_state(stage, round)?;
            }
            return Ok(None);
        }
        let why = if self.options.force { "forced".into() } else { state.describe() };
        match state {
            State::Stale { .. } | State::Corrupt { .. } => tracing::warn!("{stage} {round:04}: {why}"),
            _ => tracing::debug!("{stage} {round:04}: {why}"),
        }
        self.complete.remove(&(stage.to_string(), round));
        let origin = ssdkd_shards::Origin { stage: stage.into(), fingerprint: wanted.fingerprint() };
        let folder = StageFolder::begin(&self.run, wanted)?;
        if self.options.force {
            folder.discard_checkpoint()?;
        }
        let started_at = logging::now();
        ssdkd_ops::reset_peak();
        Ok(Some(Job {
            stage,
            round,
            origin,
            folder,
            metrics: serde_json::Map::new(),
            started: Instant::now(),
            started_at,
            before: Spent::default(),
            kept: Instant::now(),
            keep_every: self.recipe.keep.checkpoint,
        }))
    }

    /// Finds out, and says, whether a stage would run, without running it or what it reads.
    fn judge_for_dry_run(&mut self, plan: Plan) -> Result<()> {
        let (stage, round) = (plan.stage, plan.round);
        let counts = plan.class_counts.map(|round| ("balance", round));
        let unmade = plan.inputs.iter().chain(&counts).find(|input| self.would_run.contains(*input)).copied();
        let (state, why) = if let Some((input, of)) = unmade {
            let why = format!("{input} {of:04}, which it reads, would run");
            let there = matches!(self.run.complete(stage, round), Ok(Some(_)));
            (if there { State::Stale { reasons: vec![why.clone()] } } else { State::Missing }, why)
        } else {
            match self.fingerprint(plan) {
                Ok(wanted) => {
                    let state = judge(&self.run, &wanted, self.options.verify)?;
                    let why = state.describe();
                    (state, why)
                }
                // Another process's dry run made nothing for this one to read.
                Err(error) => {
                    if self.options.mode == Mode::DryRun {
                        tracing::warn!("{stage} {round:04}: its freshness cannot be checked yet: {error:#}");
                    }
                    self.judgements.push(Judgement { stage, round, state: State::Missing });
                    return Ok(());
                }
            }
        };
        if state != State::Fresh || self.options.force {
            if self.options.mode == Mode::DryRun {
                let why = if self.options.force { "forced" } else { &why };
                tracing::warn!("{stage} {round:04}: would run ({why})");
            }
            // A damaged file is made again from the same: what reads it finds what it knows, if the manifest is whole.
            let same = matches!(state, State::Corrupt { .. }) && self.complete(stage, round).is_ok();
            if !same {
                self.would_run.insert((stage, round));
            }
        } else if self.options.mode == Mode::DryRun {
            tracing::info!("{stage} {round:04}: fresh, nothing to do");
        }
        self.judgements.push(Judgement { stage, round, state });
        Ok(())
    }

    /// In a dry run: what was found of every stage and round so far, in the order of the run.
    pub fn judgements(&self) -> &[Judgement] {
        &self.judgements
    }

    fn fingerprint(&mut self, plan: Plan) -> Result<FingerprintInput> {
        let seed = self.recipe.run.seed;
        let mut wanted = FingerprintInput::new(plan.stage, plan.version, plan.round, seed, plan.parameters);
        if plan.teacher {
            wanted.inputs.insert("teacher".into(), self.teacher_digest());
        }
        if let Some((student, _)) = &self.student_card {
            wanted.inputs.insert("student".into(), digest_of(student));
        }
        for (stage, round) in plan.inputs {
            let digest = self.complete(stage, round)?.digest.clone();
            wanted.inputs.insert(format!("{stage}/{round:04}"), digest);
        }
        if let Some(round) = plan.class_counts {
            let counts = canonical::to_string(&json!(self.class_counts(round)?));
            wanted.inputs.insert(format!("class counts of {round:04}"), digest::of_bytes(counts.as_bytes()));
        }
        Ok(wanted)
    }

    /// Reports a failed health check: a warning, once in a process for each kind of check. Ends the stage instead if the recipe says so.
    ///
    /// Call it before [`finish`](Self::finish): finished output is fresh, and the run would resume from it.
    pub fn report_health(&self, stage: &str, round: u32, failed: Option<FailedCheck>) -> Result<()> {
        let Some(failed) = failed else { return Ok(()) };
        if self.recipe.run.on_failed_check == OnFailedCheck::Stop {
            bail!("{stage} {round:04}: {failed}\nhint: run.on_failed_check = \"warn\" lets the run continue");
        }
        let kind = std::mem::discriminant(&failed);
        if !self.warned.borrow().contains(&kind) {
            self.warned.borrow_mut().push(kind);
            tracing::warn!("{stage} {round:04}: {failed}");
        }
        Ok(())
    }

    /// Makes a job's output the stage's output of that round.
    pub fn finish(&mut self, job: Job) -> Result<()> {
        let Spent { seconds, peak_bytes } = job.spent();
        let Job { stage, round, folder, metrics, started_at, .. } = job;
        let timing = Timing {
            started_at,
            seconds,
            threads: self.threads,
            device: self.device.get().map_or_else(|| "cpu".into(), device_name),
            machine: processor(),
            peak_bytes,
        };
        let summary = metrics.iter().map(|(name, value)| format!("{name} {:.4}", value.as_f64().unwrap_or(0.0)));
        let summary = summary.collect::<Vec<_>>().join(", ");
        self.freeze()?;
        let complete = folder.commit(metrics, &timing)?;
        self.complete.insert((stage.to_string(), round), Rc::new(complete));
        self.collect_state(stage, round)?;
        tracing::info!("{stage} {round:04}: {seconds:.1} s; {summary}");
        Ok(())
    }

    /// Does `work` with what is fresh done again, too.
    pub fn forced<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = std::mem::replace(&mut self.options.force, true);
        let done = work(self);
        self.options.force = before;
        done
    }

    /// Removes state that no round after `reached` resumes from.
    pub fn collect_state(&self, stage: &str, reached: u32) -> Result<()> {
        let keep = self.recipe.keep.states;
        collect_state(&self.run, stage, keep, &self.recipe.starting_points(), reached)?;
        Ok(())
    }

    /// From now on [`rounds`](Self::rounds) are of these (stage, round) alone: a run that was begun again with other settings, and not
    /// finished, has some of both.
    pub fn count_only(&mut self, own: HashSet<(&'static str, u32)>) {
        self.own = Some(own);
    }

    /// Returns the complete rounds of a stage, ascending, that are the recipe's: a longer run before may have left more.
    pub fn rounds(&self, stage: &str) -> Result<Vec<u32>> {
        let mut rounds = self.run.rounds(stage)?;
        let counts = |round| self.own.as_ref().is_none_or(|own| own.contains(&(stage, round)));
        rounds.retain(|&round| round < self.recipe.total_rounds() && counts(round));
        Ok(rounds)
    }

    /// Returns the last of these.
    pub fn last_round(&self, stage: &str) -> Result<Option<u32>> {
        Ok(self.rounds(stage)?.pop())
    }

    /// Returns what a stage left in a round, which must be complete.
    pub fn complete(&mut self, stage: &str, round: u32) -> Result<Rc<Complete>> {
        let key = (stage.to_string(), round);
        if let Some(complete) = self.complete.get(&key) {
            return Ok(complete.clone());
        }
        let complete = Rc::new(self.run.require(stage, round)?);
        self.complete.insert(key, complete.clone());
        Ok(complete)
    }

    /// Returns the digest of a file that a stage left in a round.
    pub fn file_digest(&mut self, stage: &str, round: u32, file: &str) -> Result<String> {
        let complete = self.complete(stage, round)?;
        let entry: Option<&FileEntry> = complete.manifest.file(file);
        let path = self.run.file(stage, round, file);
        Ok(entry.with_context(|| format!("{} is not in its manifest", path.display()))?.blake3.clone())
    }

    /// Returns a file that a stage left in a round, checked against its digest, and its path for messages.
    pub fn read(&self, stage: &str, round: u32, file: &str) -> Result<(Vec<u8>, PathBuf)> {
        Ok((self.run.read_verified(stage, round, file)?, self.run.file(stage, round, file)))
    }
}

/// Returns the recipe that `arguments` name, and where its teacher's card is.
pub(crate) fn load_recipe(arguments: &RunArgs) -> Result<(Recipe, PathBuf, Option<PathBuf>), StageError> {
    let path = &arguments.recipe;
    let (path, recipe) = if path.is_dir() {
        let path = RunFolder::open(path)?.recipe();
        let recipe = Recipe::load_frozen(&path, &arguments.set);
        (path, recipe)
    } else {
        if !path.exists() && path.extension().is_none_or(|ending| ending != "toml") {
            return Err(no_such_run(arguments));
        }
        (path.clone(), Recipe::load(path, &arguments.set))
    };
    let recipe = recipe.map_err(|error: RecipeError| StageError::other(Code::Usage, error))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let teacher = folder.join(&recipe.teacher.card);
    let student = Some(&recipe.student.card).filter(|card| !card.as_os_str().is_empty()).map(|card| folder.join(card));
    Ok((recipe, teacher, student))
}

/// Returns the error for the folder of a run that is not there.
fn no_such_run(arguments: &RunArgs) -> StageError {
    let named = &arguments.recipe;
    let elsewhere = arguments.runs.join(named);
    let hint = if elsewhere.is_dir() {
        format!("did you mean {}?", elsewhere.display())
    } else {
        "name a recipe, such as pipelines/shapes.toml, or the folder of a run, such as runs/shapes".into()
    };
    StageError::Missing { what: "the recipe or run".into(), path: named.clone(), hint }
}

/// Stands for everything about a network that results depend on: not its name, not where it came from.
fn digest_of(card: &TeacherCard) -> String {
    let mut what = json!({
        "weights": card.digest, "architecture": card.architecture, "classes": card.classes,
        "input": card.input, "mean": card.mean, "std": card.std, "class_names": card.class_labels(),
    });
    // Runs of teachers without any keep the digest that they had before cards knew of it.
    if card.preprocessing != Preprocessing::default() {
        what["preprocessing"] = json!(card.preprocessing);
    }
    digest::of_bytes(canonical::to_string(&what).as_bytes())
}

/// Returns the command that starts the run that `arguments` name.
pub fn start_command(arguments: &RunArgs) -> String {
    let command = command_of(arguments, None).unwrap_or_else(|| "ssdkd run RECIPE".into());
    let runs = arguments.runs.to_string_lossy();
    if runs == "runs" { command } else { format!("{command} --runs {}", quote(&runs)) }
}

/// Refuses a recipe for any teacher that was given none, or no student.
fn check_is_named(recipe: &Recipe) -> Result<(), StageError> {
    if recipe.teacher.card.as_os_str().is_empty() {
        return Err(StageError::Usage(
            "teacher.card is empty: this recipe is for any teacher, and needs yours\n\
             hint: add `--set teacher.card=$PWD/CARD.json`; `ssdkd import WEIGHTS --out CARD.json` makes a card"
                .into(),
        ));
    }
    let is_card = !recipe.student.card.as_os_str().is_empty();
    let problem = match (recipe.student.architecture.as_str(), is_card) {
        ("", false) => {
            "student.architecture is empty: this recipe is for any student, and needs yours\n\
             hint: add `--set student.architecture=NAME`, such as teacher*0.5 (half of the teacher's channels), resnet8 or \
             torchvision/mobilenet_v2*0.5; or `--set student.card=$PWD/CARD.json` for a network of your own"
        }
        ("", true) => return Ok(()),
        (_, true) => {
            "student.architecture and student.card are both set, and each names a student\n\
             hint: remove one, or set it to \"\""
        }
        (_, false) if recipe.student.start == Start::Card => {
            "student.start is \"card\", and there is no student.card\n\
             hint: set student.card, or set student.start to \"random\""
        }
        (_, false) => return Ok(()),
    };
    Err(StageError::Usage(problem.into()))
}

/// Refuses a student of a network that cannot learn what the teacher knows. `path` is that of the student's card.
fn check_student_card(path: &Path, student: &TeacherCard, teacher: &TeacherCard) -> Result<(), StageError> {
    let path = path.display();
    if student.classes != teacher.classes {
        return Err(StageError::Usage(format!(
            "the student of {path} has {} classes, and the teacher has {}\n\
             hint: give the student's last layer {} outputs, export it and import it again",
            student.classes, teacher.classes, teacher.classes
        )));
    }
    if student.input[0] != teacher.input[0] {
        return Err(StageError::Usage(format!(
            "the student of {path} takes images of {} channels, and the teacher takes {}\n\
             hint: take a student for {} channels",
            student.input[0], teacher.input[0], teacher.input[0]
        )));
    }
    Ok(())
}

/// Refuses a weight file given as a card. `named` is what the recipe says under `key`, `path` where that is.
fn check_is_card(key: &str, named: &Path, path: &Path) -> Result<(), StageError> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    if !ending.is_some_and(|ending| WEIGHT_FILES.contains(&ending.as_str())) {
        return Ok(());
    }
    let card = path.with_extension("json");
    let hint = if card.is_file() {
        format!("set {key} to {}", named.with_extension("json").display())
    } else {
        format!(
            "`ssdkd import {} --out {}` makes a card",
            quote(&path.to_string_lossy()),
            quote(&card.to_string_lossy())
        )
    };
    Err(StageError::Usage(format!("{key} is {}, a file of weights and not a card\nhint: {hint}", path.display())))
}

/// Endings of files that hold weights.
const WEIGHT_FILES: [&str; 7] = ["safetensors", "pth", "pt", "th", "tar", "bin", "ckpt"];

/// Returns the student's architecture: a smaller copy of the teacher, or one of the zoo by its name.
fn student_architecture(recipe: &Recipe, teacher: &TeacherCard) -> Result<Architecture, StageError> {
    let name = recipe.student.architecture.as_str();
    let architecture =
        if Cut::is_meant_by(name) { name.parse().map(|cut| teacher.architecture.cut(cut)) } else { name.parse() };
    architecture.map_err(|error| StageError::Usage(format!("student.architecture: {error}")))
}

/// Refuses a run folder of an older program, whatever recipe it was asked for with.
fn refuse_older_run(run: &RunFolder) -> Result<(), StageError> {
    match Recipe::load_frozen(&run.recipe(), &[]) {
        Err(error @ RecipeError::OlderRun { .. }) => Err(StageError::other(Code::Usage, error)),
        // A recipe that is not there or damaged is the business of those that use it.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Turns a card's error into one of a missing input, or of a damaged file.
pub fn card_error(error: CardError) -> StageError {
    let code = match error {
        CardError::Read { .. } => Code::MissingInput,
        CardError::NotACard { .. } => Code::Usage,
        _ => Code::Integrity,
    };
    StageError::other(code, error)
}

fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if !std::fs::read(path).is_ok_and(|there| there == bytes) {
        write_file(path, bytes)?;
    }
    Ok(())
}

/// Returns the name of the processor, as Linux knows it.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    name.trim_start_matches([' ', '\t', ':']).into()
}
