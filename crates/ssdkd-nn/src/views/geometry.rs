//! Views that move pixels: windows, mirror images and turns.

use candle_core::{Result, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssdkd_ops::{CropFlip, Value, crop_flip};

/// Views that move pixels alone: a random window, mirrored or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CropFlipSettings {
    /// Border around an image, in pixels. A random window of the image's own size is cut out \[C: 4\].
    pub crop_padding: usize,
    /// What lies around an image.
    pub border: Border,
    /// Whether half of the images are mirrored, left to right.
    pub flip: bool,
}

/// What lies around an image that is cropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Border {
    /// Black pixels.
    #[default]
    Zeros,
    /// The image again, as on a tiled floor: no black edges, so the statistics of the image stay \[C: DeepInversion\].
    Wrap,
}

impl Default for CropFlipSettings {
    fn default() -> Self {
        Self { crop_padding: 4, border: Border::Zeros, flip: true }
    }
}

impl CropFlipSettings {
    /// Leaves images as they are.
    pub const OFF: Self = Self { crop_padding: 0, border: Border::Zeros, flip: false };

    /// Draws one view for each of `batch` images. Returns `None` when the settings leave images as they are.
    ///
    /// An offset is uniform in `0..=2·crop_padding` both ways. Half of the images are flipped. Every image consumes the
    /// same three draws whatever the settings, so switching one off does not change the other.
    pub fn draw(&self, batch: usize, rng: &mut ChaCha8Rng) -> Option<CropFlip> {
        if self.crop_padding == 0 && !self.flip {
            return None;
        }
        let wrap = self.border == Border::Wrap;
        let mut how = CropFlip { offsets: Vec::new(), flips: Vec::new(), padding: self.crop_padding, wrap };
        let positions = 2 * self.crop_padding as u64 + 1;
        for _ in 0..batch {
            let (down, right, side) = (rng.random::<u32>(), rng.random::<u32>(), rng.random::<u32>());
            let offset = |draw: u32| ((u64::from(draw) * positions) >> 32) as usize;
            how.offsets.push((offset(down), offset(right)));
            how.flips.push(self.flip && side >> 31 == 1);
        }
        Some(how)
    }

    /// Returns a random view of each image of `images` (B, H, W, C); gradients flow through it.
    pub fn view(&self, images: &Value, rng: &mut ChaCha8Rng) -> Result<Value> {
        view(images, self.draw(images.dims()[0], rng).as_ref())
    }
}

/// Returns the views that were [drawn](CropFlipSettings::draw), or the images themselves.
pub fn view(images: &Value, how: Option<&CropFlip>) -> Result<Value> {
    match how {
        Some(how) => crop_flip(images, how),
        None => Ok(images.clone()),
    }
}

/// Turns each image (B, H, W, C) by a random multiple of 90 degrees; an oblong one, which keeps its shape, by one of 180.
pub fn turn(images: &Tensor, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let (batch, height, width, _) = images.dims4()?;
    let mut turned = Vec::with_capacity(batch);
    for image in 0..batch {
        let quarters = rng.random_range(0..4u32) & if height == width { 3 } else { 2 };
        let mut x = images.narrow(0, image, 1)?;
        if quarters & 2 != 0 {
            x = x.flip(&[1, 2])?;
        }
        if quarters & 1 != 0 {
            x = x.transpose(1, 2)?.contiguous()?.flip(&[1])?;
        }
        turned.push(x.contiguous()?);
    }
    Tensor::cat(&turned, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::uniform_tensor;
    use crate::views::fixtures::{numbers, rng};
    use crate::views::place;

    #[test]
    fn offsets_and_flips_are_uniform() {
        let how = CropFlipSettings::default().draw(9000, &mut rng(1)).unwrap();
        let mut counts = [0_u32; 9];
        for &(down, right) in &how.offsets {
            counts[down] += 1;
            counts[right] += 1;
        }
        assert!(counts.iter().all(|&count| (1800..2200).contains(&count)), "{counts:?}");
        let flips = how.flips.iter().filter(|&&flip| flip).count();
        assert!((4300..4700).contains(&flips), "{flips}");
    }

    #[test]
    fn switching_one_off_leaves_the_other_as_it_was() {
        let draw = |crop_padding, flip| {
            CropFlipSettings { crop_padding, flip, ..CropFlipSettings::OFF }.draw(50, &mut rng(2)).unwrap()
        };
        assert_eq!(draw(4, true).offsets, draw(4, false).offsets);
        assert_eq!(draw(4, true).flips, draw(0, true).flips);
        assert!(draw(4, false).flips.iter().all(|&flip| !flip));
        assert!(draw(0, true).offsets.iter().all(|&offset| offset == (0, 0)));
        assert!(CropFlipSettings::OFF.draw(50, &mut rng(2)).is_none());
    }

    #[test]
    fn a_view_of_an_oblong_image_is_a_window_of_its_size() {
        let (height, width) = (24, 40);
        let number = |row: usize, column: usize| (1 + row * width + column) as f32;
        let image = (0..height).flat_map(|row| (0..width).map(move |column| number(row, column))).collect::<Vec<_>>();
        let image = Tensor::from_vec(image, (1, height, width, 1), &place::device()).unwrap();
        let settings = CropFlipSettings::default();
        let how = settings.draw(8, &mut rng(6)).unwrap();
        let images = Value::constant(image.repeat((8, 1, 1, 1)).unwrap());
        let views = numbers(view(&images, Some(&how)).unwrap().tensor());
        for (slot, found) in views.chunks_exact(height * width).enumerate() {
            let (down, right) = how.offsets[slot];
            for (at, &found) in found.iter().enumerate() {
                let (row, column) = (at / width, at % width);
                let column = if how.flips[slot] { width - 1 - column } else { column };
                let (row, column) = (row + down, column + right);
                let is_inside = (4..height + 4).contains(&row) && (4..width + 4).contains(&column);
                let expected = if is_inside { number(row - 4, column - 4) } else { 0.0 };
                assert_eq!(found, expected, "image {slot}, pixel {at}");
            }
        }
    }

    #[test]
    fn a_border_that_wraps_keeps_all_pixels() {
        let wrap = CropFlipSettings { crop_padding: 9, border: Border::Wrap, flip: true };
        let images = Value::constant(uniform_tensor(&mut rng(53), (0.1, 1.0), (5, 6, 4, 3), &place::device()).unwrap());
        let views = numbers(wrap.view(&images, &mut rng(8)).unwrap().tensor());
        for (view, image) in views.chunks(72).zip(numbers(images.tensor()).chunks(72)) {
            let [view, image] = [view, image].map(|pixels| {
                let mut pixels = pixels.to_vec();
                pixels.sort_by(f32::total_cmp);
                pixels
            });
            assert_eq!(view, image);
        }
    }

    #[test]
    fn square_images_are_turned_by_four_angles_and_oblong_ones_by_two() {
        let corners = |height: usize, width: usize| {
            let image = (0..height * width).map(|at| at as f32).collect::<Vec<_>>();
            let image = Tensor::from_vec(image, (1, height, width, 1), &place::device()).unwrap();
            let turned = turn(&image.repeat((64, 1, 1, 1)).unwrap(), &mut rng(9)).unwrap();
            assert_eq!(turned.dims(), [64, height, width, 1]);
            let mut found = numbers(&turned).chunks(height * width).map(<[f32]>::to_vec).collect::<Vec<_>>();
            found.sort_by(|a, b| a.partial_cmp(b).unwrap());
            found.dedup();
            found
        };
        assert_eq!(corners(2, 2), [[0., 1., 2., 3.], [1., 3., 0., 2.], [2., 0., 3., 1.], [3., 2., 1., 0.]]);
        assert_eq!(corners(1, 3), [[0., 1., 2.], [2., 1., 0.]]);
    }
}
