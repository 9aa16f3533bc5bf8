//! Which normalization a model was trained with, measured on labeled data.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use candle_core::{Device, Tensor};
use clap::ValueEnum;
use ssdkd_data::{Dataset, Split};
use ssdkd_evaluate::{evaluate, fit_of, open_data_for};
use ssdkd_nn::{ChannelOrder, Network, NetworkSpec, Normalization, OPEN_GPU, TeacherCard};
use ssdkd_stage::{CommonArgs, StageError, signals};

use super::normalization::{Preset, Values, listed};

/// Most images that are measured.
const IMAGES: usize = 2000;

/// Images in one pass.
const BATCH: usize = 256;

/// The best score is clear if it is larger than the second by this, and by twice the standard error of the difference.
const MARGIN: f64 = 0.01;

/// The score of one normalization.
struct Row {
    /// The flag that takes it.
    flag: String,
    values: Values,
    /// Top-1 accuracy, or mean IoU of a segmentation network.
    score: f64,
}

/// Scores of one model with several normalizations, the best first.
pub struct Measured {
    data: String,
    images: usize,
    /// What the score is.
    what: &'static str,
    rows: Vec<Row>,
    /// Whether the flags, or the card in the file's folder, say what to take.
    chosen: bool,
}

/// Measures the model of `card` and `tensors` with its own normalization and with each preset.
///
/// # Errors
/// If the data set cannot be read or does not fit the model.
pub fn measure(
    card: &TeacherCard,
    tensors: &BTreeMap<String, Tensor>,
    data: &str,
    split: Split,
    common: &CommonArgs,
) -> Result<Measured> {
    let device = common.device.open(Device::Cpu, OPEN_GPU)?;
    let fit = fit_of(&card.preprocessing, card.input);
    let images = spread(open_data_for(data, split, fit, card.names_of_classes())?)?;
    let mut rows = Vec::<Row>::new();
    for (flag, values) in candidates(card) {
        signals::check()?;
        let spec = NetworkSpec { mean: values.mean.clone(), std: values.std.clone(), ..card.spec() };
        let network = Network::load(&spec, tensors.clone(), &device)?.frozen();
        let score = evaluate(&network, &images, BATCH).with_context(|| format!("cannot measure on {data}"))?;
        rows.push(Row { flag, values, score: score.score() });
    }
    rows.sort_by(|one, other| other.score.total_cmp(&one.score));
    let what = if images.masks().is_some() { "mean IoU" } else { "accuracy" };
    let chosen = card.normalization != Normalization::Assumed;
    Ok(Measured { data: data.into(), images: images.len(), what, rows, chosen })
}

/// Returns the normalization of the card, if it was given, and the presets.
fn candidates(card: &TeacherCard) -> Vec<(String, Values)> {
    let numbers = |values: &Values| format!("--mean {} --std {}", listed(&values.mean), listed(&values.std));
    let presets = Preset::value_variants().iter().filter_map(|preset| {
        let (mut mean, mut std) = preset.values(card.input[0])?;
        let is_bgr = card.preprocessing.channels == ChannelOrder::Bgr;
        if is_bgr {
            mean.reverse();
            std.reverse();
        }
        let values = Values { mean, std, source: Normalization::Given }.in_range(card.preprocessing.range);
        let flag = if is_bgr { numbers(&values) } else { format!("--normalization {}", preset.name()) };
        Some((flag, values))
    });
    let mut all = presets.collect::<Vec<_>>();
    let own = Values::of(card);
    if all.iter().all(|(_, values)| (&values.mean, &values.std) != (&own.mean, &own.std)) {
        all.insert(0, (numbers(&own), own));
    }
    all
}

/// At most so many images, evenly spread over the data set: a folder's images are in the order of their classes.
fn spread(data: Dataset) -> Result<Dataset, StageError> {
    if data.len() <= IMAGES {
        return Ok(data);
    }
    let chosen = (0..IMAGES).map(|place| place * data.len() / IMAGES).collect::<Vec<_>>();
    let images = chosen.iter().flat_map(|&index| data.image(index).iter().copied()).collect();
    let labels = chosen.iter().map(|&index| data.label(index)).collect();
    let fewer = match data.class_names() {
        Some(names) => Dataset::new(data.shape(), images, labels, names.to_vec()),
        None => Dataset::without_names(data.shape(), images, labels, data.classes()),
    };
    let masks = chosen.iter().filter_map(|&index| data.mask(index)).flatten().copied().collect::<Vec<_>>();
    let fewer = fewer.and_then(|fewer| if masks.is_empty() { Ok(fewer) } else { fewer.with_masks(masks) });
    fewer.map_err(|error| StageError::Usage(error.to_string()))
}

impl Measured {
    /// Returns the normalization that the card takes from the measurement: the best, if it is clear and none was given.
    pub fn taken(&self) -> Option<Values> {
        let best = self.rows.first().filter(|_| !self.chosen && self.is_clear())?;
        Some(Values { source: Normalization::Measured(self.data.clone()), ..best.values.clone() })
    }

    /// Returns whether the best score cannot be the second's by chance.
    fn is_clear(&self) -> bool {
        let [best, second, ..] = &self.rows[..] else { return true };
        let share = best.score.clamp(0.0, 1.0);
        let error = (2.0 * share * (1.0 - share) / self.images.max(1) as f64).sqrt();
        best.score - second.score > MARGIN.max(2.0 * error)
    }

    /// Returns a table of the scores, and what they say.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![("measured", format!("{} on {} images of {}", self.what, self.images, self.data))];
        for row in &self.rows {
            lines.push(("", format!("{:>6.2} %  {}", row.score * 100.0, row.flag)));
        }
        let Some(best) = self.rows.first() else { return lines };
        lines.push((
            "best",
            match (self.is_clear(), self.chosen) {
                (true, false) => format!("{}, by a clear margin: the card has it", best.flag),
                (true, true) => format!("{}, by a clear margin: the card has what was given", best.flag),
                (false, false) => {
                    format!("{}, but not by a clear margin: the card has a guess; give the flag to take it", best.flag)
                }
                (false, true) => format!("{}, but not by a clear margin: the card has what was given", best.flag),
            },
        ));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(scores: &[f64], chosen: bool) -> Measured {
        let row = |(place, &score): (usize, &f64)| Row {
            flag: format!("--normalization {place}"),
            values: Values { mean: vec![place as f32], std: vec![1.0], source: Normalization::Given },
            score,
        };
        let rows = scores.iter().enumerate().map(row).collect();
        Measured { data: "pets".into(), images: 2000, what: "accuracy", rows, chosen }
    }

    #[test]
    fn a_clear_winner_is_taken_where_nobody_chose() {
        let taken = measured(&[0.92, 0.72], false).taken().unwrap();
        assert_eq!((taken.mean, taken.source), (vec![0.0], Normalization::Measured("pets".into())));
        assert_eq!(measured(&[0.92, 0.72], true).taken(), None);
        assert_eq!(measured(&[0.92, 0.915], false).taken(), None, "half a point of 2,000 images may be chance");
    }

    #[test]
    fn images_are_spread_over_all_classes() {
        let labels = (0..6000).map(|image| image / 2000).collect::<Vec<u32>>();
        let data =
            Dataset::without_names([1, 1, 1], labels.iter().map(|&label| label as u8).collect(), labels, 3).unwrap();
        let fewer = spread(data).unwrap();
        assert_eq!(fewer.class_counts(), [667, 667, 666]);
        assert!((0..fewer.len()).all(|image| u32::from(fewer.image(image)[0]) == fewer.label(image)));
    }
}
