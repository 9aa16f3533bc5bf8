//! Making and removing files, so that no reader ever sees half of one.
//!
//! A file is written under another name in the same folder, synced and renamed.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::error::StageError;
use crate::system;

/// Makes or replaces the file at `path`: afterwards it holds `bytes`, or what it held before. Missing folders are made.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), StageError> {
    let failed = |error| StageError::write("write", path)(error);
    let folder = parent(path);
    create_folder(folder)?;
    let mut builder = tempfile::Builder::new();
    let prefix = temporary_prefix(path);
    builder.prefix(&prefix).suffix(TEMPORARY);
    // A temporary file is private by default; what it becomes is an ordinary file, under the user's umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = system::create_temporary(&builder, folder).map_err(failed)?;
    system::write_all(file.as_file(), bytes).and_then(|()| system::sync(file.as_file())).map_err(failed)?;
    system::persist(file, path).map_err(failed)?;
    sync_folder(folder)
}

/// Makes the folder at `path` with these files, in their order. A new folder is there with all of them or not at all.
///
/// In a folder that is there the files are replaced one by one. The last one is removed before, so that it is there with all others alone.
pub fn write_folder(path: &Path, files: &[(&str, &[u8])]) -> Result<(), StageError> {
    if path.is_dir() {
        if let Some((last, bytes)) = files.last()
            && std::fs::read(path.join(last)).is_ok_and(|there| there != *bytes)
        {
            remove_file(&path.join(last))?;
            sync_folder(path)?;
        }
        return files.iter().try_for_each(|(name, bytes)| write_file(&path.join(name), bytes));
    }
    let failed = |error| StageError::write("make the folder", path)(error);
    let above = parent(path);
    create_folder(above)?;
    let mut builder = tempfile::Builder::new();
    let prefix = temporary_prefix(path);
    builder.prefix(&prefix).suffix(TEMPORARY);
    // A temporary folder is private by default; what it becomes is an ordinary one, under the user's umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    let folder = system::create_temporary_folder(&builder, above).map_err(failed)?;
    for (name, bytes) in files {
        write_new(&folder.path().join(name), bytes)?;
    }
    sync_folder(folder.path())?;
    system::rename(folder.path(), path).map_err(failed)?;
    let _ = folder.keep(); // there is nothing left under that name to remove
    sync_folder(above)
}

/// Writes a file that is not there yet, in a folder that nobody sees yet.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), StageError> {
    let written = system::create_new(path).and_then(|file| {
        system::write_all(&file, bytes)?;
        system::sync(&file)
    });
    written.map_err(StageError::write("write", path))
}

/// Returns what the name of a temporary file begins and ends with: it says which file was in the making.
fn temporary_prefix(path: &Path) -> String {
    format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy())
}

const TEMPORARY: &str = ".tmp";

/// Removes what killed processes left of a file in the making. Only where no other process can be making it.
pub fn remove_unfinished(path: &Path) -> Result<(), StageError> {
    let (folder, prefix) = (parent(path), temporary_prefix(path));
    for name in names_in(folder)? {
        if name.starts_with(&prefix) && name.ends_with(TEMPORARY) {
            remove_file(&folder.join(name))?;
        }
    }
    Ok(())
}

/// Makes a folder and those above it that are missing.
pub fn create_folder(path: &Path) -> Result<(), StageError> {
    if path.is_dir() {
        return Ok(());
    }
    system::create_dir_all(path).map_err(StageError::write("make the folder", path))?;
    sync_folder(parent(path))
}

/// Returns the folder that `path` is in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Syncs the folder: only then a rename lasts.
pub(crate) fn sync_folder(path: &Path) -> Result<(), StageError> {
    if cfg!(unix) {
        let synced = File::open(path).and_then(|folder| system::sync(&folder));
        return synced.map_err(StageError::write("sync", path));
    }
    Ok(())
}

/// Removes a folder, if it is there.
pub(crate) fn remove_folder(path: &Path) -> Result<(), StageError> {
    match system::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StageError::write("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<(), StageError> {
    match system::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StageError::write("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Returns the names in a folder; none if it does not exist.
pub(crate) fn names_in(folder: &Path) -> Result<Vec<String>, StageError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(StageError::read(folder))?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect::<std::io::Result<_>>().map_err(StageError::read(folder))
}
