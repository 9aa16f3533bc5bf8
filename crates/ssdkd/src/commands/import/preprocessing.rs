//! The flags that say how a network's images are preprocessed, besides mean and standard deviation.

use clap::{Args, ValueEnum};
use ssdkd_nn::{ChannelOrder, Interpolation, Preprocessing, Resize};
use ssdkd_stage::StageError;

/// How the network's authors prepared its images. What no flag says stays as the card or the network's file has it.
#[derive(Debug, Args)]
pub struct PreprocessingArgs {
    /// The order of the network's color channels
    #[arg(long, value_name = "ORDER", value_enum)]
    channel_order: Option<Order>,

    /// The values of black and white before mean and std are applied: 0,1 or 0,255
    #[arg(long, value_name = "LOW,HIGH", value_parser = range, allow_hyphen_values = true)]
    range: Option<[f32; 2]>,

    /// What image files are resized to before the crop: the short side, as in 256, or height and width, as in 256x320
    #[arg(long, value_name = "PIXELS", value_parser = resize)]
    resize: Option<Resize>,

    /// How image files are resized
    #[arg(long, value_name = "NAME", value_enum)]
    interpolation: Option<Filter>,

    /// The window that is cut out of the middle of image files: its side, as in 224, or height and width, as in 224x288
    #[arg(long, value_name = "PIXELS", value_parser = size)]
    pub crop: Option<Size>,
}

/// Height and width of images. clap takes an array for several values of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub [usize; 2]);

/// A [`ChannelOrder`], as the command line names it.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Order {
    /// Red first
    Rgb,
    /// Blue first, as OpenCV and Caffe have it
    Bgr,
}

/// An [`Interpolation`], as the command line names it.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Filter {
    Nearest,
    Bilinear,
    Bicubic,
    Lanczos,
}

impl PreprocessingArgs {
    /// Returns whether any of the flags is there.
    pub fn is_given(&self) -> bool {
        let Self { channel_order, range, resize, interpolation, crop } = self;
        channel_order.is_some() || range.is_some() || resize.is_some() || interpolation.is_some() || crop.is_some()
    }

    /// Returns `known` with what the flags say.
    ///
    /// # Errors
    /// If images of so many channels cannot be preprocessed this way.
    pub fn applied_to(&self, known: Preprocessing, channels: usize) -> Result<Preprocessing, StageError> {
        let preprocessing = Preprocessing {
            channels: self.channel_order.map_or(known.channels, |order| match order {
                Order::Rgb => ChannelOrder::Rgb,
                Order::Bgr => ChannelOrder::Bgr,
            }),
            range: self.range.unwrap_or(known.range),
            resize: self.resize.or(known.resize),
            interpolation: self.interpolation.map_or(known.interpolation, |filter| match filter {
                Filter::Nearest => Interpolation::Nearest,
                Filter::Bilinear => Interpolation::Bilinear,
                Filter::Bicubic => Interpolation::Bicubic,
                Filter::Lanczos => Interpolation::Lanczos,
            }),
            crop: self.crop.map(|Size(size)| size).or(known.crop),
        };
        preprocessing.check(channels).map_err(|reason| {
            StageError::Usage(format!(
                "{reason}\nhint: check --channel-order, --range, --resize and --crop against the network's documentation"
            ))
        })?;
        Ok(preprocessing)
    }
}

/// Reads a size: `160` for a square, or height and width as `160x224` or `160,224`.
pub fn size(text: &str) -> Result<Size, String> {
    let sides = text.split(['x', '×', ',']).map(|side| side.trim().parse::<usize>()).collect::<Result<Vec<_>, _>>();
    match sides.as_deref() {
        Ok(&[side]) if side > 0 => Ok(Size([side, side])),
        Ok(&[height, width]) if height > 0 && width > 0 => Ok(Size([height, width])),
        _ => Err("give a number of pixels, as in 160, or height and width, as in 160x224".into()),
    }
}

fn resize(text: &str) -> Result<Resize, String> {
    let Size(size) = size(text)?;
    Ok(if text.trim().parse::<usize>().is_ok() { Resize::ShortSide(size[0]) } else { Resize::Exact(size) })
}

fn range(text: &str) -> Result<[f32; 2], String> {
    let ends = text.split(',').map(|end| end.trim().parse::<f32>().ok()).collect::<Option<Vec<_>>>();
    match ends.as_deref() {
        Some(&[low, high]) if low < high && (high - low).is_finite() => Ok([low, high]),
        _ => Err("give the lower and the higher value, as in 0,255".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_side_or_height_and_width() {
        for (text, expected) in [("160", [160, 160]), ("160x224", [160, 224]), ("160,224", [160, 224])] {
            assert_eq!(size(text), Ok(Size(expected)), "{text}");
        }
        for text in ["", "0", "24x", "24x40x3", "-8", "big"] {
            assert!(size(text).unwrap_err().contains("160x224"), "{text}");
        }
    }

    #[test]
    fn one_number_is_a_short_side_and_two_are_exact() {
        assert_eq!(resize("256"), Ok(Resize::ShortSide(256)));
        assert_eq!(resize("256x256"), Ok(Resize::Exact([256, 256])));
    }

    #[test]
    fn a_range_has_two_ends() {
        assert_eq!((range("0,255"), range("-1, 1")), (Ok([0.0, 255.0]), Ok([-1.0, 1.0])));
        for text in ["255", "1,0", "0,inf", "0,NaN", "0,1,2"] {
            assert!(range(text).unwrap_err().contains("0,255"), "{text}");
        }
    }

    #[test]
    fn flags_change_only_what_they_name() {
        let known = Preprocessing { crop: Some([24, 40]), ..Preprocessing::default() };
        let flags = PreprocessingArgs {
            channel_order: Some(Order::Bgr),
            range: None,
            resize: None,
            interpolation: None,
            crop: None,
        };
        let expected = Preprocessing { channels: ChannelOrder::Bgr, ..known };
        assert_eq!(flags.applied_to(known, 3).unwrap(), expected);
        let error = flags.applied_to(known, 1).unwrap_err().to_string();
        assert!(error.contains("three channels") && error.contains("hint:"), "{error}");
    }
}
