//! What `atomic`, `stage_folder` and `gc` ask of the operating system, one function for each request: so that tests can make it refuse any
//! of them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

pub(crate) fn create_dir_all(path: &Path) -> io::Result<()> {
    refused()?;
    fs::create_dir_all(path)
}

pub(crate) fn remove_dir_all(path: &Path) -> io::Result<()> {
    refused()?;
    fs::remove_dir_all(path)
}

pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    refused()?;
    fs::remove_file(path)
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    refused()?;
    fs::rename(from, to)
}

/// Returns a file that is not there yet.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    refused()?;
    File::create_new(path)
}

/// Writes the bytes. On a full disk half of them are written.
pub(crate) fn write_all(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    if let Err(error) = refused() {
        file.write_all(&bytes[..bytes.len() / 2])?;
        return Err(error);
    }
    file.write_all(bytes)
}

pub(crate) fn sync(file: &File) -> io::Result<()> {
    refused()?;
    file.sync_all()
}

/// Returns a file that is not there yet, which is removed again unless it is persisted.
pub(crate) fn create_temporary(builder: &tempfile::Builder, folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    refused()?;
    builder.tempfile_in(folder)
}

/// A folder that is not there yet, which is removed again unless it is kept.
pub(crate) fn create_temporary_folder(builder: &tempfile::Builder, folder: &Path) -> io::Result<tempfile::TempDir> {
    refused()?;
    builder.tempdir_in(folder)
}

pub(crate) fn persist(file: tempfile::NamedTempFile, path: &Path) -> io::Result<()> {
    refused()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "in tests it may refuse")]
fn refused() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use faults::refused;

/// One request of this thread that is refused.
#[cfg(test)]
pub(crate) mod faults {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static NEXT: Cell<Option<(usize, io::ErrorKind)>> = const { Cell::new(None) };
    }

    /// After `requests` more that are granted, the next is refused.
    pub(crate) fn after(requests: usize, kind: io::ErrorKind) {
        NEXT.set(Some((requests, kind)));
    }

    /// From now on none is refused; whether one was.
    pub(crate) fn clear() -> bool {
        NEXT.take().is_none()
    }

    pub(super) fn refused() -> io::Result<()> {
        match NEXT.get() {
            Some((0, kind)) => {
                NEXT.set(None);
                Err(kind.into())
            }
            Some((requests, kind)) => {
                NEXT.set(Some((requests - 1, kind)));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;

    use serde_json::{Map, json};
    use ssdkd_shards::{Role, Timing};
    use tempfile::TempDir;

    use super::faults;
    use crate::{FingerprintInput, RunFolder, RunLock, StageError, StageFolder, State, judge};

    const STUDENT: &str = "student.safetensors";

    fn wanted(lr: f64) -> FingerprintInput {
        FingerprintInput::new("distill", 1, 7, 0, json!({"distill": {"lr": lr}}))
    }

    fn make(run: &RunFolder, lr: f64) -> Result<(), StageError> {
        let timing = Timing {
            started_at: "2024-01-01T00:00:00Z".into(),
            seconds: 1.5,
            threads: 2,
            device: "cpu".into(),
            machine: String::new(),
            peak_bytes: 0,
        };
        let mut folder = StageFolder::begin(run, wanted(lr))?;
        let kept = folder.checkpoint()?;
        assert!(kept.is_none_or(|state| state == format!("half of {lr}").as_bytes()), "a checkpoint of other work");
        folder.save_checkpoint(format!("half of {lr}").as_bytes())?;
        folder.write(STUDENT, format!("learnt at {lr}").as_bytes(), None, Role::Data)?;
        folder.write("tables/steps.parquet", b"PAR1", Some(40), Role::Data)?;
        folder.commit(Map::new(), &timing).map(drop)
    }

    /// Refuses one request after another while an output is made, in place of an older one or in an empty folder.
    fn check_refusals(kind: ErrorKind, older: bool) -> usize {
        for requests in 0.. {
            let folder = TempDir::new().unwrap();
            let run = RunFolder::create(folder.path()).unwrap();
            if older {
                make(&run, 0.2).unwrap();
            }
            faults::after(requests, kind);
            let made = make(&run, 0.1);
            if !faults::clear() {
                made.unwrap();
                return requests;
            }
            let error = made.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.is_empty() || error.contains("\nhint: "), "{error}");

            // What the next process finds: the lock's holder repairs the folder first.
            drop(RunLock::acquire(&run, "test").unwrap());
            let old = judge(&run, &wanted(0.2), true).unwrap() == State::Fresh;
            let new = judge(&run, &wanted(0.1), true).unwrap() == State::Fresh;
            assert!(old || new || !older, "request {requests}: the older output is gone and no newer one is there");
            if old || new {
                let expected = if new { "learnt at 0.1" } else { "learnt at 0.2" };
                assert_eq!(run.read_verified("distill", 7, STUDENT).unwrap(), expected.as_bytes());
            }
            // The cause is removed, and the test tries the same again.
            make(&run, 0.1).unwrap();
            assert_eq!(run.verify("distill", 7).unwrap().1, []);
            assert_eq!(judge(&run, &wanted(0.1), true).unwrap(), State::Fresh);
            let names = fs::read_dir(folder.path().join("distill")).unwrap().map(|entry| entry.unwrap().file_name());
            assert_eq!(names.collect::<Vec<_>>(), ["0007"], "request {requests}: something was left behind");
        }
        unreachable!("an output takes finitely many requests")
    }

    #[test]
    fn whatever_the_system_refuses_nothing_is_lost_and_the_next_try_succeeds() {
        for kind in [ErrorKind::StorageFull, ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
            for older in [false, true] {
                let requests = check_refusals(kind, older);
                assert!(requests > 20, "only {requests} requests were tried");
            }
        }
    }

    #[test]
    fn a_folder_is_there_with_all_of_its_files_or_not_at_all() {
        let files: [(&str, &[u8]); 2] = [("weights", b"numbers"), ("card", b"whose they are")];
        for requests in 0.. {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("student");
            faults::after(requests, ErrorKind::StorageFull);
            let written = crate::write_folder(&path, &files);
            let is_complete = || files.iter().all(|(name, bytes)| fs::read(path.join(name)).unwrap() == *bytes);
            if !faults::clear() {
                written.unwrap();
                assert!(is_complete() && requests > 6, "{requests}");
                return;
            }
            assert!(!path.exists() || is_complete(), "request {requests}");
            let left = usize::from(path.exists());
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), left, "something was left behind");
        }
    }

    #[test]
    fn the_last_file_of_a_folder_is_never_there_with_files_of_another() {
        let before: [(&str, &[u8]); 2] = [("weights", b"old"), ("card", b"of old")];
        let after: [(&str, &[u8]); 2] = [("weights", b"new"), ("card", b"of new")];
        for requests in 0.. {
            let folder = TempDir::new().unwrap();
            crate::write_folder(folder.path(), &before).unwrap();
            faults::after(requests, ErrorKind::PermissionDenied);
            let written = crate::write_folder(folder.path(), &after);
            let is_done = !faults::clear();
            if let Ok(card) = fs::read(folder.path().join("card")) {
                let weights = fs::read(folder.path().join("weights")).unwrap();
                assert_eq!(card, [b"of ".as_slice(), &weights].concat(), "request {requests}");
            }
            if is_done {
                written.unwrap();
                assert!(requests > 6, "{requests}");
                return;
            }
        }
    }

    #[test]
    fn a_file_that_cannot_be_replaced_stays_as_it_is() {
        for requests in 0.. {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("students.json");
            crate::write_file(&path, b"before").unwrap();
            faults::after(requests, ErrorKind::StorageFull);
            let written = crate::write_file(&path, b"after it was replaced");
            if !faults::clear() {
                written.unwrap();
                assert!(requests > 2);
                return;
            }
            let held = fs::read(&path).unwrap();
            assert!(held == b"before" || held == b"after it was replaced", "{held:?}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left behind");
        }
    }
}
