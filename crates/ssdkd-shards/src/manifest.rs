//! The manifest: the files of a finished stage and round, and its inputs.
//!
//! It is written last, so a folder with a manifest is complete. Its own digest identifies the whole folder: later
//! stages key on it. Therefore nothing is in it that may differ between two machines; what the work cost is in
//! [`Timing`], in a file of its own that no digest covers.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{OLDEST_SCHEMA_VERSION, SCHEMA_VERSION, ShardError, canonical, digest};

/// Its file name.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The file name of [`Timing`].
pub const TIMING_FILE: &str = "timing.json";

/// What a finished stage and round consists of, and what it was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA_VERSION`] at that time.
    pub schema_version: u32,
    /// The stage's name.
    pub stage: String,
    /// Raised by hand when the stage's results change.
    pub stage_version: u32,
    /// From 0.
    pub round: u32,
    /// The run's.
    pub seed: u64,
    /// Digest of everything that determines the files.
    pub fingerprint: String,
    /// The parameters that entered the fingerprint, so that staleness can be explained.
    pub parameters: Value,
    /// What was read: name (`teacher`, `balance/0006`) to digest (of the weights, of the manifest).
    pub inputs: BTreeMap<String, String>,
    /// What was written.
    pub files: Vec<FileEntry>,
    /// Numbers for people, by name.
    pub metrics: Map<String, Value>,
}

/// A file of a finished stage and round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// From the manifest's folder, with `/`.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3 of its contents.
    pub blake3: String,
    /// Rows, if it is a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Whether it may be collected.
    pub role: Role,
}

/// Whether a file may be collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A result: kept.
    Data,
    /// Needed only by the next round of the same stage (optimizer, generator): may be absent once that is complete.
    State,
    /// Images: may be absent once a later round of the same stage is complete and the buffer has none of them.
    Shard,
}

/// What a stage and round cost. A file next to the manifest, in no digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// RFC 3339, UTC.
    pub started_at: String,
    /// Wall clock, from start to manifest.
    pub seconds: f64,
    /// Worker threads.
    pub threads: usize,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// The processor's name; empty if it has none.
    #[serde(default)]
    pub machine: String,
    /// Most memory allocated at once, bytes; 0 if it was not counted.
    #[serde(default)]
    pub peak_bytes: u64,
}

impl Manifest {
    /// Returns the file's bytes: the same for the same manifest.
    pub fn to_bytes(&self) -> Vec<u8> {
        let value = serde_json::to_value(self).expect("a manifest is plain data");
        canonical::to_string_pretty(&value).into_bytes()
    }

    /// Reads a manifest, believing nothing; `path` is for errors.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, ShardError> {
        let unusable = |reason: String| ShardError::Manifest { path: path.into(), reason };
        let value: Value = serde_json::from_slice(bytes).map_err(|error| unusable(error.to_string()))?;
        // Before anything else: a newer layout may differ in everything but this.
        let version = value.get("schema_version").and_then(Value::as_u64);
        let Some(found) = version else {
            return Err(unusable("it has no `schema_version`".into()));
        };
        if found > SCHEMA_VERSION.into() {
            return Err(ShardError::NewerSchema { path: path.into(), found, supported: SCHEMA_VERSION });
        }
        if found < OLDEST_SCHEMA_VERSION.into() {
            return Err(ShardError::OlderSchema { path: path.into(), found });
        }
        let manifest: Self = serde_json::from_value(value).map_err(|error| unusable(error.to_string()))?;
        manifest.check().map_err(unusable)?;
        Ok(manifest)
    }

    /// Returns the file named `path`, if the manifest lists it.
    pub fn file(&self, path: &str) -> Option<&FileEntry> {
        self.files.iter().find(|file| file.path == path)
    }

    fn check(&self) -> Result<(), String> {
        let digests = self.inputs.values().chain(self.files.iter().map(|file| &file.blake3));
        if let Some(wrong) = digests.chain([&self.fingerprint]).find(|text| !digest::is_digest(text)) {
            return Err(format!("{wrong:?} is not a BLAKE3 digest"));
        }
        let mut seen = HashSet::new();
        for FileEntry { path, .. } in &self.files {
            if !is_inside(path) {
                return Err(format!("{path:?} is not a path inside the folder"));
            }
            if !seen.insert(path) {
                return Err(format!("{path:?} is listed twice"));
            }
        }
        match self.metrics.iter().find(|(_, value)| !value.is_number()) {
            Some((name, value)) => Err(format!("the metric `{name}` is {value}, not a number")),
            None => Ok(()),
        }
    }
}

/// Returns whether a path with `/` stays inside the folder that it starts from, on every system.
pub fn is_inside(path: &str) -> bool {
    path.split('/')
        .all(|part| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':']) && !part.contains(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn manifest() -> Manifest {
        let digest = digest::of_bytes(b"x");
        Manifest {
            schema_version: SCHEMA_VERSION,
            stage: "distill".into(),
            stage_version: 1,
            round: 7,
            seed: 3,
            fingerprint: digest.clone(),
            parameters: json!({"distill": {"lr": 0.1, "steps": 40}}),
            inputs: BTreeMap::from([("teacher".into(), digest.clone()), ("sample/0007".into(), digest.clone())]),
            files: vec![
                FileEntry {
                    path: "steps.parquet".into(),
                    bytes: 1,
                    blake3: digest.clone(),
                    rows: Some(40),
                    role: Role::Data,
                },
                FileEntry {
                    path: "optimizer.safetensors".into(),
                    bytes: 1,
                    blake3: digest,
                    rows: None,
                    role: Role::State,
                },
            ],
            metrics: Map::from_iter([("loss".to_string(), json!(0.25))]),
        }
    }

    #[test]
    fn a_manifest_survives_and_has_one_spelling() {
        let manifest = manifest();
        let bytes = manifest.to_bytes();
        let back = Manifest::parse(&bytes, "manifest.json".as_ref()).unwrap();
        assert_eq!(back, manifest);
        assert_eq!(back.to_bytes(), bytes);
        assert_eq!(back.file("steps.parquet").unwrap().rows, Some(40));
        assert!(String::from_utf8(bytes).unwrap().starts_with("{\n  \"files\": ["));
    }

    /// `change` gets the manifest as JSON; the error must have `expected` in it, and the path.
    #[track_caller]
    fn check_refused(change: impl Fn(&mut Value), expected: &str) {
        let mut value = serde_json::to_value(manifest()).unwrap();
        change(&mut value);
        let error =
            Manifest::parse(value.to_string().as_bytes(), "some/manifest.json".as_ref()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("some/manifest.json"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        check_refused(|value| value["schema_version"] = json!(3), "schema version 3");
        check_refused(|value| value["schema_version"] = json!(1), "the last program that reads it is that of commit");
        check_refused(|value| value["schema_version"] = json!("1"), "no `schema_version`");
        check_refused(|value| value["colour"] = json!(1), "unknown field `colour`");
        check_refused(|value| value["files"][0]["colour"] = json!(1), "unknown field `colour`");
        check_refused(|value| drop(value.as_object_mut().unwrap().remove("seed")), "missing field `seed`");
        check_refused(|value| value["files"][0]["path"] = json!("../../etc/passwd"), "not a path inside");
        check_refused(|value| value["files"][0]["path"] = json!("/etc/passwd"), "not a path inside");
        check_refused(|value| value["files"][0]["path"] = json!("a\u{1b}[2J"), "not a path inside");
        check_refused(|value| value["files"][0]["path"] = json!("optimizer.safetensors"), "listed twice");
        check_refused(|value| value["files"][0]["blake3"] = json!("abc"), "not a BLAKE3 digest");
        check_refused(|value| value["metrics"]["loss"] = Value::Null, "the metric `loss` is null");
        check_refused(|value| value["files"][0]["role"] = json!("cache"), "unknown variant `cache`");
        let error = Manifest::parse(b"{\"schema_version\": 2, ", "some/manifest.json".as_ref()).unwrap_err();
        assert!(error.to_string().contains("EOF"), "{error}");
    }
}
