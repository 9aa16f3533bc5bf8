//! `ssdkd status`: what of a run is there, whether it is right, and what it cost.

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use ssdkd_context::{Judgement, Output, Run, start_command};
use ssdkd_shards::Timing;
use ssdkd_shards::manifest::TIMING_FILE;
use ssdkd_stage::table::{Align, Table};
use ssdkd_stage::{RunArgs, RunFolder, State, exit};

use crate::stages::judge_all;

/// `ssdkd status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    run: RunArgs,

    /// The round, from 0 [default: all]
    #[arg(long, value_name = "N")]
    round: Option<u32>,

    /// Compare every file with its digest before calling it fresh
    #[arg(long)]
    verify: bool,
}

/// `--json`
#[derive(Debug, Serialize)]
struct Status {
    run: String,
    fresh: usize,
    stages: Vec<Line>,
}

/// One stage and round.
#[derive(Debug, Serialize)]
struct Line {
    round: u32,
    stage: &'static str,
    /// `fresh`, `stale`, `partial`, `missing` or `corrupt`.
    state: &'static str,
    why: Vec<String>,
    rows: u64,
    bytes: u64,
    seconds: f64,
}

/// Prints a line for each stage and round; with `--quiet` only for those that are not fresh. A run that was not started is one line.
/// Needs no lock.
pub fn status(arguments: &StatusArgs) -> Result<()> {
    arguments.run.common.set_up()?;
    let run = Run::open(&arguments.run)?;
    run.warn_of_teacher();
    if let Some(round) = arguments.round {
        run.recipe().check_round(round)?;
    }
    let root = run.folder().root().display();
    if !arguments.json && !run.folder().recipe().exists() {
        let text = format!("{root} does not exist yet; `{}` starts it\n", start_command(&arguments.run));
        return Ok(exit::print_plain(&text)?);
    }
    let judgements = judge_all(&run, arguments.verify)?;
    let judged = judgements.iter().filter(|found| arguments.round.is_none_or(|round| found.output.round == round));
    let stages = judged.map(|judgement| line(run.folder(), judgement)).collect::<Vec<_>>();
    let fresh = stages.iter().filter(|line| line.state == "fresh").count();
    let status = Status { run: root.to_string(), fresh, stages };
    let text = if arguments.json {
        serde_json::to_string_pretty(&status)? + "\n"
    } else {
        table(&status, arguments.run.common.quiet)?
    };
    Ok(exit::print_plain(&text)?)
}

fn line(run: &RunFolder, Judgement { output, state, .. }: &Judgement) -> Line {
    let &Output { stage, round } = output;
    let (word, why) = match state {
        State::Fresh => ("fresh", Vec::new()),
        State::Stale { reasons } => ("stale", reasons.clone()),
        State::Partial => ("partial", Vec::new()),
        State::Missing => ("missing", Vec::new()),
        State::Corrupt { reasons } => ("corrupt", reasons.clone()),
    };
    let complete = run.complete(stage, round).ok().flatten();
    let files = complete.map(|complete| complete.manifest.files).unwrap_or_default();
    Line {
        round,
        stage,
        state: word,
        why,
        rows: files.iter().filter_map(|file| file.rows).sum(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        seconds: seconds(run, stage, round).unwrap_or(0.0),
    }
}

fn table(status: &Status, quiet: bool) -> Result<String> {
    use Align::{Left, Right};
    let headings = ["round", "stage", "state", "rows", "bytes", "seconds", "why"];
    let mut table = Table::new(headings.into_iter().zip([Right, Left, Left, Right, Right, Right, Left]));
    let shown = status.stages.iter().filter(|line| !quiet || line.state != "fresh").collect::<Vec<_>>();
    for Line { round, stage, state, why, rows, bytes, seconds } in &shown {
        let seconds = format!("{seconds:.1}");
        let numbers = [rows.to_string(), bytes.to_string(), seconds];
        let names = [round.to_string(), (*stage).to_string(), (*state).to_string()];
        table.row(names.into_iter().chain(numbers).chain([why.join("; ")]));
    }
    let mut text = if shown.is_empty() { String::new() } else { table.to_string() };
    writeln!(text, "{} of {} stages are fresh in {}", status.fresh, status.stages.len(), status.run)?;
    Ok(text)
}

fn seconds(run: &RunFolder, stage: &str, round: u32) -> Option<f64> {
    let bytes = std::fs::read(run.file(stage, round, TIMING_FILE)).ok()?;
    Some(serde_json::from_slice::<Timing>(&bytes).ok()?.seconds)
}
