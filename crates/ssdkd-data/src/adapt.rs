//! From the shape that the data has to the shape that a model takes.

use image::imageops::{FilterType, resize};
use image::{GrayImage, RgbImage};
use rayon::prelude::*;

use crate::{DataError, Dataset};

/// Refuses a shape that no image can be brought into.
pub(crate) fn check_shape(shape: [usize; 3]) -> Result<(), DataError> {
    if shape.iter().any(|side| !(1..=16_384).contains(side)) {
        return Err(DataError::Invalid { what: format!("images cannot be brought into the shape {shape:?}") });
    }
    Ok(())
}

/// Resizes every image bilinearly (averaging where it shrinks) and turns gray into colour or colour into gray. Of a mask each
/// pixel is the nearest of before: between two classes there is none.
pub(crate) fn adapt(dataset: Dataset, shape: [usize; 3]) -> Result<Dataset, DataError> {
    if dataset.shape() == shape {
        return Ok(dataset);
    }
    let from = dataset.shape();
    let size = shape.iter().product::<usize>();
    if dataset.len().saturating_mul(size) as u64 > crate::MAX_BYTES {
        let what = format!("{} images of shape {shape:?} do not fit into memory", dataset.len());
        return Err(DataError::Invalid { what });
    }
    let converted = (0..dataset.len())
        .into_par_iter()
        .map(|index| convert(dataset.image(index), from, shape))
        .collect::<Result<Vec<_>, _>>()?;
    let mut adapted = dataset.with_images(shape, converted.concat())?;
    if from[1..] != shape[1..] {
        let [_, height, width] = shape;
        let notice =
            format!("all images are resized from {}×{} to {height}×{width} (height × width)", from[1], from[2]);
        adapted = adapted.with_notices([notice]);
    }
    match dataset.masks() {
        Some(masks) => {
            let masks = masks.chunks_exact(from[1] * from[2]);
            adapted.with_masks(masks.flat_map(|mask| nearest(mask, [from[1], from[2]], [shape[1], shape[2]])).collect())
        }
        None => Ok(adapted),
    }
}

/// A mask (H, W) at another size.
pub(crate) fn nearest(mask: &[u8], [height, width]: [usize; 2], to: [usize; 2]) -> Vec<u8> {
    // The middle of the new pixel, in pixels of before.
    let place = |at: usize, from: usize, to: usize| (2 * at + 1) * from / (2 * to);
    let row = |y: usize| &mask[place(y, height, to[0]) * width..][..width];
    (0..to[0]).flat_map(|y| (0..to[1]).map(move |x| row(y)[place(x, width, to[1])])).collect()
}

/// One image, (C, H, W) to (C', H', W').
pub(crate) fn convert(image: &[u8], from: [usize; 3], to: [usize; 3]) -> Result<Vec<u8>, DataError> {
    let [channels, height, width] = from;
    if height.max(width) > crate::read::MAX_SIDE as usize {
        // What it is resized by takes memory for its width times the height that is wanted.
        let what = format!("images of {height}×{width} (height × width) are too large to be resized");
        return Err(DataError::Invalid { what });
    }
    let pixels = height * width;
    let planes: Vec<&[u8]> = match (channels, to[0]) {
        (have, want) if have == want => image.chunks_exact(pixels).collect(),
        (1, 3) => vec![image; 3],
        (3, 1) => {
            let rgb = RgbImage::from_fn(width as u32, height as u32, |x, y| {
                let at = y as usize * width + x as usize;
                image::Rgb([image[at], image[pixels + at], image[2 * pixels + at]])
            });
            let gray = image::imageops::grayscale(&rgb);
            return convert(gray.as_raw(), [1, height, width], to);
        }
        (have, want) => {
            let what = format!("images have {have} channels, and the model takes {want}");
            return Err(DataError::Invalid { what });
        }
    };
    let mut out = Vec::with_capacity(to.iter().product());
    for plane in planes {
        out.extend_from_slice(&resize_plane(plane, [height, width], [to[1], to[2]]));
    }
    Ok(out)
}

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
        let colour = convert(&gray, [1, 2, 2], [3, 2, 2]).unwrap();
        assert_eq!(colour, [gray, gray, gray].concat());
        assert_eq!(convert(&colour, [3, 2, 2], [1, 2, 2]).unwrap(), gray);
    }

    #[test]
    fn a_plain_image_stays_plain_and_shrinking_averages() {
        assert_eq!(convert(&[7; 28 * 28], [1, 28, 28], [3, 32, 32]).unwrap(), [7; 3 * 32 * 32]);
        let checks = (0..16).map(|at| if (at / 4 + at) % 2 == 0 { 0 } else { 200 }).collect::<Vec<u8>>();
        for value in convert(&checks, [1, 4, 4], [1, 2, 2]).unwrap() {
            assert!((60..=140).contains(&value), "{value}");
        }
    }

    #[test]
    fn enlarging_interpolates() {
        let ramp = convert(&[0, 100], [1, 1, 2], [1, 1, 4]).unwrap();
        assert_eq!(ramp, [0, 25, 75, 100]);
    }

    #[test]
    fn masks_keep_their_classes() {
        assert_eq!(nearest(&[1, 2, 3, 4], [2, 2], [4, 4]), [1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]);
        assert_eq!(nearest(&[1, 2, 3, 4, 5, 6], [2, 3], [1, 1]), [5]);
        let names = ["a", "b"].map(String::from).to_vec();
        let masked =
            Dataset::new([1, 2, 2], vec![9; 4], vec![1], names).unwrap().with_masks(vec![0, 1, 0, 255]).unwrap();
        let larger = adapt(masked, [3, 2, 4]).unwrap();
        assert_eq!((larger.shape(), larger.masks()), ([3, 2, 4], Some(&[0, 0, 1, 1, 0, 0, 255, 255][..])));
    }

    #[test]
    fn images_that_are_too_long_are_an_error() {
        let message = convert(&vec![0; 20_000], [1, 1, 20_000], [1, 8, 8]).unwrap_err().to_string();
        assert!(message.contains("1×20000"), "{message}");
    }

    #[test]
    fn channels_that_cannot_be_made_are_an_error() {
        let message = convert(&[0; 8], [2, 2, 2], [3, 2, 2]).unwrap_err().to_string();
        assert!(message.contains("2 channels") && message.contains("takes 3"), "{message}");
    }
}
