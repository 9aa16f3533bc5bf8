//! The current outputs of a run: those that its recipe, as it is now, would make of what is there now.
//!
//! A run that was restarted with other settings and not finished holds rounds of both. A round's number does not tell them apart.

use std::collections::HashSet;

use anyhow::Result;
use ssdkd_context::{Output, Reader, Run};
use ssdkd_stage::{State, exit, quote_path};

use crate::stages::{STAGE_NAMES, judge_all};

/// Makes `reader` count the current outputs alone. Warns if there are others.
pub fn count_only_current(reader: &mut Reader) -> Result<()> {
    let root = reader.folder().root().to_path_buf();
    let judgements = judge_all(&Run::in_folder(&root)?, false)?;
    // Damaged output is current: its reader reports the damage.
    let current = judgements.iter().filter(|found| matches!(found.state, State::Fresh | State::Corrupt { .. }));
    let current = current.map(|found| found.output).collect::<HashSet<_>>();
    let mut others = 0;
    for stage in STAGE_NAMES {
        let rounds = reader.rounds(stage)?.into_iter();
        others += rounds.filter(|&round| !current.contains(&Output { stage, round })).count();
    }
    if others > 0 {
        let (folder, root) = (exit::plain(&root.display().to_string()), quote_path(&root));
        tracing::warn!(
            "{others} outputs in {folder} were made with other settings than its recipe has now, and do not count\n\
             hint: `ssdkd status {root}` says why, `ssdkd run {root}` rebuilds them"
        );
    }
    reader.count_only(current);
    Ok(())
}
