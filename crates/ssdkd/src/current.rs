//! The current rounds of a run: those that its recipe, as it is now, would make of what is there now.
//!
//! A run that was restarted with other settings and not finished holds rounds of both. A round's number does not tell them apart.

use std::collections::HashSet;

use anyhow::Result;
use ssdkd_context::Context;
use ssdkd_stage::{RunArgs, State, exit, quote_path};

use crate::commands::run::{self, STAGE_NAMES};

/// Makes `context` count the current rounds alone. Warns if there are others.
pub fn count_only_current(context: &mut Context, threads: usize) -> Result<()> {
    let root = context.run().root().to_path_buf();
    let mut judged = Context::look(&RunArgs { recipe: root.clone(), ..RunArgs::default() }, false, threads)?;
    run::all_stages(&mut judged)?;
    // Damaged output is current: its reader reports the damage.
    let is_current = |state: &State| matches!(state, State::Fresh | State::Corrupt { .. });
    let current = judged.judgements().iter().filter(|found| is_current(&found.state));
    let current = current.map(|found| (found.stage, found.round)).collect::<HashSet<_>>();
    let mut others = 0;
    for stage in STAGE_NAMES {
        others += context.rounds(stage)?.iter().filter(|&&round| !current.contains(&(stage, round))).count();
    }
    if others > 0 {
        let (folder, root) = (exit::plain(&root.display().to_string()), quote_path(&root));
        tracing::warn!(
            "{others} outputs in {folder} were made with other settings than its recipe has now, and do not count\n\
             hint: `ssdkd status {root}` says why, `ssdkd run {root}` rebuilds them"
        );
    }
    context.count_only(current);
    Ok(())
}
