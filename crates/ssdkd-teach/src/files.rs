//! The files of a training, and whether those that are there are its own.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ssdkd_nn::TeacherCard;
use ssdkd_stage::StageError;

use crate::checkpoint::{self, Checkpoint, Description};
use crate::settings::TeachSettings;

/// Where everything is.
pub(crate) struct Files {
    pub(crate) card: PathBuf,
    pub(crate) weights: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) checkpoint: PathBuf,
}

impl Files {
    pub(crate) fn new(folder: &Path, name: &str) -> Result<Self, StageError> {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
            return Err(StageError::Usage(format!("--name is {name:?}; it names files: letters, digits, `-`, `_`")));
        }
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        Ok(Self {
            card: file("json"),
            weights: file("safetensors"),
            log: file("training.jsonl"),
            checkpoint: file("checkpoint.safetensors"),
        })
    }

    pub(crate) fn all(&self) -> [&Path; 4] {
        [&self.card, &self.weights, &self.log, &self.checkpoint]
    }

    /// Weights or a log without a card are not of a finished training, and without a checkpoint of none that was begun.
    pub(crate) fn refuse_others(&self) -> Result<(), StageError> {
        if self.card.exists() || self.checkpoint.exists() {
            return Ok(()); // those say themselves whose they are
        }
        let other = [&self.weights, &self.log].into_iter().find(|path| path.exists());
        other.map_or(Ok(()), |path| {
            let path = path.display();
            let hint = "choose another --name or --out, or replace it with --force";
            Err(StageError::Usage(format!("{path} is there, and belongs to no teacher\nhint: {hint}")))
        })
    }

    /// Removes the checkpoint: a finished training needs none.
    pub(crate) fn remove_checkpoint(&self) -> Result<(), StageError> {
        match std::fs::remove_file(&self.checkpoint) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(StageError::Write { action: "remove", path: self.checkpoint.clone(), source })
            }
            _ => Ok(()),
        }
    }
}

/// Returns whether the card of exactly this training is there. Another teacher's card is an error: it would be overwritten.
pub(crate) fn is_there(card: &Path, origin: &str) -> Result<bool, StageError> {
    if !card.exists() {
        return Ok(false);
    }
    let other = |what: &str| {
        let path = card.display();
        StageError::Usage(format!("{path} {what}\nhint: choose another --name or --out, or replace it with --force"))
    };
    let found = TeacherCard::load(card).map_err(|_| other("exists and is no teacher's card"))?;
    if !found.source.starts_with(origin) {
        return Err(other(&format!("is another teacher, made by: {}", found.source)));
    }
    // A damaged teacher is made again.
    Ok(found.read_weights(card).is_ok())
}

/// Returns the checkpoint, if there is one and it is of exactly this training.
pub(crate) fn kept_of(files: &Files, settings: &TeachSettings, data: &str) -> Option<Checkpoint> {
    let (found, tensors) = checkpoint::load(&files.checkpoint).ok().flatten()?;
    ((&found.settings, found.data.as_str()) == (settings, data)).then_some((found, tensors))
}

/// Returns the checkpoint's contents. One that cannot be used is an error: it would be overwritten.
pub(crate) fn refuse_other_checkpoint(path: &Path, wanted: &Description) -> Result<(), StageError> {
    let Some((found, _)) = checkpoint::load(path)? else { return Ok(()) };
    let why = if found.settings == wanted.settings {
        "the training images are others".into()
    } else {
        format!("it was made with {}", found.settings.to_flags())
    };
    Err(StageError::Usage(format!(
        "the checkpoint {} belongs to another training: {why}\nhint: use the same flags, another --name, or --force",
        path.display()
    )))
}
