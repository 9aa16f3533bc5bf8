//! Garbage collection: files that a run no longer needs, and deleting them. Results are never among them.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ssdkd_shards::Role;

use crate::atomic::{names_in, remove_folder};
use crate::error::StageError;
use crate::run_folder::{RunFolder, parse_round};
use crate::stage_folder::{CHECKPOINT_FILE, recover};
use crate::system;

/// A file or folder that the run no longer needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removable {
    /// Where it is.
    pub path: PathBuf,
    /// How much it holds.
    pub bytes: u64,
    /// Why the run does not need it.
    pub why: &'static str,
}

impl RunFolder {
    /// State (generator, optimizer) of the rounds of a stage up to `reached`, but for the last `keep` of them and the rounds
    /// `also`; a `keep` of 0 keeps all.
    ///
    /// State is needed only by the next round of its stage. What follows `reached` may be left of a run with other settings: its
    /// state does not replace any that this run needs.
    pub fn old_state(
        &self,
        stage: &str,
        keep: usize,
        also: &[u32],
        reached: u32,
    ) -> Result<Vec<Removable>, StageError> {
        let mut rounds = self.rounds(stage)?;
        rounds.retain(|&round| round <= reached);
        rounds.truncate(if keep == 0 { 0 } else { rounds.len().saturating_sub(keep) });
        rounds.retain(|round| !also.contains(round));
        self.files_of(stage, &rounds, Role::State, "later rounds have their own state")
    }

    /// Image shards of a stage that are not of the `wanted` rounds, nor of the newest.
    pub fn unused_shards(&self, stage: &str, wanted: &HashSet<u32>) -> Result<Vec<Removable>, StageError> {
        let mut rounds = self.rounds(stage)?;
        rounds.pop();
        rounds.retain(|round| !wanted.contains(round));
        self.files_of(stage, &rounds, Role::Shard, "none of its images is in the buffer")
    }

    /// Rounds of a stage from `end` on.
    pub fn surplus_rounds(&self, stage: &str, end: u32) -> Result<Vec<Removable>, StageError> {
        let rounds = self.rounds(stage)?.into_iter().filter(|&round| round >= end);
        rounds.map(|round| removable(self.folder(stage, round), "the recipe has fewer rounds")).collect()
    }

    /// Returns what interrupted processes left in the run's folder and its stages', except checkpoints, from which a run resumes. A
    /// process at work has some of it, too.
    pub fn debris(&self) -> Result<Vec<Removable>, StageError> {
        let why = "an interrupted process left it";
        let mut found = Vec::new();
        for name in names_in(self.root())? {
            let path = self.root().join(&name);
            if is_temporary(&name) {
                found.push(removable(path, why)?);
            } else if path.is_dir() {
                for inner in names_in(&path)? {
                    let hidden = inner.strip_prefix('.').and_then(|name| name.split_once('.'));
                    let unfinished = hidden
                        .is_some_and(|(round, kind)| parse_round(round).is_some() && matches!(kind, "partial" | "old"));
                    let goes_on = || path.join(&inner).join(CHECKPOINT_FILE).exists();
                    if (unfinished && !goes_on()) || is_temporary(&inner) {
                        found.push(removable(path.join(inner), why)?);
                    }
                }
            }
        }
        Ok(found)
    }

    /// Finishes what a crash interrupted, in all stages, and removes temporary files; only under the run's lock.
    pub fn recover(&self) -> Result<(), StageError> {
        for stage in names_in(self.root())? {
            let folder = self.stage(&stage);
            if !folder.is_dir() {
                continue;
            }
            for name in names_in(&folder)? {
                let hidden = name.strip_prefix('.').and_then(|name| name.split_once('.'));
                let Some((round, "partial" | "old")) = hidden else { continue };
                if let Some(round) = parse_round(round) {
                    recover(&folder, round)?;
                }
            }
        }
        remove(&self.temporary_files()?).map(drop)
    }

    /// Files that an interrupted process was about to rename.
    fn temporary_files(&self) -> Result<Vec<Removable>, StageError> {
        let mut found = self.debris()?;
        found.retain(|item| item.path.file_name().and_then(|name| name.to_str()).is_some_and(is_temporary));
        Ok(found)
    }

    fn files_of(
        &self,
        stage: &str,
        rounds: &[u32],
        role: Role,
        why: &'static str,
    ) -> Result<Vec<Removable>, StageError> {
        let mut found = Vec::new();
        for &round in rounds {
            let manifest = self.require(stage, round)?.manifest;
            for entry in manifest.files.iter().filter(|entry| entry.role == role) {
                let path = self.file(stage, round, &entry.path);
                if path.exists() {
                    found.push(Removable { path, bytes: entry.bytes, why });
                }
            }
        }
        Ok(found)
    }
}

/// Deletes them and returns the bytes freed. Only under the run's lock.
pub fn remove(removable: &[Removable]) -> Result<u64, StageError> {
    let mut freed = 0;
    for Removable { path, bytes, .. } in removable {
        if path.is_dir() {
            remove_folder(path)?;
        } else {
            match system::remove_file(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                removed => removed.map_err(StageError::write("remove", path))?,
            }
        }
        freed += bytes;
    }
    Ok(freed)
}

/// Removes [old state](RunFolder::old_state); the bytes freed. Only under the run's lock.
pub fn collect_state(run: &RunFolder, stage: &str, keep: usize, also: &[u32], reached: u32) -> Result<u64, StageError> {
    remove(&run.old_state(stage, keep, also, reached)?)
}

fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && Path::new(name).extension().is_some_and(|extension| extension == "tmp")
}

fn removable(path: PathBuf, why: &'static str) -> Result<Removable, StageError> {
    let bytes = size(&path)?;
    Ok(Removable { path, bytes, why })
}

/// Returns the bytes of a file, or of everything in a folder.
fn size(path: &Path) -> Result<u64, StageError> {
    if !path.is_dir() {
        return Ok(fs::metadata(path).map_err(StageError::read(path))?.len());
    }
    let mut bytes = 0;
    for name in names_in(path)? {
        bytes += size(&path.join(name))?;
    }
    Ok(bytes)
}
