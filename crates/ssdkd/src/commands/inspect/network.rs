//! What a `.pt2` or ONNX file holds: a network and texts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use ssdkd_graph::read::Unsupported;
use ssdkd_graph::{Graph, Imported, ReadError, import};

use crate::network_file::{format_name, read_error};

/// Longest extra text that is shown, in characters.
const LONGEST_TEXT: usize = 2000;

/// Describes the network of a file, or lists the operations that this program cannot run. Operations that use the result of a
/// listed one are not checked.
///
/// # Errors
/// If the file is damaged, or holds no network.
pub fn describe(path: &Path) -> Result<String> {
    let mut text = format!("format   {}\n", format_name(path)?);
    match import(path) {
        Ok(imported) => describe_imported(&mut text, &imported)?,
        Err(ReadError::Unsupported { operations, .. }) => describe_unsupported(&mut text, &operations)?,
        Err(error) => return Err(read_error(error).into()),
    }
    Ok(text)
}

fn describe_imported(text: &mut String, imported: &Imported) -> Result<()> {
    let Imported { graph, extra, producer, folded, .. } = imported;
    let producer = one_line(producer);
    writeln!(text, "producer {}", if producer.is_empty() { "not given" } else { &producer })?;
    let [channels, height, width] = graph.input();
    writeln!(text, "input    [batch, {channels}, {height}, {width}]")?;
    for &output in graph.outputs() {
        writeln!(text, "output   {} {}", one_line(&graph.node(output).name), graph.shape(output))?;
    }
    writeln!(text, "params   {}", graph.parameters())?;
    writeln!(text, "cost     {} multiply-adds for an image of {height}×{width}", graph.total_multiply_adds())?;
    let operations = count_operations(graph);
    let norms = operations.get("batch_norm").copied().unwrap_or(0);
    match folded {
        Some(reason) => writeln!(text, "norms    {norms} batch norms; others were folded away: {reason}")?,
        None => writeln!(text, "norms    {norms} batch norms; the file does not say that others were folded away")?,
    }
    for (kind, count) in operations {
        writeln!(text, "op       {kind} {count}")?;
    }
    for (name, bytes) in extra {
        writeln!(text, "text     {} = {}", one_line(name), shortened(bytes))?;
    }
    Ok(())
}

/// Returns the number of nodes of each operation; the input is none.
fn count_operations(graph: &Graph) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for node in &graph.nodes()[1..] {
        *counts.entry(node.op.kind()).or_default() += 1;
    }
    counts
}

fn describe_unsupported(text: &mut String, operations: &[Unsupported]) -> Result<()> {
    // The reader cannot check an operation without the shapes of its inputs.
    writeln!(
        text,
        "network  not supported: this program cannot run the operations below; those after them are not checked"
    )?;
    for Unsupported { op, node, reason } in operations {
        writeln!(text, "missing  {} at {}: {}", one_line(op), one_line(node), one_line(reason))?;
    }
    Ok(())
}

/// Returns a text of the file, too short for a screen to be full of it. Its further lines are indented, so that none looks like ours.
fn shortened(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let shown = match text.char_indices().nth(LONGEST_TEXT) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], bytes.len()),
        None => text.into_owned(),
    };
    shown.lines().collect::<Vec<_>>().join("\n         ")
}

/// Returns a name of the file without line breaks.
fn one_line(name: &str) -> String {
    name.replace(|character: char| character.is_control(), "\u{fffd}")
}
