//! `[invert]`: what all strategies share, and the table of the chosen one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssdkd_nn::DifferentiableViewSettings;

use crate::inversion::batch_norm::RELATIVE_FACTOR;
use crate::inversion::contrastive::ContrastiveSettings;
use crate::inversion::loss_settings::{BatchNormForm, LossSettings, LossTable};
use crate::inversion::meta::MetaSettings;
use crate::inversion::persistent::PersistentSettings;
use crate::inversion::pixels::PixelsSettings;
use crate::inversion::strategy::{LOSS_KEYS_OF_SOME, Strategy, StrategyName};
use crate::inversion::synthesis::{BatchSettings, ImageFormat, TargetRule};
use crate::modulation::ModulationSettings;

/// `[invert]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "InvertTable", into = "InvertTable")]
pub struct InvertSettings {
    /// How images are made, with the settings of that strategy alone.
    pub strategy: Strategy,
    /// Images in a batch.
    pub batch: usize,
    /// Batches synthesized in a round.
    pub batches: usize,
    /// Optimizer steps for each batch.
    pub steps: usize,
    /// Which classes the images should be of.
    pub targets: TargetRule,
    /// How images are stored.
    pub image_format: ImageFormat,
    /// The factors of the loss.
    pub loss: LossSettings,
    /// The views of the images that the networks see.
    pub views: DifferentiableViewSettings,
    /// φ.
    pub phi: ModulationSettings,
}

impl Default for InvertSettings {
    fn default() -> Self {
        Self::of(StrategyName::default())
    }
}

impl InvertSettings {
    /// Returns the defaults of a strategy.
    pub fn of(name: StrategyName) -> Self {
        let (strategy, steps, targets, loss) = match name {
            StrategyName::Persistent => {
                let strategy = Strategy::Persistent(PersistentSettings::default());
                (strategy, 1, TargetRule::Predicted, PersistentSettings::LOSS)
            }
            StrategyName::Meta => (Strategy::Meta(MetaSettings::default()), 5, TargetRule::Random, MetaSettings::LOSS),
            StrategyName::Pixels => {
                (Strategy::Pixels(PixelsSettings::default()), 200, TargetRule::Balanced, PixelsSettings::LOSS)
            }
            StrategyName::Contrastive => {
                let strategy = Strategy::Contrastive(ContrastiveSettings::default());
                (strategy, 200, TargetRule::Balanced, ContrastiveSettings::LOSS)
            }
        };
        Self {
            strategy,
            batch: 128,
            batches: 8,
            steps,
            targets,
            image_format: ImageFormat::U8,
            loss,
            views: DifferentiableViewSettings::default(),
            phi: ModulationSettings::default(),
        }
    }

    /// Returns what a batch needs of these settings.
    pub fn batch_settings(&self) -> BatchSettings {
        let Self { batch, steps, targets, image_format, views, .. } = *self;
        BatchSettings { batch, steps, targets, image_format, views }
    }
}

/// Synthesis: how images are made from the teacher.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct InvertTable {
    /// How images are made. Only this strategy's table may stand in the recipe.
    strategy: StrategyName,
    /// Images in a batch \[C: 256\].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 4096))]
    batch: Option<usize>,
    /// Batches synthesized in a round.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    batches: Option<usize>,
    /// Optimizer steps for each batch: of the generator; in "meta" of its clone \[C: 2, 5 or 10\]; in "pixels" of the pixels \[C: 2000\];
    /// in "contrastive" of the batch's generator \[C: 200 or 500\].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    steps: Option<usize>,
    /// Which classes the images should be of. "predicted" is not for "pixels" and "contrastive". With the others, "persistent" gives the
    /// generator an embedding of the class.
    #[serde(skip_serializing_if = "Option::is_none")]
    targets: Option<TargetRule>,
    /// How images are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    image_format: Option<ImageFormat>,
    #[serde(skip_serializing_if = "Option::is_none")]
    persistent: Option<PersistentSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<MetaSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pixels: Option<PixelsSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contrastive: Option<ContrastiveSettings>,
    loss: LossTable,
    views: DifferentiableViewSettings,
    phi: ModulationSettings,
}

impl TryFrom<InvertTable> for InvertSettings {
    type Error = String;

    fn try_from(table: InvertTable) -> Result<Self, String> {
        let name = table.strategy;
        let there =
            [table.persistent.is_some(), table.meta.is_some(), table.pixels.is_some(), table.contrastive.is_some()];
        for (other, there) in StrategyName::ALL.into_iter().zip(there) {
            if there && other != name {
                let other = other.as_str();
                return Err(format!(
                    "invert.{other} belongs to strategy \"{other}\"; this recipe's strategy is \"{}\"\n\
                     hint: remove the table [invert.{other}], or set invert.strategy to \"{other}\"",
                    name.as_str()
                ));
            }
        }
        let LossTable { batch_norm_momentum, total_variation, l2, contrastive, .. } = &table.loss;
        let there = [batch_norm_momentum, total_variation, l2, contrastive].map(Option::is_some);
        for ((key, names), there) in LOSS_KEYS_OF_SOME.into_iter().zip(there) {
            if there && !names.contains(&name) {
                let names = names.iter().map(|name| format!("strategy \"{}\"", name.as_str())).collect::<Vec<_>>();
                return Err(format!(
                    "invert.loss.{key} belongs to {}; this recipe's strategy is \"{}\"",
                    names.join(" and "),
                    name.as_str()
                ));
            }
        }
        let mut default = Self::of(name);
        if table.loss.batch_norm_form == Some(BatchNormForm::Relative) {
            default.loss.batch_norm *= RELATIVE_FACTOR;
        }
        Ok(Self {
            strategy: match name {
                StrategyName::Persistent => Strategy::Persistent(table.persistent.unwrap_or_default()),
                StrategyName::Meta => Strategy::Meta(table.meta.unwrap_or_default()),
                StrategyName::Pixels => Strategy::Pixels(table.pixels.unwrap_or_default()),
                StrategyName::Contrastive => Strategy::Contrastive(table.contrastive.unwrap_or_default()),
            },
            batch: table.batch.unwrap_or(default.batch),
            batches: table.batches.unwrap_or(default.batches),
            steps: table.steps.unwrap_or(default.steps),
            targets: table.targets.unwrap_or(default.targets),
            image_format: table.image_format.unwrap_or(default.image_format),
            loss: table.loss.over(default.loss),
            views: table.views,
            phi: table.phi,
        })
    }
}

impl From<InvertSettings> for InvertTable {
    fn from(settings: InvertSettings) -> Self {
        let name = settings.strategy.name();
        let InvertSettings { strategy, batch, batches, steps, targets, image_format, loss, views, phi } = settings;
        let mut loss = LossTable::from(loss);
        for (value, (_, names)) in
            [&mut loss.batch_norm_momentum, &mut loss.total_variation, &mut loss.l2, &mut loss.contrastive]
                .into_iter()
                .zip(LOSS_KEYS_OF_SOME)
        {
            value.take_if(|_| !names.contains(&name));
        }
        let mut table = Self {
            strategy: name,
            batch: Some(batch),
            batches: Some(batches),
            steps: Some(steps),
            targets: Some(targets),
            image_format: Some(image_format),
            loss,
            views,
            phi,
            ..Self::default()
        };
        match strategy {
            Strategy::Persistent(settings) => table.persistent = Some(settings),
            Strategy::Meta(settings) => table.meta = Some(settings),
            Strategy::Pixels(settings) => table.pixels = Some(settings),
            Strategy::Contrastive(settings) => table.contrastive = Some(settings),
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_of_another_strategy_names_both() {
        let read = |json: serde_json::Value| serde_json::from_value::<InvertSettings>(json);
        let error = read(serde_json::json!({ "meta": { "latent_lr": 0.1 } })).unwrap_err().to_string();
        let expected = "invert.meta belongs to strategy \"meta\"; this recipe's strategy is \"persistent\"";
        assert!(error.contains(expected), "{error}");
        let error = read(serde_json::json!({ "strategy": "meta", "loss": { "l2": 0.1 } })).unwrap_err().to_string();
        let expected = "invert.loss.l2 belongs to strategy \"pixels\"; this recipe's strategy is \"meta\"";
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn the_relative_form_has_a_larger_default_factor() {
        let read = |json: serde_json::Value| serde_json::from_value::<InvertSettings>(json).unwrap().loss.batch_norm;
        assert_eq!(read(json!({ "loss": { "batch_norm_form": "relative" } })), RELATIVE_FACTOR);
        assert_eq!(read(json!({ "loss": { "batch_norm_form": "relative", "batch_norm": 2.0 } })), 2.0);
        assert_eq!(read(json!({ "loss": { "batch_norm_form": "absolute" } })), 1.0);
    }

    #[test]
    fn defaults_are_those_of_the_strategy_and_only_its_keys_are_written() {
        for name in StrategyName::ALL {
            let read = serde_json::from_value::<InvertSettings>(serde_json::json!({ "strategy": name })).unwrap();
            assert_eq!(read, InvertSettings::of(name));
            let written = serde_json::to_value(&read).unwrap();
            for other in StrategyName::ALL {
                assert_eq!(written.get(other.as_str()).is_some(), other == name, "{written}");
            }
            assert_eq!(written["loss"].get("l2").is_some(), name == StrategyName::Pixels, "{written}");
            assert_eq!(serde_json::from_value::<InvertSettings>(written).unwrap(), read);
        }
    }
}
