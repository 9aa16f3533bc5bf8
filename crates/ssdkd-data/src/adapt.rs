//! From the shape that the data has to the shape that a model takes.

use image::imageops::{FilterType, resize};
use image::{GrayImage, RgbImage};
use rayon::prelude::*;

use crate::{DataError, Dataset, Fit};

/// Brings every image into the shape of `fit`, and its mask with it. Gray becomes color, or color gray.
pub(crate) fn adapt(dataset: Dataset, fit: &Fit) -> Result<Dataset, DataError> {
    let (from, shape) = (dataset.shape(), fit.shape());
    if from == shape {
        return Ok(dataset);
    }
    let size = shape.iter().product::<usize>();
    if dataset.len().saturating_mul(size) as u64 > crate::MAX_BYTES {
        let what = format!("{} images of shape {shape:?} do not fit into memory", dataset.len());
        return Err(DataError::Invalid { what });
    }
    let converted = (0..dataset.len())
        .into_par_iter()
        .map(|index| convert(dataset.image(index), from, fit))
        .collect::<Result<Vec<_>, _>>()?;
    let mut adapted = dataset.with_images(shape, converted.concat())?;
    if from[1..] != shape[1..] {
        let notice = format!("all images of {}×{} are {fit}", from[1], from[2]);
        adapted = adapted.with_notices([notice]);
    }
    match dataset.masks() {
        Some(masks) => {
            let masks = masks.chunks_exact(from[1] * from[2]);
            adapted.with_masks(masks.flat_map(|mask| fit.mask(mask, [from[1], from[2]])).collect())
        }
        None => Ok(adapted),
    }
}

/// One image, (C, H, W) in the shape of `fit`.
pub(crate) fn convert(image: &[u8], from: [usize; 3], fit: &Fit) -> Result<Vec<u8>, DataError> {
    let [channels, height, width] = from;
    if height.max(width) > crate::read::MAX_SIDE as usize {
        // What it is resized by takes memory for its width times the height that is wanted.
        let what = format!("images of {height}×{width} (height × width) are too large to be resized");
        return Err(DataError::Invalid { what });
    }
    let pixels = height * width;
    let planes: Vec<&[u8]> = match (channels, fit.shape()[0]) {
        (have, want) if have == want => image.chunks_exact(pixels).collect(),
        (1, 3) => vec![image; 3],
        (3, 1) => {
            let rgb = RgbImage::from_fn(width as u32, height as u32, |x, y| {
                let at = y as usize * width + x as usize;
                image::Rgb([image[at], image[pixels + at], image[2 * pixels + at]])
            });
            let gray = image::imageops::grayscale(&rgb);
            return convert(gray.as_raw(), [1, height, width], fit);
        }
        (have, want) => {
            let what = format!("images have {have} channels, and the model takes {want}");
            return Err(DataError::Invalid { what });
        }
    };
    let mut out = Vec::with_capacity(fit.shape().iter().product());
    for plane in planes {
        out.extend(match fit.resizing() {
            Some(resizing) => fit.plane(plane, [height, width], resizing, 0),
            None => resize_plane(plane, [height, width], [fit.shape()[1], fit.shape()[2]]),
        });
    }
    Ok(out)
}

/// Bilinear resizing that rounds once, as data sets are resized for models that were trained here.
fn resize_plane(plane: &[u8], [height, width]: [usize; 2], to: [usize; 2]) -> Vec<u8> {
    if [height, width] == to {
        return plane.to_vec();
    }
    let plane = GrayImage::from_raw(width as u32, height as u32, plane.to_vec()).expect("a plane is height × width");
    resize(&plane, to[1] as u32, to[0] as u32, FilterType::Triangle).into_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gray_becomes_colour_and_back() {
        let gray = [0, 80, 160, 240];
        let colour = convert(&gray, [1, 2, 2], &[3, 2, 2].into()).unwrap();
        assert_eq!(colour, [gray, gray, gray].concat());
        assert_eq!(convert(&colour, [3, 2, 2], &[1, 2, 2].into()).unwrap(), gray);
    }

    #[test]
    fn a_plain_image_stays_plain_and_shrinking_averages() {
        assert_eq!(convert(&[7; 28 * 28], [1, 28, 28], &[3, 32, 32].into()).unwrap(), [7; 3 * 32 * 32]);
        let checks = (0..16).map(|at| if (at / 4 + at) % 2 == 0 { 0 } else { 200 }).collect::<Vec<u8>>();
        for value in convert(&checks, [1, 4, 4], &[1, 2, 2].into()).unwrap() {
            assert!((60..=140).contains(&value), "{value}");
        }
    }

    #[test]
    fn enlarging_interpolates() {
        let ramp = convert(&[0, 100], [1, 1, 2], &[1, 1, 4].into()).unwrap();
        assert_eq!(ramp, [0, 25, 75, 100]);
    }

    #[test]
    fn masks_keep_their_classes() {
        let nearest = |mask: &[u8], from, to: [usize; 2]| Fit::from([1, to[0], to[1]]).mask(mask, from);
        assert_eq!(nearest(&[1, 2, 3, 4], [2, 2], [4, 4]), [1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]);
        assert_eq!(nearest(&[1, 2, 3, 4, 5, 6], [2, 3], [1, 1]), [5]);
        let names = ["a", "b"].map(String::from).to_vec();
        let masked =
            Dataset::new([1, 2, 2], vec![9; 4], vec![1], names).unwrap().with_masks(vec![0, 1, 0, 255]).unwrap();
        let larger = adapt(masked, &[3, 2, 4].into()).unwrap();
        assert_eq!((larger.shape(), larger.masks()), ([3, 2, 4], Some(&[0, 0, 1, 1, 0, 0, 255, 255][..])));
    }

    #[test]
    fn images_that_are_too_long_are_an_error() {
        let message = convert(&vec![0; 20_000], [1, 1, 20_000], &[1, 8, 8].into()).unwrap_err().to_string();
        assert!(message.contains("1×20000"), "{message}");
    }

    #[test]
    fn channels_that_cannot_be_made_are_an_error() {
        let message = convert(&[0; 8], [2, 2, 2], &[3, 2, 2].into()).unwrap_err().to_string();
        assert!(message.contains("2 channels") && message.contains("takes 3"), "{message}");
    }
}
