//! Reads a network from a `.pt2` or ONNX file, and makes a classifier of images or pixels of it.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use ssdkd_graph::read::EXPORT_HINT;
use ssdkd_graph::{Graph, GraphError, Imported, Op, import};
use ssdkd_nn::{Architecture, Identity};
use ssdkd_stage::StageError;
use ssdkd_stage::exit::Code;

use super::about::About;
use super::read_error;

/// Outputs that an error lists, at most.
const LISTED: usize = 16;

/// A classifier from a file.
pub struct FromFile {
    /// What it is.
    pub identity: Identity,
    /// Height and width of the images that it works on.
    pub size: [usize; 2],
    /// Its tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// What the file says of itself.
    pub about: About,
    /// What was changed, in sentences.
    pub notices: Vec<String>,
    /// Why there are no batch norms, where the file says that they were folded into convolutions.
    pub folded: Option<String>,
}

/// Reads a classifier that works on images of `size`, or of the size that it was exported with.
///
/// # Errors
/// If the file holds no network, several outputs and no choice, or a network that cannot work at that size.
pub fn load(path: &Path, output: Option<usize>, size: Option<[usize; 2]>) -> Result<FromFile, StageError> {
    let unusable =
        |error: GraphError| StageError::other(Code::Integrity, format!("{} cannot be used: {error}", path.display()));
    let Imported { graph, mut tensors, extra, folded, .. } = import(path).map_err(read_error)?;
    let mut notices = Vec::new();
    let graph = graph.with_output(choose(path, &graph, output)?).map_err(unusable)?;
    let (mut graph, removed) = graph.without_probabilities().map_err(unusable)?;
    notices.extend(removed.iter().map(|node| {
        format!("removed the last softmax or sigmoid ({node}): the network gives logits, and probabilities are their softmax")
    }));
    let [channels, exported_height, exported_width] = graph.input();
    let [height, width] = size.unwrap_or([exported_height, exported_width]);
    graph = graph.resized(height, width).map_err(|error| {
        let what = format!(
            "{} cannot work on images of {height} by {width} pixels: {error}\nhint: leave --size out for {exported_height} by \
             {exported_width}, or export the network at that size. {}",
            path.display(),
            EXPORT_HINT.trim_start_matches("hint: ")
        );
        StageError::Usage(what)
    })?;
    if let Some(larger) = graph.at_image_size().map_err(unusable)? {
        notices.push("resized the scores of pixels to the size of the image, bilinearly".into());
        graph = larger;
    }
    if graph.shape(graph.outputs()[0]).channels() == 1 {
        notices.push("took the network's one number as the second of two classes".into());
        graph = graph.with_two_classes(&mut tensors).map_err(unusable)?;
    }
    let classes = graph.shape(graph.outputs()[0]).channels();
    tensors.retain(|name, _| graph.tensors().contains_key(name));
    let about = About::read(path, &extra, channels, classes)?;
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let identity = Identity { architecture: Architecture::of_graph(name, graph), classes, channels };
    Ok(FromFile { identity, size: [height, width], tensors, about, notices, folded })
}

impl FromFile {
    /// Checks whether images can be made from the network: they are, from the statistics of its batch norms.
    ///
    /// # Errors
    /// If it has no batch norms. The error says why, and how to export the network with them.
    pub fn check_teacher(&self, path: &Path) -> Result<(), StageError> {
        let is_norm = |node: &ssdkd_graph::Node| matches!(node.op, Op::BatchNorm(_));
        if self.identity.architecture.graph().is_some_and(|graph| graph.nodes().iter().any(is_norm)) {
            return Ok(());
        }
        let path = path.display();
        let what = match &self.folded {
            Some(reason) => format!(
                "the batch norms of {path} were folded into its convolutions ({reason}), and images are made from their statistics\n{EXPORT_HINT}"
            ),
            None => format!(
                "{path} has no batch norm, and images are made from the statistics of batch norms\n\
                 hint: take a network with batch norms; if they were folded when it was exported: {}",
                EXPORT_HINT.trim_start_matches("hint: ")
            ),
        };
        Err(StageError::Usage(what))
    }
}

/// Returns the position of the output that holds the classes.
fn choose(path: &Path, graph: &Graph, wanted: Option<usize>) -> Result<usize, StageError> {
    let count = graph.outputs().len();
    match wanted {
        Some(position) if position < count => Ok(position),
        None if count == 1 => Ok(0),
        _ => {
            let outputs = graph.outputs().iter().enumerate().take(LISTED);
            let list = outputs.map(|(at, &id)| format!("\n  output {at}: {} {}", graph.node(id).name, graph.shape(id)));
            Err(StageError::Usage(format!(
                "{} has {}:{}\nhint: choose one with --output N",
                path.display(),
                if count == 1 { "1 output".into() } else { format!("{count} outputs") },
                list.collect::<String>()
            )))
        }
    }
}
