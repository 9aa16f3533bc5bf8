//! One writer for each run folder.
//!
//! The lock is the operating system's, on the file `.lock` in the run folder, so it ends with its process however that
//! ends. The file's text names the process that holds it. It is advisory: readers ignore it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::{env, fs, io, process};

use crate::error::StageError;
use crate::logging;
use crate::run_folder::RunFolder;

/// The lock's file in a run folder.
pub const LOCK_FILE: &str = ".lock";

/// The right to write into a run folder, until it is dropped.
#[derive(Debug)]
pub struct RunLock {
    file: File,
}

impl RunLock {
    /// Takes the lock, or names its holder. Then finishes what a crash interrupted. `command` is what to call this
    /// process.
    pub fn acquire(run: &RunFolder, command: &str) -> Result<Self, StageError> {
        let path = run.root().join(LOCK_FILE);
        let failed = |error| StageError::write("lock", &path)(error);
        // Not truncated: the text belongs to the holder.
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Self::refusal(file, run.root())),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                tracing::warn!("the file system of {} has no locks: let only one process write there", path.display());
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let mut lock = Self { file };
        lock.sign(command).map_err(failed)?;
        run.recover()?;
        Ok(lock)
    }

    fn sign(&mut self, command: &str) -> io::Result<()> {
        let text = format!("process {} ({command}) on {}, since {}\n", process::id(), host(), logging::now());
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())
    }

    fn refusal(mut file: File, run: &Path) -> StageError {
        let mut holder = String::new();
        // On some systems a locked file cannot be read.
        let read = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
        let holder = if read { holder.trim().into() } else { "another process".into() };
        StageError::Locked { path: run.into(), holder }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // The file stays: to remove it would let two processes lock two files of one name.
        let _ = self.file.set_len(0);
    }
}

/// Returns what this machine calls itself.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| ["HOSTNAME", "COMPUTERNAME"].iter().find_map(|name| env::var(name).ok()));
    name.map(|name| name.trim().to_string()).filter(|name| !name.is_empty()).unwrap_or_else(|| "this machine".into())
}
