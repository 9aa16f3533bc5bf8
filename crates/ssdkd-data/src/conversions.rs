//! Brings encoded images into one shape, and counts what was changed for it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use image::DynamicImage;
use rayon::prelude::*;

use crate::{DataError, Fit, adapt, encoded, read};

/// The images of many files, in one shape.
pub(crate) struct Decoded {
    /// \[C, H, W\]
    pub(crate) shape: [usize; 3],
    /// (N, C, H, W)
    pub(crate) images: Vec<u8>,
    /// What a user should know of how the images were brought into the shape.
    pub(crate) notices: Vec<String>,
}

/// Decodes image files into the shape of `adapt_to`, or without it into the shape of the first. `place` is for messages.
pub(crate) fn decode_files(place: &Path, files: &[PathBuf], adapt_to: Option<Fit>) -> Result<Decoded, DataError> {
    let fit = match (adapt_to, files.first()) {
        (Some(fit), _) => fit,
        (None, Some(first)) => encoded::planes(&encoded::open(first)?).0.into(),
        (None, None) => [1, 1, 1].into(),
    };
    let shape = fit.shape();
    let size = shape.iter().product::<usize>();
    read::within_limit(place, files.len().saturating_mul(size) as u64)?;
    let conversions = Conversions::new(fit, adapt_to.is_some());
    let mut images = vec![0; files.len() * size];
    images.par_chunks_exact_mut(size).zip(files).try_for_each(|(image, path)| {
        image.copy_from_slice(&conversions.fit(path, &encoded::open(path)?)?);
        Ok(())
    })?;
    Ok(Decoded { shape, images, notices: conversions.notices().collect() })
}

/// The shape that images are brought into, and how many of them were of another.
pub(crate) struct Conversions {
    fit: Fit,
    /// Whether images of another size are resized.
    resize: bool,
    images: AtomicUsize,
    gray: AtomicUsize,
    resized: AtomicUsize,
}

impl Conversions {
    pub(crate) fn new(fit: Fit, resize: bool) -> Self {
        Self { fit, resize, images: 0.into(), gray: 0.into(), resized: 0.into() }
    }

    /// Returns \[C, H, W\]
    pub(crate) fn shape(&self) -> [usize; 3] {
        self.fit.shape()
    }

    /// Returns the bytes (C, H, W) of an image in the shape. Without resizing only gray among colored images is converted.
    pub(crate) fn fit(&self, place: &Path, image: &DynamicImage) -> Result<Vec<u8>, DataError> {
        let (found, bytes) = encoded::planes(image);
        self.fit_bytes(place, found, bytes)
    }

    /// Does the same for bytes (C, H, W) of the shape `found`.
    pub(crate) fn fit_bytes(&self, place: &Path, found: [usize; 3], bytes: Vec<u8>) -> Result<Vec<u8>, DataError> {
        let shape = self.shape();
        let differs = found[1..] != shape[1..];
        self.images.fetch_add(1, Ordering::Relaxed);
        self.gray.fetch_add(usize::from(found[0] == 1), Ordering::Relaxed);
        self.resized.fetch_add(usize::from(differs), Ordering::Relaxed);
        if found == shape {
            return Ok(bytes);
        }
        // A gray picture in a folder of colored ones is still one of them.
        if self.resize || (!differs && found[0] == 1) {
            return adapt::convert(&bytes, found, &self.fit);
        }
        Err(DataError::Shapes { place: place.into(), found, expected: shape })
    }

    /// Returns what a user should know of it.
    pub(crate) fn notices(&self) -> impl Iterator<Item = String> {
        let [images, gray, resized] =
            [&self.images, &self.gray, &self.resized].map(|count| count.load(Ordering::Relaxed));
        let [channels, ..] = self.shape();
        let mixed = (0 < gray && gray < images).then(|| {
            let remedy = if channels == 1 {
                "the colored ones are turned to gray"
            } else {
                "gray is repeated over the channels"
            };
            format!("{gray} of {images} images are gray and the others colored: {remedy}")
        });
        let resized = (resized > 0).then(|| format!("{resized} of {images} images are {}", self.fit));
        mixed.into_iter().chain(resized)
    }
}
