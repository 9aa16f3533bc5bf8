//! CIFAR-10 and CIFAR-100 in their authors' Python version, which torchvision downloads: pickled dictionaries.
//!
//! A batch has `data`, a NumPy array of u8 (N, 3072), and `labels` or `fine_labels`, a list. The pickles are read as data: no code of
//! theirs runs.

use std::path::{Path, PathBuf};

use ssdkd_pickle::{Pickle, Value};

use crate::{DataError, read};

/// Values of an image: 3 channels, 32 rows and 32 columns.
pub(crate) const PIXELS: usize = 3 * 32 * 32;

const HINT: &str = "unpack the archive from the authors' site again";

/// Images (N, 3, 32, 32) and labels of one batch.
pub(crate) fn batch(path: &Path, classes: usize, limit: u64) -> Result<(Vec<u8>, Vec<u32>), DataError> {
    let pickle = unpickle(path, limit)?;
    let broken = |what: &str| DataError::broken(path, what, HINT);
    let images = pickle.root().get("data").ok_or_else(|| broken("it has no entry `data`"))?;
    let images = images.array().ok_or_else(|| broken("its entry `data` is no array of numbers"))?;
    if images.dtype != "u1" || images.fortran {
        return Err(broken(&format!("its entry `data` is an array of {}, not of u8, row by row", images.dtype)));
    }
    let count = images.shape.first().copied().unwrap_or(0);
    let values = images.shape.iter().try_fold(1_usize, |size, &side| size.checked_mul(side));
    if values != Some(images.data.len()) || count.checked_mul(PIXELS) != values {
        let what = format!("its entry `data` has the shape {:?} and {} bytes", images.shape, images.data.len());
        return Err(broken(&format!("{what}, not {PIXELS} for each image")));
    }
    let key = if classes == 10 { "labels" } else { "fine_labels" };
    let labels =
        pickle.root().get(key).and_then(Value::elements).ok_or_else(|| broken(&format!("it has no list `{key}`")))?;
    if labels.len() != count {
        return Err(broken(&format!("it has {count} images and {} labels", labels.len())));
    }
    let mut found = Vec::with_capacity(count);
    for (record, label) in labels.enumerate() {
        let label = label.int().ok_or_else(|| broken(&format!("its label {record} is {}", label.kind())))?;
        let class = u32::try_from(label).ok().filter(|&class| (class as usize) < classes);
        let class = class.ok_or_else(|| DataError::Label { path: path.into(), record, label, classes })?;
        found.push(class);
    }
    Ok((images.data.into_owned(), found))
}

/// Returns the names of the classes, if the file that has them is there.
pub(crate) fn names(folder: &Path, classes: usize) -> Result<Option<Vec<String>>, DataError> {
    let (file, key) = if classes == 10 { ("batches.meta", "label_names") } else { ("meta", "fine_label_names") };
    let path = folder.join(file);
    if !path.is_file() {
        return Ok(None);
    }
    let pickle = unpickle(&path, read::MAX_BYTES)?;
    let text = |name: Value<'_>| Some(String::from_utf8_lossy(&name.bytes()?).into_owned());
    let names = pickle.root().get(key).and_then(Value::elements).and_then(|names| names.map(text).collect());
    let names: Vec<String> =
        names.ok_or_else(|| DataError::broken(&path, format!("it has no list `{key}` of names"), HINT))?;
    Ok(Some(names))
}

fn unpickle(path: &Path, limit: u64) -> Result<Pickle, DataError> {
    let bytes = read::at_most(path, read::open(path)?, limit)?;
    let (pickle, _) = ssdkd_pickle::read(&bytes).map_err(|reason| DataError::broken(path, reason, HINT))?;
    Ok(pickle)
}

/// Returns the files of a split, in the order of the batches.
pub(crate) fn file_names(classes: usize, train: bool) -> Vec<String> {
    match (classes, train) {
        (10, true) => (1..=5).map(|batch| format!("data_batch_{batch}")).collect(),
        (10, false) => vec!["test_batch".into()],
        (_, true) => vec!["train".into()],
        (_, false) => vec!["test".into()],
    }
}

/// Returns whether a folder has the files of either split.
pub(crate) fn is_in(folder: &Path, classes: usize) -> bool {
    let there = |path: PathBuf| path.is_file() && starts_as_pickle(&path);
    [true, false].iter().flat_map(|&train| file_names(classes, train)).any(|name| there(folder.join(name)))
}

/// Returns whether a file starts with the instruction PROTO and a version, as those of protocols from 2 on do.
fn starts_as_pickle(path: &Path) -> bool {
    let mut start = [0; 2];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start));
    read.is_ok() && start[0] == 0x80 && (2..=5).contains(&start[1])
}
