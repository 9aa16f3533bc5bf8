//! `ssdkd evaluate`: measures a run's students again, or those that have not been measured.

use anyhow::Result;
use clap::Args;
use ssdkd_context::preflight::enforce;
use ssdkd_context::{Reader, quote};
use ssdkd_stage::{AskArgs, RunArgs, RunLock};

use crate::asked::only_asked;
use crate::commands::report;
use crate::current::count_only_current;
use crate::measure;

/// `ssdkd evaluate`
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    #[command(flatten)]
    run: RunArgs,

    /// Measure again what has been measured
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    ask: AskArgs,
}

/// Measures the students of a run.
pub fn evaluate(arguments: &EvaluateArgs) -> Result<()> {
    arguments.run.common.set_up()?;
    if only_asked(&arguments.run, &arguments.ask, "measure the students that have not been measured")? {
        return Ok(());
    }
    let mut reader = Reader::existing(&arguments.run)?;
    reader.run().warn_of_teacher();
    // What is measured goes into the run.
    let _lock = RunLock::acquire(reader.folder(), "ssdkd evaluate")?;
    count_only_current(&mut reader)?;
    if reader.last_round("distill")?.is_none() {
        let root = quote(&reader.folder().root().to_string_lossy());
        tracing::warn!("there is no student to measure yet\nhint: `ssdkd run {root}` resumes the run");
        return Ok(());
    }
    if measure::data_spec(reader.recipe()).is_none() {
        tracing::warn!(
            "there is no data to measure on: evaluate.data and SSDKD_DATA are empty\n\
             hint: add --set evaluate.data=FOLDER"
        );
        return Ok(());
    }
    if arguments.force {
        enforce(&measure::check_data(reader.run())?)?; // nothing is forgotten that cannot be measured again
        measure::forget(&reader)?;
    }
    measure::measure(&mut reader)?;
    report::show(&mut reader)
}
