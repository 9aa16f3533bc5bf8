//! Image folders: `train/CLASS/*.png` and `test/CLASS/*.png`, the layout that most tools share.

use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageReader, Limits};
use rayon::prelude::*;

use crate::{DataError, Dataset, Split, adapt, read};

const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "bmp", "gif"];

/// Widest and highest image that is decoded, and the memory one decoder may take.
pub(crate) const MAX_SIDE: u32 = 16_384;
const MAX_DECODER_BYTES: u64 = 1 << 30;

fn split_names(split: Split) -> &'static [&'static str] {
    match split {
        Split::Train => &["train"],
        Split::Test => &["test", "val", "validation"],
    }
}

pub(crate) fn split_folder(folder: &Path, split: Split) -> Option<PathBuf> {
    split_names(split).iter().map(|name| folder.join(name)).find(|path| path.is_dir())
}

/// Whether `folder` has a split folder with class folders in it.
pub(crate) fn recognise(folder: &Path) -> bool {
    [Split::Train, Split::Test]
        .iter()
        .filter_map(|&split| split_folder(folder, split))
        .any(|place| class_folders(&place).is_ok_and(|classes| !classes.is_empty()))
}

fn class_folders(place: &Path) -> Result<Vec<PathBuf>, DataError> {
    Ok(read::entries(place)?.into_iter().filter(|path| path.is_dir()).collect())
}

/// What a split consists of.
pub(crate) struct Files {
    place: PathBuf,
    /// Names of the classes, in order.
    names: Vec<String>,
    /// The images' files and labels; at least one of each class.
    images: Vec<(PathBuf, u32)>,
}

/// Lists a split. Classes are numbered in the order of their names, those of `train` where it exists.
pub(crate) fn files(folder: &Path, split: Split) -> Result<Files, DataError> {
    let place = split_folder(folder, split).ok_or_else(|| DataError::Missing {
        path: folder.join(split_names(split)[0]),
        what: format!("the folder of the {split} split (also looked for {})", split_names(split).join(", ")),
        hint: "an image folder has train/CLASS/*.png and test/CLASS/*.png".into(),
    })?;
    let naming = split_folder(folder, Split::Train).unwrap_or_else(|| place.clone());
    let names: Vec<_> = class_folders(&naming)?.iter().map(|path| read::file_name(path)).collect();
    for path in class_folders(&place)? {
        if !names.contains(&read::file_name(&path)) {
            let what = format!("the class is not in {}", naming.display());
            return Err(DataError::broken(&path, what, "every split needs the same class folders"));
        }
    }
    if names.is_empty() {
        let hint = "an image folder has train/CLASS/*.png and test/CLASS/*.png".into();
        return Err(DataError::Missing { path: naming, what: "no class folders in it".into(), hint });
    }
    let mut images = Vec::new();
    for (label, name) in names.iter().enumerate() {
        let path = place.join(name);
        if !path.is_dir() {
            let (what, hint) =
                (format!("the folder of class {name}"), "every split needs the same class folders".into());
            return Err(DataError::Missing { path, what, hint });
        }
        let before = images.len();
        let files = read::entries(&path)?.into_iter().filter(|path| is_image(path));
        images.extend(files.map(|path| (path, label as u32)));
        if images.len() == before {
            return Err(DataError::EmptyClass { path, looked_for: ENDINGS.map(|e| format!(".{e}")).join(" ") });
        }
    }
    Ok(Files { place, names, images })
}

/// Reads a split.
pub(crate) fn load(folder: &Path, split: Split, adapt_to: Option<[usize; 3]>) -> Result<Dataset, DataError> {
    let Files { place, names, images: files } = files(folder, split)?;
    let shape = match adapt_to {
        Some(shape) => shape,
        None => planes(&open(&files[0].0)?).0,
    };
    let size = shape.iter().product::<usize>();
    read::within_limit(&place, files.len().saturating_mul(size) as u64)?;
    let mut images = vec![0; files.len() * size];
    images.par_chunks_exact_mut(size).zip(&files).try_for_each(|(image, (path, _))| {
        image.copy_from_slice(&fit(path, &open(path)?, shape, adapt_to.is_some())?);
        Ok(())
    })?;
    Dataset::new(shape, images, files.into_iter().map(|(_, label)| label).collect(), names)
}

pub(crate) fn is_image(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) && path.is_file()
}

pub(crate) fn open(path: &Path) -> Result<DynamicImage, DataError> {
    let bytes = read::rest(path, read::open(path)?)?;
    decode(path, &bytes)
}

/// Decodes an image file's bytes within limits; `place` is for messages.
pub(crate) fn decode(place: &Path, bytes: &[u8]) -> Result<DynamicImage, DataError> {
    let mut reader = ImageReader::new(std::io::Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|source| DataError::Image { place: place.into(), source: source.into() })?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    reader.decode().map_err(|source| DataError::Image { place: place.into(), source })
}

/// (C, H, W) bytes of an image: one channel if it is gray, else three; transparency is dropped.
pub(crate) fn planes(image: &DynamicImage) -> ([usize; 3], Vec<u8>) {
    let (height, width) = (image.height() as usize, image.width() as usize);
    if !image.color().has_color() {
        return ([1, height, width], image.to_luma8().into_raw());
    }
    let pixels = image.to_rgb8().into_raw();
    let planes = (0..3).flat_map(|channel| pixels.iter().skip(channel).step_by(3).copied()).collect();
    ([3, height, width], planes)
}

/// The image in `shape`: converted if that is allowed, else it must have that shape.
pub(crate) fn fit(place: &Path, image: &DynamicImage, shape: [usize; 3], convert: bool) -> Result<Vec<u8>, DataError> {
    let (found, bytes) = planes(image);
    if found == shape {
        return Ok(bytes);
    }
    // A gray picture in a folder of colour ones is still one of them.
    if convert || (found[1..] == shape[1..] && found[0] == 1) {
        return adapt::convert(&bytes, found, shape);
    }
    Err(DataError::Shapes { place: place.into(), found, expected: shape })
}
