//! Whether what a stage left is still what it was when it was made: every byte, and every link to what it was made from.

use std::path::PathBuf;

use ssdkd_shards::manifest::MANIFEST_FILE;
use ssdkd_shards::{LAST_PROGRAM_BEFORE, ShardError};

use crate::error::StageError;
use crate::fingerprint::FingerprintInput;
use crate::freshness::damage;
use crate::run_folder::{RunFolder, parse_round};

/// A file that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// What differs.
    pub reason: String,
    /// What makes just this again.
    pub remedy: String,
    /// Whether it is whole, but made from other inputs than those that exist now: a run checks that.
    pub stale: bool,
}

impl RunFolder {
    /// Hashes the files of one complete stage and round: how many that were, and which are damaged.
    ///
    /// A manifest that says that something else was read than what is there now is listed, too.
    pub fn verify(&self, stage: &str, round: u32) -> Result<(usize, Vec<Damage>), StageError> {
        let path = self.file(stage, round, MANIFEST_FILE);
        let remake = self.remake(stage, round);
        let of_manifest = |reason: String| Damage { path: path.clone(), reason, remedy: remake.clone(), stale: false };
        let manifest = match self.complete(stage, round) {
            Ok(Some(complete)) => complete.manifest,
            Ok(None) => return Ok((0, Vec::new())),
            Err(StageError::Shard(ShardError::NewerSchema { found, supported, .. })) => {
                let reason = format!("it has schema version {found}, this program knows {supported}");
                let remedy = "use the program that made the run, or a newer one".into();
                return Ok((1, vec![Damage { path, reason, remedy, stale: false }]));
            }
            Err(StageError::Shard(ShardError::OlderSchema { found, .. })) => {
                let reason = format!("it has schema version {found}, which this program does not read");
                let remedy = LAST_PROGRAM_BEFORE.into();
                return Ok((1, vec![Damage { path, reason, remedy, stale: false }]));
            }
            Err(StageError::Shard(ShardError::Manifest { reason, .. }) | StageError::Corrupt { reason, .. }) => {
                return Ok((1, vec![of_manifest(reason)]));
            }
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        if FingerprintInput::of(&manifest).fingerprint() != manifest.fingerprint {
            found.push(of_manifest("the fingerprint does not belong to the parameters and inputs".into()));
        }
        for (input, digest) in &manifest.inputs {
            let Some((of, read)) = input.split_once('/') else { continue };
            let Some(read) = parse_round(read) else {
                found.push(of_manifest(format!("it names an input {input:?}, which is no stage and round")));
                continue;
            };
            match self.complete(of, read) {
                Ok(Some(complete)) if complete.digest == *digest => {}
                Ok(there) => {
                    let reason = match there {
                        Some(_) => format!("it was made from another {input} than the one that is there"),
                        None => format!("it was made from {input}, which is not there"),
                    };
                    found.push(Damage { stale: true, ..of_manifest(reason) });
                }
                Err(_) => {} // listed where that stage is looked at
            }
        }
        for entry in &manifest.files {
            if let Some(reason) = damage(self, stage, round, entry, true)? {
                let path = self.file(stage, round, &entry.path);
                found.push(Damage { path, reason, remedy: remake.clone(), stale: false });
            }
        }
        Ok((1 + manifest.files.len(), found))
    }
}
