//! The views that gradients flow through.

use candle_core::{Device, Error, Result, Tensor};
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssdkd_ops::{CropFlip, Value, color_lines, crop_flip_at};

use crate::views::color::draw_lines;
use crate::views::geometry::{Border, CropFlipSettings};

/// The views of the images that the teacher and the student see while images are made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DifferentiableViewSettings {
    /// Border around an image, in pixels. A random window of the image's own size is cut out \[C: 4\].
    #[schemars(range(min = 0, max = 512))]
    pub crop_padding: usize,
    /// What lies around an image.
    pub border: Border,
    /// Mirror half of the images, left to right. Switch it off where left and right differ in meaning.
    pub flip: bool,
    /// Strength of random contrast, brightness and tint; 0 switches color jitter off. At the strength of `distill.views.color_jitter`
    /// images are made for the views that the student learns from \[O\].
    #[schemars(range(min = 0.0))]
    pub color_jitter: f64,
}

impl Default for DifferentiableViewSettings {
    fn default() -> Self {
        let CropFlipSettings { crop_padding, border, flip } = CropFlipSettings::default();
        Self { crop_padding, border, flip, color_jitter: 0.0 }
    }
}

impl DifferentiableViewSettings {
    /// Leaves images as they are.
    pub const OFF: Self = Self { crop_padding: 0, border: Border::Zeros, flip: false, color_jitter: 0.0 };

    /// Returns the crop and the flip alone.
    pub fn crop_flip(&self) -> CropFlipSettings {
        CropFlipSettings { crop_padding: self.crop_padding, border: self.border, flip: self.flip }
    }

    /// Draws one view for each of `batch` images of so many `channels`.
    pub fn draw(&self, batch: usize, channels: usize, rng: &mut ChaCha8Rng) -> Result<DrawnViews> {
        let crops = self.crop_flip().draw(batch, rng);
        Ok(DrawnViews { crops, lines: draw_lines(self.color_jitter, batch, channels, rng, &Device::Cpu)? })
    }

    /// Returns a random view of each image of `images` (B, H, W, C) in `[0, 1]`; gradients flow through it.
    pub fn view(&self, images: &Value, rng: &mut ChaCha8Rng) -> Result<Value> {
        let (batch, _, _, channels) = images.tensor().dims4()?;
        let drawn = self.draw(batch, channels, rng)?;
        drawn.of(images, &drawn.tensors(images.tensor().device())?)
    }
}

/// One view for each image of a batch.
#[derive(Debug)]
pub struct DrawnViews {
    crops: Option<CropFlip>,
    /// g and ½ + o of each image (B, 1 + C).
    lines: Option<Tensor>,
}

impl DrawnViews {
    /// Returns what was drawn on `device`, for [`of`](Self::of): a recorded step of a GPU reads it there each time.
    pub fn tensors(&self, device: &Device) -> Result<Vec<Tensor>> {
        let crops = self.crops.as_ref().map(|crops| crops.draws(device));
        let lines = self.lines.as_ref().map(|lines| lines.to_device(device));
        crops.into_iter().chain(lines).collect()
    }

    /// Returns the views of `images` (B, H, W, C) in `[0, 1]`. `drawn` are the [tensors](Self::tensors) of these views or of others
    /// that were drawn with the same settings.
    pub fn of(&self, images: &Value, drawn: &[Tensor]) -> Result<Value> {
        let mut drawn = drawn.iter();
        let mut next = || drawn.next().ok_or_else(|| Error::msg("the views lack a tensor"));
        let mut views = images.clone();
        if let Some(crops) = &self.crops {
            views = crop_flip_at(&views, next()?, crops.padding, crops.wrap)?;
        }
        if self.lines.is_some() {
            views = color_lines(&views, next()?)?;
        }
        Ok(views)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::fixtures::{images, numbers, rng};
    use crate::views::jitter_color;

    #[test]
    fn colors_change_after_the_crop_with_draws_of_their_own() {
        let images = Value::constant(images());
        let plain = DifferentiableViewSettings { crop_padding: 1, ..DifferentiableViewSettings::default() };
        let colored = DifferentiableViewSettings { color_jitter: 1.5, ..plain };
        let mut draws = rng(4);
        let cropped = plain.view(&images, &mut draws).unwrap();
        let expected = jitter_color(cropped.tensor(), 1.5, &mut draws).unwrap();
        let found = colored.view(&images, &mut rng(4)).unwrap();
        assert_eq!(numbers(found.tensor()), numbers(&expected));
        assert_ne!(numbers(found.tensor()), numbers(cropped.tensor()));
    }

    #[test]
    fn off_is_the_images_and_no_draw() {
        let images = Value::constant(images());
        let mut after = rng(4);
        let same = DifferentiableViewSettings::OFF.view(&images, &mut after).unwrap();
        assert_eq!(numbers(same.tensor()), numbers(images.tensor()));
        assert_eq!(after, rng(4));
    }
}
