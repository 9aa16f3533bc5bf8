//! Lists the images below a folder, and counts the files that are passed over.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use crate::{DataError, encoded, read};

/// Files that are passed over, counted by their endings.
#[derive(Debug, Default)]
pub(crate) struct Ignored {
    by_ending: BTreeMap<String, usize>,
}

impl Ignored {
    pub(crate) fn add(&mut self, path: &Path) {
        let ending = read::ending(path).map_or_else(|| "no ending".into(), |ending| format!(".{ending}"));
        *self.by_ending.entry(ending).or_default() += 1;
    }

    /// Returns what a user should know of them: `PLACE: 3 files ignored: .npy (2), .txt (1)`.
    pub(crate) fn notice(&self, place: &Path) -> Option<String> {
        (self.total() > 0).then(|| format!("{}: {} ignored: {}", place.display(), files(self.total()), self.kinds()))
    }

    pub(crate) fn total(&self) -> usize {
        self.by_ending.values().sum()
    }

    /// Returns the endings with their counts, the most frequent first: `.npy (2), .txt (1)`.
    pub(crate) fn kinds(&self) -> String {
        let mut kinds = self.by_ending.iter().collect::<Vec<_>>();
        kinds.sort_by_key(|&(ending, count)| (std::cmp::Reverse(*count), ending));
        let kinds = kinds.iter().map(|(ending, count)| format!("{ending} ({count})")).collect::<Vec<_>>();
        some(&kinds)
    }
}

pub(crate) fn files(count: usize) -> String {
    if count == 1 { "1 file".into() } else { format!("{count} files") }
}

/// Returns the first of them, separated by commas.
pub(crate) fn some(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown}, …") } else { shown }
}

/// Returns the images in `folder` and in the folders below it: files of a folder before those of its folders, each in the order of names.
/// torchvision's `ImageFolder` takes the same files.
///
/// # Errors
/// A folder that cannot be read; an image that is a link to nothing.
pub(crate) fn images_below(folder: &Path, ignored: &mut Ignored) -> Result<Vec<PathBuf>, DataError> {
    let mut images = Vec::new();
    walk(folder, &mut HashSet::new(), &mut images, ignored)?;
    Ok(images)
}

fn walk(
    folder: &Path,
    visited: &mut HashSet<PathBuf>,
    images: &mut Vec<PathBuf>,
    ignored: &mut Ignored,
) -> Result<(), DataError> {
    // A link may lead back to a folder above it.
    if !visited.insert(folder.canonicalize().map_err(DataError::read(folder))?) {
        return Ok(());
    }
    let (folders, files): (Vec<_>, Vec<_>) = read::entries(folder)?.into_iter().partition(|path| path.is_dir());
    for path in files {
        if !encoded::is_image(&path) {
            ignored.add(&path);
        } else if path.is_file() {
            images.push(path);
        } else {
            let (what, hint) = ("it is no file, or a link to nothing", "repair or remove it");
            return Err(DataError::broken(&path, what, hint));
        }
    }
    folders.iter().try_for_each(|path| walk(path, visited, images, ignored))
}
