//! The strategies by name, and the keys of `[invert]` that some of them alone have a use for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inversion::contrastive::ContrastiveSettings;
use crate::inversion::meta::MetaSettings;
use crate::inversion::persistent::PersistentSettings;
use crate::inversion::pixels::PixelsSettings;

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
pub(super) const LOSS_KEYS_OF_SOME: [(&str, &[StrategyName]); 4] = [
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
