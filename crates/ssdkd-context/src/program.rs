//! The body of a stage's program.

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser};
use ssdkd_stage::{StageArgs, StageError, State, exit};

use crate::context::{Context, load_recipe};
use crate::job::Outcome;
use crate::preflight::enforce;

/// What a stage's program understands.
#[derive(Debug, Parser)]
#[command(version)]
struct StageCommand {
    #[command(flatten)]
    arguments: StageArgs,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done or fresh, 1 failed, 2 usage or recipe, 3 missing input, 4 integrity, 130/143 signals";

/// Returns whether a stage has a part in the warm-up.
fn warms_up(stage: &str) -> bool {
    !matches!(stage, "sample" | "distill")
}

/// The program of a stage.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The stage's name.
    pub stage: &'static str,
    /// The program's name.
    pub name: &'static str,
    /// What it does, for its help.
    pub about: &'static str,
}

impl Program {
    /// Returns its command line.
    pub fn command(self) -> clap::Command {
        let Self { stage, name, about } = self;
        let round = if warms_up(stage) { 0 } else { 10 };
        let example = format!("Example:\n  {name} pipelines/shapes.toml --round {round}\n\n{EXIT_CODES}");
        StageCommand::command().name(name).about(about).after_help(example)
    }
}

/// Runs one round of one stage: `main` of its program.
pub fn stage_main(program: Program, run: fn(&mut Context, u32) -> Result<Outcome>) -> ExitCode {
    let matches = program.command().get_matches();
    let arguments = StageCommand::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).arguments;
    finish(stage_body(program, &arguments, run))
}

/// Prints the error, if there is one, and gives the exit code.
pub fn finish(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(error.as_ref()).into(),
    }
}

fn stage_body(
    Program { stage, name, .. }: Program,
    arguments: &StageArgs,
    run: fn(&mut Context, u32) -> Result<Outcome>,
) -> Result<()> {
    let threads = arguments.run.common.set_up()?;
    // Before the run is opened: an error leaves the run as it is.
    let (recipe, ..) = load_recipe(&arguments.run)?;
    if arguments.ask.print_config {
        return Ok(exit::print(&recipe.to_toml())?);
    }
    let warms_up = warms_up(stage);
    if let Some(round) = arguments.round {
        recipe.check_round(round)?;
        if !warms_up {
            recipe.distilling_round_of(stage, round)?;
        }
    } else if arguments.force {
        return Err(StageError::Usage("--force rebuilds one round\nhint: name the round with --round N".into()).into());
    }
    enforce(&Context::look(&arguments.run, false, threads)?.preflight()?)?;
    let mut context = Context::open(arguments, name, threads)?;
    if let Some(round) = arguments.round {
        run(&mut context, round)?;
        return Ok(());
    }
    // Without a round: the first one that is not fresh.
    for round in if warms_up { 0 } else { recipe.run.warmup_rounds }..recipe.total_rounds() {
        let done = run(&mut context, round)? == Outcome::Done;
        if done || context.judgements().last().is_some_and(|judgement| judgement.state != State::Fresh) {
            break;
        }
    }
    Ok(())
}
