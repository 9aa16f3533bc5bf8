//! IDX files, the format of MNIST and its relatives: gray images and labels in two files for each split.
//!
//! Source of the format: <http://yann.lecun.com/exdb/mnist/>. Any name that ends in `train-images-idx3-ubyte`,
//! `t10k-images-idx3-ubyte` or `test-images-idx3-ubyte` is taken (EMNIST puts its own name in front), also with `.gz` or `.xz`.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::{DataError, Dataset, Split, read};

/// Returns whether `folder` holds the images of some split.
pub(crate) fn recognise(folder: &Path) -> bool {
    // Several of them are this format too: what is wrong with them is said when they are opened.
    [Split::Train, Split::Test].iter().any(|&split| !matches!(find(folder, split, "images-idx3"), Ok(None)))
}

/// Returns the files of a split: images and labels.
pub(crate) fn files(folder: &Path, split: Split) -> Result<[PathBuf; 2], DataError> {
    let part = |part: &str| -> Result<PathBuf, DataError> {
        find(folder, split, part)?.ok_or_else(|| DataError::Missing {
            path: folder.join(format!("{}-{part}-ubyte", prefixes(split)[0])),
            what: format!(
                "the {} of the {split} split, in IDX format, plain, .gz or .xz",
                part.split('-').next().unwrap_or(part)
            ),
            hint: "put images and labels of both splits into one folder".into(),
        })
    };
    Ok([part("images-idx3")?, part("labels-idx1")?])
}

/// Reads a split: images (N, 1, H, W).
pub(crate) fn load(folder: &Path, split: Split) -> Result<Dataset, DataError> {
    let [images_path, labels_path] = files(folder, split)?;
    let ([count, height, width], images) = read_idx::<3>(&images_path)?;
    if count == 0 || height == 0 || width == 0 {
        let what = format!("its header says {count} images of {height}×{width}");
        return Err(DataError::broken(&images_path, what, "fetch the file again"));
    }
    let ([label_count], labels) = read_idx::<1>(&labels_path)?;
    if label_count != count {
        let what = format!("it has {label_count} labels, and {} has {count} images", read::file_name(&images_path));
        return Err(DataError::broken(&labels_path, what, "take both files from the same release"));
    }
    // The format does not say how many classes there are; the split that is not asked for may hold more of them.
    let mut highest = labels.iter().copied().max();
    let other = if split == Split::Train { Split::Test } else { Split::Train };
    if let Some(path) = find(folder, other, "labels-idx1")? {
        highest = highest.max(read_idx::<1>(&path)?.1.into_iter().max());
    }
    let classes = highest.map_or(0, |label| usize::from(label) + 1);
    Dataset::without_names([1, height, width], images, labels.into_iter().map(u32::from).collect(), classes)
}

fn prefixes(split: Split) -> &'static [&'static str] {
    match split {
        Split::Train => &["train"],
        Split::Test => &["t10k", "test"],
    }
}

/// Returns the file of a split whose name ends in, for example, `train-images-idx3-ubyte`.
fn find(folder: &Path, split: Split, part: &str) -> Result<Option<PathBuf>, DataError> {
    let mut found = Vec::new();
    for path in read::entries(folder)?.into_iter().filter(|path| path.is_file()) {
        let name = read::file_name(&path);
        let plain = [".gz", ".xz"].iter().find_map(|ending| name.strip_suffix(ending));
        let plain = plain.unwrap_or(&name).replace(".idx", "-idx");
        if prefixes(split).iter().any(|prefix| plain.ends_with(&format!("{prefix}-{part}-ubyte"))) {
            found.push((plain, path));
        }
    }
    // Plain and compressed, it is one.
    found.dedup_by(|(later, _), (earlier, _)| later == earlier);
    if found.len() > 1 {
        let names = found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        let what = format!("it holds several data sets: {names}");
        return Err(DataError::broken(folder, what, "put the files of one of them into a folder of their own"));
    }
    Ok(found.pop().map(|(_, path)| path))
}

/// Returns an array of unsigned bytes with `RANK` dimensions.
fn read_idx<const RANK: usize>(path: &Path) -> Result<([usize; RANK], Vec<u8>), DataError> {
    let mut reader = read::open(path)?;
    let mut word = || -> Result<u32, DataError> {
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes).map_err(DataError::read(path))?;
        Ok(u32::from_be_bytes(bytes))
    };
    let (magic, expected) = (word()?, 0x0800 + RANK as u32);
    if magic != expected {
        let what = format!("it starts with {magic:#010x}, not with IDX's {expected:#010x} (bytes, {RANK} dimensions)");
        return Err(DataError::broken(path, what, "fetch the file again"));
    }
    let mut sides = [0; RANK];
    for side in &mut sides {
        *side = word()?;
    }
    let size = sides.iter().try_fold(1_u64, |size, &side| size.checked_mul(side.into())).unwrap_or(u64::MAX);
    read::within_limit(path, size)?;
    let bytes = read::rest(path, reader)?;
    if bytes.len() as u64 != size {
        let found = bytes.len() as u64;
        if found > size {
            let what = format!("{found} bytes follow its header, which says {sides:?}, that is {size}");
            return Err(DataError::broken(path, what, "fetch the file again"));
        }
        let what = format!("(its header says {sides:?})");
        return Err(DataError::Truncated { path: path.into(), expected: size, found, what });
    }
    Ok((sides.map(|side| side as usize), bytes))
}
