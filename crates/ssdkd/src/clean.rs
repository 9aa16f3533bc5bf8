//! `ssdkd clean`: removes what of a run takes up room and nothing needs.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use ssdkd_context::Context;
use ssdkd_stage::{CommonArgs, RunArgs, RunFolder, RunLock, exit, remove};

use crate::own::count_only_own;
use crate::run::STAGE_NAMES;

/// `ssdkd clean`
#[derive(Debug, Args)]
pub struct CleanArgs {
    /// The folder of a run
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// Image shards, too, of which no image is in the last buffer or in one that other settings would go on from; `ssdkd mend` makes them again
    #[arg(long)]
    shards: bool,

    /// Remove what is listed, and do not only list it
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    common: CommonArgs,
}

/// Lists what nothing needs: what interrupted processes left, state that later rounds made useless, rounds that the recipe no
/// longer has. With `--yes` it is removed, under the run's lock.
pub fn clean(arguments: &CleanArgs) -> Result<()> {
    let threads = arguments.common.set_up()?;
    let run = RunFolder::open(&arguments.run)?;
    // The lock finishes what a crash interrupted: some of what looks like debris is a result.
    let lock = if arguments.yes { Some(RunLock::acquire(&run, "ssdkd clean")?) } else { None };
    let run_arguments = RunArgs { recipe: arguments.run.clone(), ..RunArgs::default() };
    let mut context = Context::look(&run_arguments, false, threads)?;
    count_only_own(&mut context, threads)?;
    let (rounds, states) = (context.recipe().total_rounds(), context.recipe().keep.states);
    let starting_points = context.recipe().starting_points();

    let mut found = run.debris()?;
    for stage in STAGE_NAMES {
        found.extend(run.surplus_rounds(stage, rounds)?);
        if let Some(last) = context.last_round(stage)? {
            found.extend(run.old_state(stage, states, &starting_points, last)?);
        }
    }
    if arguments.shards
        && let Some(last) = context.last_round("balance")?
    {
        let wanted = context.wanted_shards(last)?;
        found.extend(run.unused_shards("invert", &wanted)?);
    }
    let mut text = String::new();
    for item in &found {
        writeln!(text, "{:>12}  {}  ({})", item.bytes, item.path.display(), item.why)?;
    }
    let bytes = found.iter().map(|item| item.bytes).sum::<u64>();
    if lock.is_some() {
        remove(&found)?;
        writeln!(text, "{} files and folders removed, {bytes} bytes", found.len())?;
    } else {
        writeln!(text, "{} files and folders could go, {bytes} bytes; --yes removes them", found.len())?;
    }
    Ok(exit::print(&text)?)
}
