//! CIFAR-10 and CIFAR-100 in their authors' binary version: records of one (or two) label bytes and 3,072 pixel bytes.
//!
//! Source of the format: <https://www.cs.toronto.edu/~kriz/cifar.html>. Batches may be compressed (`.gz`, `.xz`) one by one.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::read::{self, find};
use crate::{DataError, Dataset, Split};

const SHAPE: [usize; 3] = [3, 32, 32];
const PIXELS: usize = 3 * 32 * 32;

const CIFAR10_NAMES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Which of the two, and where: the folder itself, or the one that the authors' archive unpacks to.
pub(crate) enum Found {
    Cifar10(PathBuf),
    Cifar100(PathBuf),
}

/// Looks for either data set in `folder`.
pub(crate) fn recognise(folder: &Path) -> Option<Found> {
    let ten = [folder.to_path_buf(), folder.join("cifar-10-batches-bin")]
        .into_iter()
        .find(|place| find(place, "data_batch_1.bin").or_else(|| find(place, "test_batch.bin")).is_some());
    let hundred = || {
        [folder.to_path_buf(), folder.join("cifar-100-binary")]
            .into_iter()
            .find(|place| find(place, "train.bin").or_else(|| find(place, "test.bin")).is_some())
    };
    ten.map(Found::Cifar10).or_else(|| hundred().map(Found::Cifar100))
}

const CIFAR10: Layout = Layout { label_bytes: 1, classes: 10, hint: "data/fetch-cifar.sh 10" };
const CIFAR100: Layout = Layout { label_bytes: 2, classes: 100, hint: "data/fetch-cifar.sh 100" };

/// The files of a split of what [`recognise`] found.
pub(crate) fn files(found: &Found, split: Split) -> Result<Vec<PathBuf>, DataError> {
    match (found, split) {
        (Found::Cifar10(folder), Split::Train) => {
            (1..=5).map(|batch| CIFAR10.file(folder, &format!("data_batch_{batch}.bin"))).collect()
        }
        (Found::Cifar10(folder), Split::Test) => Ok(vec![CIFAR10.file(folder, "test_batch.bin")?]),
        (Found::Cifar100(folder), split) => Ok(vec![CIFAR100.file(folder, &format!("{split}.bin"))?]),
    }
}

/// Reads a split of what [`recognise`] found.
pub(crate) fn load(found: &Found, split: Split) -> Result<Dataset, DataError> {
    match found {
        Found::Cifar10(folder) => {
            let names = read::names(&folder.join("batches.meta.txt"))?;
            let names = names.unwrap_or_else(|| CIFAR10_NAMES.map(String::from).to_vec());
            CIFAR10.load(folder, &files(found, split)?, Some(names))
        }
        Found::Cifar100(folder) => {
            let names = read::names(&folder.join("fine_label_names.txt"))?;
            CIFAR100.load(folder, &files(found, split)?, names)
        }
    }
}

struct Layout {
    /// The last of them is the label: CIFAR-100 has the coarse one before the fine one.
    label_bytes: usize,
    classes: usize,
    /// The script that fetches it.
    hint: &'static str,
}

impl Layout {
    fn file(&self, folder: &Path, name: &str) -> Result<PathBuf, DataError> {
        find(folder, name).ok_or_else(|| DataError::Missing {
            path: folder.join(name),
            what: format!("a part of CIFAR-{} (also looked for {name}.gz and {name}.xz)", self.classes),
            hint: format!("`{}` fetches the whole data set from its authors", self.hint),
        })
    }

    fn load(&self, folder: &Path, paths: &[PathBuf], names: Option<Vec<String>>) -> Result<Dataset, DataError> {
        if let Some(names) = names.as_ref().filter(|names| names.len() != self.classes) {
            let what = format!("its list of class names has {} entries, not {}", names.len(), self.classes);
            return Err(DataError::broken(folder, what, "remove the list: the names are known without it"));
        }
        // They are unpacked side by side.
        let limit = read::MAX_BYTES / paths.len().max(1) as u64;
        let batches = paths.par_iter().map(|path| self.read(path, limit)).collect::<Result<Vec<_>, _>>()?;
        let (images, labels): (Vec<_>, Vec<_>) = batches.into_iter().unzip();
        let (images, labels) = (images.concat(), labels.concat());
        match names {
            Some(names) => Dataset::new(SHAPE, images, labels, names),
            None => Dataset::without_names(SHAPE, images, labels, self.classes),
        }
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
