//! CIFAR-10 and CIFAR-100 as their authors publish them: the binary version, and the Python version that torchvision downloads.
//!
//! The binary version has records of one (or two) label bytes and 3,072 pixel bytes. Source of the formats:
//! <https://www.cs.toronto.edu/~kriz/cifar.html>. Binary batches may be compressed (`.gz`, `.xz`) one by one.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::cifar_python::PIXELS;
use crate::read::{self, find};
use crate::{DataError, Dataset, Split, cifar_python};

const SHAPE: [usize; 3] = [3, 32, 32];

const CIFAR10_NAMES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// One of the two data sets.
struct Layout {
    /// The last of them is the label: CIFAR-100 has the coarse one before the fine one.
    label_bytes: usize,
    /// Number of classes, which tells the two apart.
    classes: usize,
    /// The folders that the authors' archives unpack to.
    binary_folder: &'static str,
    python_folder: &'static str,
    /// The list of class names of the binary version.
    names: &'static str,
}

const CIFAR10: Layout = Layout {
    label_bytes: 1,
    classes: 10,
    binary_folder: "cifar-10-batches-bin",
    python_folder: "cifar-10-batches-py",
    names: "batches.meta.txt",
};
const CIFAR100: Layout = Layout {
    label_bytes: 2,
    classes: 100,
    binary_folder: "cifar-100-binary",
    python_folder: "cifar-100-python",
    names: "fine_label_names.txt",
};

/// Which data set in which version, and where.
pub(crate) struct Found {
    layout: &'static Layout,
    python: bool,
    folder: PathBuf,
}

/// Looks for either data set in `folder`, and in the folder that the authors' archive unpacks to.
pub(crate) fn recognise(folder: &Path) -> Option<Found> {
    for layout in [&CIFAR10, &CIFAR100] {
        for (python, inner) in [(false, layout.binary_folder), (true, layout.python_folder)] {
            let is_in = |place: &PathBuf| {
                if python { cifar_python::is_in(place, layout.classes) } else { layout.is_binary_in(place) }
            };
            if let Some(folder) = [folder.to_path_buf(), folder.join(inner)].into_iter().find(is_in) {
                return Some(Found { layout, python, folder });
            }
        }
    }
    None
}

/// Returns the files of a split of what [`recognise`] found.
pub(crate) fn files(found: &Found, split: Split) -> Result<Vec<PathBuf>, DataError> {
    let Found { layout, python, folder } = found;
    let names = if *python {
        cifar_python::file_names(layout.classes, split == Split::Train)
    } else {
        layout.binary_names(split == Split::Train)
    };
    names.iter().map(|name| layout.file(folder, name)).collect()
}

/// Reads a split of what [`recognise`] found.
pub(crate) fn load(found: &Found, split: Split) -> Result<Dataset, DataError> {
    let Found { layout, python, folder } = found;
    let names =
        if *python { cifar_python::names(folder, layout.classes)? } else { read::names(&folder.join(layout.names))? };
    if let Some(names) = names.as_ref().filter(|names| names.len() != layout.classes) {
        let what = format!("its list of class names has {} entries, not {}", names.len(), layout.classes);
        return Err(DataError::broken(folder, what, "remove the list: the names are known without it"));
    }
    let paths = files(found, split)?;
    // They are unpacked side by side.
    let limit = read::MAX_BYTES / paths.len().max(1) as u64;
    let batches = paths
        .par_iter()
        .map(|path| if *python { cifar_python::batch(path, layout.classes, limit) } else { layout.read(path, limit) });
    let (images, labels): (Vec<_>, Vec<_>) = batches.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
    let (images, labels) = (images.concat(), labels.concat());
    let known = (layout.classes == CIFAR10_NAMES.len()).then(|| CIFAR10_NAMES.map(String::from).to_vec());
    match names.or(known) {
        Some(names) => Dataset::new(SHAPE, images, labels, names),
        None => Dataset::without_names(SHAPE, images, labels, layout.classes),
    }
}

impl Layout {
    fn binary_names(&self, train: bool) -> Vec<String> {
        match (self.classes, train) {
            (10, true) => (1..=5).map(|batch| format!("data_batch_{batch}.bin")).collect(),
            (10, false) => vec!["test_batch.bin".into()],
            (_, true) => vec!["train.bin".into()],
            (_, false) => vec!["test.bin".into()],
        }
    }

    fn is_binary_in(&self, place: &Path) -> bool {
        let first = |train| self.binary_names(train).into_iter().next();
        [true, false].into_iter().filter_map(first).any(|name| find(place, &name).is_some())
    }

    fn file(&self, folder: &Path, name: &str) -> Result<PathBuf, DataError> {
        find(folder, name).ok_or_else(|| DataError::Missing {
            path: folder.join(name),
            what: format!("a part of CIFAR-{} (also looked for {name}.gz and {name}.xz)", self.classes),
            hint: format!("`data/fetch-cifar.sh {}` fetches the whole data set from its authors", self.classes),
        })
    }

    fn read(&self, path: &Path, limit: u64) -> Result<(Vec<u8>, Vec<u32>), DataError> {
        let record = self.label_bytes + PIXELS;
        let mut bytes = read::at_most(path, read::open(path)?, limit)?;
        let count = bytes.len().div_ceil(record).max(1);
        if bytes.len() != count * record {
            return Err(DataError::Truncated {
                path: path.into(),
                expected: (count * record) as u64,
                found: bytes.len() as u64,
                what: format!("(records of {record} bytes)"),
            });
        }
        let mut labels = Vec::with_capacity(count);
        for index in 0..count {
            let start = index * record;
            let label = bytes[start + self.label_bytes - 1];
            if usize::from(label) >= self.classes {
                let (record, label, classes) = (index, label.into(), self.classes);
                return Err(DataError::Label { path: path.into(), record, label, classes });
            }
            labels.push(label.into());
            bytes.copy_within(start + self.label_bytes..start + record, index * PIXELS);
        }
        bytes.truncate(count * PIXELS);
        Ok((bytes, labels))
    }
}
