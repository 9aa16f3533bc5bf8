//! `ssdkd gc`: garbage collection, of files that a run no longer needs.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use indicatif::HumanBytes;
use ssdkd_context::{Reader, Run};
use ssdkd_stage::{CommonArgs, RunFolder, RunLock, exit, remove};

use crate::current::count_only_current;
use crate::stages::STAGE_NAMES;

/// `ssdkd gc`
#[derive(Debug, Args)]
pub struct GcArgs {
    /// The folder of a run
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// Include image shards without an image in the buffer; `ssdkd repair` rebuilds them
    #[arg(long)]
    shards: bool,

    /// Delete the listed files
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    common: CommonArgs,
}

/// Lists files that the run no longer needs: those of interrupted processes, state that later rounds replaced, rounds that the recipe
/// no longer has. With `--yes` deletes them, under the run's lock.
pub fn gc(arguments: &GcArgs) -> Result<()> {
    arguments.common.set_up()?;
    let run = RunFolder::open(&arguments.run)?;
    // The lock finishes what a crash interrupted: some of what looks like debris is a result.
    let lock = if arguments.yes { Some(RunLock::acquire(&run, "ssdkd gc")?) } else { None };
    let mut reader = Reader::new(Run::in_folder(&arguments.run)?, arguments.common.device);
    count_only_current(&mut reader)?;
    let recipe = reader.recipe().clone();

    let mut found = run.debris()?;
    for stage in STAGE_NAMES {
        found.extend(run.surplus_rounds(stage, recipe.total_rounds())?);
        if let Some(last) = reader.last_round(stage)? {
            found.extend(run.old_state(stage, recipe.keep.states, &recipe.starting_points(), last)?);
        }
    }
    if arguments.shards
        && let Some(last) = reader.last_round("balance")?
    {
        let wanted = reader.outputs().wanted_shards(&recipe, last)?;
        found.extend(run.unused_shards("invert", &wanted)?);
    }
    let mut text = String::new();
    for item in &found {
        writeln!(text, "{:>12}  {}  ({})", item.bytes, item.path.display(), item.why)?;
    }
    let bytes = HumanBytes(found.iter().map(|item| item.bytes).sum());
    if lock.is_some() {
        remove(&found)?;
        writeln!(text, "{} files and folders removed, {bytes}", found.len())?;
    } else {
        writeln!(text, "{} files and folders are not needed, {bytes}; --yes deletes them", found.len())?;
    }
    Ok(exit::print_plain(&text)?)
}
