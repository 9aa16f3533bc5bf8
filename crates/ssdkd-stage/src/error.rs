//! What can go wrong around a stage: which file, why, and what to do about it.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use ssdkd_shards::ShardError;

use crate::code::Code;
use crate::shell::quote_path;
use crate::signals::Interrupted;

/// What can go wrong around a stage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// The operating system refuses to make, change or remove something.
    #[error("cannot {action} {}: {source}{}", path.display(), remedy_of_writing(source))]
    Write {
        /// Such as `write`, `rename`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The operating system refuses to read something that is there.
    #[error("cannot read {}: {source}{}", path.display(), remedy_of_reading(source))]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something that must have been made before is not there.
    #[error("{what} is missing: {} does not exist\nhint: {hint}", path.display())]
    Missing {
        /// What it is, such as `the output of invert, round 7`.
        what: String,
        /// Where it should be.
        path: PathBuf,
        /// How to make it.
        hint: String,
    },
    /// Something that is needed now was collected after later rounds were complete.
    #[error(
        "the {what} that {stage} left in round {round} was collected: {} does not exist\n\
         hint: `ssdkd run {}` rebuilds it when it is needed (keep.states and keep.shards keep more)",
        path.display(), quote_path(run)
    )]
    Collected {
        /// State or image shard.
        what: &'static str,
        /// The stage.
        stage: String,
        /// The round.
        round: u32,
        /// Where it was.
        path: PathBuf,
        /// The run folder.
        run: PathBuf,
    },
    /// A file is not the one that its manifest lists.
    #[error("{} is not what its manifest says: {reason}\nhint: {hint}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
        /// How to make it again.
        hint: String,
    },
    /// A shard, table or manifest cannot be used.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// Another process writes into the run folder.
    #[error("the run folder {} is in use by {holder}\nhint: wait until it is done, or stop it; reading needs no lock", path.display())]
    Locked {
        /// The run folder.
        path: PathBuf,
        /// Process, command, host and time, as the holder wrote them.
        holder: String,
    },
    /// A stage names one of its files badly, or twice.
    #[error("stage {stage} cannot write a file named {name:?}: {reason}")]
    BadFile {
        /// The stage.
        stage: String,
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A result is not a number.
    #[error(
        "the metric `{name}` of {stage}, round {round}, is not a finite number\nhint: the training diverged; lower the learning rate or the loss factors"
    )]
    NotFinite {
        /// The stage.
        stage: String,
        /// The round.
        round: u32,
        /// The metric.
        name: String,
    },
    /// The command line asks for something impossible.
    #[error("{0}")]
    Usage(String),
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// An error of another crate, with the exit code that it deserves.
    #[error("{source}")]
    Other {
        /// What the process shall return.
        code: Code,
        /// The error.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl StageError {
    /// Marks `error` with the exit code that it deserves.
    pub fn other(code: Code, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Other { code, source: error.into() }
    }

    /// Returns what the process shall return.
    pub fn code(&self) -> Code {
        match self {
            Self::Write { .. }
            | Self::Read { .. }
            | Self::Locked { .. }
            | Self::BadFile { .. }
            | Self::NotFinite { .. } => Code::Failed,
            Self::Missing { .. } | Self::Collected { .. } => Code::MissingInput,
            Self::Corrupt { .. } | Self::Shard(_) => Code::Integrity,
            Self::Usage(_) => Code::Usage,
            Self::Interrupted(Interrupted(signal)) => Code::Interrupted(*signal),
            Self::Other { code, .. } => *code,
        }
    }

    pub(crate) fn write(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write { action, path: path.into(), source }
    }

    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { path: path.into(), source }
    }
}

/// Returns the `hint:` line for what the operating system says to a reader.
fn remedy_of_reading(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "\nhint: check who owns it and that you may read it",
        ErrorKind::NotFound => "\nhint: check that the path is right and that nothing removed it meanwhile",
        ErrorKind::NotADirectory => "\nhint: check the path: a part of it is a file and not a folder",
        ErrorKind::IsADirectory => "\nhint: it is a folder; name a file in it",
        _ => "",
    }
}

/// Returns the `hint:` line for what the operating system says to a writer.
fn remedy_of_writing(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "\nhint: free some space (`df -h`, `df -i`), or put the runs elsewhere with --runs; complete output stays"
        }
        ErrorKind::PermissionDenied => "\nhint: check who owns the folder and that you may write there, or use --runs",
        ErrorKind::ReadOnlyFilesystem => "\nhint: the file system is read-only; put the runs elsewhere with --runs",
        ErrorKind::NotFound => "\nhint: check that the path is right and that nothing removed it meanwhile",
        ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::AlreadyExists => {
            "\nhint: something else is at that path; move it away, or put the runs elsewhere with --runs"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: ErrorKind, expected: &str) {
        let error = StageError::write("write", Path::new("runs/x/file"))(kind.into());
        let text = error.to_string();
        assert!(text.starts_with("cannot write runs/x/file: ") && text.contains(expected), "{text}");
    }

    #[test]
    fn what_the_system_refuses_comes_with_a_remedy() {
        check(ErrorKind::StorageFull, "hint: free some space");
        check(ErrorKind::PermissionDenied, "hint: check who owns");
        check(ErrorKind::ReadOnlyFilesystem, "hint: the file system is read-only");
        check(ErrorKind::NotADirectory, "hint: something else is at that path");
    }

    #[test]
    fn a_reader_is_not_told_to_move_things_away() {
        for (kind, hint) in [
            (ErrorKind::NotADirectory, "hint: check the path: a part of it is a file"),
            (ErrorKind::IsADirectory, "hint: it is a folder"),
            (ErrorKind::PermissionDenied, "hint: check who owns it and that you may read it"),
        ] {
            let text = StageError::read(Path::new("runs/x/file"))(kind.into()).to_string();
            assert!(text.starts_with("cannot read runs/x/file: ") && text.contains(hint), "{text}");
        }
    }

    #[test]
    fn errors_of_other_crates_keep_their_text_and_get_a_code() {
        let error = StageError::other(Code::Usage, "unknown field `lr`\nhint: did you mean `rate`?");
        assert_eq!(error.to_string(), "unknown field `lr`\nhint: did you mean `rate`?");
        assert_eq!(error.code(), Code::Usage);
    }
}
