//! `ssdkd status`: what of a run is there, and what it cost.

use std::fmt::Write as _;

use anyhow::Result;
use ssdkd_context::Context;
use ssdkd_shards::Timing;
use ssdkd_shards::manifest::TIMING_FILE;
use ssdkd_stage::{RunFolder, StageArgs, exit};

const STAGES: [&str; 4] = ["invert", "balance", "sample", "distill"];

/// Prints one line for each round: seconds of each complete stage. Needs no lock.
pub fn status(arguments: &StageArgs) -> Result<()> {
    arguments.common.set_up()?;
    let recipe = Context::recipe_of(arguments)?;
    let root = if arguments.recipe.is_dir() { arguments.recipe.clone() } else { arguments.runs.join(&recipe.run.name) };
    let run = RunFolder::at(root);
    let mut text = format!("{:>5}  {:>9} {:>9} {:>9} {:>9}\n", "round", STAGES[0], STAGES[1], STAGES[2], STAGES[3]);
    let mut complete = 0;
    for round in 0..recipe.total_rounds() {
        write!(text, "{round:>5} ")?;
        for (index, stage) in STAGES.into_iter().enumerate() {
            let cell = match run.complete(stage, round) {
                Ok(Some(_)) => {
                    complete += 1;
                    seconds(&run, stage, round).map_or("done".into(), |seconds| format!("{seconds:.1} s"))
                }
                Ok(None) if index >= 2 && recipe.distilling_round(round).is_none() => "-".into(),
                Ok(None) => "missing".into(),
                Err(_) => "damaged".into(),
            };
            write!(text, " {cell:>9}")?;
        }
        text.push('\n');
    }
    let total = 2 * recipe.run.warmup_rounds + 4 * recipe.run.rounds;
    writeln!(text, "{complete} of {total} stages are complete in {}", run.root().display())?;
    Ok(exit::print(&text)?)
}

fn seconds(run: &RunFolder, stage: &str, round: u32) -> Option<f64> {
    let bytes = std::fs::read(run.file(stage, round, TIMING_FILE)).ok()?;
    Some(serde_json::from_slice::<Timing>(&bytes).ok()?.seconds)
}
