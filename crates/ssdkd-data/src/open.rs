//! From what the user types to a data set: recognizes the format by what is there.

use std::path::{Path, PathBuf};

use crate::{DataError, Dataset, Fit, Split, adapt, checks, cifar, folder, hints, idx, masked, read, shapes, table};

/// Opens a split of `spec`: `shapes[:SEED]`, `shapes-masks[:SEED]`, or the path of a folder or a `.parquet` file.
///
/// With `adapt_to` every image is brought into the shape that a model takes: resized and cropped as it says, gray repeated over the
/// channels, color turned to gray. Without it images keep the shape they have.
///
/// # Errors
/// Says which file is missing, broken or of no known format, and what would help.
pub fn open(spec: &str, split: Split, adapt_to: Option<Fit>) -> Result<Dataset, DataError> {
    adapt_to.map_or(Ok(()), |fit| fit.check())?;
    let count = match split {
        Split::Train => shapes::TRAIN_IMAGES,
        Split::Test => shapes::TEST_IMAGES,
    };
    let dataset = match drawn(spec)? {
        Some((SHAPES_MASKS, seed)) => shapes::generate_masked(seed, split, count),
        Some((_, seed)) => shapes::generate(seed, split, count),
        None => load(Path::new(spec), split, adapt_to)?,
    };
    if dataset.is_empty() {
        let nothing = format!("its {split} split holds no images");
        let what = [&[nothing], dataset.notices()].concat().join("\n");
        let hint = "check how it was made".into();
        return Err(DataError::Spec { spec: spec.into(), what, hint });
    }
    let dataset = match adapt_to {
        Some(fit) => adapt::adapt(dataset, &fit)?,
        None => dataset,
    };
    let notices = checks::notices(&dataset, split);
    Ok(dataset.with_notices(notices))
}

/// Looks whether a split of `spec` is there in a form that [`open`] knows, and says whether it is one with masks. No image is read: what is
/// in the files may yet be damaged.
///
/// # Errors
/// As [`open`] says of a specification that makes no sense, of nothing at a path, of an unknown format and of a missing file.
pub fn look_for(spec: &str, split: Split) -> Result<bool, DataError> {
    if let Some((name, _)) = drawn(spec)? {
        return Ok(name == SHAPES_MASKS);
    }
    let path = Path::new(spec);
    let format = recognise(path)?;
    let masked = matches!(format, Format::Masked);
    match format {
        Format::Cifar(found) => cifar::files(&found, split).map(drop),
        Format::Idx => idx::files(path, split).map(drop),
        Format::Masked => masked::files(path, split).map(drop),
        Format::Folder => folder::files(path, split).map(drop),
        Format::Tables(tables) => tables.of(path, split).map(drop),
        Format::Table => Ok(()),
    }?;
    Ok(masked)
}

const SHAPES: &str = "shapes";
const SHAPES_MASKS: &str = "shapes-masks";

/// Returns which drawn data set it is, and its seed: `NAME` or `NAME:SEED`; `None` for a path.
fn drawn(spec: &str) -> Result<Option<(&'static str, u64)>, DataError> {
    let spec_error = |what: String, hint: String| DataError::Spec { spec: spec.into(), what, hint };
    if spec.is_empty() {
        return Err(spec_error("it is empty".into(), "give a path, or `shapes` for the procedural data set".into()));
    }
    let (name, seed) = spec.split_once(':').unwrap_or((spec, "0"));
    let Some(name) = [SHAPES, SHAPES_MASKS].into_iter().find(|known| *known == name) else { return Ok(None) };
    match seed.parse() {
        Ok(seed) => Ok(Some((name, seed))),
        Err(_) => Err(spec_error(
            format!("the part after `{name}:` is the seed, a whole number"),
            format!("for example {name}:0"),
        )),
    }
}

/// What lies at a path.
enum Format {
    Table,
    Tables(table::Tables),
    Cifar(cifar::Found),
    Idx,
    Masked,
    Folder,
}

fn recognise(path: &Path) -> Result<Format, DataError> {
    if path.is_file() && table::is_table(path) {
        return Ok(Format::Table);
    }
    if !path.exists() {
        return Err(hints::missing(path));
    }
    if !path.is_dir() {
        return Err(hints::unknown(path, None));
    }
    format_of(path)?.ok_or_else(|| hints::unknown(path, nested(path).as_deref()))
}

/// Returns the format of what a folder holds, if it is a known one.
fn format_of(folder: &Path) -> Result<Option<Format>, DataError> {
    if let Some(found) = cifar::recognise(folder) {
        return Ok(Some(Format::Cifar(found)));
    }
    if idx::recognise(folder) {
        return Ok(Some(Format::Idx));
    }
    if masked::recognise(folder)? {
        return Ok(Some(Format::Masked));
    }
    if folder::recognise(folder)? {
        return Ok(Some(Format::Folder));
    }
    Ok(table::recognise(folder)?.map(Format::Tables))
}

/// Returns the first folder at most two levels below `path` that holds a data set. Folders that cannot be read are passed over.
fn nested(path: &Path) -> Option<PathBuf> {
    // The path may be any folder of the machine.
    const MOST: usize = 32;
    let folders = |path: &Path| {
        let entries = read::entries(path).unwrap_or_default();
        entries.into_iter().filter(|entry| entry.is_dir()).take(MOST).collect::<Vec<_>>()
    };
    let first = folders(path);
    let second = first.iter().flat_map(|folder| folders(folder));
    first.iter().cloned().chain(second).find(|folder| matches!(format_of(folder), Ok(Some(_))))
}

fn load(path: &Path, split: Split, adapt_to: Option<Fit>) -> Result<Dataset, DataError> {
    match recognise(path)? {
        Format::Table => table::load(&[path.into()], adapt_to),
        Format::Tables(tables) => {
            let (files, notices) = tables.of(path, split)?;
            Ok(table::load(&files, adapt_to)?.with_notices(notices))
        }
        Format::Cifar(found) => cifar::load(&found, split),
        Format::Idx => idx::load(path, split),
        Format::Masked => masked::load(path, split, adapt_to),
        Format::Folder => folder::load(path, split, adapt_to),
    }
}
