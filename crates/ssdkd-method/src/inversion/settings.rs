//! `[invert]`: what all strategies share, and the table of the chosen one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ssdkd_nn::{Architecture, CropFlipSettings, Task};

use crate::inversion::batch_norm::RELATIVE_FACTOR;
use crate::inversion::contrastive::ContrastiveSettings;
use crate::inversion::loss_settings::{BatchNormForm, Discrepancy, LossSettings, LossTable};
use crate::inversion::meta::MetaSettings;
use crate::inversion::persistent::PersistentSettings;
use crate::inversion::pixels::PixelsSettings;
use crate::inversion::synthesis::{BatchSettings, ImageFormat, TargetRule};
use crate::modulation::{Diversity, ModulationSettings};
use crate::range;

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
    pub views: CropFlipSettings,
    /// φ.
    pub phi: ModulationSettings,
}

/// How images are made, with the settings of that strategy; see the [module](crate::inversion).
#[derive(Debug, Clone, PartialEq)]
pub enum Strategy {
    /// One generator, trained for the whole run.
    Persistent(PersistentSettings),
    /// A generator that is learned as a starting point.
    Meta(MetaSettings),
    /// No generator.
    Pixels(PixelsSettings),
    /// A fresh generator for each batch.
    Contrastive(ContrastiveSettings),
}

/// The name of a strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StrategyName {
    /// One generator, trained for the whole run \[O\].
    #[default]
    Persistent,
    /// A generator that is learned as a starting point and cloned for each batch \[C: Fast-Datafree\].
    Meta,
    /// No generator: the pixels are trained \[C: DeepInversion\].
    Pixels,
    /// A fresh generator for each batch, whose images should differ from those before \[C: CMI\].
    Contrastive,
}

impl StrategyName {
    /// All strategies.
    pub const ALL: [Self; 4] = [Self::Persistent, Self::Meta, Self::Pixels, Self::Contrastive];

    /// Returns the name as recipes spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Persistent => "persistent",
            Self::Meta => "meta",
            Self::Pixels => "pixels",
            Self::Contrastive => "contrastive",
        }
    }
}

/// Keys of `[invert.loss]` that some strategies alone have a use for.
const LOSS_KEYS_OF_SOME: [(&str, &[StrategyName]); 4] = [
    ("batch_norm_momentum", &[StrategyName::Persistent, StrategyName::Meta]),
    ("total_variation", &[StrategyName::Pixels]),
    ("l2", &[StrategyName::Pixels]),
    ("contrastive", &[StrategyName::Contrastive]),
];

/// Returns the strategies that use a key of `[invert]`, such as `loss.l2` or `meta.lr`; all of them, if it is common to them.
pub fn strategies_of(key: &str) -> Vec<StrategyName> {
    let (table, rest) = key.split_once('.').unwrap_or((key, ""));
    let own = StrategyName::ALL.iter().find(|name| name.as_str() == table);
    let some = LOSS_KEYS_OF_SOME.iter().find(|(name, _)| table == "loss" && *name == rest);
    match (own, some) {
        (Some(name), _) => vec![*name],
        (None, Some((_, names))) => names.to_vec(),
        (None, None) => StrategyName::ALL.to_vec(),
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
    views: CropFlipSettings,
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

impl Default for InvertSettings {
    fn default() -> Self {
        Self::of(StrategyName::default())
    }
}

impl Strategy {
    /// Returns its name.
    pub fn name(&self) -> StrategyName {
        match self {
            Self::Persistent(_) => StrategyName::Persistent,
            Self::Meta(_) => StrategyName::Meta,
            Self::Pixels(_) => StrategyName::Pixels,
            Self::Contrastive(_) => StrategyName::Contrastive,
        }
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
            views: CropFlipSettings::default(),
            phi: ModulationSettings::default(),
        }
    }

    /// Returns what a batch needs of these settings.
    pub fn batch_settings(&self) -> BatchSettings {
        let Self { batch, steps, targets, image_format, views, .. } = *self;
        BatchSettings { batch, steps, targets, image_format, views }
    }

    /// Checks every value; the error names the recipe's key.
    pub fn validate(&self) -> Result<(), String> {
        range::check("invert", self)?;
        let name = self.strategy.name();
        if !self.loss.any(true) {
            return Err(
                "batch_norm, class, balance, activation and adversarial in [invert.loss] are all 0; one of them must be above 0"
                    .into(),
            );
        }
        if name != StrategyName::Persistent && !self.loss.any(false) {
            return Err(
                "batch_norm, class, balance and activation in [invert.loss] are all 0; the warm-up needs one of \
                        them above 0"
                    .into(),
            );
        }
        if self.loss.adversarial_mask && self.loss.discrepancy != Discrepancy::Kl {
            return Err(
                "invert.loss.adversarial_mask is true; it must be false unless invert.loss.discrepancy is \"kl\""
                    .into(),
            );
        }
        if matches!(name, StrategyName::Pixels | StrategyName::Contrastive) && self.targets == TargetRule::Predicted {
            // What starts as noise would stay what the teacher takes noise for.
            return Err(format!(
                "invert.targets is \"predicted\"; strategy \"{}\" needs \"random\" or \"balanced\"",
                name.as_str()
            ));
        }
        Ok(())
    }

    /// Checks whether images can be made so for a teacher of this architecture; the error names the recipe's key.
    pub fn check_teacher(&self, teacher: &Architecture) -> Result<(), String> {
        if teacher.task() == Task::Images {
            return Ok(());
        }
        if self.phi.diversity != Diversity::Off {
            return Err(format!(
                "invert.phi.diversity must be \"off\" for a {teacher}: it labels pixels, and the buffer counts images\n\
                 hint: set it so; invert.phi.gamma weighs each pixel by the teacher's doubt"
            ));
        }
        if self.targets != TargetRule::Predicted {
            return Err(format!(
                "invert.targets must be \"predicted\" for a {teacher}: it labels pixels, and nothing says where in an image a class \
                 is to be\nhint: set it so, with invert.strategy \"persistent\" or \"meta\""
            ));
        }
        Ok(())
    }

    /// Returns these settings, with those that change nothing in a round as they are by default. `distilling_round` counts from 0
    /// after the warm-up, and is `None` during it.
    ///
    /// Images that were made by other settings are as good where these are the same.
    #[must_use]
    pub fn relevant(&self, distilling_round: Option<u32>) -> Self {
        let mut settings = self.clone();
        if !self.looks_at_student(distilling_round) {
            let LossSettings { adversarial, discrepancy, adversarial_mask, .. } = LossSettings::NONE;
            settings.loss = LossSettings { adversarial, discrepancy, adversarial_mask, ..settings.loss };
        }
        if self.loss.class == 0.0 {
            settings.phi = ModulationSettings::OFF;
        }
        if self.loss.batch_norm == 0.0 {
            settings.loss.batch_norm_form = LossSettings::NONE.batch_norm_form;
        }
        let trains = self.loss.any(self.looks_at_student(distilling_round));
        let resets = (0, u32::from(self.resets(distilling_round)));
        match &mut settings.strategy {
            Strategy::Persistent(own) => {
                let default = PersistentSettings::default();
                (own.reset_round, own.reset_every) = resets;
                if self.targets == TargetRule::Predicted {
                    own.embeddings_per_class = default.embeddings_per_class;
                    own.embedding_scale = default.embedding_scale;
                }
                if !trains {
                    (own.lr, own.beta1, own.beta2) = (default.lr, default.beta1, default.beta2);
                    (settings.steps, settings.views) = (1, CropFlipSettings::OFF);
                }
            }
            Strategy::Meta(own) => (own.reset_round, own.reset_every) = resets,
            Strategy::Pixels(_) | Strategy::Contrastive(_) => {}
        }
        settings
    }

    /// Returns what a stage's fingerprint holds of these settings. A key that came after the first runs is left out where it has no
    /// effect, so that their rounds stay fresh.
    pub fn fingerprint(&self) -> Value {
        let mut settings = json!(self);
        if self.loss.batch_norm_form == BatchNormForm::Absolute
            && let Some(loss) = settings["loss"].as_object_mut()
        {
            loss.remove("batch_norm_form");
        }
        settings
    }

    /// Returns whether the images of a round depend on the student.
    pub fn looks_at_student(&self, distilling_round: Option<u32>) -> bool {
        self.loss.adversarial != 0.0 && distilling_round.is_some()
    }

    /// Returns whether a class prior changes the images.
    pub fn looks_at_prior(&self) -> bool {
        let phi = self.loss.class != 0.0 && self.phi.diversity != Diversity::Off;
        self.targets != TargetRule::Predicted || self.loss.balance != 0.0 || phi
    }

    /// Returns whether the generator's first linear layer is re-initialized at the start of this round.
    pub fn resets(&self, distilling_round: Option<u32>) -> bool {
        match &self.strategy {
            Strategy::Persistent(own) => own.resets().is_due(distilling_round),
            Strategy::Meta(own) => own.resets().is_due(distilling_round),
            Strategy::Pixels(_) | Strategy::Contrastive(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(name: StrategyName, change: impl FnOnce(&mut InvertSettings), message: &str) {
        let mut settings = InvertSettings::of(name);
        assert_eq!(settings.validate(), Ok(()));
        change(&mut settings);
        let error = settings.validate().unwrap_err();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn impossible_settings_are_refused_by_name() {
        use StrategyName::{Meta, Persistent, Pixels};
        let batch = "invert.batch is 1; it must be a whole number from 2 to 4096";
        check_refused(Persistent, |s| s.batch = 1, batch);
        check_refused(
            Persistent,
            |s| s.strategy = Strategy::Persistent(PersistentSettings { lr: 0.0, ..Default::default() }),
            "invert.persistent.lr is 0; it must be a number above 0",
        );
        check_refused(Persistent, |s| s.loss.batch_norm_momentum = 1.0, "invert.loss.batch_norm_momentum is 1");
        check_refused(Persistent, |s| s.phi.gamma = -0.5, "invert.phi.gamma is -0.5");
        check_refused(Persistent, |s| s.views.crop_padding = 513, "invert.views.crop_padding is 513");
        check_refused(Pixels, |s| s.targets = TargetRule::Predicted, "needs \"random\" or \"balanced\"");
        check_refused(Persistent, |s| s.loss = LossSettings::NONE, "are all 0; one of them");
        let follower = LossSettings { adversarial: 1.0, ..LossSettings::NONE };
        check_refused(Meta, |s| s.loss = follower, "the warm-up needs one of them");
        check_refused(Meta, |s| s.loss.discrepancy = Discrepancy::L1, "invert.loss.adversarial_mask is true");
    }

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
    fn the_fingerprint_of_runs_from_before_a_key_stays() {
        let absolute = InvertSettings::default();
        assert_eq!(absolute.fingerprint()["loss"].get("batch_norm_form"), None);
        assert_eq!(absolute.fingerprint()["loss"]["batch_norm"], 1.0);
        let mut relative = absolute;
        relative.loss.batch_norm_form = BatchNormForm::Relative;
        assert_eq!(relative.fingerprint()["loss"]["batch_norm_form"], "relative");
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
