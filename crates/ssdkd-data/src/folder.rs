//! Image folders: `train/CLASS/*.png` and `test/CLASS/*.png`, the layout that most tools share.
//!
//! A class has the images in its folder and below it, as in torchvision's `ImageFolder`. The classes are in text order: `0`, `1`, `10`,
//! `2`. A split may also be as in Tiny ImageNet: `val/images/*.JPEG`, and `val/val_annotations.txt` with a file and a class a line.

use std::path::{Path, PathBuf};

use crate::conversions::Conversions;
use crate::listing::{self, Ignored, images_below};
use crate::{DataError, Dataset, Fit, Split, conversions, encoded, read, splits};

const LAYOUT: &str = "an image folder has train/CLASS/*.png and test/CLASS/*.png";
/// The folder of images that are not sorted by class.
const IMAGES: &str = "images";
/// The folder of test images whose classes are not published.
const UNKNOWN: &str = "unknown";
const ANNOTATIONS: &str = "annotations.txt";

/// Returns whether `folder` has a split with labels.
pub(crate) fn recognise(folder: &Path) -> Result<bool, DataError> {
    for split in [Split::Train, Split::Test] {
        let labelled = |place: &Path| is_labelled(folder, split, place);
        if let Some(found) = splits::find(folder, split, labelled)?
            && labelled(&found.place)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns whether the folder of a split has labels: a list, or class folders. A test split needs an image in a class folder that the
/// training split has too: competitions publish `test/unknown`, or class folders without images.
fn is_labelled(folder: &Path, split: Split, place: &Path) -> Result<bool, DataError> {
    let classes = class_folders(place)?;
    if annotations(place)?.is_some() || (split == Split::Train && !classes.is_empty()) {
        return Ok(true);
    }
    let train = match splits::find(folder, Split::Train, |_| Ok(true))? {
        Some(train) => class_folders(&train.place)?.iter().map(|path| read::file_name(path)).collect(),
        None => Vec::new(),
    };
    for path in &classes {
        let name = read::file_name(path);
        let is_class = if train.is_empty() { classes.len() > 1 || name != UNKNOWN } else { train.contains(&name) };
        if is_class && !images_below(path, &mut Ignored::default())?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the folders of classes. A folder `images` alone is none.
fn class_folders(place: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut folders = read::entries(place)?;
    folders.retain(|path| path.is_dir());
    if let [only] = &folders[..]
        && read::file_name(only) == IMAGES
    {
        folders.clear();
    }
    Ok(folders)
}

/// Returns the file that says of each image in `images` its class.
fn annotations(place: &Path) -> Result<Option<PathBuf>, DataError> {
    if !place.join(IMAGES).is_dir() {
        return Ok(None);
    }
    let is_list = |path: &PathBuf| read::file_name(path).ends_with(ANNOTATIONS) && path.is_file();
    Ok(read::entries(place)?.into_iter().find(is_list))
}

/// What a split consists of.
pub(crate) struct Files {
    place: PathBuf,
    /// Names of the classes, in order.
    names: Vec<String>,
    /// The images' files and labels.
    images: Vec<(PathBuf, u32)>,
    notices: Vec<String>,
}

/// Lists a split. Classes are numbered in the order of their names, those of `train` where it exists.
pub(crate) fn files(folder: &Path, split: Split) -> Result<Files, DataError> {
    let splits::Found { place, notice } = splits::find(folder, split, |place| is_labelled(folder, split, place))?
        .ok_or_else(|| splits::missing(folder, split, LAYOUT))?;
    let naming = match splits::find(folder, Split::Train, |_| Ok(true))? {
        Some(train) if is_labelled(folder, Split::Train, &train.place)? => train.place,
        _ => place.clone(),
    };
    let mut names = class_folders(&naming)?.iter().map(|path| read::file_name(path)).collect::<Vec<_>>();
    let mut files = Files { place, names: Vec::new(), images: Vec::new(), notices: notice.into_iter().collect() };
    let list = annotations(&files.place)?;
    match list {
        Some(list) if class_folders(&files.place)?.is_empty() => files.add_annotated(&list, &mut names)?,
        _ => files.add_classes(split, &naming, &names)?,
    }
    Ok(Files { names, ..files })
}

impl Files {
    /// Adds the images of the class folders.
    fn add_classes(&mut self, split: Split, naming: &Path, names: &[String]) -> Result<(), DataError> {
        let place = self.place.clone();
        let mut ignored = Ignored::default();
        let folders = class_folders(&place)?;
        if folders.is_empty() || names.is_empty() {
            return Err(unlabelled(&place)?);
        }
        for path in &folders {
            if !names.contains(&read::file_name(path)) && !images_below(path, &mut Ignored::default())?.is_empty() {
                let what = format!("the class is not in {}", naming.display());
                return Err(DataError::broken(path, what, "every split needs the same class folders"));
            }
        }
        for (label, name) in names.iter().enumerate() {
            let path = place.join(name);
            let found = if path.is_dir() { images_below(&path, &mut ignored)? } else { Vec::new() };
            // What cannot be learned is an error; what cannot be measured is a notice, of `open`.
            if found.is_empty() && split == Split::Train {
                let looked_for = encoded::ENDINGS.map(|ending| format!(".{ending}")).join(" ");
                let mut there = Ignored::default();
                if path.is_dir() {
                    images_below(&path, &mut there)?;
                }
                let found = if there.total() > 0 { there.kinds() } else { "no files".into() };
                return Err(DataError::EmptyClass { path, looked_for, found });
            }
            self.images.extend(found.into_iter().map(|path| (path, label as u32)));
        }
        self.notices.extend(ignored.notice(&place));
        let beside = read::entries(&place)?.iter().filter(|path| encoded::is_image(path) && path.is_file()).count();
        if beside > 0 {
            let files = listing::files(beside);
            self.notices.push(format!("{}: {files} ignored that lie in no class folder", place.display()));
        }
        Ok(())
    }

    /// Adds the images of a list, whose classes are `names`, or if there are none the list's own.
    fn add_annotated(&mut self, list: &Path, names: &mut Vec<String>) -> Result<(), DataError> {
        let text = read::text(list, "it should hold a file and its class a line")?;
        let mut lines = Vec::new();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let mut words = line.split_whitespace();
            let (Some(file), Some(class)) = (words.next(), words.next()) else {
                let what = format!("its line {} is {line:?}", at + 1);
                return Err(DataError::broken(list, what, "write a file and its class a line"));
            };
            lines.push((file, class));
        }
        if names.is_empty() {
            *names = lines.iter().map(|(_, class)| (*class).to_string()).collect();
            names.sort();
            names.dedup();
        }
        let images = self.place.join(IMAGES);
        for (file, class) in lines {
            let Ok(label) = names.binary_search_by(|name| name.as_str().cmp(class)) else {
                let what = format!("{file} is of class {class}, and there is no such folder in the train split");
                return Err(DataError::broken(list, what, "every class needs a folder in the train split"));
            };
            let path = images.join(file);
            if !path.is_file() {
                let what = format!("an image that {} lists", list.display());
                let hint = "fetch the data set again, or remove the line".into();
                return Err(DataError::Missing { path, what, hint });
            }
            self.images.push((path, label as u32));
        }
        let mut ignored = Ignored::default();
        let there = images_below(&images, &mut ignored)?.len();
        if there > self.images.len() {
            let files = listing::files(there - self.images.len());
            self.notices.push(format!("{}: {files} ignored that {} does not list", images.display(), list.display()));
        }
        self.notices.extend(ignored.notice(&images));
        Ok(())
    }
}

/// Returns the error of a split whose images have no labels.
fn unlabelled(place: &Path) -> Result<DataError, DataError> {
    let images = images_below(place, &mut Ignored::default())?.len();
    let what = match images {
        0 => format!("there are no class folders in {}", place.display()),
        _ => format!("the images there ({}) are in no class folder, so they have no labels", listing::files(images)),
    };
    let hint = format!("{LAYOUT}, or images/ with a list `*{ANNOTATIONS}` of a file and its class a line");
    Ok(DataError::Missing { path: place.join("CLASS"), what, hint })
}

/// Reads one image file as bytes (C, H, W) of the shape of `fit`, as an image of a folder is read: resized, and gray or colored as needed.
///
/// # Errors
/// If the file cannot be read, is damaged, or is no image. The error names it.
pub fn open_image(path: &Path, fit: &Fit) -> Result<Vec<u8>, DataError> {
    fit.check()?;
    Conversions::new(*fit, true).fit(path, &encoded::open(path)?).map_err(|error| match error {
        DataError::Invalid { what } => {
            DataError::Image { place: path.into(), reason: what, hint: encoded::DAMAGED.into() }
        }
        error => error,
    })
}

/// Reads a split.
pub(crate) fn load(folder: &Path, split: Split, adapt_to: Option<Fit>) -> Result<Dataset, DataError> {
    let Files { place, names, images: files, notices } = files(folder, split)?;
    let (files, labels) = files.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
    let decoded = conversions::decode_files(&place, &files, adapt_to)?;
    let dataset = Dataset::new(decoded.shape, decoded.images, labels, names)?;
    Ok(dataset.with_notices(notices).with_notices(decoded.notices))
}
