//! `ssdkd plan`: what a run consists of and what it will cost, or its stages as commands for a shell.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use candle_core::Device;
use clap::Args;
use indicatif::{FormattedDuration, HumanBytes};
use ssdkd_context::preflight::enforce;
use ssdkd_context::{Reader, Recipe, Run, quote};
use ssdkd_method::feature_pairs;
use ssdkd_stage::exit::Code;
use ssdkd_stage::{DeviceChoice, RunArgs, StageArgs, StageError, exit};

use crate::commands::run::rounds_of;
use crate::commands::shrink;
use crate::estimate::{Estimate, estimate};
use crate::measure;
use crate::preflight::{Has, Needs, before_run, has, resources};
use crate::stages::in_order;

/// `ssdkd plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Print shell commands, with the programs in this folder
    #[arg(long, value_name = "BIN")]
    shell: Option<String>,

    #[command(flatten)]
    stage: StageArgs,
}

/// Prints what a run will cost from nothing, or its stages as commands for a shell.
pub fn plan(arguments: &PlanArgs) -> Result<()> {
    let run = &arguments.stage.run;
    let threads = run.common.set_up()?;
    let recipe = Run::recipe_of(run)?;
    let text = match &arguments.shell {
        Some(folder) => shell(&arguments.stage, &recipe, folder)?,
        None if arguments.stage.ask.print_config => recipe.to_toml(),
        None => exit::plain(&costs(run, &recipe, threads)?),
    };
    Ok(exit::print(&text)?)
}

/// Returns the rounds of a run, its networks and what it will cost.
fn costs(arguments: &RunArgs, recipe: &Recipe, threads: usize) -> Result<String> {
    let cost = match Run::open(arguments) {
        Ok(run) => Ok((estimate_after_checks(&run, arguments)?, run)),
        // A recipe can be read before its teacher is there.
        Err(error) if error.downcast_ref().is_some_and(|error: &StageError| error.code() == Code::MissingInput) => {
            Err(error)
        }
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    let (invert, distill) = (&recipe.invert, &recipe.distill);
    let images = recipe.total_rounds() as usize * invert.batches * invert.batch;
    writeln!(text, "run        {}", recipe.run.name)?;
    writeln!(text, "rounds     {} warm-up + {} distilling", recipe.run.warmup_rounds, recipe.run.rounds)?;
    writeln!(text, "images     {images} synthesized, {} in the buffer", recipe.balance.capacity.min(images))?;
    writeln!(text, "steps      {} of {} images", recipe.run.rounds as usize * distill.steps, distill.batch)?;
    match cost {
        Ok((Estimate { synthesis_s, distillation_s, memory, disk }, run)) => {
            describe_networks(&mut text, &run, arguments.common.verbose > 0)?;
            let time = |seconds: f64| FormattedDuration(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
            writeln!(
                text,
                "time       about {} synthesis, {} distillation, {} total; threads: {threads}",
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
    Ok(text)
}

/// Checks a run that may start, and measures what it will cost.
fn estimate_after_checks(run: &Run, arguments: &RunArgs) -> Result<Estimate> {
    run.warn_of_teacher();
    enforce(&run.preflight())?;
    match measure::look_for_data(run) {
        Ok(findings) => enforce(&findings)?,
        Err(error) => tracing::warn!("{error}"),
    }
    let mut reader = Reader::new(run.clone(), arguments.common.device);
    let cost = estimate(&mut reader)?;
    let needs = Needs { disk: cost.disk, memory: cost.memory };
    let root = run.folder().root();
    // Of a GPU's memory nothing is known here.
    let memory = has(root).memory.filter(|_| reader.device().is_ok_and(Device::is_cpu));
    enforce(&resources(needs, Has { memory, ..has(root) }, root))?;
    Ok(cost)
}

/// Returns a run as a list of commands for a shell, with the programs in `folder`.
fn shell(arguments: &StageArgs, recipe: &Recipe, folder: &str) -> Result<String> {
    let StageArgs { run, round, force, resume, verify, ask } = arguments;
    let recipe_path = quote(&run.recipe.to_string_lossy());
    if ask.print_config {
        let flags = shell_flags(run, &[]);
        return Ok(format!("{folder}/ssdkd run {recipe_path}{flags} --print-config\n"));
    }
    let (again, dry) = ((*force, "--force"), (ask.dry_run, "--dry-run"));
    let flags = shell_flags(run, &[again, dry, (*resume, "--resume"), (*verify, "--verify")]);
    let rounds = rounds_of(recipe, *round)?;
    if !ask.dry_run {
        before_run(&Run::open(run)?)?;
    }
    let mut text = String::new();
    for (stage, round) in in_order(recipe, rounds) {
        writeln!(text, "{folder}/{} {recipe_path} --round {round}{flags}", stage.program)?;
    }
    // What the run made is worth a report even if it could not be measured.
    writeln!(text, "{folder}/ssdkd evaluate {recipe_path}{} || failed=$?", shell_flags(run, &[again, dry]))?;
    writeln!(text, "{folder}/ssdkd report {recipe_path}{}", shell_flags(run, &[dry]))?;
    writeln!(text, "exit ${{failed:-0}}")?;
    Ok(text)
}

/// Adds what teacher and student cost, and in detail which of their feature maps are compared.
fn describe_networks(text: &mut String, run: &Run, in_detail: bool) -> Result<()> {
    let (teacher, student) = (run.cards().teacher().spec(), run.cards().student());
    for (word, spec) in [("teacher", &teacher), ("student", student)] {
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
    if in_detail && run.recipe().distill.feature_distillation > 0.0 {
        for (ours, theirs) in feature_pairs(&teacher, student)? {
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
