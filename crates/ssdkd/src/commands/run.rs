//! Whole runs: all stages in one process, or as a list of commands for a shell.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use candle_core::Device;
use clap::Args;
use indicatif::{FormattedDuration, HumanBytes};
use ssdkd_context::preflight::enforce;
use ssdkd_context::{Context, Outcome, Recipe, quote};
use ssdkd_method::feature_pairs;
use ssdkd_stage::exit::Code;
use ssdkd_stage::{AskArgs, DeviceChoice, RunArgs, StageArgs, StageError, exit, signals};

use crate::commands::{evaluate, repair, report, shrink};
use crate::current::count_only_current;
use crate::estimate::{Estimate, estimate};
use crate::preflight::{self, Has, Needs, has, resources};

/// A stage's name, and what runs it.
pub type Stage = (&'static str, fn(&mut Context, u32) -> Result<Outcome>);

/// In the order of a round.
pub const STAGES: [Stage; 4] = [
    (ssdkd_invert::STAGE, ssdkd_invert::run),
    (ssdkd_balance::STAGE, ssdkd_balance::run),
    (ssdkd_sample::STAGE, ssdkd_sample::run),
    (ssdkd_distill::STAGE, ssdkd_distill::run),
];

/// Their names, in the order of a round.
pub const STAGE_NAMES: [&str; 4] = [STAGES[0].0, STAGES[1].0, STAGES[2].0, STAGES[3].0];

/// Returns the stages of one round: a warm-up round ends after `balance`.
fn stages_of(recipe: &Recipe, round: u32) -> &'static [Stage] {
    if recipe.distilling_round(round).is_some() { &STAGES } else { &STAGES[..2] }
}

/// `ssdkd run`
pub fn run(arguments: &StageArgs) -> Result<()> {
    let threads = arguments.run.common.set_up()?;
    let recipe = Context::recipe_of(&arguments.run)?;
    if arguments.ask.print_config {
        return Ok(exit::print(&recipe.to_toml())?);
    }
    let rounds = rounds_of(&recipe, arguments.round)?;
    if arguments.ask.dry_run {
        enforce(&Context::look(&arguments.run, false, threads)?.preflight()?)?;
    } else {
        preflight::before_run(&arguments.run, threads)?;
    }
    let mut context = Context::open(arguments, "ssdkd run", threads)?;
    let done = stages(&mut context, rounds)?;
    if arguments.ask.dry_run {
        return Ok(());
    }
    if done == 0 {
        let all = format!("all {} rounds are", recipe.total_rounds());
        let which = arguments.round.map_or(all, |round| format!("round {round} is"));
        tracing::warn!("{which} fresh: nothing to do");
    }
    count_only_current(&mut context, threads)?;
    let measured = evaluate::measure(&mut context);
    signals::check()?; // a request to stop does not wait for a report
    // What the run made is worth a report even if it could not be measured.
    let reported = report::write(&mut context);
    measured.and(reported)
}

/// Returns the one round that is asked for, or all.
fn rounds_of(recipe: &Recipe, round: Option<u32>) -> Result<Range<u32>, StageError> {
    let Some(round) = round else { return Ok(0..recipe.total_rounds()) };
    recipe.check_round(round)?;
    Ok(round..round + 1)
}

/// Returns whether a command is only asked to say something: the recipe with `--print-config`, or in a dry run what it would do.
pub fn only_asked(arguments: &RunArgs, ask: &AskArgs, would: &str) -> Result<bool> {
    if !ask.print_config && !ask.dry_run {
        return Ok(false);
    }
    let recipe = Context::recipe_of(arguments)?;
    if ask.print_config {
        exit::print(&recipe.to_toml())?;
    } else {
        tracing::warn!("would {would}");
    }
    Ok(true)
}

/// Runs all stages of all rounds; a dry run only checks their freshness.
pub fn all_stages(context: &mut Context) -> Result<()> {
    stages(context, 0..context.recipe().total_rounds()).map(drop)
}

/// Runs all stages of some rounds; how many were not fresh.
fn stages(context: &mut Context, rounds: Range<u32>) -> Result<usize> {
    let mut done = 0;
    for round in rounds {
        for &stage in stages_of(context.recipe(), round) {
            signals::check()?;
            done += usize::from(repair::run_with_collected(context, round, stage)? == Outcome::Done);
        }
    }
    Ok(done)
}

/// `ssdkd plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Print shell commands, with the programs in this folder
    #[arg(long, value_name = "BIN")]
    shell: Option<String>,

    #[command(flatten)]
    stage: StageArgs,
}

/// Prints the rounds and stages of a run, and what it will cost from nothing.
pub fn plan(arguments: &PlanArgs) -> Result<()> {
    let StageArgs { run, round, force, resume, verify, ask } = &arguments.stage;
    let threads = run.common.set_up()?;
    let recipe = Context::recipe_of(run)?;
    if ask.print_config && arguments.shell.is_none() {
        return Ok(exit::print(&recipe.to_toml())?);
    }
    let mut text = String::new();
    let Some(folder) = &arguments.shell else {
        let cost = match Context::look(run, false, threads) {
            Ok(mut context) => {
                context.warn_of_teacher();
                enforce(&context.preflight()?)?;
                match evaluate::look_for_data(&context, &recipe) {
                    Ok(findings) => enforce(&findings)?,
                    Err(error) => tracing::warn!("{error}"),
                }
                let cost = estimate(&mut context)?;
                let needs = Needs { disk: cost.disk, memory: cost.memory };
                let root = context.run().root();
                // Of a GPU's memory nothing is known here.
                let memory = has(root).memory.filter(|_| context.device().is_ok_and(Device::is_cpu));
                enforce(&resources(needs, Has { memory, ..has(root) }, root))?;
                Ok(cost)
            }
            // A recipe can be read before its teacher is there.
            Err(error) if error.downcast_ref().is_some_and(|error: &StageError| error.code() == Code::MissingInput) => {
                Err(error)
            }
            Err(error) => return Err(error),
        };
        let (invert, distill) = (&recipe.invert, &recipe.distill);
        let images = recipe.total_rounds() as usize * invert.batches * invert.batch;
        writeln!(text, "run        {}", recipe.run.name)?;
        writeln!(text, "rounds     {} warm-up + {} distilling", recipe.run.warmup_rounds, recipe.run.rounds)?;
        writeln!(text, "images     {images} synthesized, {} in the buffer", recipe.balance.capacity.min(images))?;
        writeln!(text, "steps      {} of {} images", recipe.run.rounds as usize * distill.steps, distill.batch)?;
        let networks = cost.is_ok().then(|| Context::look(run, false, threads)).transpose()?;
        if let Some(context) = networks {
            describe_networks(&mut text, &context, run.common.verbose > 0)?;
        }
        match cost {
            Ok(Estimate { synthesis_s, distillation_s, memory, disk }) => {
                let time =
                    |seconds: f64| FormattedDuration(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
                writeln!(
                    text,
                    "time       about {} synthesis, {} distillation, {} total, on {threads} threads",
                    time(synthesis_s),
                    time(distillation_s),
                    time(synthesis_s + distillation_s)
                )?;
                writeln!(text, "memory     about {}", HumanBytes(memory))?;
                writeln!(text, "disk       about {}", HumanBytes(disk))?;
            }
            Err(error) => {
                writeln!(text, "cost       not known: {}", error.to_string().lines().next().unwrap_or_default())?;
            }
        }
        return Ok(exit::print(&exit::plain(&text))?);
    };
    let recipe_path = quote(&run.recipe.to_string_lossy());
    if ask.print_config {
        let flags = shell_flags(run, &[]);
        return Ok(exit::print(&format!("{folder}/ssdkd run {recipe_path}{flags} --print-config\n"))?);
    }
    let (again, dry) = ((*force, "--force"), (ask.dry_run, "--dry-run"));
    let flags = shell_flags(run, &[again, dry, (*resume, "--resume"), (*verify, "--verify")]);
    let rounds = rounds_of(&recipe, *round)?;
    if !ask.dry_run {
        preflight::before_run(run, threads)?;
    }
    for round in rounds {
        for (stage, _) in stages_of(&recipe, round) {
            writeln!(text, "{folder}/ssdkd-{stage} {recipe_path} --round {round}{flags}")?;
        }
    }
    // What the run made is worth a report even if it could not be measured.
    writeln!(text, "{folder}/ssdkd evaluate {recipe_path}{} || failed=$?", shell_flags(run, &[again, dry]))?;
    writeln!(text, "{folder}/ssdkd report {recipe_path}{}", shell_flags(run, &[dry]))?;
    writeln!(text, "exit ${{failed:-0}}")?;
    Ok(exit::print(&text)?)
}

/// Adds what teacher and student cost, and in detail which of their feature maps are compared.
fn describe_networks(text: &mut String, context: &Context, in_detail: bool) -> Result<()> {
    let (teacher, student) = (context.teacher_card().spec(), context.student_spec()?);
    for (word, spec) in [("teacher", &teacher), ("student", &student)] {
        let [_, height, width] = spec.input;
        let (parameters, multiply_adds) = (spec.num_parameters()?, spec.multiply_adds()?);
        writeln!(
            text,
            "{word:<10} {}: {parameters} parameters, {:.1} million multiply-adds for an image of {height}×{width}",
            spec.architecture,
            multiply_adds as f64 / 1e6
        )?;
    }
    shrink::propose(text, &teacher)?;
    if in_detail && context.recipe().distill.feature_distillation > 0.0 {
        for (ours, theirs) in feature_pairs(&teacher, &student)? {
            let [height, width] = ours.size;
            writeln!(
                text,
                "features   {} ({height}×{width}, {} channels) learns from the teacher's {} ({} channels)",
                ours.name, ours.channels, theirs.name, theirs.channels
            )?;
        }
    }
    Ok(())
}

/// Returns the flags of `plan` that all of its commands need, and of the others those that are given among `(given, flag)`.
fn shell_flags(arguments: &RunArgs, others: &[(bool, &str)]) -> String {
    let mut words = vec!["--runs".to_string(), quote(&arguments.runs.to_string_lossy())];
    for assignment in &arguments.set {
        words.extend(["--set".into(), quote(assignment)]);
    }
    let common = &arguments.common;
    for &(given, flag) in [(common.quiet, "--quiet")].iter().chain(others) {
        words.extend(given.then(|| flag.to_string()));
    }
    words.extend((0..common.verbose).map(|_| "--verbose".to_string()));
    if common.device != DeviceChoice::Auto {
        words.extend(["--device".into(), common.device.to_string()]);
    }
    if let Some(threads) = common.threads {
        words.extend(["--threads".into(), threads.to_string()]);
    }
    [String::new()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroUsize;

    #[test]
    fn a_stage_gets_the_flags_of_its_plan() {
        let mut arguments = RunArgs { runs: "my runs".into(), ..RunArgs::default() };
        arguments.set.push("run.method=a b".into());
        (arguments.common.verbose, arguments.common.threads) = (2, NonZeroUsize::new(3));
        let expected = " --runs 'my runs' --set 'run.method=a b' --resume --verbose --verbose --threads 3";
        assert_eq!(shell_flags(&arguments, &[(false, "--force"), (true, "--resume")]), expected);
    }
}
