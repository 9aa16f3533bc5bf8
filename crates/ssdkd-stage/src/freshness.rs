//! Whether what a stage left is still right. Make only orders; every binary asks here whether it has anything to do, and
//! gets a reason when it has.

use std::fs;
use std::io::ErrorKind;

use ssdkd_shards::{FileEntry, ShardError, digest};

use crate::error::StageError;
use crate::exit;
use crate::fingerprint::FingerprintInput;
use crate::run_folder::RunFolder;
use crate::stage_folder::is_partial;

/// What is on disk of one stage and round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Complete, and made from what is wanted.
    Fresh,
    /// Complete, but made from something else.
    Stale {
        /// Every difference, such as `distill.lr 0.2 → 0.1`.
        reasons: Vec<String>,
    },
    /// Begun and not finished; nothing complete is there.
    Partial,
    /// Nothing.
    Missing,
    /// Not what its manifest says.
    Corrupt {
        /// Every difference.
        reasons: Vec<String>,
    },
}

impl State {
    /// One line for people. What a manifest says may be part of it, so it is made [plain](exit::plain).
    pub fn describe(&self) -> String {
        exit::plain(&match self {
            Self::Fresh => "fresh".into(),
            Self::Stale { reasons } => format!("stale: {}", reasons.join("; ")),
            Self::Partial => "interrupted".into(),
            Self::Missing => "missing".into(),
            Self::Corrupt { reasons } => format!("damaged: {}", reasons.join("; ")),
        })
    }
}

/// Compares what is on disk with what is wanted. Sizes are always compared, digests with `verify`.
pub fn judge(run: &RunFolder, wanted: &FingerprintInput, verify: bool) -> Result<State, StageError> {
    let (stage, round) = (wanted.stage.as_str(), wanted.round);
    let manifest = match run.complete(stage, round) {
        Ok(Some(complete)) => complete.manifest,
        Ok(None) if is_partial(&run.stage(stage), round) => return Ok(State::Partial),
        Ok(None) => return Ok(State::Missing),
        Err(StageError::Shard(ShardError::Manifest { reason, .. }) | StageError::Corrupt { reason, .. }) => {
            return Ok(State::Corrupt { reasons: vec![format!("manifest.json: {reason}")] });
        }
        // Also a manifest of a newer program: to call it damaged would be to overwrite it.
        Err(error) => return Err(error),
    };
    let before = FingerprintInput::of(&manifest);
    if before.fingerprint() != manifest.fingerprint {
        let reasons = vec!["manifest.json: the fingerprint does not belong to the parameters and inputs".into()];
        return Ok(State::Corrupt { reasons });
    }
    let reasons = wanted.reasons_against(&before);
    if !reasons.is_empty() {
        return Ok(State::Stale { reasons });
    }
    let mut reasons = Vec::new();
    for entry in &manifest.files {
        if let Some(reason) = damage(run, stage, round, entry, verify)? {
            reasons.push(format!("{}: {reason}", entry.path));
        }
    }
    Ok(if reasons.is_empty() { State::Fresh } else { State::Corrupt { reasons } })
}

/// Returns how a file differs from its entry in the manifest.
pub(crate) fn damage(
    run: &RunFolder,
    stage: &str,
    round: u32,
    entry: &FileEntry,
    verify: bool,
) -> Result<Option<String>, StageError> {
    let path = run.file(stage, round, &entry.path);
    let found = match fs::metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let collected = run.may_be_collected(stage, round, entry)?;
            return Ok((!collected).then(|| "not there".into()));
        }
        metadata => metadata.map_err(StageError::read(&path))?.len(),
    };
    if found != entry.bytes {
        return Ok(Some(format!("{found} bytes instead of {}", entry.bytes)));
    }
    if !verify {
        return Ok(None);
    }
    let (_, found) = digest::of_file(&path).map_err(StageError::read(&path))?;
    Ok((found != entry.blake3).then(|| format!("BLAKE3 {found} instead of {}", entry.blake3)))
}
