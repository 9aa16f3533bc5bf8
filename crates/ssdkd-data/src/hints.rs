//! What to do where no data set is found.

use std::path::{Path, PathBuf};

use crate::{DataError, Split, encoded, read, splits};

/// Everything that is recognized.
const LOOKED_FOR: &str = "data_batch_1.bin … test_batch.bin or data_batch_1 … test_batch (CIFAR-10), train.bin and test.bin or \
    train, test and meta (CIFAR-100), train-images-idx3-ubyte (MNIST and its relatives), train/CLASS/*.png and test/CLASS/*.png \
    (image folder; val, valid and validation also stand for test), train/images and train/masks (images with masks), *.parquet";

/// What to do if nothing is known of the place.
const SHOWN_IN: &str = "data/README.md shows each layout; images without labels are for \
    `ssdkd-evaluate MODEL --teacher CARD --unlabelled FOLDER`";

/// Returns the error of a path where nothing is.
pub(crate) fn missing(path: &Path) -> DataError {
    let name = path.to_string_lossy().to_lowercase();
    let cifar100 = ["cifar100", "cifar-100", "cifar_100"];
    let known = [
        (&["camvid"][..], "camvid", "CamVid"),
        (&cifar100, "cifar100", "CIFAR-100"),
        (&["cifar"], "cifar10", "CIFAR-10"),
    ];
    let target = known.iter().find(|(words, _, _)| words.iter().any(|word| name.contains(word)));
    let hint = match target {
        Some((_, target, set)) => {
            format!(
                "check the path; in a checkout of this project, `make data-{target}` fetches {set} into data/{target}"
            )
        }
        None => "check the path; `shapes` is a data set that needs no files".into(),
    };
    DataError::Missing { path: path.into(), what: "no such file or folder".into(), hint }
}

/// Returns the error of a path where no known data set is. `nested` is a folder below it that holds one.
pub(crate) fn unknown(path: &Path, nested: Option<&Path>) -> DataError {
    if let Some(folder) = nested {
        let hint = format!("give the folder below it that holds a data set, {}", folder.display());
        return DataError::UnknownFormat { path: path.into(), looked_for: LOOKED_FOR.into(), hint };
    }
    if let Some(archive) = archive_at(path) {
        let folder = archive.parent().unwrap_or(Path::new("")).display().to_string();
        let folder = if folder.is_empty() { ".".into() } else { folder };
        let command = if read::ending(&archive).as_deref() == Some("zip") {
            format!("unzip {} -d {folder}", archive.display())
        } else {
            format!("tar xf {} -C {folder}", archive.display())
        };
        return DataError::Archive { path: archive, command };
    }
    let hint = layout_hint(path).unwrap_or_else(|| SHOWN_IN.into());
    DataError::UnknownFormat { path: path.into(), looked_for: LOOKED_FOR.into(), hint }
}

/// Returns the path, if it is an archive, or the first archive in the folder.
fn archive_at(path: &Path) -> Option<PathBuf> {
    let endings = [".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"];
    let is_archive = |path: &PathBuf| {
        let name = read::file_name(path).to_lowercase();
        path.is_file() && endings.iter().any(|ending| name.ends_with(ending))
    };
    if path.is_dir() {
        return read::entries(path).ok()?.into_iter().find(is_archive);
    }
    Some(path.to_path_buf()).filter(is_archive)
}

/// Returns what is wrong with the place of images that are there.
fn layout_hint(path: &Path) -> Option<String> {
    let is_split = |name: &str| [Split::Train, Split::Test].iter().any(|&split| splits::names(split).contains(&name));
    if is_split(&read::file_name(path).to_lowercase()) {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return Some(format!("give the folder of all splits, {}", parent.display()));
    }
    // Not deeper: it may be any folder of the machine.
    let has_images =
        |folder: &PathBuf| read::entries(folder).is_ok_and(|files| files.iter().any(|file| encoded::is_image(file)));
    let has_classes = path.is_dir() && read::entries(path).ok()?.iter().any(has_images);
    let path = path.display();
    has_classes.then(|| {
        format!("move the class folders into {path}/train and {path}/test: train/CLASS/*.png and test/CLASS/*.png")
    })
}
