//! What the views of a step are to be taken for.

use candle_core::Result;
use ssdkd_data::{Dataset, UNLABELLED};
use ssdkd_ops as ops;
use ssdkd_ops::CropFlip;

/// Of each row of logits its class, and what it counts in the loss; without weights, all are 1.
pub(super) struct Targets {
    pub(super) classes: Vec<u32>,
    pub(super) weights: Option<Vec<f32>>,
}

impl Targets {
    /// Returns the classes of images.
    pub(super) fn of_images(data: &Dataset, indices: &[usize]) -> Self {
        Self { classes: indices.iter().map(|&index| data.label(index)).collect(), weights: None }
    }

    /// Returns the classes of the pixels of images that were cropped and mirrored as `how` says. What counts nothing has weight 0.
    pub(super) fn of_pixels(data: &Dataset, indices: &[usize], how: Option<&CropFlip>) -> Result<Self> {
        // A mask goes the way of its image.
        let [_, height, width] = data.shape();
        let mask = indices.iter().flat_map(|&index| data.mask(index).unwrap_or_default());
        let mask = mask.map(|&class| (class != UNLABELLED).then_some(u32::from(class))).collect::<Vec<_>>();
        let mask = match how {
            Some(how) => ops::crop_flip_masks(&mask, [indices.len(), height, width], how)?,
            None => mask,
        };
        // The mean is over what counts.
        let weight = mask.len() as f32 / mask.iter().flatten().count().max(1) as f32;
        Ok(Self {
            classes: mask.iter().map(|class| class.unwrap_or(0)).collect(),
            weights: Some(mask.iter().map(|class| if class.is_some() { weight } else { 0.0 }).collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use ssdkd_data::{Split, shapes};

    use super::*;

    #[test]
    fn a_mask_goes_the_way_of_its_image() -> Result<()> {
        let data = shapes::generate_masked(0, Split::Train, 24);
        let (size, moved) =
            (32 * 32, CropFlip { offsets: vec![(4, 4), (4, 7)], flips: vec![true, false], padding: 4, wrap: false });
        let Targets { classes, weights } = Targets::of_pixels(&data, &[3, 5], Some(&moved))?;
        let weights = weights.unwrap();
        let [mirrored, shifted] = [3, 5].map(|index| data.mask(index).unwrap());
        for (at, (&class, &weight)) in classes.iter().zip(&weights).enumerate() {
            let (row, column) = (at % size / 32, at % 32);
            let (expected, of_image) = match at / size {
                0 => (mirrored[row * 32 + 31 - column], true),
                _ => (shifted[row * 32 + (column + 3).min(31)], column + 3 < 32),
            };
            // Three of 32 columns of the second are padding.
            assert_eq!(weight, if of_image { 2.0 / (2.0 - 3.0 / 32.0) } else { 0.0 });
            assert_eq!(class, if of_image { u32::from(expected) } else { 0 }, "at {at}");
        }
        Ok(())
    }
}
