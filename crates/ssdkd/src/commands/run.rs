//! `ssdkd run`: all stages of all rounds in one process, then the measurements and the report.

use std::ops::Range;

use anyhow::Result;
use ssdkd_context::preflight::enforce;
use ssdkd_context::{Begin, Judge, Judgement, Recipe, Run, Writer};
use ssdkd_stage::{StageArgs, StageError, exit, signals};

use crate::commands::report;
use crate::current::count_only_current;
use crate::measure;
use crate::preflight::before_run;
use crate::stages::{execute, in_order};

/// `ssdkd run`
pub fn run(arguments: &StageArgs) -> Result<()> {
    let StageArgs { run: run_arguments, round, force, resume, verify, ask } = arguments;
    let threads = run_arguments.common.set_up()?;
    let recipe = Run::recipe_of(run_arguments)?;
    if ask.print_config {
        return Ok(exit::print(&recipe.to_toml())?);
    }
    let rounds = rounds_of(&recipe, *round)?;
    let run = Run::open(run_arguments)?;
    if ask.dry_run {
        enforce(&run.preflight())?;
    } else {
        before_run(&run)?;
    }
    if !*force {
        run.check_same_teacher()?;
    }
    if *resume {
        run.check_resumable()?;
    }
    run.warn_of_teacher();
    if ask.dry_run {
        let mut judge = Judge::new(&run, *force, *verify);
        let plans = in_order(&recipe, rounds).map(|(stage, round)| judge.judge(&stage.plan(&run, round)?));
        return Judgement::print(&plans.collect::<Result<Vec<_>>>()?);
    }

    let mut writer = Writer::open(run, run_arguments, "ssdkd run", threads)?;
    let begin = if *force { Begin::Restart } else { Begin::Resume };
    let mut is_idle = true;
    for (stage, round) in in_order(&recipe, rounds) {
        signals::check()?;
        let plan = stage.plan(writer.run(), round)?;
        if *force || !writer.is_fresh(&plan, *verify)? {
            execute(&mut writer, plan, begin)?;
            is_idle = false;
        }
    }
    if is_idle {
        let all = format!("all {} rounds are", recipe.total_rounds());
        let which = round.map_or(all, |round| format!("round {round} is"));
        tracing::info!("{which} fresh: nothing to do");
    } else {
        writer.say_fresh();
    }

    let reader = writer.reader();
    count_only_current(reader)?;
    let measured = measure::measure(reader);
    signals::check()?; // a request to stop does not wait for a report
    // What the run made is worth a report even if it could not be measured.
    let reported = report::write(reader);
    measured.and(reported)
}

/// Returns the one round that is asked for, or all.
pub fn rounds_of(recipe: &Recipe, round: Option<u32>) -> Result<Range<u32>, StageError> {
    let Some(round) = round else { return Ok(0..recipe.total_rounds()) };
    recipe.check_round(round)?;
    Ok(round..round + 1)
}
