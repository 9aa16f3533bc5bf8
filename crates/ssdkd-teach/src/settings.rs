//! What the weights depend on, besides the data: the settings of the training.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use ssdkd_nn::{Architecture, CropFlipSettings, schedule};

/// How a teacher is trained. Flags of the command, and part of the checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct TeachSettings {
    /// The architecture: resnet20, resnet56-conv, resnet34, wrn-40-2, vgg11, …; fpn-resnet20 for segmentation
    #[arg(long, value_name = "NAME")]
    pub architecture: Architecture,

    /// Passes over the training images
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub epochs: u32,

    /// Images in a step; an epoch leaves out the last images that do not fill one
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..=65_536))]
    pub batch: u32,

    /// Highest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 0.1, allow_negative_numbers = true, value_parser = above_zero)]
    pub lr: f64,

    /// The schedule of the learning rate
    #[arg(long, value_name = "NAME", value_enum, default_value_t)]
    pub schedule: Schedule,

    /// Momentum of SGD
    #[arg(long, value_name = "SHARE", default_value_t = 0.9, allow_negative_numbers = true, value_parser = below_one)]
    pub momentum: f64,

    /// Use Nesterov momentum
    #[arg(long)]
    pub nesterov: bool,

    /// L2 penalty on every trained parameter
    #[arg(long, value_name = "FACTOR", default_value_t = 5e-4, allow_negative_numbers = true, value_parser = not_negative)]
    pub weight_decay: f64,

    /// Label smoothing: the share of each target that is spread over all classes
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, allow_negative_numbers = true, value_parser = below_one)]
    pub label_smoothing: f64,

    /// Decay of an exponential moving average of the weights, which is then saved; 0: none
    #[arg(long, value_name = "DECAY", default_value_t = 0.0, allow_negative_numbers = true, value_parser = below_one)]
    pub ema: f64,

    /// Zero padding around an image before the random crop
    #[arg(long, value_name = "PIXELS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub crop_padding: u32,

    /// Do not flip images: for letters and digits
    #[arg(long)]
    pub no_flip: bool,

    /// Neither crop nor flip images
    #[arg(long)]
    pub no_augment: bool,

    /// The seed of all random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Mean of each channel, subtracted from images in 0 to 1 [default: that of the training images]
    #[arg(long, value_name = "M,M,M", value_delimiter = ',')]
    pub mean: Option<Vec<f32>>,

    /// Standard deviation of each channel, then divided by [default: that of the training images]
    #[arg(long, value_name = "S,S,S", value_delimiter = ',')]
    pub std: Option<Vec<f32>>,
}

/// The schedule of the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Down along a cosine, to nearly 0 at the last step.
    #[default]
    Cosine,
    /// A tenth after half of the steps, a hundredth after three quarters.
    Step,
    /// Up over the first 30 % of the steps, down to nearly 0 over the rest.
    OneCycle,
}

impl TeachSettings {
    /// Returns the crops and flips of the training images.
    pub fn views(&self) -> CropFlipSettings {
        if self.no_augment {
            return CropFlipSettings::OFF;
        }
        CropFlipSettings { crop_padding: self.crop_padding as usize, flip: !self.no_flip, ..CropFlipSettings::OFF }
    }

    /// Returns the learning rate of step `step` (from 0) of `total`.
    pub fn learning_rate(&self, step: u64, total: u64) -> f64 {
        match self.schedule {
            Schedule::Cosine => schedule::cosine(self.lr, self.lr / 1000.0, step, total),
            Schedule::Step => schedule::milestones(self.lr, 0.1, &[total / 2, total * 3 / 4], step),
            Schedule::OneCycle => schedule::one_cycle(self.lr, step, total),
        }
    }

    /// Returns the flags that say the same: all that change something, in a fixed order.
    pub fn to_flags(&self) -> String {
        let schedule = self.schedule.to_possible_value().expect("no schedule is hidden");
        let mut flags = format!(
            "--architecture {} --epochs {} --batch {} --lr {} --schedule {} --momentum {} --weight-decay {}",
            self.architecture,
            self.epochs,
            self.batch,
            self.lr,
            schedule.get_name(),
            self.momentum,
            self.weight_decay
        );
        let mut add = |flag: std::fmt::Arguments<'_>| flags.write_fmt(flag).expect("a string grows");
        let joined = |values: &[f32]| values.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
        if self.nesterov {
            add(format_args!(" --nesterov"));
        }
        if self.label_smoothing > 0.0 {
            add(format_args!(" --label-smoothing {}", self.label_smoothing));
        }
        if self.ema > 0.0 {
            add(format_args!(" --ema {}", self.ema));
        }
        if self.no_augment {
            add(format_args!(" --no-augment"));
        } else {
            add(format_args!(" --crop-padding {}", self.crop_padding));
            if self.no_flip {
                add(format_args!(" --no-flip"));
            }
        }
        for (name, values) in [("mean", &self.mean), ("std", &self.std)] {
            if let Some(values) = values {
                add(format_args!(" --{name} {}", joined(values)));
            }
        }
        add(format_args!(" --seed {}", self.seed));
        flags
    }
}

fn number(text: &str, fits: impl Fn(f64) -> bool, range: &str) -> Result<f64, String> {
    text.parse().ok().filter(|&value| fits(value)).ok_or_else(|| format!("it must be {range}"))
}

fn above_zero(text: &str) -> Result<f64, String> {
    number(text, |value| value > 0.0 && value.is_finite(), "a number above 0")
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |value| value >= 0.0 && value.is_finite(), "a number, at least 0")
}

fn below_one(text: &str) -> Result<f64, String> {
    number(text, |value| (0.0..1.0).contains(&value), "a number from 0 to just below 1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        settings: TeachSettings,
    }

    fn parse(flags: &str) -> Result<TeachSettings, String> {
        let arguments = ["teach"].into_iter().chain(flags.split_whitespace());
        Program::try_parse_from(arguments).map(|program| program.settings).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_survive_a_round_trip() {
        for flags in [
            "--architecture resnet20",
            "--architecture wrn-16-1 --epochs 3 --schedule one-cycle --nesterov --ema 0.99 --no-flip --mean 0.5,0.25 \
             --std 0.1,0.3 --label-smoothing 0.1 --crop-padding 2 --seed 9 --lr 0.05 --weight-decay 0",
            "--architecture resnet8 --no-augment --batch 7 --momentum 0",
        ] {
            let settings = parse(flags).unwrap();
            assert_eq!(parse(&settings.to_flags()).unwrap(), settings, "{}", settings.to_flags());
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (flags, part) in [
            ("--lr 0", "above 0"),
            ("--lr nan", "above 0"),
            ("--momentum 1", "just below 1"),
            ("--weight-decay -1", "at least 0"),
            ("--batch 1", "2..=65536"),
            ("--epochs 0", "1..=100000"),
            ("--schedule linear", "one-cycle"),
        ] {
            let error = parse(&format!("--architecture resnet20 {flags}")).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert!(parse("--architecture resnet21").unwrap_err().contains("there is no architecture"));
    }

    #[test]
    fn schedules_end_low() {
        for schedule in [Schedule::Cosine, Schedule::Step, Schedule::OneCycle] {
            let settings = TeachSettings { schedule, ..parse("--architecture resnet20").unwrap() };
            let rates = (0..100).map(|step| settings.learning_rate(step, 100)).collect::<Vec<_>>();
            let highest = rates.iter().copied().fold(0.0, f64::max);
            assert!((highest - 0.1).abs() < 1e-12 && rates[99] < 0.002, "{schedule:?}: {rates:?}");
        }
    }
}
