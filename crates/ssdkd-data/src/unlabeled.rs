//! Image files without labels: any folder of them, for comparing networks.

use std::path::Path;

use crate::listing::{Ignored, images_below};
use crate::{DataError, Fit, conversions, dataset, encoded};

/// Images of one shape in memory, 8 bit, without labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnlabeledImages {
    shape: [usize; 3],
    images: Vec<u8>,
    notices: Vec<String>,
}

impl UnlabeledImages {
    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.images.len() / self.size()
    }

    /// Returns whether no image is there.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Returns \[C, H, W\] of every image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Returns the pixels of one image, (C, H, W).
    pub fn image(&self, index: usize) -> &[u8] {
        &self.images[index * self.size()..][..self.size()]
    }

    /// Returns what a user should know of how the files were read, a sentence each.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Keeps the first `count` images, or all if there are fewer.
    pub fn truncate(&mut self, count: usize) {
        self.images.truncate(count.saturating_mul(self.size()));
    }

    /// Returns a batch as networks take it: the named images in `[0, 1]`, (B, H, W, C).
    pub fn gather(&self, indices: &[usize]) -> Vec<f32> {
        dataset::gather(&self.images, self.shape, indices)
    }

    fn size(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Opens a folder of image files at any depth. The names of its folders mean nothing.
///
/// With `adapt_to` every image is brought into its shape, as [`open`](crate::open()) does it. Without it all images need
/// the shape of the first. The files come in the order of their names.
///
/// # Errors
/// If the folder is missing, is a file or holds no image; if an image is damaged. The error names the file.
pub fn open_unlabeled(path: &Path, adapt_to: Option<Fit>) -> Result<UnlabeledImages, DataError> {
    adapt_to.map_or(Ok(()), |fit| fit.check())?;
    if !path.exists() {
        let (what, hint) = ("no such folder".into(), "check the path; give a folder of image files".into());
        return Err(DataError::Missing { path: path.into(), what, hint });
    }
    if !path.is_dir() {
        return Err(DataError::broken(path, "it is a file, not a folder", "give the folder that holds the images"));
    }
    let mut ignored = Ignored::default();
    let files = images_below(path, &mut ignored)?;
    if files.is_empty() {
        let looked_for = encoded::ENDINGS.map(|ending| format!(".{ending}")).join(" ");
        return Err(DataError::Missing {
            path: path.join("*.png"),
            what: format!("the folder and those below it hold no images (looked for {looked_for})"),
            hint: "give a folder of image files".into(),
        });
    }
    let decoded = conversions::decode_files(path, &files, adapt_to)?;
    let notices = ignored.notice(path).into_iter().chain(decoded.notices).collect();
    Ok(UnlabeledImages { shape: decoded.shape, images: decoded.images, notices })
}
