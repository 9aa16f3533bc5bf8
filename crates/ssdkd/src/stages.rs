//! The four stages of a run, in the order of a round, and the loops over their plans.

use std::collections::HashSet;
use std::ops::Range;

use anyhow::Result;
use ssdkd_context::{Begin, Judge, Judgement, Output, Plan, Recipe, Role, Run, Stage, Writer};
use ssdkd_stage::{quote_path, signals};

/// In the order of a round.
pub const STAGES: [Stage; 4] = [ssdkd_invert::STAGE, ssdkd_balance::STAGE, ssdkd_sample::STAGE, ssdkd_distill::STAGE];

/// Their names, in the order of a round.
pub const STAGE_NAMES: [&str; 4] = [STAGES[0].name, STAGES[1].name, STAGES[2].name, STAGES[3].name];

/// Returns the stages of some rounds, in the order of the run: a warm-up round ends after `balance`.
pub fn in_order(recipe: &Recipe, rounds: Range<u32>) -> impl Iterator<Item = (Stage, u32)> + use<> {
    let warmup = recipe.run.warmup_rounds;
    let of_round = move |round| STAGES.into_iter().filter(move |stage| stage.warms_up || round >= warmup);
    rounds.flat_map(move |round| of_round(round).map(move |stage| (stage, round)))
}

/// Checks the output of every plan of a run, in their order. With `verify` the digests of all files are compared.
pub fn judge_all(run: &Run, verify: bool) -> Result<Vec<Judgement>> {
    let mut judge = Judge::new(run, false, verify);
    let plans = in_order(run.recipe(), 0..run.recipe().total_rounds()).map(|(stage, round)| stage.plan(run, round));
    plans.map(|plan| judge.judge(&plan?)).collect()
}

/// Executes a plan. Rebuilds the files first that it reads and that were collected.
pub fn execute(writer: &mut Writer, plan: Plan, begin: Begin) -> Result<()> {
    rebuild_collected(writer, &plan)?;
    writer.execute(plan, begin)
}

/// Rebuilds an output from what is there.
pub fn rebuild(writer: &mut Writer, output: Output) -> Result<()> {
    let plan = plan_of(writer.run(), output)?;
    rebuild_collected(writer, &plan)?;
    replace(writer, plan)
}

fn plan_of(run: &Run, output: Output) -> Result<Plan> {
    let stage = STAGES.into_iter().find(|stage| stage.name == output.stage).expect("outputs are of the four stages");
    stage.plan(run, output.round)
}

/// Rebuilds the files that a plan reads and that were collected. On a CPU the bytes are the same.
///
/// A round of `invert` or `distill` resumes from the state of the round before. If that was collected too, it is rebuilt first, from the
/// last round that still has its own.
fn rebuild_collected(writer: &mut Writer, plan: &Plan) -> Result<()> {
    let mut begun = HashSet::new();
    // Each of these waits for the one after it, and the plan for the first. No recursion: a run may have thousands of rounds.
    let mut waiting = Vec::new();
    loop {
        signals::check()?;
        let next = waiting.last().map(|&output| plan_of(writer.run(), output)).transpose()?;
        let collected = writer.collected(next.as_ref().unwrap_or(plan))?;
        if let Some((output, role)) = collected.into_iter().find(|(output, _)| begun.insert(*output)) {
            let what = if role == Role::Shard { "image shard" } else { "state" };
            tracing::warn!("{output}: its {what} was collected; it is needed and is rebuilt");
            waiting.push(output);
        } else if let Some(plan) = next {
            replace(writer, plan)?;
            waiting.pop();
        } else {
            return Ok(());
        }
    }
}

/// Executes a plan whose output was there. Warns if its bytes are not those of before.
fn replace(writer: &mut Writer, plan: Plan) -> Result<()> {
    signals::check()?;
    let output = plan.output();
    let before = writer.run().folder().complete(output.stage, output.round).ok().flatten();
    writer.execute(plan, Begin::Restart)?;
    let after = writer.reader().outputs().complete(output)?;
    if before.is_some_and(|before| before.digest != after.digest) {
        tracing::warn!(
            "{output}: rebuilt, but not to the same bytes\nhint: `ssdkd run {}` rebuilds what depends on it",
            quote_path(writer.run().folder().root())
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_warm_up_round_ends_after_balance() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let set = ["run.warmup_rounds=1".to_string(), "run.rounds=1".into()];
        let recipe = Recipe::load(&root.join("pipelines/shapes.toml"), &set).unwrap();
        let order = in_order(&recipe, 0..2).map(|(stage, round)| format!("{}{round}", stage.name)).collect::<Vec<_>>();
        assert_eq!(order, ["invert0", "balance0", "invert1", "balance1", "sample1", "distill1"]);
    }
}
