//! `ssdkd repair`: rebuilds damaged output, and nothing else.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use ssdkd_context::{Output, Run, Writer};
use ssdkd_stage::{CommonArgs, RunArgs, RunFolder};

use crate::commands::verify::missing_shards;
use crate::current::count_only_current;
use crate::stages::{STAGE_NAMES, rebuild};

/// `ssdkd repair`
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// The folder of a run
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// What to rebuild, such as invert/0007 [default: all that `ssdkd verify` finds damaged]
    #[arg(value_name = "STAGE/ROUND", value_parser = output)]
    what: Vec<Output>,

    #[command(flatten)]
    common: CommonArgs,
}

/// Parses the name of an output.
fn output(text: &str) -> Result<Output, String> {
    let expected =
        || format!("it must read STAGE/ROUND, with a stage of {}, as in invert/0007", STAGE_NAMES.join(", "));
    let (stage, round) = text.split_once('/').ok_or_else(expected)?;
    let stage = STAGE_NAMES.into_iter().find(|&name| name == stage).ok_or_else(expected)?;
    Ok(Output { stage, round: round.parse().map_err(|_| expected())? })
}

/// Returns where an output is in the order of a run.
fn place(output: &Output) -> (u32, Option<usize>) {
    (output.round, STAGE_NAMES.iter().position(|&name| name == output.stage))
}

/// Rebuilds what is damaged, in the order of the run.
pub fn repair(arguments: &RepairArgs) -> Result<()> {
    let threads = arguments.common.set_up()?;
    let run = RunFolder::open(&arguments.run)?;
    let mut wanted = if arguments.what.is_empty() { damaged(&run)? } else { arguments.what.clone() };
    wanted.sort_unstable_by_key(place);
    wanted.dedup();
    if wanted.is_empty() {
        tracing::warn!("nothing of {} is damaged", run.root().display());
        return Ok(());
    }
    let run_arguments =
        RunArgs { recipe: arguments.run.clone(), common: arguments.common.clone(), ..RunArgs::default() };
    let run = Run::open(&run_arguments)?;
    run.warn_of_teacher();
    let mut writer = Writer::open(run, &run_arguments, "ssdkd repair", threads)?;
    for output in wanted {
        rebuild(&mut writer, output)?;
    }
    // State that was needed on the way alone is collected.
    count_only_current(writer.reader())?;
    for stage in STAGE_NAMES {
        if let Some(round) = writer.reader().last_round(stage)? {
            writer.collect(Output { stage, round })?;
        }
    }
    Ok(())
}

/// Returns the outputs that `verify` reports as damaged. Output of another recipe is stale and not damaged.
fn damaged(run: &RunFolder) -> Result<Vec<Output>> {
    let mut found = missing_shards(run)?.into_iter().map(Output::invert).collect::<Vec<_>>();
    for stage in STAGE_NAMES {
        for round in run.rounds(stage)? {
            if run.verify(stage, round)?.1.iter().any(|damage| !damage.stale) {
                found.push(Output { stage, round });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_named_by_stage_and_round() {
        assert_eq!(output("balance/0007"), Ok(Output::balance(7)));
        for wrong in ["balance", "balance/x", "teach/0001", "/0001"] {
            assert!(output(wrong).unwrap_err().contains("invert, balance, sample, distill"), "{wrong}");
        }
    }

    #[test]
    fn outputs_are_rebuilt_in_the_order_of_a_run() {
        let mut outputs = [Output::invert(8), Output::distill(7), Output::balance(7), Output::invert(7)];
        outputs.sort_unstable_by_key(place);
        assert_eq!(outputs, [Output::invert(7), Output::balance(7), Output::distill(7), Output::invert(8)]);
    }
}
