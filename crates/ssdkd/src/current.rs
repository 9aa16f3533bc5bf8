//! Which of a run's rounds are its own: made with the recipe that it has now, from what is there now.
//!
//! A run that was begun again with other settings and not finished holds rounds of both. Whoever counts, measures, exports or
//! removes has to tell them apart, and a round's number does not.

use std::collections::HashSet;

use anyhow::Result;
use ssdkd_context::Context;
use ssdkd_stage::{RunArgs, State};

use crate::run::{self, STAGE_NAMES};

/// Has `context` count the run's own rounds alone, and says so if there are others.
pub fn count_only_current(context: &mut Context, threads: usize) -> Result<()> {
    let root = context.run().root().to_path_buf();
    let mut judged = Context::look(&RunArgs { recipe: root.clone(), ..RunArgs::default() }, false, threads)?;
    run::all_stages(&mut judged)?;
    // What is damaged is the run's own: who reads it says what is wrong.
    let is_own = |state: &State| matches!(state, State::Fresh | State::Corrupt { .. });
    let own = judged.judgements().iter().filter(|found| is_own(&found.state));
    let own = own.map(|found| (found.stage, found.round)).collect::<HashSet<_>>();
    let mut others = 0;
    for stage in STAGE_NAMES {
        others += context.rounds(stage)?.iter().filter(|&&round| !own.contains(&(stage, round))).count();
    }
    if others > 0 {
        let root = root.display();
        tracing::warn!(
            "{others} outputs in {root} are not of its recipe as it is now, and do not count\n\
             hint: `ssdkd status {root}` says why, `ssdkd run {root}` makes them again"
        );
    }
    context.count_only(own);
    Ok(())
}
