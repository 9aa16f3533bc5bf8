//! Masks of a segmentation network as PNG files of class indices.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use image::{GrayImage, ImageFormat};
use serde::Serialize;
use ssdkd_stage::table::{Align, Table};
use ssdkd_stage::{StageError, exit, write_file};

/// Most classes of a mask: its pixels have eight bits.
const MOST_CLASSES: usize = 256;

/// Where masks go, and their shape.
pub struct Masks {
    folder: PathBuf,
    /// Height and width.
    size: [usize; 2],
    classes: usize,
}

/// A mask that was written.
#[derive(Debug, Serialize)]
pub struct Written {
    file: String,
    mask: String,
}

impl Masks {
    /// Masks in `folder`, one for each image.
    ///
    /// # Errors
    /// If there are too many classes, two images would have the same mask, or a mask would replace an image.
    pub fn new(folder: &Path, size: [usize; 2], classes: usize, images: &[PathBuf]) -> Result<Self, StageError> {
        if classes > MOST_CLASSES {
            return Err(StageError::Usage(format!(
                "the model has {classes} classes, and a mask holds at most {MOST_CLASSES}"
            )));
        }
        let masks = Self { folder: folder.into(), size, classes };
        let mut taken = HashMap::new();
        for image in images {
            let mask = masks.path(image);
            let twice = taken.insert(mask.clone(), image).filter(|other| *other != image);
            if let Some(other) = twice {
                let [other, image] = [other, image].map(|path| path.display());
                return Err(StageError::Usage(format!(
                    "the masks of {other} and {image} are both {}\nhint: predict them one by one, with another --out",
                    mask.display()
                )));
            }
        }
        let originals = images.iter().filter_map(|image| image.canonicalize().ok()).collect::<Vec<_>>();
        let replaced = taken.keys().find(|mask| mask.canonicalize().is_ok_and(|mask| originals.contains(&mask)));
        match replaced {
            None => Ok(masks),
            Some(mask) => {
                let what = format!("the mask {} would replace an image", mask.display());
                Err(StageError::Usage(format!("{what}\nhint: give another folder as --out")))
            }
        }
    }

    /// Returns where the mask of an image goes: its name with the ending `.png`.
    fn path(&self, image: &Path) -> PathBuf {
        let stem = image.file_stem().unwrap_or(image.as_os_str());
        let mut name = stem.to_os_string();
        name.push(".png");
        self.folder.join(name)
    }

    /// Writes the mask of an image, from the logits of its pixels (H·W, K).
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, image: &Path, logits: &[f32]) -> Result<Written> {
        let pixels = logits.chunks_exact(self.classes).map(largest).collect::<Vec<_>>();
        let [height, width] = self.size;
        let mask =
            GrayImage::from_raw(width as u32, height as u32, pixels).context("a mask has height × width pixels")?;
        let mut bytes = Cursor::new(Vec::new());
        mask.write_to(&mut bytes, ImageFormat::Png)?;
        let path = self.path(image);
        write_file(&path, &bytes.into_inner())?;
        Ok(Written { file: image.display().to_string(), mask: path.display().to_string() })
    }
}

/// Returns the class with the largest logit, the first of equals.
fn largest(logits: &[f32]) -> u8 {
    let mut best = 0;
    for (class, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = class;
        }
    }
    best as u8
}

/// Returns a line for each image: its file and its mask.
pub fn table(written: &[Written]) -> String {
    let mut table = Table::new([("file", Align::Left), ("mask", Align::Left)]);
    for Written { file, mask } in written {
        table.row([exit::one_line(file), exit::one_line(mask)]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_with_the_same_mask_are_refused() {
        let images = ["a/x.png", "b/x.jpg"].map(PathBuf::from);
        let Err(error) = Masks::new(Path::new("masks"), [2, 2], 3, &images) else { panic!("it was accepted") };
        assert!(error.to_string().contains("a/x.png and b/x.jpg are both masks/x.png"), "{error}");
    }

    #[test]
    fn of_equal_logits_the_first_class_wins() {
        assert_eq!([largest(&[0.0, 1.0, 1.0]), largest(&[2.0, -1.0, 2.0])], [1, 0]);
    }
}
