//! A stage's output: a folder that appears complete or not at all.
//!
//! `invert/0007` is built as `invert/.0007.partial`, its manifest is written last, and then the folder is renamed. An
//! older `0007` is moved aside as `.0007.old` in between and removed after that; `recover` finishes what a crash
//! interrupted. So a folder with a manifest is complete, and a complete output is never deleted before its replacement is
//! there.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use ssdkd_shards::manifest::{MANIFEST_FILE, TIMING_FILE, is_inside};
use ssdkd_shards::{FileEntry, Manifest, Role, Timing, canonical, digest};

use crate::atomic::{create_folder, names_in, parent, remove_file, remove_folder, sync_folder, write_file, write_new};
use crate::error::StageError;
use crate::fingerprint::FingerprintInput;
use crate::logging;
use crate::run_folder::{Complete, RunFolder, round_name};
use crate::system;

/// The log of a stage and round, in its folder but in no manifest.
pub const LOG_FILE: &str = "log.jsonl";

/// The checkpoint of a stage and round, in its unfinished folder. It is deleted when the stage finishes.
pub const CHECKPOINT_FILE: &str = "checkpoint";

/// The three names that a stage's folder may have.
struct Names {
    complete: PathBuf,
    partial: PathBuf,
    old: PathBuf,
}

impl Names {
    fn new(stage_folder: &Path, round: &str) -> Self {
        Self {
            complete: stage_folder.join(round),
            partial: stage_folder.join(format!(".{round}.partial")),
            old: stage_folder.join(format!(".{round}.old")),
        }
    }

    /// Puts the finished partial folder in its place.
    fn swap(&self) -> Result<(), StageError> {
        if self.complete.exists() {
            remove_folder(&self.old)?;
            system::rename(&self.complete, &self.old).map_err(StageError::write("move aside", &self.complete))?;
        }
        system::rename(&self.partial, &self.complete).map_err(StageError::write("rename", &self.partial))?;
        sync_folder(parent(&self.complete))?;
        remove_folder(&self.old)
    }
}

/// Finishes what a crash interrupted in the folder of one stage and round; only under the run's lock.
///
/// A partial folder with a manifest is complete and is put in its place. Without one it is left for the next
/// [`StageFolder::begin`] to clear or go on from, and an output that was moved aside comes back.
pub(crate) fn recover(stage_folder: &Path, round: u32) -> Result<(), StageError> {
    let names = Names::new(stage_folder, &round_name(round));
    if names.partial.join(MANIFEST_FILE).exists() {
        return names.swap();
    }
    if !names.old.exists() {
        return Ok(());
    }
    if names.complete.exists() {
        return remove_folder(&names.old);
    }
    system::rename(&names.old, &names.complete).map_err(StageError::write("rename", &names.old))?;
    sync_folder(stage_folder)
}

/// Returns whether something of this stage and round was begun and not finished.
pub(crate) fn is_partial(stage_folder: &Path, round: u32) -> bool {
    let names = Names::new(stage_folder, &round_name(round));
    names.partial.exists() || names.old.exists()
}

/// The unfinished output of one stage and round. It is invisible before [`commit`](Self::commit).
///
/// Until then, and after a failure, everything that the program says is also in its `log.jsonl`.
pub struct StageFolder {
    names: Names,
    wanted: FingerprintInput,
    files: Vec<FileEntry>,
    folders: BTreeSet<PathBuf>,
}

impl StageFolder {
    /// Starts from nothing: whatever an interrupted attempt left is removed, but for its checkpoint. Only under the run's
    /// lock.
    pub fn begin(run: &RunFolder, wanted: FingerprintInput) -> Result<Self, StageError> {
        let stage_folder = run.stage(&wanted.stage);
        recover(&stage_folder, wanted.round)?;
        let names = Names::new(&stage_folder, &round_name(wanted.round));
        for name in names_in(&names.partial)? {
            let path = names.partial.join(&name);
            if path.is_dir() {
                remove_folder(&path)?;
            } else if name != CHECKPOINT_FILE {
                remove_file(&path)?;
            }
        }
        create_folder(&names.partial)?;
        logging::attach(&names.partial.join(LOG_FILE))?;
        let folders = BTreeSet::from([names.partial.clone()]);
        Ok(Self { names, wanted, files: Vec::new(), folders })
    }

    /// Returns where it is being built.
    pub fn path(&self) -> &Path {
        &self.names.partial
    }

    /// Writes one file and returns its digest. `name` may have folders in it, with `/`; `rows` is for tables.
    pub fn write(&mut self, name: &str, bytes: &[u8], rows: Option<u64>, role: Role) -> Result<String, StageError> {
        let bad = |reason| Err(StageError::BadFile { stage: self.wanted.stage.clone(), name: name.into(), reason });
        if !is_inside(name) {
            return bad("it is not a path inside the folder");
        }
        if [MANIFEST_FILE, TIMING_FILE, LOG_FILE, CHECKPOINT_FILE].contains(&name) {
            return bad("that name is taken");
        }
        if self.files.iter().any(|file| file.path == name) {
            return bad("it is written already");
        }
        let path = self.names.partial.join(name);
        let folder = parent(&path);
        if self.folders.insert(folder.into()) {
            create_folder(folder)?;
        }
        // No temporary name: the whole folder is one.
        write_new(&path, bytes)?;
        let blake3 = digest::of_bytes(bytes);
        self.files.push(FileEntry { path: name.into(), bytes: bytes.len() as u64, blake3: blake3.clone(), rows, role });
        Ok(blake3)
    }

    /// Keeps `state`, for a later process to go on from if this one does not come to its end.
    pub fn save_checkpoint(&self, state: &[u8]) -> Result<(), StageError> {
        let seal = self.seal(state);
        write_file(&self.names.partial.join(CHECKPOINT_FILE), &[seal.as_bytes(), state].concat())
    }

    /// Returns what an interrupted process kept of this same work; nothing if it was other work, or is damaged.
    pub fn checkpoint(&self) -> Result<Option<Vec<u8>>, StageError> {
        let path = self.names.partial.join(CHECKPOINT_FILE);
        let mut bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(StageError::read(&path))?,
        };
        let state = bytes.split_off(digest::DIGEST_LENGTH.min(bytes.len()));
        if self.seal(&state).as_bytes() == bytes {
            return Ok(Some(state));
        }
        tracing::debug!("{} is of other work, or damaged", path.display());
        Ok(None)
    }

    /// Starts over, whatever an interrupted process kept.
    pub fn discard_checkpoint(&self) -> Result<(), StageError> {
        remove_file(&self.names.partial.join(CHECKPOINT_FILE))
    }

    /// Says that `state` is whole, and what work it is of.
    fn seal(&self, state: &[u8]) -> String {
        digest::of_bytes(&[self.wanted.fingerprint().as_bytes(), state].concat())
    }

    /// Writes the manifest and puts the folder in its place. An older output is replaced, never mixed.
    pub fn commit(mut self, metrics: Map<String, Value>, timing: &Timing) -> Result<Complete, StageError> {
        if let Some((name, _)) = metrics.iter().find(|(_, value)| !value.is_number()) {
            let FingerprintInput { stage, round, .. } = self.wanted;
            return Err(StageError::NotFinite { stage, round, name: name.clone() });
        }
        self.discard_checkpoint()?;
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        let fingerprint = self.wanted.fingerprint();
        let FingerprintInput { stage, stage_version, schema_version, round, seed, parameters, inputs } = self.wanted;
        let files = self.files;
        let manifest = Manifest {
            schema_version,
            stage,
            stage_version,
            round,
            seed,
            fingerprint,
            parameters,
            inputs,
            files,
            metrics,
        };
        let timing = serde_json::to_value(timing).expect("plain data");
        write_file(&self.names.partial.join(TIMING_FILE), canonical::to_string_pretty(&timing).as_bytes())?;
        for folder in &self.folders {
            sync_folder(folder)?;
        }
        let bytes = manifest.to_bytes();
        write_file(&self.names.partial.join(MANIFEST_FILE), &bytes)?;
        self.names.swap()?;
        logging::detach();
        Ok(Complete { manifest, digest: digest::of_bytes(&bytes) })
    }
}
