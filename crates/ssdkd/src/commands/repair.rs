//! `ssdkd repair`: rebuilds damaged output, and nothing else.
//!
//! A round of `invert` or `distill` resumes from the state of the round before. If that state was collected, `repair` rebuilds it
//! first, from the last round that still has its own. On a CPU the bytes are the same.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Result;
use clap::Args;
use ssdkd_context::{Context, Outcome, Role};
use ssdkd_stage::{CommonArgs, RunArgs, RunFolder, StageArgs, StageError, quote_path, signals};

use crate::commands::run::{self, Stage};
use crate::commands::verify::missing_shards;
use crate::current::count_only_current;

/// `ssdkd repair`
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// The folder of a run
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// What to rebuild, such as invert/0007 [default: all that `ssdkd verify` finds damaged]
    #[arg(value_name = "STAGE/ROUND")]
    what: Vec<Output>,

    #[command(flatten)]
    common: CommonArgs,
}

/// The output of one stage and round. Ordered as a run makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Output {
    round: u32,
    /// Index among the stages.
    stage: usize,
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("it must read STAGE/ROUND, with a stage of {}, as in invert/0007", run::STAGE_NAMES.join(", "));
        let (stage, round) = text.split_once('/').ok_or_else(expected)?;
        let stage = run::STAGE_NAMES.iter().position(|&name| name == stage).ok_or_else(expected)?;
        Ok(Self { round: round.parse().map_err(|_| expected())?, stage })
    }
}

/// Rebuilds what is damaged, in the order of the run.
pub fn repair(arguments: &RepairArgs) -> Result<()> {
    let threads = arguments.common.set_up()?;
    let run = RunFolder::open(&arguments.run)?;
    let mut wanted = if arguments.what.is_empty() { damaged(&run, threads)? } else { arguments.what.clone() };
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        tracing::warn!("nothing of {} is damaged", run.root().display());
        return Ok(());
    }
    let (recipe, common) = (arguments.run.clone(), arguments.common.clone());
    let stage_arguments =
        StageArgs { run: RunArgs { recipe, common, ..RunArgs::default() }, force: true, ..StageArgs::default() };
    let mut context = Context::open(&stage_arguments, "ssdkd repair", threads)?;
    for output in wanted {
        again(&mut context, output)?;
    }
    // State that was needed on the way alone is collected.
    count_only_current(&mut context, threads)?;
    for name in run::STAGE_NAMES {
        if let Some(last) = context.last_round(name)? {
            context.collect_state(name, last)?;
        }
    }
    if let Some(last) = context.last_round("balance")? {
        context.collect_shards(last)?;
    }
    Ok(())
}

/// Runs one stage of one round. Rebuilds collected files first if the stage needs them.
pub fn run_with_collected(context: &mut Context, round: u32, (_, run): Stage) -> Result<Outcome> {
    let mut made = Vec::new();
    loop {
        let error = match run(context, round) {
            Err(error) => error,
            done => return done,
        };
        let Some(StageError::Collected { what, stage, round: of, .. }) = error.downcast_ref() else {
            return Err(error);
        };
        let Some(index) = run::STAGE_NAMES.iter().position(|name| name == stage) else { return Err(error) };
        let output = Output { round: *of, stage: index };
        if made.contains(&output) {
            return Err(error);
        }
        tracing::warn!("{stage} {of:04}: its {what} was collected; it is needed and is rebuilt");
        context.forced(|context| again(context, output))?;
        made.push(output);
    }
}

/// Returns the output that `verify` reports as damaged. Output of another recipe is stale and not damaged.
fn damaged(run: &RunFolder, threads: usize) -> Result<Vec<Output>> {
    let shards = missing_shards(run, threads)?.into_iter();
    let mut found = shards.map(|round| Output { round, stage: 0 }).collect::<Vec<_>>();
    for (stage, name) in run::STAGE_NAMES.into_iter().enumerate() {
        for round in run.rounds(name)? {
            if run.verify(name, round)?.1.iter().any(|damage| !damage.stale) {
                found.push(Output { round, stage });
            }
        }
    }
    Ok(found)
}

fn again(context: &mut Context, Output { round, stage }: Output) -> Result<()> {
    let stage: Stage = run::STAGES[stage];
    let (name, _) = stage;
    for round in first_needed(context.run(), name, round)?..=round {
        signals::check()?;
        let before = context.run().complete(name, round).ok().flatten().map(|complete| complete.digest);
        run_with_collected(context, round, stage)?;
        let after = context.complete(name, round)?.digest.clone();
        if before.is_some_and(|before| before != after) {
            tracing::warn!(
                "{name} {round:04}: rebuilt, but not to the same bytes\nhint: `ssdkd run {}` rebuilds what depends on it",
                quote_path(context.run().root())
            );
        }
    }
    Ok(())
}

/// Returns the round to start from to rebuild `round` of a stage: the first whose predecessor still has its state.
fn first_needed(run: &RunFolder, stage: &str, round: u32) -> Result<u32, StageError> {
    let mut first = round;
    while let Some(previous) = first.checked_sub(1) {
        let Some(complete) = run.complete(stage, previous)? else { break };
        let mut state = complete.manifest.files.iter().filter(|entry| entry.role == Role::State);
        if state.all(|entry| run.file(stage, previous, &entry.path).exists()) {
            break;
        }
        first = previous;
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_named_by_stage_and_round() {
        let parse = |text: &str| text.parse::<Output>();
        assert_eq!(parse("balance/0007"), Ok(Output { round: 7, stage: 1 }));
        assert!(parse("balance/0007") < parse("invert/0008") && parse("invert/0007") < parse("balance/0007"));
        for wrong in ["balance", "balance/x", "teach/0001", "/0001"] {
            assert!(parse(wrong).unwrap_err().contains("invert, balance, sample, distill"), "{wrong}");
        }
    }
}
