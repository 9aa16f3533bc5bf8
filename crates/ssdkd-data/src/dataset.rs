//! Labeled images in memory: what every loader gives, and what training and measuring take.

use std::collections::HashSet;

use rayon::prelude::*;

use crate::DataError;
use crate::mask_pixels::MaskPixels;

/// Which part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// To learn from.
    Train,
    /// To measure on.
    Test,
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Test => "test",
        })
    }
}

/// Most classes a data set may have: labels from a file are checked against it before anything is sized by them.
pub(crate) const MAX_CLASSES: usize = 65_536;

/// In a mask: a pixel that is of no class and counts nowhere, as in the masks of Pascal VOC and Cityscapes.
pub const UNLABELLED: u8 = 255;

/// Labeled images of one shape, 8 bit, each stored channel by channel (C, H, W).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    shape: [usize; 3],
    images: Vec<u8>,
    labels: Vec<u32>,
    classes: Classes,
    masks: Option<Vec<u8>>,
    notices: Vec<String>,
}

/// The classes of a data set, with or without names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Classes {
    /// The name of each class, in order.
    Named(Vec<String>),
    /// The number of classes: labels are indices and nothing says what they mean.
    Numbered(usize),
}

impl Dataset {
    /// Puts a data set together: `images` is (N, C, H, W) with `shape` = \[C, H, W\], `labels` (N,) below the number of names.
    ///
    /// # Errors
    /// Lengths that do not agree, a label without a name, a shape with a zero in it.
    pub fn new(
        shape: [usize; 3],
        images: Vec<u8>,
        labels: Vec<u32>,
        class_names: Vec<String>,
    ) -> Result<Self, DataError> {
        Self::of(shape, images, labels, Classes::Named(class_names))
    }

    /// Puts together a data set whose classes have no names: its labels are indices below `classes`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn without_names(
        shape: [usize; 3],
        images: Vec<u8>,
        labels: Vec<u32>,
        classes: usize,
    ) -> Result<Self, DataError> {
        Self::of(shape, images, labels, Classes::Numbered(classes))
    }

    fn of(shape: [usize; 3], images: Vec<u8>, labels: Vec<u32>, classes: Classes) -> Result<Self, DataError> {
        let invalid = |what: String| DataError::Invalid { what };
        let size = shape.iter().try_fold(1_usize, |size, &side| size.checked_mul(side)).unwrap_or(0);
        if size == 0 {
            return Err(invalid(format!("images of shape {shape:?} (channels, height, width)")));
        }
        if images.len() != labels.len().saturating_mul(size) {
            return Err(invalid(format!("{} bytes for {} images of shape {shape:?}", images.len(), labels.len())));
        }
        let count = classes.count();
        if count > MAX_CLASSES {
            return Err(invalid(format!("{count} classes; at most {MAX_CLASSES} are possible")));
        }
        if let Some(at) = labels.iter().position(|&label| label as usize >= count) {
            return Err(invalid(format!("image {at} has label {}, of {count} classes", labels[at])));
        }
        Ok(Self { shape, images, labels, classes, masks: None, notices: Vec::new() })
    }

    /// Adds a mask to each image: (N, H, W), the class of each pixel, or [`UNLABELLED`].
    ///
    /// # Errors
    /// A length that does not agree, or a value that is no class.
    pub fn with_masks(mut self, masks: Vec<u8>) -> Result<Self, DataError> {
        let [_, height, width] = self.shape;
        if masks.len() != self.len() * height * width {
            let what = format!("{} bytes of masks for {} images of {height}×{width}", masks.len(), self.len());
            return Err(DataError::Invalid { what });
        }
        let stray = |value: &u8| *value != UNLABELLED && usize::from(*value) >= self.classes();
        if let Some(at) = masks.iter().position(stray) {
            let (image, value) = (at / (height * width), masks[at]);
            let what = format!("the mask of image {image} holds {value}, of {} classes", self.classes());
            return Err(DataError::Invalid { what });
        }
        self.masks = Some(masks);
        Ok(self)
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns whether there is no image at all.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Returns \[C, H, W\] of every image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Returns the number of classes, also those without an image.
    pub fn classes(&self) -> usize {
        self.classes.count()
    }

    /// Returns the names of the classes, in order; `None` where the files name no class and labels are indices only.
    pub fn class_names(&self) -> Option<&[String]> {
        match &self.classes {
            Classes::Named(names) => Some(names),
            Classes::Numbered(_) => None,
        }
    }

    /// Returns the name of a class, or its number where the classes have no names.
    pub fn class_name(&self, class: usize) -> String {
        self.class_names().and_then(|names| names.get(class)).cloned().unwrap_or_else(|| class.to_string())
    }

    /// Returns whether the classes have names and all of these are whole numbers, as those of folders `0`, `1`, `10`, …
    ///
    /// Such folders are in text order, as torchvision has them. So the class `10` may have the index 2.
    pub fn names_are_numbers(&self) -> bool {
        self.class_names().is_some_and(|names| names.iter().all(|name| name.parse::<u32>().is_ok()))
    }

    /// Returns what a user should know of how the files were read, a sentence each: files that were ignored, splits that were replaced.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Adds notices.
    #[must_use]
    pub(crate) fn with_notices(mut self, notices: impl IntoIterator<Item = String>) -> Self {
        self.notices.extend(notices);
        self
    }

    /// Returns the same data set with other images of another shape; its labels, names and notices stay, its masks go.
    pub(crate) fn with_images(&self, shape: [usize; 3], images: Vec<u8>) -> Result<Self, DataError> {
        let adapted = Self::of(shape, images, self.labels.clone(), self.classes.clone())?;
        Ok(adapted.with_notices(self.notices.iter().cloned()))
    }

    /// Returns all pixels, (N, C, H, W).
    pub fn images(&self) -> &[u8] {
        &self.images
    }

    /// Returns the pixels of one image, (C, H, W).
    pub fn image(&self, index: usize) -> &[u8] {
        let size = self.shape.iter().product::<usize>();
        &self.images[index * size..][..size]
    }

    /// Returns all labels, (N,).
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Returns the class of one image.
    pub fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    /// Returns all masks, (N, H, W), where the data set has them.
    pub fn masks(&self) -> Option<&[u8]> {
        self.masks.as_deref()
    }

    /// Returns the mask of one image, (H, W), where the data set has them.
    pub fn mask(&self, index: usize) -> Option<&[u8]> {
        let size = self.shape[1] * self.shape[2];
        self.masks.as_deref().map(|masks| &masks[index * size..][..size])
    }

    /// Returns the number of images of each class.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes()];
        for &label in &self.labels {
            counts[label as usize] += 1;
        }
        counts
    }

    /// Returns what the masks hold, where the data set has them.
    pub fn mask_pixels(&self) -> Option<MaskPixels> {
        const NO_CLASS: usize = UNLABELLED as usize;
        let mut counts = [0; NO_CLASS + 1];
        for &value in self.masks()? {
            counts[usize::from(value)] += 1;
        }
        Some(MaskPixels {
            // A mask has no number for more classes.
            classes: (0..self.classes()).map(|class| if class < NO_CLASS { counts[class] } else { 0 }).collect(),
            unlabelled: counts[NO_CLASS],
        })
    }

    /// Returns whether two data sets have images in common: how many of this one are in `other` too, byte by byte.
    pub fn images_also_in(&self, other: &Self) -> usize {
        if self.shape != other.shape {
            return 0;
        }
        let digest = |image: &[u8]| *blake3::hash(image).as_bytes();
        let size = self.shape.iter().product::<usize>();
        let others = other.images.par_chunks_exact(size).map(digest).collect::<HashSet<_>>();
        self.images.par_chunks_exact(size).filter(|image| others.contains(&digest(image))).count()
    }

    /// Keeps the first `count` images (all, if there are fewer).
    pub fn truncate(&mut self, count: usize) {
        let count = count.min(self.len());
        self.labels.truncate(count);
        self.images.truncate(count * self.shape.iter().product::<usize>());
        if let Some(masks) = &mut self.masks {
            masks.truncate(count * self.shape[1] * self.shape[2]);
        }
    }

    /// Returns the data set with its classes numbered as in `names`, if `names` has each of them. Otherwise, and where the classes have
    /// no names or a mask cannot hold so many classes, the data set stays as it is.
    #[must_use]
    pub fn numbered_as(mut self, names: &[String]) -> Self {
        let Some(own) = self.class_names().filter(|own| *own != names) else { return self };
        let place = |name: &String| Some(names.iter().position(|other| other == name)? as u32);
        let Some(places) = own.iter().map(place).collect::<Option<Vec<_>>>() else { return self };
        if self.masks.is_some() && names.len() > usize::from(UNLABELLED) {
            return self;
        }
        for label in &mut self.labels {
            *label = places[*label as usize];
        }
        for value in self.masks.iter_mut().flatten().filter(|value| **value != UNLABELLED) {
            *value = places[usize::from(*value)] as u8;
        }
        self.classes = Classes::Named(names.to_vec());
        self
    }

    /// Returns a batch as networks take it: the named images in `[0, 1]`, (B, H, W, C), in the given order.
    pub fn gather(&self, indices: &[usize]) -> Vec<f32> {
        gather(&self.images, self.shape, indices)
    }

    /// Returns the mean and the standard deviation of each channel over all pixels, on the scale `[0, 1]`: what a teacher normalizes with.
    pub fn channel_statistics(&self) -> (Vec<f32>, Vec<f32>) {
        let [channels, height, width] = self.shape;
        let pixels = height * width;
        let mut sums = vec![(0_u64, 0_u64); channels];
        for (at, plane) in self.images.chunks_exact(pixels).enumerate() {
            let (sum, squares) = plane.iter().fold((0, 0), |(sum, squares), &value| {
                (sum + u64::from(value), squares + u64::from(value) * u64::from(value))
            });
            sums[at % channels].0 += sum;
            sums[at % channels].1 += squares;
        }
        let count = (self.len() * pixels).max(1) as f64;
        sums.into_iter()
            .map(|(sum, squares)| {
                let mean = sum as f64 / count;
                let variance = squares as f64 / count - mean * mean;
                ((mean / 255.0) as f32, (variance.max(0.0).sqrt() / 255.0) as f32)
            })
            .unzip()
    }

    /// blake3 over shape, labels, pixels and masks: names the data in cards and reports. Class names do not count.
    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_derive_key("ssdkd data set v1");
        for side in self.shape {
            hasher.update(&(side as u64).to_le_bytes());
        }
        for label in &self.labels {
            hasher.update(&label.to_le_bytes());
        }
        hasher.update(&self.images);
        hasher.update(self.masks().unwrap_or_default());
        hasher.finalize()
    }
}

/// Returns the named images of `images` (N, C, H, W) in `[0, 1]`, (B, H, W, C).
pub(crate) fn gather(images: &[u8], shape: [usize; 3], indices: &[usize]) -> Vec<f32> {
    let [channels, height, width] = shape;
    let pixels = height * width;
    let mut batch = Vec::with_capacity(indices.len() * channels * pixels);
    for &index in indices {
        let image = &images[index * channels * pixels..][..channels * pixels];
        for pixel in 0..pixels {
            batch.extend((0..channels).map(|channel| f32::from(image[channel * pixels + pixel]) / 255.0));
        }
    }
    batch
}

impl Classes {
    fn count(&self) -> usize {
        match self {
            Self::Named(names) => names.len(),
            Self::Numbered(count) => *count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_numbered_by_their_names() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let pets = Dataset::new([1, 1, 1], vec![7, 8, 9], vec![0, 1, 1], names(&["cat", "dog"])).unwrap();
        let pets = pets.with_masks(vec![0, 1, UNLABELLED]).unwrap();
        let all = names(&["dog", "bird", "cat"]);
        let numbered = pets.clone().numbered_as(&all);
        assert_eq!((numbered.labels(), numbered.class_names()), (&[2, 0, 0][..], Some(&all[..])));
        assert_eq!(numbered.masks(), Some(&[2, 0, UNLABELLED][..]));
        assert_eq!(pets.clone().numbered_as(&names(&["dog", "bird"])), pets);
    }

    #[test]
    fn classes_without_names_keep_their_numbers() {
        let labels = Dataset::without_names([1, 1, 1], vec![7, 8], vec![0, 2], 3).unwrap();
        assert_eq!((labels.class_names(), labels.classes(), labels.names_are_numbers()), (None, 3, false));
        let text_order = ["0", "10", "2"].map(String::from);
        assert_eq!(labels.clone().numbered_as(&text_order), labels);
        let named = Dataset::new([1, 1, 1], vec![7, 8], vec![0, 2], text_order.to_vec()).unwrap();
        assert!(named.names_are_numbers());
    }

    fn two() -> Dataset {
        // Two images of 2 channels, 1×2.
        Dataset::without_names([2, 1, 2], vec![0, 51, 102, 153, 204, 255, 0, 0], vec![1, 0], 3).unwrap()
    }

    #[test]
    fn a_batch_is_channels_last() {
        assert_eq!(two().gather(&[1, 0]), [0.8, 0.0, 1.0, 0.0, 0.0, 0.4, 0.2, 0.6]);
    }

    #[test]
    fn images_of_another_data_set_are_counted() {
        let data =
            |images: &[u8]| Dataset::without_names([1, 1, 1], images.to_vec(), vec![0; images.len()], 1).unwrap();
        assert_eq!(data(&[1, 2, 2, 3]).images_also_in(&data(&[2, 9])), 2);
        let wider = Dataset::without_names([1, 1, 2], vec![1, 2], vec![0], 1).unwrap();
        assert_eq!(wider.images_also_in(&data(&[1, 2])), 0);
    }

    #[test]
    fn counts_and_statistics() {
        let dataset = two();
        assert_eq!(dataset.class_counts(), [1, 1, 0]);
        let (mean, deviation) = dataset.channel_statistics();
        assert!((mean[0] - 0.5).abs() < 1e-6 && (mean[1] - 0.25).abs() < 1e-6, "{mean:?}");
        assert!((deviation[0] - 0.412_31).abs() < 1e-4, "{deviation:?}");
    }

    #[test]
    fn truncation_keeps_the_first() {
        let mut dataset = two().with_masks(vec![0, 2, 1, 0]).unwrap();
        dataset.truncate(1);
        assert_eq!((dataset.len(), dataset.image(0), dataset.mask(0)), (1, &[0, 51, 102, 153][..], Some(&[0, 2][..])));
        dataset.truncate(9);
        assert_eq!(dataset.len(), 1);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (shape, images, labels, part) in [
            ([1, 2, 2], vec![0; 3], vec![0], "3 bytes for 1 images"),
            ([1, 2, 2], vec![0; 4], vec![3], "label 3, of 3 classes"),
            ([0, 2, 2], vec![], vec![], "shape [0, 2, 2]"),
            ([usize::MAX, 2, 2], vec![], vec![], "shape"),
        ] {
            let message = Dataset::without_names(shape, images, labels, 3).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        assert!(two().with_masks(vec![0; 3]).unwrap_err().to_string().contains("3 bytes of masks"));
        let message = two().with_masks(vec![0, 2, UNLABELLED, 3]).unwrap_err().to_string();
        assert!(message.contains("the mask of image 1 holds 3, of 3 classes"), "{message}");
    }

    #[test]
    fn the_digest_sees_labels_pixels_and_masks() {
        let dataset = |image: u8, label: u32| Dataset::without_names([1, 1, 1], vec![image], vec![label], 2).unwrap();
        let change = |image, label| dataset(image, label).digest();
        assert_eq!(change(1, 0), change(1, 0));
        assert_ne!(change(1, 0), change(2, 0));
        assert_ne!(change(1, 0), change(1, 1));
        let masked = |value| dataset(1, 0).with_masks(vec![value]).unwrap().digest();
        assert_ne!(masked(0), masked(1));
        assert_ne!(masked(0), change(1, 0));
    }
}
