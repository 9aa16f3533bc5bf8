//! Where everything of a run is, and reading what a stage left.
//!
//! ```text
//! runs/NAME/recipe.toml                     resolved, under the command that makes the run
//! runs/NAME/teacher/                        the teacher's copy
//! runs/NAME/STAGE/0007/manifest.json …      one folder for each stage and round
//! runs/NAME/evaluate/  runs/NAME/report/    for people
//! ```
//!
//! Reading needs no lock: folders appear complete, and every file is compared with its size and digest in the manifest
//! before anybody uses it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ssdkd_shards::manifest::MANIFEST_FILE;
use ssdkd_shards::{FileEntry, Manifest, Role, digest};

use crate::atomic::{create_folder, names_in};
use crate::error::StageError;
use crate::shell::quote_path;

/// One run's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder {
    root: PathBuf,
}

/// The finished output of one stage and round.
#[derive(Debug, Clone, PartialEq)]
pub struct Complete {
    /// What it consists of.
    pub manifest: Manifest,
    /// The manifest's own digest, which identifies all of the output.
    pub digest: String,
}

/// Returns `0007`
pub fn round_name(round: u32) -> String {
    format!("{round:04}")
}

/// Returns the round of a folder named by [`round_name`].
pub(crate) fn parse_round(name: &str) -> Option<u32> {
    name.parse().ok().filter(|&round| round_name(round) == name)
}

impl RunFolder {
    /// Opens a run that may or may not exist, for reading only.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Opens a run that exists.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StageError> {
        let run = Self { root: root.into() };
        if run.recipe().is_file() {
            return Ok(run);
        }
        let hint = "name the folder of a run, such as runs/shapes; `ssdkd run RECIPE` starts a run";
        Err(run.absent(hint.into()))
    }

    /// Returns the error for a run that is not there.
    pub fn absent(&self, hint: String) -> StageError {
        StageError::Missing { what: "the run".into(), path: self.recipe(), hint }
    }

    /// Opens a run that exists, or starts one.
    pub fn create(root: impl Into<PathBuf>) -> Result<Self, StageError> {
        let run = Self { root: root.into() };
        create_folder(&run.root)?;
        Ok(run)
    }

    /// Returns the folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the resolved recipe.
    pub fn recipe(&self) -> PathBuf {
        self.root.join("recipe.toml")
    }

    /// Returns the copy of the teacher.
    pub fn teacher(&self) -> PathBuf {
        self.root.join("teacher")
    }

    /// Returns the card and the weights of a student that is not of the zoo.
    pub fn student(&self) -> PathBuf {
        self.root.join("student")
    }

    /// Measurements on real data.
    pub fn evaluate(&self) -> PathBuf {
        self.root.join("evaluate")
    }

    /// Returns the report for people.
    pub fn report(&self) -> PathBuf {
        self.root.join("report")
    }

    /// Returns the folder with all rounds of a stage.
    pub fn stage(&self, stage: &str) -> PathBuf {
        self.root.join(stage)
    }

    /// Returns the folder of one stage and round.
    pub fn folder(&self, stage: &str, round: u32) -> PathBuf {
        self.stage(stage).join(round_name(round))
    }

    /// Returns a file of one stage and round.
    pub fn file(&self, stage: &str, round: u32, file: &str) -> PathBuf {
        self.folder(stage, round).join(file)
    }

    /// Returns the complete rounds of a stage, ascending.
    pub fn rounds(&self, stage: &str) -> Result<Vec<u32>, StageError> {
        let folder = self.stage(stage);
        let mut rounds = names_in(&folder)?
            .iter()
            .filter_map(|name| parse_round(name))
            .filter(|&round| self.file(stage, round, MANIFEST_FILE).is_file())
            .collect::<Vec<_>>();
        rounds.sort_unstable();
        Ok(rounds)
    }

    /// Returns the last complete round of a stage.
    pub fn latest_complete(&self, stage: &str) -> Result<Option<u32>, StageError> {
        Ok(self.rounds(stage)?.pop())
    }

    /// Returns what a stage left in a round; `None` if it is not complete.
    pub fn complete(&self, stage: &str, round: u32) -> Result<Option<Complete>, StageError> {
        let path = self.file(stage, round, MANIFEST_FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(StageError::read(&path))?,
        };
        let manifest = Manifest::parse(&bytes, &path)?;
        if manifest.stage != stage || manifest.round != round {
            let reason = format!("it is of stage {}, round {}", manifest.stage, manifest.round);
            return Err(StageError::Corrupt { path, reason, hint: self.remake(stage, round) });
        }
        Ok(Some(Complete { manifest, digest: digest::of_bytes(&bytes) }))
    }

    /// Returns what a stage left in a round, which must be complete.
    pub fn require(&self, stage: &str, round: u32) -> Result<Complete, StageError> {
        self.complete(stage, round)?.ok_or_else(|| StageError::Missing {
            what: format!("the output of {stage}, round {round},"),
            path: self.file(stage, round, MANIFEST_FILE),
            hint: self.make(stage, round),
        })
    }

    /// Returns a file that a stage left in a round, after its size and digest were compared with the manifest.
    pub fn read_verified(&self, stage: &str, round: u32, file: &str) -> Result<Vec<u8>, StageError> {
        let manifest = self.require(stage, round)?.manifest;
        let path = self.file(stage, round, file);
        let corrupt =
            |reason: String| StageError::Corrupt { path: path.clone(), reason, hint: self.remake(stage, round) };
        let Some(entry) = manifest.file(file) else {
            return Err(corrupt("it is not listed".into()));
        };
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(self.missing_file(stage, round, entry)?),
            bytes => bytes.map_err(StageError::read(&path))?,
        };
        if bytes.len() as u64 != entry.bytes {
            return Err(corrupt(format!("{} bytes instead of {}", bytes.len(), entry.bytes)));
        }
        match digest::of_bytes(&bytes) {
            found if found == entry.blake3 => Ok(bytes),
            found => Err(corrupt(format!("its BLAKE3 is {found} instead of {}", entry.blake3))),
        }
    }

    /// Returns whether a file may be absent: state or images, and a later round of the stage is complete.
    pub(crate) fn may_be_collected(&self, stage: &str, round: u32, entry: &FileEntry) -> Result<bool, StageError> {
        Ok(entry.role != Role::Data && self.latest_complete(stage)?.is_some_and(|latest| latest > round))
    }

    /// Returns whether a file was collected: it is not there, and need not be.
    pub fn is_collected(&self, stage: &str, round: u32, entry: &FileEntry) -> Result<bool, StageError> {
        Ok(!self.file(stage, round, &entry.path).exists() && self.may_be_collected(stage, round, entry)?)
    }

    fn missing_file(&self, stage: &str, round: u32, entry: &FileEntry) -> Result<StageError, StageError> {
        let path = self.file(stage, round, &entry.path);
        Ok(if self.may_be_collected(stage, round, entry)? {
            let what = if entry.role == Role::Shard { "image shard" } else { "state" };
            StageError::Collected { what, stage: stage.into(), round, path, run: self.root.clone() }
        } else {
            let reason = "it is listed, but not there".into();
            StageError::Corrupt { path, reason, hint: self.remake(stage, round) }
        })
    }

    fn make(&self, stage: &str, round: u32) -> String {
        format!("`ssdkd-{stage} {} --round {round}` makes it", quote_path(&self.root))
    }

    pub(crate) fn remake(&self, stage: &str, round: u32) -> String {
        format!("`ssdkd repair {} {stage}/{}` rebuilds it", quote_path(&self.root), round_name(round))
    }
}
