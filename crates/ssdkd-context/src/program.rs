//! The body of a stage's program.

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser};
use ssdkd_stage::{StageArgs, StageError, State, exit};

use crate::job::Begin;
use crate::judge::{Judge, Judgement};
use crate::preflight::enforce;
use crate::run::Run;
use crate::stage::Stage;
use crate::writer::Writer;

/// What a stage's program understands.
#[derive(Debug, Parser)]
#[command(version)]
struct StageCommand {
    #[command(flatten)]
    arguments: StageArgs,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done or fresh, 1 failed, 2 usage or recipe, 3 missing input, 4 unusable file, 130/143 signals";

impl Stage {
    /// Returns the command line of its program.
    pub fn command(self) -> clap::Command {
        let Self { program, about, warms_up, .. } = self;
        let round = if warms_up { 0 } else { 10 };
        let example = format!("Example:\n  {program} pipelines/shapes.toml --round {round}\n\n{EXIT_CODES}");
        StageCommand::command().name(program).about(about).after_help(example)
    }
}

/// Runs one round of one stage: `main` of its program.
pub fn stage_main(stage: Stage) -> ExitCode {
    let matches = stage.command().get_matches();
    let arguments = StageCommand::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).arguments;
    finish(run_stage(stage, &arguments))
}

/// Prints the error, if there is one, and gives the exit code.
pub fn finish(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(error.as_ref()).into(),
    }
}

/// Runs the round that is asked for, or the first that is not fresh.
fn run_stage(stage: Stage, arguments: &StageArgs) -> Result<()> {
    let StageArgs { run: run_arguments, round, force, resume, verify, ask } = arguments;
    let threads = run_arguments.common.set_up()?;
    let recipe = Run::recipe_of(run_arguments)?;
    if ask.print_config {
        return Ok(exit::print(&recipe.to_toml())?);
    }
    let rounds = match *round {
        Some(round) => {
            recipe.check_round(round)?;
            round..round + 1
        }
        None if *force => {
            let what = "--force rebuilds one round\nhint: name the round with --round N";
            return Err(StageError::Usage(what.into()).into());
        }
        None => (if stage.warms_up { 0 } else { recipe.run.warmup_rounds })..recipe.total_rounds(),
    };
    let run = Run::open(run_arguments)?;
    let plans = rounds.map(|round| stage.plan(&run, round)).collect::<Result<Vec<_>>>()?;
    enforce(&run.preflight())?;
    if !*force {
        run.check_same_teacher()?;
    }
    if *resume {
        run.check_resumable()?;
    }
    run.warn_of_teacher();
    if ask.dry_run {
        let mut judge = Judge::new(&run, *force, *verify);
        let mut judgements = Vec::new();
        for plan in plans {
            judgements.push(judge.judge(&plan)?);
            if judgements.last().is_some_and(|judgement| judgement.state != State::Fresh) {
                break;
            }
        }
        return Judgement::print(&judgements);
    }
    let mut writer = Writer::open(run, run_arguments, stage.program, threads)?;
    for plan in plans {
        if *force {
            return writer.execute(plan, Begin::Restart);
        }
        if !writer.is_fresh(&plan, *verify)? {
            return writer.execute(plan, Begin::Resume);
        }
    }
    writer.say_fresh();
    Ok(())
}
