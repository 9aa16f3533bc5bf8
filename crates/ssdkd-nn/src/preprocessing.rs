//! What a network needs done to an image file before its first layer: size, crop, channel order and range of values.
//!
//! Images are RGB in `[0, 1]` everywhere in this program: in data sets, shards, views and reports. The network alone changes the order of
//! the channels and the range, at its door: it computes `(lo + (hi − lo)·x − mean) / std` of the channels in its own order, where
//! `[lo, hi]` is [`range`](Preprocessing::range). Mean and std stand in the card as the network's authors gave them. So those of a network
//! with the range `[0, 255]` are on that scale, and [`scale_and_shift`](Preprocessing::scale_and_shift) divides them by 255.
//!
//! What reads image files brings them to the network's size, as the other fields say.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// Longest side that a card may ask for.
const MAX_SIDE: usize = 16_384;

/// How images become the input of a network. Mean and std are fields of the [card](crate::TeacherCard), in the order of the network's channels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Preprocessing {
    /// The order of the network's channels.
    pub channels: ChannelOrder,
    /// The values that black and white have before mean and std are applied.
    pub range: [f32; 2],
    /// How images are resized. Without it an image is cropped as it is, or without a crop resized to the network's input.
    pub resize: Option<Resize>,
    /// How pixels are computed when an image is resized.
    pub interpolation: Interpolation,
    /// Height and width of the window that is cut out of the middle of a resized image, at the size that the network was exported with.
    /// Without it every image is resized to the network's input, and its aspect ratio changes.
    pub crop: Option<[usize; 2]>,
}

impl Default for Preprocessing {
    fn default() -> Self {
        Self {
            channels: ChannelOrder::Rgb,
            range: [0.0, 1.0],
            resize: None,
            interpolation: Interpolation::Bilinear,
            crop: None,
        }
    }
}

/// The order of a network's color channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelOrder {
    /// Red first.
    #[default]
    Rgb,
    /// Blue first, as OpenCV reads images.
    Bgr,
}

impl ChannelOrder {
    /// Returns RGB images (…, 3) with their channels in this order.
    ///
    /// # Errors
    /// If the images do not have three channels and the order is not RGB.
    pub fn of_rgb(self, images: &Tensor) -> Result<Tensor> {
        match self {
            Self::Rgb => Ok(images.clone()),
            Self::Bgr => {
                let last = images.rank().saturating_sub(1);
                let order = Tensor::new(&[2_u32, 1, 0], images.device())?;
                images.index_select(&order, last)
            }
        }
    }
}

/// The size that images are resized to, at the size that the network was exported with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// The shorter side gets this length. The longer one keeps the aspect ratio, rounded down as in torchvision.
    ShortSide(usize),
    /// Height and width.
    Exact([usize; 2]),
}

/// How pixels of a resized image are computed. All but `nearest` average when an image shrinks, as Pillow does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// Two pixels each way.
    #[default]
    Bilinear,
    /// Four pixels each way; Pillow's, with a = −½.
    Bicubic,
    /// Six pixels each way.
    Lanczos,
}

impl Preprocessing {
    /// Returns whether image files need nothing but the size of the network's input: there is no resizing rule, and no crop.
    pub fn is_plain_resize(&self) -> bool {
        let Self { resize, interpolation, crop, .. } = *self;
        (resize, interpolation, crop) == (None, Interpolation::Bilinear, None)
    }

    /// Returns the preprocessing for a network that works at another size than it was exported with, in proportion.
    ///
    /// The crop becomes `size` (height, width), and what is resized before it keeps its ratio to the crop: a short side of 256 before a
    /// crop of 224 becomes 183 at 160. Where height and width change differently, the larger ratio counts for the short side, so that the
    /// crop stays within the image. Without a crop all images get the size itself.
    #[must_use]
    pub fn at_size(&self, size: [usize; 2]) -> Self {
        let Some(crop) = self.crop else {
            return Self { resize: self.resize.map(|_| Resize::Exact(size)), ..*self };
        };
        if crop == size {
            return *self;
        }
        let scaled = |length: usize, side: usize| rounded(length * size[side], crop[side]);
        let resize = self.resize.map(|resize| match resize {
            Resize::ShortSide(length) => {
                let wider = size[1] * crop[0] > size[0] * crop[1];
                Resize::ShortSide(scaled(length, usize::from(wider)))
            }
            Resize::Exact([height, width]) => Resize::Exact([scaled(height, 0), scaled(width, 1)]),
        });
        Self { resize, crop: Some(size), ..*self }
    }

    /// Returns what images in `[0, 1]` are multiplied by, and what is added after that, for each channel in the network's order.
    ///
    /// With the range `[0, 255]` this equals a normalization by mean/255 and std/255.
    pub fn scale_and_shift(&self, mean: &[f32], std: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let [low, high] = self.range;
        let scale = std.iter().map(|std| (high - low) / std).collect();
        let shift = mean.iter().zip(std).map(|(mean, std)| -(mean - low) / std).collect();
        (scale, shift)
    }

    /// Returns the mean and the std for RGB images in `[0, 1]`, red first, from those of the network.
    pub fn normalization_of_rgb(&self, mean: &[f32], std: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let [low, high] = self.range;
        let mut mean = mean.iter().map(|mean| (mean - low) / (high - low)).collect::<Vec<_>>();
        let mut std = std.iter().map(|std| std / (high - low)).collect::<Vec<_>>();
        if self.channels == ChannelOrder::Bgr {
            mean.reverse();
            std.reverse();
        }
        (mean, std)
    }

    /// Checks that images of so many channels can be preprocessed this way.
    ///
    /// # Errors
    /// Names the field that makes no sense, and its value.
    pub fn check(&self, channels: usize) -> std::result::Result<(), String> {
        let Self { channels: order, range: [low, high], resize, crop, .. } = *self;
        if order != ChannelOrder::Rgb && channels != 3 {
            return Err(format!("the channel order bgr needs three channels, and the images have {channels}"));
        }
        if !(low.is_finite() && high.is_finite() && low < high) {
            return Err(format!("the range of values [{low}, {high}] needs two finite numbers, the lower one first"));
        }
        let (short, exact) = match resize {
            None => (None, None),
            Some(Resize::ShortSide(length)) => (Some(length), None),
            Some(Resize::Exact(size)) => (None, Some(size)),
        };
        let mut sides = short.into_iter().chain(exact.into_iter().chain(crop).flatten());
        match sides.find(|side| !(1..=MAX_SIDE).contains(side)) {
            Some(side) => Err(format!("a resized or cropped side of {side} pixels is not within 1 to {MAX_SIDE}")),
            None => Ok(()),
        }
    }
}

/// Returns `numerator / denominator`, rounded half up, and at least 1.
fn rounded(numerator: usize, denominator: usize) -> usize {
    ((2 * numerator + denominator) / (2 * denominator)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn center_crop(short_side: usize, crop: [usize; 2]) -> Preprocessing {
        Preprocessing { resize: Some(Resize::ShortSide(short_side)), crop: Some(crop), ..Preprocessing::default() }
    }

    #[test]
    fn a_crop_scales_with_what_is_resized_before_it() {
        assert_eq!(center_crop(256, [224, 224]).at_size([160, 160]), center_crop(183, [160, 160]));
    }

    #[test]
    fn the_recorded_size_changes_nothing() {
        let recorded = center_crop(235, [224, 224]);
        assert_eq!(recorded.at_size([224, 224]), recorded);
    }

    #[test]
    fn the_larger_ratio_counts_for_the_short_side() {
        // 160/224 against 336/224.
        assert_eq!(center_crop(256, [224, 224]).at_size([160, 336]), center_crop(384, [160, 336]));
        assert_eq!(center_crop(256, [224, 224]).at_size([336, 160]), center_crop(384, [336, 160]));
    }

    #[test]
    fn an_exact_size_scales_on_each_side() {
        let exact = |size| Preprocessing { resize: Some(Resize::Exact(size)), ..center_crop(1, [100, 200]) };
        let scaled = Preprocessing { crop: Some([50, 50]), ..exact([60, 60]) };
        assert_eq!(exact([120, 240]).at_size([50, 50]), scaled);
    }

    #[test]
    fn without_a_crop_images_get_the_working_size() {
        let short = Preprocessing { crop: None, ..center_crop(520, [1, 1]) };
        assert_eq!(short.at_size([24, 40]).resize, Some(Resize::Exact([24, 40])));
        assert_eq!(Preprocessing::default().at_size([24, 40]), Preprocessing::default());
    }

    #[test]
    fn a_range_to_255_divides_mean_and_std() {
        let bytes = Preprocessing { range: [0.0, 255.0], ..Preprocessing::default() };
        let (scale, shift) = bytes.scale_and_shift(&[127.5], &[51.0]);
        let (expected_scale, expected_shift) = Preprocessing::default().scale_and_shift(&[0.5], &[0.2]);
        assert!((scale[0] - expected_scale[0]).abs() < 1e-6 && (shift[0] - expected_shift[0]).abs() < 1e-6);
    }

    #[test]
    fn a_range_below_0_is_applied_before_mean_and_std() {
        let signed = Preprocessing { range: [-1.0, 1.0], ..Preprocessing::default() };
        assert_eq!(signed.scale_and_shift(&[0.0], &[1.0]), (vec![2.0], vec![-1.0]));
    }

    #[test]
    fn the_normalization_of_rgb_images_has_red_first() {
        let bgr = Preprocessing { channels: ChannelOrder::Bgr, range: [0.0, 255.0], ..Preprocessing::default() };
        let (mean, std) = bgr.normalization_of_rgb(&[0.0, 127.5, 255.0], &[255.0, 510.0, 51.0]);
        assert_eq!((mean, std), (vec![1.0, 0.5, 0.0], vec![0.2, 2.0, 1.0]));
        let given = (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]);
        assert_eq!(Preprocessing::default().normalization_of_rgb(&given.0, &given.1), given);
    }

    #[test]
    fn bgr_swaps_red_and_blue() {
        let image = Tensor::new(&[[[[0.1_f32, 0.2, 0.3]]]], &candle_core::Device::Cpu).unwrap();
        let swapped = ChannelOrder::Bgr.of_rgb(&image).unwrap();
        assert_eq!(swapped.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0.3, 0.2, 0.1]);
    }

    #[test]
    fn the_names_in_a_card_are_these() {
        let json = r#"{"channels":"bgr","range":[0.0,255.0],"resize":{"short_side":256},"interpolation":"lanczos","crop":[224,192]}"#;
        let full = Preprocessing {
            channels: ChannelOrder::Bgr,
            range: [0.0, 255.0],
            interpolation: Interpolation::Lanczos,
            ..center_crop(256, [224, 192])
        };
        assert_eq!((serde_json::to_string(&full).unwrap().as_str(), serde_json::from_str(json).unwrap()), (json, full));
        let json = r#"{"channels":"rgb","range":[0.0,1.0],"resize":null,"interpolation":"bilinear","crop":null}"#;
        assert_eq!(serde_json::to_string(&Preprocessing::default()).unwrap(), json);
        let exact = serde_json::to_string(&Resize::Exact([24, 40])).unwrap();
        assert_eq!(exact, r#"{"exact":[24,40]}"#);
    }

    #[track_caller]
    fn check_refused(preprocessing: Preprocessing, channels: usize, part: &str) {
        let reason = preprocessing.check(channels).unwrap_err();
        assert!(reason.contains(part), "{reason}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let default = Preprocessing::default();
        check_refused(Preprocessing { channels: ChannelOrder::Bgr, ..default }, 1, "three channels");
        check_refused(Preprocessing { range: [1.0, 0.0], ..default }, 3, "[1, 0]");
        check_refused(Preprocessing { range: [0.0, f32::NAN], ..default }, 3, "finite");
        check_refused(center_crop(0, [1, 1]), 3, "side of 0 pixels");
        check_refused(center_crop(1, [1, usize::MAX]), 3, "not within 1 to 16384");
        assert_eq!(center_crop(256, [224, 224]).check(1), Ok(()));
    }
}
