//! The fingerprint: one digest of everything that determines a stage's results in one round.
//!
//! Seed, parameters and the digests of what is read are in it. Devices, thread counts, paths, clocks and how much the
//! program says are not: they must not change the results.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use ssdkd_shards::{Manifest, SCHEMA_VERSION, canonical, digest};

/// Everything that determines a stage's results in one round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FingerprintInput {
    /// The stage's name, which is its folder's too.
    pub stage: String,
    /// Raised by hand when the stage's results change.
    pub stage_version: u32,
    /// The layout of its files.
    pub schema_version: u32,
    /// From 0.
    pub round: u32,
    /// The run's.
    pub seed: u64,
    /// The parameters that matter: objects of objects of values.
    pub parameters: Value,
    /// What is read: name (`teacher`, `balance/0006`, `class counts of 0006`) to digest (of the weights, of the manifest, of the
    /// values).
    pub inputs: BTreeMap<String, String>,
}

impl FingerprintInput {
    /// For the present layout, with nothing read yet.
    pub fn new(stage: &str, stage_version: u32, round: u32, seed: u64, parameters: Value) -> Self {
        let (stage, inputs) = (stage.to_string(), BTreeMap::new());
        Self { stage, stage_version, schema_version: SCHEMA_VERSION, round, seed, parameters, inputs }
    }

    /// Returns what a finished stage and round was made from.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            stage: manifest.stage.clone(),
            stage_version: manifest.stage_version,
            schema_version: manifest.schema_version,
            round: manifest.round,
            seed: manifest.seed,
            parameters: manifest.parameters.clone(),
            inputs: manifest.inputs.clone(),
        }
    }

    /// BLAKE3 of the canonical JSON, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        let value = serde_json::to_value(self).expect("plain data");
        digest::of_bytes(canonical::to_string(&value).as_bytes())
    }

    /// Returns why results that were made from `before` are not those of `self`, one line for each difference.
    pub fn reasons_against(&self, before: &Self) -> Vec<String> {
        let mut reasons = Vec::new();
        let mut compare = |name: &str, old: u64, new: u64, why: &str| {
            if old != new {
                reasons.push(format!("{name} {old} → {new}{why}"));
            }
        };
        compare("seed", before.seed, self.seed, "");
        let why = " (this program computes the stage differently)";
        compare("stage version", before.stage_version.into(), self.stage_version.into(), why);
        compare("schema version", before.schema_version.into(), self.schema_version.into(), " (another file layout)");
        compare("round", before.round.into(), self.round.into(), "");
        if before.stage != self.stage {
            reasons.push(format!("stage {} → {}", before.stage, self.stage));
        }
        let parameters = differences(&flatten(&before.parameters), &flatten(&self.parameters));
        reasons.extend(parameters.map(|(key, old, new)| match (old, new) {
            (Some(old), Some(new)) => format!("{key} {old} → {new}"),
            (Some(old), None) => format!("{key} {old} → not there"),
            (None, new) => format!("{key} not there → {}", new.unwrap_or_default()),
        }));
        reasons.extend(differences(&before.inputs, &self.inputs).map(|(name, old, new)| match (old, new) {
            (Some(old), Some(new)) => format!("{name} changed ({} → {})", short(&old), short(&new)),
            (Some(_), None) => format!("{name} is no longer read"),
            (None, _) => format!("{name} is newly read"),
        }));
        reasons
    }
}

/// Enough of a digest to tell two apart by eye.
fn short(digest: &str) -> &str {
    digest.get(..8).unwrap_or(digest)
}

/// Returns `{"distill": {"lr": 0.1}}` as `distill.lr` → `0.1`.
fn flatten(value: &Value) -> BTreeMap<String, String> {
    fn walk(prefix: &str, value: &Value, flat: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(map) if !map.is_empty() || prefix.is_empty() => {
                for (key, value) in map {
                    let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    walk(&key, value, flat);
                }
            }
            value => drop(flat.insert(prefix.into(), canonical::to_string(value))),
        }
    }
    let mut flat = BTreeMap::new();
    walk("", value, &mut flat);
    flat
}

type Difference = (String, Option<String>, Option<String>);

/// Keys with different values, in order, with the old and the new value.
fn differences(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
) -> impl Iterator<Item = Difference> + use<> {
    let keys = old.keys().chain(new.keys()).collect::<BTreeSet<_>>();
    let differing = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
    let differing = differing.map(|key| (key.clone(), old.get(key).cloned(), new.get(key).cloned()));
    differing.collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn input() -> FingerprintInput {
        let parameters = json!({"distill": {"lr": 0.2, "steps": 40}, "student": {"architecture": "resnet8"}});
        let mut input = FingerprintInput::new("distill", 1, 7, 0, parameters);
        input.inputs = BTreeMap::from([("teacher".into(), "a".repeat(64)), ("sample/0007".into(), "b".repeat(64))]);
        input
    }

    #[test]
    fn the_fingerprint_is_a_function_of_the_canonical_json_alone() {
        // Fixed: a change of spelling would make every run of every user stale.
        let spelled = "1189580faba65436b0fc4a759ebd4915b4e1d665ffa1b5ec85bd6c41e696b254"; // b3sum of the JSON, keys sorted
        assert_eq!(input().fingerprint(), spelled);
    }

    #[track_caller]
    fn check(change: impl Fn(&mut FingerprintInput), reasons: &[&str]) {
        let (before, mut wanted) = (input(), input());
        change(&mut wanted);
        assert_ne!(before.fingerprint(), wanted.fingerprint());
        assert_eq!(wanted.reasons_against(&before), reasons);
    }

    #[test]
    fn every_difference_has_a_reason() {
        check(|wanted| wanted.parameters["distill"]["lr"] = json!(0.1), &["distill.lr 0.2 → 0.1"]);
        check(|wanted| wanted.parameters["distill"]["ema"] = json!(0.9), &["distill.ema not there → 0.9"]);
        check(
            |wanted| wanted.parameters["student"] = json!({"architecture": "wrn-16-1"}),
            &["student.architecture \"resnet8\" → \"wrn-16-1\""],
        );
        check(
            |wanted| wanted.parameters["student"] = json!({}),
            &["student not there → {}", "student.architecture \"resnet8\" → not there"],
        );
        check(|wanted| wanted.seed = 1, &["seed 0 → 1"]);
        check(
            |wanted| wanted.stage_version = 2,
            &["stage version 1 → 2 (this program computes the stage differently)"],
        );
        check(
            |wanted| drop(wanted.inputs.insert("teacher".into(), "c".repeat(64))),
            &["teacher changed (aaaaaaaa → cccccccc)"],
        );
        check(|wanted| drop(wanted.inputs.remove("sample/0007")), &["sample/0007 is no longer read"]);
        assert_eq!(input().reasons_against(&input()), [""; 0]);
    }
}
