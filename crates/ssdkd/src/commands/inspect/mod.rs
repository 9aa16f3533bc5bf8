//! `ssdkd inspect`: what a file of a run, a weight file or a network says of itself.

mod network;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use ssdkd_nn::weights::{self, Choice};
use ssdkd_nn::{adopt, identify};
use ssdkd_stage::exit::Code;
use ssdkd_stage::{StageError, exit, quote_path};

use crate::network_file::is_network;

/// `ssdkd inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A .parquet, .json, .safetensors, .pt2, .onnx or PyTorch weight file
    file: PathBuf,
}

/// Prints what the file says of itself.
pub fn inspect(arguments: &InspectArgs) -> Result<()> {
    let path = &arguments.file;
    if path.is_dir() {
        return Err(StageError::Usage(format!(
            "{} is a folder\nhint: name one file in it; `ssdkd status {}` looks into a run",
            path.display(),
            quote_path(path)
        ))
        .into());
    }
    let bytes = std::fs::read(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => {
            let hint = "check the path; `ssdkd status RUN` says what of a run is there".into();
            StageError::Missing { what: "the file".into(), path: path.clone(), hint }
        }
        _ => StageError::Read { path: path.clone(), source },
    })?;
    let ending = path.extension().and_then(|extension| extension.to_str());
    if !matches!(ending, Some("parquet" | "json" | "toml" | "jsonl")) && is_network(path)? {
        drop(bytes); // the reader opens the file again, with the files of its tensors
        return Ok(exit::print_plain(&network::describe(path)?)?);
    }
    let mut text = String::new();
    match ending {
        Some("parquet") => {
            let description = ssdkd_shards::describe(bytes, path)?;
            writeln!(text, "table    {}\nrows     {}", description.table, description.rows)?;
            for (name, kind) in &description.columns {
                writeln!(text, "column   {name}: {kind}")?;
            }
            for (key, value) in &description.metadata {
                writeln!(text, "metadata {key} = {value}")?;
            }
        }
        Some("json" | "toml" | "jsonl") => {
            text = without_graph(&bytes).unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned());
        }
        _ => {
            let imported = weights::import(path, &Choice::default());
            let imported = imported.map_err(|error| StageError::other(Code::Integrity, error))?;
            for line in imported.describe() {
                writeln!(text, "weights  {line}")?;
            }
            let tensors = imported.tensors;
            let shapes = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec()));
            let shapes = shapes.collect::<BTreeMap<_, _>>();
            for (name, shape) in &shapes {
                writeln!(text, "tensor   {name} {shape:?}")?;
            }
            let adopted = adopt(tensors).map_err(|error| StageError::other(Code::Integrity, error))?;
            for notice in &adopted.notices {
                writeln!(text, "import   {notice}")?;
            }
            let shapes = adopted.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
            match identify(&shapes) {
                Ok(found) => writeln!(text, "network  {}, {} classes", found.architecture, found.classes)?,
                Err(reason) => {
                    writeln!(text, "network  not identified: {}", reason.lines().next().unwrap_or_default())?;
                }
            }
        }
    }
    // Names come from the file, and a file may come from anybody.
    Ok(exit::print_plain(&text)?)
}

/// Returns the text of a card without its graph of hundreds of lines; `None` for another file.
fn without_graph(bytes: &[u8]) -> Option<String> {
    let mut card = serde_json::from_slice::<serde_json::Value>(bytes).ok()?;
    let graph = card.pointer_mut("/architecture/graph")?;
    let nodes = graph.get("nodes")?.as_array()?.len();
    *graph = format!("{nodes} nodes, which are in the file").into();
    ssdkd_graph::to_lines(&card, 1).ok().map(|text| text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_shown_without_its_graph() {
        let card = br#"{"architecture": {"name": "mine", "graph": {"nodes": [{"op": "input"}, {"op": "relu"}]}}, "mean": [0.5]}"#;
        let text = without_graph(card).unwrap();
        let parts = ["2 nodes, which are in the file", "mine", "\"mean\": [0.5]"];
        assert!(parts.iter().all(|part| text.contains(part)) && !text.contains("relu"), "{text}");
        assert_eq!(without_graph(br#"{"architecture": {"name": "resnet8"}}"#), None);
        assert_eq!(without_graph(b"no JSON"), None);
    }
}
