//! The random views: a crop out of the zero-padded image, and a mirror image.
//!
//! Both the generator's images on their way to the networks and the student's training batches pass through here \[C:
//! Fast-Datafree and the baselines before it\]. The view is differentiable, so the generator learns images that
//! survive it; and teacher and student always see the *same* view, so that they disagree about images, not about views.

use candle_core::Result;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use ssdkd_ops::{CropFlip, Value, crop_flip};

use crate::check;

/// `[invert.augment]` and `[distill.augment]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentSettings {
    /// Pixels of zeros around the image, 0–64, out of which a window of the image's own size is cut \[C: 4\].
    pub crop_padding: usize,
    /// Mirror every other image, left to right. Switch it off where left and right differ in meaning.
    pub flip: bool,
}

impl Default for AugmentSettings {
    fn default() -> Self {
        Self { crop_padding: 4, flip: true }
    }
}

impl AugmentSettings {
    /// No augmentation: views are the images themselves.
    pub const OFF: Self = Self { crop_padding: 0, flip: false };

    /// Checks every value; `section` is the recipe's section that holds these settings.
    pub fn validate(&self, section: &str) -> std::result::Result<(), String> {
        check::count(&format!("{section}.augment.crop_padding"), self.crop_padding, 0..=64)
    }

    /// Draws one view for each of `batch` images; `None` when the settings leave images as they are.
    ///
    /// An offset is uniform in `0..=2·crop_padding` both ways, a flip is as likely as not. Every image consumes the
    /// same three draws whatever the settings, so switching one off does not change the other.
    pub fn draw(&self, batch: usize, rng: &mut ChaCha8Rng) -> Option<CropFlip> {
        if *self == Self::OFF {
            return None;
        }
        let mut how = CropFlip { offsets: Vec::new(), flips: Vec::new(), padding: self.crop_padding };
        let positions = 2 * self.crop_padding as u64 + 1;
        for _ in 0..batch {
            let (down, right, side) = (rng.random::<u32>(), rng.random::<u32>(), rng.random::<u32>());
            let offset = |draw: u32| ((u64::from(draw) * positions) >> 32) as usize;
            how.offsets.push((offset(down), offset(right)));
            how.flips.push(self.flip && side >> 31 == 1);
        }
        Some(how)
    }

    /// A random view of each image of `images` (B, H, W, C); gradients flow through it.
    pub fn view(&self, images: &Value, rng: &mut ChaCha8Rng) -> Result<Value> {
        view(images, self.draw(images.dims()[0], rng).as_ref())
    }
}

/// The views that were [drawn](AugmentSettings::draw), or the images themselves.
pub(crate) fn view(images: &Value, how: Option<&CropFlip>) -> Result<Value> {
    match how {
        Some(how) => crop_flip(images, how),
        None => Ok(images.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssdkd_nn::random::stream;

    #[test]
    fn offsets_and_flips_are_uniform() {
        let settings = AugmentSettings::default();
        let how = settings.draw(9000, &mut stream(1, "test", &[])).unwrap();
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
        let draw =
            |crop_padding, flip| AugmentSettings { crop_padding, flip }.draw(50, &mut stream(2, "test", &[])).unwrap();
        assert_eq!(draw(4, true).offsets, draw(4, false).offsets);
        assert_eq!(draw(4, true).flips, draw(0, true).flips);
        assert!(draw(4, false).flips.iter().all(|&flip| !flip));
        assert!(draw(0, true).offsets.iter().all(|&offset| offset == (0, 0)));
        assert!(AugmentSettings::OFF.draw(50, &mut stream(2, "test", &[])).is_none());
    }
}
