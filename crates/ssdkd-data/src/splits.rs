//! The folder of a split: `train`; `test`, `val`, `valid` or `validation`.

use std::path::{Path, PathBuf};

use crate::{DataError, Split, read};

/// Names of a split's folder, the first that serves is taken.
pub(crate) fn names(split: Split) -> &'static [&'static str] {
    match split {
        Split::Train => &["train"],
        Split::Test => &["test", "val", "valid", "validation"],
    }
}

/// Which folder a split is read from.
pub(crate) struct Found {
    pub(crate) place: PathBuf,
    /// What a user should know of the choice.
    pub(crate) notice: Option<String>,
}

/// Returns the first folder of the split that has labels; if none has, the last folder. `None` if there is no folder.
///
/// Data sets of competitions have a `test` without labels: it is passed over for `val`, with a notice.
pub(crate) fn find(
    folder: &Path,
    split: Split,
    labelled: impl Fn(&Path) -> Result<bool, DataError>,
) -> Result<Option<Found>, DataError> {
    let places = folders(folder, split)?;
    for (at, place) in places.iter().enumerate() {
        if labelled(place)? {
            let notice = places[..at].first().map(|other| {
                format!("{} has no labels: {} is taken for the {split} split", other.display(), place.display())
            });
            return Ok(Some(Found { place: place.clone(), notice }));
        }
    }
    Ok(places.into_iter().last().map(|place| Found { place, notice: None }))
}

/// Returns the folders of a split that there are.
fn folders(folder: &Path, split: Split) -> Result<Vec<PathBuf>, DataError> {
    let there = read::entries(folder)?.into_iter().filter(|path| path.is_dir()).collect::<Vec<_>>();
    let of_name = |name: &&str| there.iter().find(|path| read::file_name(path).eq_ignore_ascii_case(name)).cloned();
    Ok(names(split).iter().filter_map(of_name).collect())
}

/// Returns the error of a split without a folder.
pub(crate) fn missing(folder: &Path, split: Split, hint: &str) -> DataError {
    DataError::Missing {
        path: folder.join(names(split)[0]),
        what: format!("the folder of the {split} split (also looked for {})", names(split).join(", ")),
        hint: hint.into(),
    }
}
