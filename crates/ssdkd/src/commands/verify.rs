//! `ssdkd verify`: whether every file of a run is still what it was when it was made.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use ssdkd_context::{Reader, Run, SHARD};
use ssdkd_nn::TeacherCard;
use ssdkd_stage::exit::{self, Code};
use ssdkd_stage::{CommonArgs, Damage, DeviceChoice, RunFolder, StageError, quote_path};

use crate::current::count_only_current;
use crate::stages::STAGE_NAMES;

/// `ssdkd verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The folder of a run
    #[arg(value_name = "RUN")]
    run: PathBuf,

    #[command(flatten)]
    common: CommonArgs,
}

/// Hashes everything that the manifests list, and compares what each says it read with what is there. Needs no lock.
///
/// # Errors
/// If anything is damaged; the list of it goes to stdout.
pub fn verify(arguments: &VerifyArgs) -> Result<()> {
    arguments.common.set_up()?;
    let run = RunFolder::open(&arguments.run)?;
    let mut text = String::new();
    let (mut files, mut damaged) = (0, 0);
    let mut say = |Damage { path, reason, remedy, .. }: Damage| {
        damaged += 1;
        writeln!(text, "{}: {reason}\n  {remedy}", path.display())
    };
    let card = run.teacher().join("card.json");
    let teacher = TeacherCard::load(&card);
    // Without a card the run cannot be opened to ask for its buffer; the list comes first.
    let shards = if teacher.is_ok() { missing_shards(&run)? } else { BTreeSet::new() };
    match teacher.and_then(|teacher| teacher.read_weights(&card)) {
        Ok(_) => files += 2,
        Err(error) => say(Damage {
            path: card,
            reason: error.to_string().replace('\n', "; "),
            remedy: "remove the run's folder `teacher` and run its recipe again: that copies the teacher again".into(),
            stale: false,
        })?,
    }
    for stage in STAGE_NAMES {
        for round in run.rounds(stage)? {
            let (checked, found) = run.verify(stage, round)?;
            files += checked;
            for damage in found {
                say(damage)?;
            }
        }
    }
    for round in shards {
        say(Damage {
            path: run.file("invert", round, SHARD),
            reason: "missing, and it holds images of the buffer".into(),
            remedy: format!("`ssdkd repair {} invert/{round:04}` rebuilds it", quote_path(run.root())),
            stale: false,
        })?;
    }
    let text = format!("{text}{files} files checked, {damaged} damaged in {}\n", run.root().display());
    exit::print_plain(&text)?;
    if damaged > 0 {
        let message =
            format!("{damaged} files of {} are damaged\nhint: the list says how to rebuild each", run.root().display());
        return Err(StageError::other(Code::Integrity, message).into());
    }
    Ok(())
}

/// Rounds whose shard has images of the newest buffer in it and is not there, which for others is no damage.
pub fn missing_shards(run: &RunFolder) -> Result<BTreeSet<u32>> {
    let mut reader = Reader::new(Run::in_folder(run.root())?, DeviceChoice::Cpu);
    // What cannot be checked is listed as such.
    let _ = count_only_current(&mut reader);
    let Some(last) = reader.last_round("balance")? else { return Ok(BTreeSet::new()) };
    // A damaged buffer is listed as such.
    let members = reader.outputs().buffer(last).unwrap_or_default();
    Ok(members.iter().map(|row| row.birth_round).filter(|&round| !reader.outputs().has_shard(round)).collect())
}
