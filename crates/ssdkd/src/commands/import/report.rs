//! What `import` prints: one fact a line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use ssdkd_evaluate::fit_of;
use ssdkd_graph::Graph;
use ssdkd_nn::weights::Import;
use ssdkd_nn::{ChannelOrder, Interpolation, Normalization, Preprocessing, TeacherCard};
use ssdkd_stage::{StageError, exit, quote_path};

use super::measure::Measured;
use super::normalization::listed;
use crate::network_file::{FromFile, format_name};

/// A word, and what is said under it.
pub type Line = (&'static str, String);

/// Class names, entries and tensors that are printed.
const FEW: usize = 6;

/// Says what was taken from the file.
pub fn taken(path: &Path, imported: &Import) -> Vec<Line> {
    let mut lines = vec![("file", path.display().to_string())];
    let entry = imported.entry.as_deref().map(|entry| format!("the entry {entry}: ")).unwrap_or_default();
    let (tensors, numbers) = (imported.tensors.len(), imported.parameters());
    lines.push(("weights", format!("{entry}{tensors} tensors, {numbers} numbers")));
    if !imported.also.is_empty() {
        lines.push(("also there", format!("{}; --key takes another", few(&imported.also))));
    }
    lines.extend(others(imported).map(|text| ("also there", text)));
    if !imported.prefix.is_empty() {
        lines.push(("prefix", format!("{} removed from every name", imported.prefix)));
    }
    lines.extend(imported.notices.iter().map(|notice| ("changed", notice.clone())));
    if !imported.dropped.is_empty() {
        lines.push(("left out", format!("{}: not part of a network", few(&imported.dropped))));
    }
    lines
}

/// Says what was taken from the file of a network.
///
/// # Errors
/// If the file cannot be read.
pub fn taken_network(path: &Path, file: &FromFile) -> Result<Vec<Line>, StageError> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for node in file.identity.architecture.graph().map(Graph::nodes).unwrap_or_default().iter().skip(1) {
        *counts.entry(node.op.kind()).or_default() += 1;
    }
    let norms = counts.get("batch_norm").copied().unwrap_or(0);
    let operations = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ");
    Ok(vec![
        ("file", format!("{} ({})", path.display(), format_name(path)?)),
        ("operations", operations),
        ("batch norms", norms.to_string()),
    ])
}

/// Names what the file holds besides networks; `None` if there is nothing.
fn others(imported: &Import) -> Option<String> {
    let state = imported.has_optimizer.then(|| "left out: the optimizer's state".to_string());
    let keys = (!imported.others.is_empty()).then(|| few(&imported.others));
    let parts = keys.into_iter().chain(state).collect::<Vec<_>>();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Returns the whole text.
pub fn text(
    taken: &[Line],
    notices: &[String],
    card: &TeacherCard,
    path: &Path,
    measured: Option<&Measured>,
) -> String {
    let mut lines = taken.to_vec();
    lines.extend(notices.iter().map(|notice| ("changed", notice.clone())));
    let [channels, height, width] = card.input;
    let normalization = match &card.normalization {
        Normalization::Assumed => "assumed: check it (see the warning)".to_string(),
        known => known.to_string(),
    };
    lines.extend([
        ("architecture", card.architecture.to_string()),
        ("parameters", card.parameters.to_string()),
        (
            "multiply-adds",
            card.spec().multiply_adds().map_or_else(|error| error.to_string(), |count| count.to_string()),
        ),
        ("classes", card.classes.to_string()),
        ("class names", names(card)),
        (
            "images",
            format!("{channels} {}, {height} × {width} pixels", if channels == 1 { "channel" } else { "channels" }),
        ),
        ("mean", listed(&card.mean)),
        ("std", listed(&card.std)),
        ("normalization", normalization),
        ("preprocessing", preprocessing(card)),
        ("source", card.source.clone()),
    ]);
    lines.extend(card.license.iter().map(|license| ("license", license.clone())));
    lines.extend(measured.map(Measured::lines).unwrap_or_default());
    lines.push(("card", path.display().to_string()));
    lines.push(("next", format!("ssdkd-evaluate {} --data DATA", quote_path(path))));
    let mut text = String::new();
    for (word, fact) in lines {
        writeln!(text, "{word:<14} {}", exit::one_line(&fact)).expect("a string grows");
    }
    text
}

/// Returns what else happens to image files, in words.
fn preprocessing(card: &TeacherCard) -> String {
    let Preprocessing { channels, range: [low, high], interpolation, .. } = card.preprocessing;
    let order = match channels {
        _ if card.input[0] != 3 => None,
        ChannelOrder::Rgb => Some("RGB".to_string()),
        ChannelOrder::Bgr => Some("BGR".to_string()),
    };
    let filter = match interpolation {
        Interpolation::Nearest => "nearest",
        Interpolation::Bilinear => "bilinear",
        Interpolation::Bicubic => "bicubic",
        Interpolation::Lanczos => "Lanczos",
    };
    let fit = fit_of(&card.preprocessing, card.input);
    let parts = order.into_iter().chain([format!("values {low} to {high}"), format!("{fit}, {filter}")]);
    parts.collect::<Vec<_>>().join(", ")
}

fn names(card: &TeacherCard) -> String {
    let names = card.names_of_classes();
    if names.is_empty() {
        return format!("none: the classes are 0 to {}", card.classes - 1);
    }
    few(names)
}

/// Returns the first few, with commas between them, and how many more there are.
fn few<T: ToString>(items: &[T]) -> String {
    let first = items.iter().take(FEW).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(FEW) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
