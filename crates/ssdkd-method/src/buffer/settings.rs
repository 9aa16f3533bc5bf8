//! `[balance]`: how many images the buffer holds, and which it evicts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::range;

/// The replay buffer: how many images it holds, and which it evicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BalanceSettings {
    /// Images that the buffer holds \[S: 10 % of the original training set\].
    #[schemars(range(min = 1, max = 100_000_000))]
    pub capacity: usize,
    /// Which images leave when new ones come.
    pub eviction: Eviction,
    /// The priority that new images enter with.
    pub new_sample_priority: NewSamplePriority,
}

impl Default for BalanceSettings {
    fn default() -> Self {
        Self { capacity: 5120, eviction: Eviction::ClassBalanced, new_sample_priority: NewSamplePriority::Highest }
    }
}

impl BalanceSettings {
    /// Checks every value; the error names the recipe's key.
    pub fn validate(&self) -> Result<(), String> {
        range::check("balance", self)
    }

    /// Returns these settings; those that change nothing about the members have their defaults.
    #[must_use]
    pub fn relevant(&self) -> Self {
        let looks = self.eviction.looks_at_priorities();
        let new_sample_priority = if looks { self.new_sample_priority } else { Self::default().new_sample_priority };
        Self { new_sample_priority, ..self.clone() }
    }
}

/// Eviction policies; see the [module](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Eviction {
    /// The lowest priority of the largest class: it balances the classes.
    ClassBalanced,
    /// The oldest of the largest class: it balances the classes, and forgets images of an earlier, worse generator.
    ClassBalancedFifo,
    /// The oldest: the buffer is the newest `capacity` samples.
    Fifo,
    /// The lowest priority.
    LowestPriority,
}

impl Eviction {
    /// Returns whether priorities decide which image is evicted, and so what the student knows.
    pub fn looks_at_priorities(self) -> bool {
        matches!(self, Self::ClassBalanced | Self::LowestPriority)
    }

    /// Returns whether the shares of the classes decide which image is evicted.
    pub fn looks_at_classes(self) -> bool {
        matches!(self, Self::ClassBalanced | Self::ClassBalancedFifo)
    }
}

/// The priority that new images enter with: one of the buffer before them, or 1 if it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NewSamplePriority {
    /// The highest \[C: prioritized experience replay\].
    Highest,
    /// The mean \[O\].
    Mean,
}

impl NewSamplePriority {
    /// Returns the priority of a new sample, where `priorities` are those of the buffer before it.
    pub fn priority(self, priorities: impl ExactSizeIterator<Item = f64>) -> f64 {
        let members = priorities.len();
        match self {
            _ if members == 0 => 1.0,
            Self::Highest => priorities.fold(0.0, f64::max),
            Self::Mean => priorities.sum::<f64>() / members as f64,
        }
    }
}
