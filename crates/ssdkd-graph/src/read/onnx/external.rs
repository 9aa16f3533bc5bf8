//! Tensors that an ONNX file keeps in other files of its folder.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Component, Path, PathBuf};

use crate::error::clean;

/// The folder of the model, and what may still be read of each file in it.
pub(super) struct Files<'a> {
    folder: Option<&'a Path>,
    left: HashMap<PathBuf, u64>,
    sizes: HashMap<PathBuf, u64>,
}

/// How often all numbers of a file may be read: tensors may share some.
const SHARING: u64 = 2;
/// What to do if a file of tensors cannot be read.
const TOGETHER: &str = "keep this file and the model in one folder";

impl<'a> Files<'a> {
    /// `None`: no other files can be read.
    pub fn new(folder: Option<&'a Path>) -> Self {
        Self { folder, left: HashMap::new(), sizes: HashMap::new() }
    }

    /// Returns the bytes of all files that were read from.
    pub fn bytes(&self) -> usize {
        self.sizes.values().map(|&size| size as usize).fold(0, usize::saturating_add)
    }

    /// Returns the bytes of a tensor. `entries` say where they are.
    pub fn read(&mut self, entries: &[(&str, &str)]) -> Result<Vec<u8>, String> {
        let find = |key: &str| entries.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let number = |key: &str| match find(key) {
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| format!("has the {key} {}", clean(text))),
            None => Ok(None),
        };
        let location = find("location").ok_or("is in another file that has no name")?;
        let shown = clean(location);
        let folder = self.folder.ok_or_else(|| format!("is in another file, {shown}, which is not at hand"))?;
        let path = inside(folder, location)?;
        let fail = |error: std::io::Error| format!("is in {shown}, which cannot be read: {error}\nhint: {TOGETHER}");
        let mut file = File::open(&path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() {
            return Err(format!("is in {shown}, which is no file"));
        }
        let size = metadata.len();
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(size.saturating_sub(offset));
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(format!("is at {offset} of {shown}, which has {size} bytes"));
        }
        self.sizes.insert(path.clone(), size);
        let left = self.left.entry(path).or_insert(SHARING * size);
        *left = left.checked_sub(length).ok_or_else(|| format!("shares its bytes in {shown} with too many others"))?;
        file.seek(SeekFrom::Start(offset)).map_err(fail)?;
        let mut bytes = Vec::new();
        file.take(length).read_to_end(&mut bytes).map_err(fail)?;
        Ok(bytes)
    }
}

/// Returns the path of a file in the folder, and in no other: neither by its name nor through a link.
fn inside(folder: &Path, location: &str) -> Result<PathBuf, String> {
    let shown = clean(location);
    let plain = Path::new(location).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain || location.contains('\\') || location.is_empty() {
        return Err(format!("is in {shown}, which is outside the model's folder"));
    }
    let fail = |error: std::io::Error| format!("is in {shown}, which cannot be read: {error}\nhint: {TOGETHER}");
    let folder = folder.canonicalize().map_err(fail)?;
    let path = folder.join(location).canonicalize().map_err(fail)?;
    if !path.starts_with(&folder) {
        return Err(format!("is in {shown}, which is outside the model's folder"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(folder: &Path, entries: &[(&str, &str)]) -> Result<Vec<u8>, String> {
        Files::new(Some(folder)).read(entries)
    }

    #[test]
    fn a_part_of_a_file_in_the_folder_is_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("w.bin"), b"abcdef").unwrap();
        assert_eq!(read(folder.path(), &[("location", "w.bin"), ("offset", "2"), ("length", "3")]).unwrap(), b"cde");
        assert!(
            read(folder.path(), &[("location", "w.bin"), ("offset", "5"), ("length", "3")])
                .unwrap_err()
                .contains("6 bytes")
        );
    }

    #[test]
    fn files_outside_the_folder_are_refused() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("model");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(outer.path().join("secret"), b"secret").unwrap();
        let absolute = outer.path().join("secret").display().to_string();
        #[cfg(unix)]
        std::os::unix::fs::symlink(outer.path().join("secret"), folder.join("link")).unwrap();
        for location in ["../secret", "a/../../secret", &absolute, "link", "..\\secret", ""] {
            let error = read(&folder, &[("location", location)]).unwrap_err();
            assert!(error.contains("outside") || error.contains("cannot be read"), "{location}: {error}");
        }
    }

    #[test]
    fn a_file_is_not_read_again_and_again() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("w.bin"), b"abcdef").unwrap();
        let mut files = Files::new(Some(folder.path()));
        let read = (0..5).map(|_| files.read(&[("location", "w.bin")]).is_ok()).collect::<Vec<_>>();
        assert_eq!(read, [true, true, false, false, false]);
    }
}
