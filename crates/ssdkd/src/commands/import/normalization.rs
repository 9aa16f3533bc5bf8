//! Mean and standard deviation: known ones, given ones, and the check of given ones.

use clap::{Args, ValueEnum};
use ssdkd_nn::{ChannelOrder, Normalization, Preprocessing, TeacherCard};
use ssdkd_stage::StageError;

/// A normalization that many public models were trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225
    Imagenet,
    /// Mean 0.4914, 0.4822, 0.4465 and std 0.247, 0.2435, 0.2616
    Cifar10,
    /// Mean 0.5071, 0.4865, 0.4409 and std 0.2673, 0.2564, 0.2762
    Cifar100,
    /// Mean 0.5 and std 0.5: from -1 to 1
    Half,
    /// Mean 0 and std 1: from 0 to 1
    None,
}

impl Preset {
    /// Returns the mean and the std for images of so many channels; `None` where the preset has none.
    ///
    /// Those of one channel are of images whose gray is 0.299 R + 0.587 G + 0.114 B; `imagenet`'s are the usual ones.
    pub fn values(self, channels: usize) -> Option<(Vec<f32>, Vec<f32>)> {
        let values: (&[f32], &[f32]) = match (self, channels) {
            (Self::Half, _) => return Some((vec![0.5; channels], vec![0.5; channels])),
            (Self::None, _) => return Some((vec![0.0; channels], vec![1.0; channels])),
            (Self::Imagenet, 3) => (&[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225]),
            (Self::Imagenet, 1) => (&[0.449], &[0.226]),
            (Self::Cifar10, 3) => (&[0.4914, 0.4822, 0.4465], &[0.247, 0.2435, 0.2616]),
            (Self::Cifar10, 1) => (&[0.4809], &[0.2392]),
            (Self::Cifar100, 3) => (&[0.5071, 0.4865, 0.4409], &[0.2673, 0.2564, 0.2762]),
            (Self::Cifar100, 1) => (&[0.4875], &[0.2506]),
            _ => return None,
        };
        Some((values.0.to_vec(), values.1.to_vec()))
    }

    /// Returns its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Imagenet => "imagenet",
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::Half => "half",
            Self::None => "none",
        }
    }
}

/// How the model's training normalized its images.
#[derive(Debug, Args)]
pub struct NormalizationArgs {
    /// The normalization of the model's training, by its name
    #[arg(long, value_name = "NAME", value_enum, conflicts_with_all = ["mean", "std"])]
    normalization: Option<Preset>,

    /// The mean of each channel, in the network's order and on the scale of --range, such as 0.485,0.456,0.406
    #[arg(long, value_delimiter = ',', requires = "std", allow_negative_numbers = true)]
    mean: Vec<f32>,

    /// The standard deviation of each channel, in that order and on that scale, such as 0.229,0.224,0.225
    #[arg(long, value_delimiter = ',', requires = "mean")]
    std: Vec<f32>,
}

/// Mean and standard deviation, and where they come from.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    /// Of each channel.
    pub mean: Vec<f32>,
    /// Of each channel.
    pub std: Vec<f32>,
    /// Where they come from.
    pub source: Normalization,
}

impl Values {
    /// Returns those of a card.
    pub fn of(card: &TeacherCard) -> Self {
        Self { mean: card.mean.clone(), std: card.std.clone(), source: card.normalization.clone() }
    }

    /// Returns those that a file gives.
    ///
    /// # Errors
    /// If the numbers do not fit the channels, or for images from 0 to 1 are for images from 0 to 255.
    pub fn checked(mean: Vec<f32>, std: Vec<f32>, channels: usize, range: [f32; 2]) -> Result<Self, String> {
        check(&mean, &std, channels)?;
        if range == [0.0, 1.0] {
            check_scale(&mean, &std)?;
        }
        Ok(Self { mean, std, source: Normalization::Given })
    }

    /// Returns the same for images whose values have this range, from those for images from 0 to 1.
    #[must_use]
    pub fn in_range(mut self, [low, high]: [f32; 2]) -> Self {
        for (mean, std) in self.mean.iter_mut().zip(&mut self.std) {
            *mean = low + *mean * (high - low);
            *std *= high - low;
        }
        self
    }

    /// Returns a guess: ImageNet's for three channels, one half for others.
    pub fn assumed(channels: usize) -> Self {
        let guess =
            Preset::Imagenet.values(channels).filter(|_| channels == 3).or_else(|| Preset::Half.values(channels));
        let (mean, std) = guess.unwrap_or_default();
        Self { mean, std, source: Normalization::Assumed }
    }
}

impl NormalizationArgs {
    /// Returns whether any of the flags is there.
    pub fn is_given(&self) -> bool {
        self.normalization.is_some() || !self.mean.is_empty()
    }

    /// Returns what the flags say; `None` without any.
    ///
    /// # Errors
    /// If the numbers do not fit the channels, or for images from 0 to 1 are for images from 0 to 255; for a preset of RGB images, if the
    /// network's channels have another order.
    pub fn values(&self, channels: usize, preprocessing: &Preprocessing) -> Result<Option<Values>, StageError> {
        if let Some(preset) = self.normalization {
            let (mean, std) = preset.values(channels).ok_or_else(|| {
                let name = preset.name();
                StageError::Usage(format!(
                    "--normalization {name} is for one or three channels, and the model's images have {channels}\n\
                     hint: give --mean and --std, with {channels} numbers each"
                ))
            })?;
            let is_alike = |values: &[f32]| values.iter().all(|value| *value == values[0]);
            if preprocessing.channels != ChannelOrder::Rgb && !(is_alike(&mean) && is_alike(&std)) {
                let name = preset.name();
                return Err(StageError::Usage(format!(
                    "--normalization {name} is for RGB images, and the network's channels have another order\n\
                     hint: give --mean and --std in the order of its channels"
                )));
            }
            let values = Values { mean, std, source: Normalization::Given };
            return Ok(Some(values.in_range(preprocessing.range)));
        }
        if self.mean.is_empty() {
            return Ok(None);
        }
        let values = Values::checked(self.mean.clone(), self.std.clone(), channels, preprocessing.range);
        values.map(Some).map_err(StageError::Usage)
    }
}

/// Returns whether mean and std can be those of images of so many channels.
fn check(mean: &[f32], std: &[f32], channels: usize) -> Result<(), String> {
    for (flag, given) in [("--mean", mean), ("--std", std)] {
        if given.len() != channels {
            return Err(format!(
                "{flag} has {} numbers, and the model's images have {channels} channels\nhint: give one number for each channel",
                given.len()
            ));
        }
        if given.iter().any(|number| !number.is_finite()) {
            return Err(format!("{flag} {} is not finite\nhint: give one number for each channel", listed(given)));
        }
    }
    if std.iter().any(|&std| std <= 0.0) {
        return Err(format!("--std {} is not above 0\nhint: give the standard deviation of each channel", listed(std)));
    }
    Ok(())
}

/// Returns whether mean and std can be those of images from 0 to 1.
fn check_scale(mean: &[f32], std: &[f32]) -> Result<(), String> {
    let is_large = |values: &[f32]| values.iter().any(|&value| value > 1.0);
    let large = |(_, values): &(&str, &[f32])| is_large(values);
    let Some((what, values)) = [("mean", mean), ("std", std)].into_iter().find(large) else { return Ok(()) };
    // People mix scales: each list is divided on its own. A std of 1 with a large mean means "only subtract the mean".
    let has_no_std = is_large(mean) && std.iter().all(|&std| std == 1.0);
    let scaled = |values: &[f32], divide: bool| {
        listed(&values.iter().map(|value| if divide { value / 255.0 } else { *value }).collect::<Vec<_>>())
    };
    Err(format!(
        "a {what} of {} is on the scale 0–255, and images here are from 0 to 1\nhint: --mean {} --std {}, or --range 0,255 if the network takes such images",
        values.iter().find(|&&value| value > 1.0).copied().unwrap_or_default(),
        scaled(mean, is_large(mean)),
        scaled(std, is_large(std) || has_no_std)
    ))
}

/// Returns the numbers with commas between them, to five places.
pub fn listed(values: &[f32]) -> String {
    let short = |value: &f32| ((f64::from(*value) * 1e5).round() / 1e5).to_string();
    values.iter().map(short).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(mean: &[f32], std: &[f32], message: &str) {
        let error = check(mean, std, 3).and_then(|()| check_scale(mean, std)).unwrap_err();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn values_for_0_to_255_are_refused_with_the_right_ones() {
        let hint = "hint: --mean 0.45,0.42,0.5 --std 0.28,0.2,0.25";
        check_refused(&[114.75, 107.1, 127.5], &[71.4, 51.0, 63.75], "a mean of 114.75 is on the scale 0–255");
        check_refused(&[114.75, 107.1, 127.5], &[71.4, 51.0, 63.75], hint);
        check_refused(&[0.0; 3], &[255.0; 3], "hint: --mean 0,0,0 --std 1,1,1");
    }

    #[test]
    fn mean_and_std_may_be_on_different_scales() {
        let hint = "hint: --mean 0.485,0.456,0.406 --std 0.2,0.4,0.1";
        check_refused(&[0.485, 0.456, 0.406], &[51.0, 102.0, 25.5], hint);
        check_refused(&[123.675, 116.28, 103.53], &[0.2, 0.4, 0.1], hint);
        check_refused(&[51.0; 3], &[1.0; 3], "hint: --mean 0.2,0.2,0.2 --std 0.00392,0.00392,0.00392");
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        check_refused(&[0.5], &[0.5; 3], "--mean has 1 numbers, and the model's images have 3 channels");
        check_refused(&[0.5; 3], &[0.0; 3], "--std 0,0,0 is not above 0");
        check_refused(&[f32::NAN, 0.5, 0.5], &[0.5; 3], "not finite");
        assert_eq!(check(&[-0.1, 0.0, 1.0], &[1.0; 3], 3), Ok(()));
    }

    #[test]
    fn images_to_255_may_have_a_mean_of_their_scale() {
        let (mean, std) = (vec![123.7, 116.3, 103.5], vec![58.4, 57.1, 57.4]);
        assert_eq!(Values::checked(mean.clone(), std, 3, [0.0, 255.0]).unwrap().mean, mean);
    }

    #[test]
    fn a_preset_is_scaled_to_the_range() {
        let half = NormalizationArgs { normalization: Some(Preset::Half), mean: vec![], std: vec![] };
        let bytes = Preprocessing { range: [0.0, 255.0], ..Preprocessing::default() };
        let values = half.values(3, &bytes).unwrap().unwrap();
        assert_eq!((values.mean, values.std), (vec![127.5; 3], vec![127.5; 3]));
    }

    #[test]
    fn a_preset_of_rgb_images_is_refused_for_bgr() {
        let bgr = Preprocessing { channels: ChannelOrder::Bgr, ..Preprocessing::default() };
        let given =
            |preset| NormalizationArgs { normalization: Some(preset), mean: vec![], std: vec![] }.values(3, &bgr);
        let error = given(Preset::Imagenet).unwrap_err().to_string();
        assert!(error.contains("RGB") && error.contains("hint: give --mean and --std"), "{error}");
        assert!(given(Preset::Half).unwrap().is_some());
    }

    #[test]
    fn every_preset_has_values_for_gray_and_color() {
        for preset in Preset::value_variants() {
            for channels in [1, 3] {
                let (mean, std) = preset.values(channels).unwrap();
                assert_eq!(check(&mean, &std, channels), Ok(()), "{preset:?}");
            }
        }
        assert_eq!(Values::assumed(1).mean, [0.5]);
        assert_eq!(Values::assumed(3).mean, [0.485, 0.456, 0.406]);
    }
}
