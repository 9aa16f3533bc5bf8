//! Folders of images with a mask for each: `train/images/NAME.png`, `train/masks/NAME.png`, the same of `test`, and `classes.txt`.
//!
//! A mask is a PNG of 8 bits or fewer, gray or with a palette, whose numbers are the classes of its pixels, as Pascal VOC and Cityscapes
//! (`labelTrainIds`) store them; 255 is no class, and neither is a number whose line in `classes.txt` is `-`.

use std::collections::HashSet;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use png::{BitDepth, ColorType, Transformations};
use rayon::prelude::*;

use crate::conversions::Conversions;
use crate::listing::{self, Ignored};
use crate::read::MAX_SIDE;
use crate::{DataError, Dataset, Fit, Split, UNLABELLED, encoded, read, splits};

const CLASSES: &str = "classes.txt";
/// The line of a number that is no class.
const NO_CLASS: &str = "-";
const LAYOUT: &str = "a folder with masks has train/images, train/masks, test/images, test/masks and classes.txt";

/// Returns whether `folder` has a split with `images` and `masks`.
pub(crate) fn recognise(folder: &Path) -> Result<bool, DataError> {
    let (train, test) = (find(folder, Split::Train)?, find(folder, Split::Test)?);
    Ok([train, test].into_iter().flatten().any(|found| has_masks(&found.place)))
}

fn find(folder: &Path, split: Split) -> Result<Option<splits::Found>, DataError> {
    splits::find(folder, split, |place| Ok(has_masks(place)))
}

fn has_masks(place: &Path) -> bool {
    place.join("images").is_dir() && place.join("masks").is_dir()
}

/// The files of an image and of its mask.
type Pair = (PathBuf, PathBuf);

/// What a split consists of.
pub(crate) struct Files {
    place: PathBuf,
    names: Vec<String>,
    /// The class of each number that a mask may have.
    classes: Vec<u8>,
    pairs: Vec<Pair>,
    notices: Vec<String>,
}

/// Lists a split.
pub(crate) fn files(folder: &Path, split: Split) -> Result<Files, DataError> {
    let missing = |path: PathBuf, what: &str| DataError::Missing { path, what: what.into(), hint: LAYOUT.into() };
    let splits::Found { place, notice } = find(folder, split)?.ok_or_else(|| splits::missing(folder, split, LAYOUT))?;
    let (images, masks) = (place.join("images"), place.join("masks"));
    for path in [&images, &masks] {
        if !path.is_dir() {
            return Err(missing(path.clone(), "no such folder"));
        }
    }
    let listed = folder.join(CLASSES);
    let lines = read::lines(&listed)?.ok_or_else(|| {
        missing(listed.clone(), "the name of each class, one a line, in the order of the masks' numbers")
    })?;
    // The line is the number: to leave it out would give every later class another number.
    if let Some(at) = lines.iter().position(String::is_empty) {
        let what = format!("its line {} is blank", at + 1);
        return Err(DataError::broken(&listed, what, format!("write `{NO_CLASS}` for a number that is no class")));
    }
    let (names, classes) = numbered(&lines);
    if names.is_empty() || lines.len() > usize::from(UNLABELLED) {
        let what =
            format!("it has {} lines, and there may be 1 to {UNLABELLED}, not all of them {NO_CLASS}", lines.len());
        return Err(DataError::broken(
            &listed,
            what,
            format!("write one name a line, {NO_CLASS} for what is no class"),
        ));
    }
    if let Some(name) = names.iter().enumerate().find_map(|(at, name)| names[..at].contains(name).then_some(name)) {
        return Err(DataError::broken(
            &listed,
            format!("it names {name:?} twice"),
            "give each class a name of its own",
        ));
    }
    let (pairs, passed_over) = pair(&images, &masks)?;
    let notices = notice.into_iter().chain(passed_over).collect();
    Ok(Files { place, names, classes, pairs, notices })
}

/// Returns every image with its mask, and notices of the files that are neither.
fn pair(images: &Path, masks: &Path) -> Result<(Vec<Pair>, Vec<String>), DataError> {
    let (mut pairs, mut ignored, mut ignored_masks) = (Vec::new(), Ignored::default(), Ignored::default());
    for image in read::entries(images)? {
        if !encoded::is_image(&image) || !image.is_file() {
            ignored.add(&image);
            continue;
        }
        let mask = masks.join(image.file_name().unwrap_or_default()).with_extension("png");
        if !mask.is_file() {
            let jpeg =
                ["jpg", "jpeg"].map(|ending| mask.with_extension(ending)).into_iter().find(|path| path.is_file());
            let hint = match jpeg {
                Some(jpeg) => {
                    let name = read::file_name(&jpeg);
                    format!("{name} is there: masks are PNG, because JPEG changes the numbers")
                }
                None => "every image needs a mask of its name, as .png".into(),
            };
            return Err(DataError::Missing { path: mask, what: format!("the mask of {}", image.display()), hint });
        }
        pairs.push((image, mask));
    }
    let used = pairs.iter().map(|(_, mask)| mask).collect::<HashSet<_>>();
    let mut unused = 0;
    for mask in read::entries(masks)?.iter().filter(|mask| !used.contains(mask)) {
        if read::ending(mask).as_deref() == Some("png") {
            unused += 1;
        } else {
            ignored_masks.add(mask);
        }
    }
    let mut notices = [ignored.notice(images), ignored_masks.notice(masks)].into_iter().flatten().collect::<Vec<_>>();
    if unused > 0 {
        notices.push(format!("{}: {} ignored that belong to no image", masks.display(), listing::files(unused)));
    }
    Ok((pairs, notices))
}

/// Returns the classes' names, and the class of each line's number.
fn numbered(lines: &[String]) -> (Vec<String>, Vec<u8>) {
    let mut names = Vec::new();
    let mut class_of = |line: &String| {
        if line == NO_CLASS {
            return UNLABELLED;
        }
        names.push(line.clone());
        names.len() as u8 - 1
    };
    // A file of more lines is refused: the first of them are enough to say so.
    let classes = lines.iter().take(usize::from(UNLABELLED)).map(&mut class_of).collect();
    (names, classes)
}

/// Reads a split. The label of an image is the class that most of its pixels are of.
pub(crate) fn load(folder: &Path, split: Split, adapt_to: Option<Fit>) -> Result<Dataset, DataError> {
    let Files { place, names, classes, pairs, notices } = files(folder, split)?;
    let Some((first, _)) = pairs.first() else {
        return Dataset::new([1, 1, 1], Vec::new(), Vec::new(), names)?.with_masks(Vec::new());
    };
    let fit = match adapt_to {
        Some(fit) => fit,
        None => encoded::planes(&encoded::open(first)?).0.into(),
    };
    let (shape, conversions) = (fit.shape(), Conversions::new(fit, adapt_to.is_some()));
    let (size, pixels) = (shape.iter().product::<usize>(), shape[1] * shape[2]);
    read::within_limit(&place, pairs.len().saturating_mul(size + pixels) as u64)?;
    let (mut images, mut masks) = (vec![0; pairs.len() * size], vec![0; pairs.len() * pixels]);
    images.par_chunks_exact_mut(size).zip(masks.par_chunks_exact_mut(pixels)).zip(&pairs).try_for_each(
        |((image, mask), (image_path, mask_path))| {
            let picture = encoded::open(image_path)?;
            let found = read_mask(mask_path, &classes)?;
            if found.sides != [picture.height() as usize, picture.width() as usize] {
                let [height, width] = found.sides;
                let what = format!(
                    "it is {height}×{width} (height × width), and its image {}×{}",
                    picture.height(),
                    picture.width()
                );
                return Err(DataError::broken(mask_path, what, "a mask has the size of its image"));
            }
            image.copy_from_slice(&conversions.fit(image_path, &picture)?);
            mask.copy_from_slice(&fit.mask(&found.classes, found.sides));
            Ok(())
        },
    )?;
    let labels = masks.par_chunks_exact(pixels).map(most_frequent).collect();
    let dataset = Dataset::new(shape, images, labels, names)?.with_masks(masks)?;
    Ok(dataset.with_notices(notices).with_notices(conversions.notices()))
}

/// Returns the class of most pixels; of equal ones the first, and the first where no pixel has one.
fn most_frequent(mask: &[u8]) -> u32 {
    let mut counts = [0_usize; UNLABELLED as usize];
    for &class in mask.iter().filter(|&&class| class != UNLABELLED) {
        counts[usize::from(class)] += 1;
    }
    (0..counts.len()).rev().max_by_key(|&class| counts[class]).unwrap_or(0) as u32
}

/// The numbers of a mask, row by row.
struct Mask {
    /// Height and width.
    sides: [usize; 2],
    classes: Vec<u8>,
}

fn read_mask(path: &Path, classes: &[u8]) -> Result<Mask, DataError> {
    let bytes = read::plain(path)?;
    let mut mask = decode(path, &bytes)?;
    for number in mask.classes.iter_mut().filter(|number| **number != UNLABELLED) {
        let Some(&class) = classes.get(usize::from(*number)) else {
            let what = format!("a pixel is of class {number}, and {CLASSES} has {} lines, from 0", classes.len());
            let hint = format!(
                "name all classes in {CLASSES}, with {NO_CLASS} for a number that is none; {UNLABELLED} is none"
            );
            return Err(DataError::broken(path, what, hint));
        };
        *number = class;
    }
    Ok(mask)
}

/// Returns the numbers of a PNG as they are stored: a palette's places, not its colors.
fn decode(path: &Path, bytes: &[u8]) -> Result<Mask, DataError> {
    let damaged = |what: String| DataError::broken(path, what, "repair or replace it");
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(|error| damaged(format!("it is no PNG: {error}")))?;
    let (kind, depth) = reader.output_color_type();
    let (height, width) = (reader.info().height as usize, reader.info().width as usize);
    if !matches!(kind, ColorType::Grayscale | ColorType::Indexed) || depth == BitDepth::Sixteen {
        let hint = if matches!(kind, ColorType::Rgb | ColorType::Rgba) {
            "write the class numbers, not colors: a mask is a PNG of 8 bits or fewer, gray or with a palette"
        } else {
            "a mask is a PNG of 8 bits or fewer, gray or with a palette"
        };
        return Err(DataError::broken(path, format!("it is a PNG of {kind:?} with {} bits", depth as u8), hint));
    }
    if height.max(width) > MAX_SIDE as usize {
        return Err(damaged(format!("it is {height}×{width} (height × width), and no side may be above {MAX_SIDE}")));
    }
    let mut rows = vec![0; reader.output_buffer_size().unwrap_or_default()];
    let frame = reader.next_frame(&mut rows).map_err(|error| damaged(format!("it does not decode: {error}")))?;
    let bits = depth as usize;
    let number = |row: &[u8], x: usize| {
        let from_left = x * bits % 8;
        (row[x * bits / 8] << from_left) >> (8 - bits)
    };
    let classes = rows.chunks_exact(frame.line_size.max(1)).take(height);
    let classes = classes.flat_map(|row| (0..width).map(move |x| number(row, x))).collect::<Vec<_>>();
    if classes.len() != height * width {
        return Err(damaged(format!("it has {} pixels, and its head says {height}×{width}", classes.len())));
    }
    Ok(Mask { sides: [height, width], classes })
}
