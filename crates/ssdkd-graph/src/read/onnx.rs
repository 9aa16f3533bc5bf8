//! ONNX files: a graph in protocol buffers.
//!
//! The nodes stand in an order in which each uses the results of earlier ones. They are read one at a time.

mod attributes;
mod constants;
mod external;
mod layers;
mod model;
mod ops;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use self::external::Files;
use self::model::{Model, Node};
use super::build::Builder;
use super::meaning::Meaning;
use super::{EXPORT_HINT, Problem, Raw, Unsupported};
use crate::error::clean;

/// The versions of the standard operations that can be read.
const OPSETS: std::ops::RangeInclusive<i64> = 11..=28;

/// What the exporter notes at a convolution into which it has folded a batch normalization.
const FOLDED: &str = "FuseBatchNormInto";

/// How PyTorch's older exporter calls the weights of such convolutions.
const FOLDED_WEIGHT: &str = "onnx::Conv_";

/// Reads the network of an ONNX file. `folder` is where tensors in other files may be.
pub(super) fn read(bytes: &[u8], folder: Option<&Path>) -> Result<Raw, Problem> {
    let model = Model::read(bytes)?;
    let graph = model.graph.ok_or_else(|| format!("it is no ONNX file, or one without a graph\n{EXPORT_HINT}"))?;
    match model.opset {
        Some(opset) if OPSETS.contains(&opset) => {}
        Some(opset) => {
            return Err(format!(
                "it uses operations of version {opset} (opset); this program reads {} to {}\n{EXPORT_HINT}",
                OPSETS.start(),
                OPSETS.end()
            )
            .into());
        }
        None => {
            return Err(format!("it is no ONNX file, or one without a version of its operations\n{EXPORT_HINT}").into());
        }
    }
    let (mut meanings, mut inputs, mut outputs) = (HashMap::new(), Vec::new(), Vec::new());
    let mut files = Files::new(folder);
    for field in graph.clone() {
        match field? {
            (5, tensor) => {
                let (name, meaning) = model::tensor(tensor.message()?, &mut files)?;
                meanings.insert(name.to_string(), meaning);
            }
            (11, input) => inputs.push(model::value_info(input.message()?)?),
            (12, output) => outputs.push(model::value_info(output.message()?)?.0),
            _ => {}
        }
    }
    inputs.retain(|(name, _)| !meanings.contains_key(*name));
    let [(image, dims)] = inputs.as_slice() else {
        return Err(format!("it takes {} tensors; a network for images takes one", inputs.len()).into());
    };
    let (size, batch) = image_sizes(image, dims)?;
    // What is folded may be as large as the file, and the numbers of its other files.
    let mut builder = Builder::new(&clean(image), size, batch, bytes.len().saturating_add(files.bytes()))?;
    meanings.insert((*image).to_string(), Builder::INPUT);
    let mut reader = Reader { meanings, problems: Vec::new(), norms: 0, folded: None };
    for field in graph {
        if let (1, node) = field? {
            reader.node(&mut builder, &Node::read(node.message()?)?, &mut files)?;
        }
    }
    let results = reader.results(&mut builder, &outputs)?;
    builder.graph.set_outputs(&results)?;
    let extra = model.metadata.iter().map(|(key, value)| ((*key).to_string(), value.as_bytes().to_vec()));
    Ok(Raw {
        builder,
        extra: extra.collect::<BTreeMap<_, _>>(),
        producer: clean(model.producer.trim()),
        folded: reader.folded.filter(|_| reader.norms == 0),
    })
}

/// Channels, height and width of the image, and the number of images where that is fixed.
fn image_sizes(name: &str, dims: &[Option<i64>]) -> Result<([usize; 3], Option<i64>), Problem> {
    let shown = clean(name);
    let &[batch, channels, height, width] = dims else {
        return Err(format!(
            "its input {shown} has {} dimensions; images have batch, channels, height, width",
            dims.len()
        )
        .into());
    };
    let size = |size: Option<i64>, what: &str| match size.map(usize::try_from) {
        Some(Ok(size)) if size > 0 => Ok(size),
        _ => Err(format!(
            "its input {shown} leaves its {what} open\n\
             hint: export it for images of one size; only the number of images may be open"
        )),
    };
    let sizes = [size(channels, "channels")?, size(height, "height")?, size(width, "width")?];
    Ok((sizes, batch.filter(|&batch| batch > 0)))
}

/// Reads nodes one after the other.
struct Reader {
    meanings: HashMap<String, Meaning>,
    problems: Vec<Unsupported>,
    norms: usize,
    folded: Option<String>,
}

impl Reader {
    fn node(&mut self, builder: &mut Builder, node: &Node<'_>, files: &mut Files<'_>) -> Result<(), Problem> {
        if node.op.is_empty() {
            return Err(format!("it is damaged: the node {} has no operation", clean(node.label())).into());
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for &name in &node.inputs {
            let meaning = if name.is_empty() { Some(Meaning::Nothing) } else { self.meanings.get(name).cloned() };
            inputs.push(meaning.ok_or_else(|| {
                format!("the node {} uses {}, which no node before it makes", clean(node.label()), clean(name))
            })?);
        }
        self.note(node);
        let outcome = if inputs.iter().any(|input| matches!(input, Meaning::Unknown)) {
            Ok(Meaning::Unknown)
        } else if !matches!(node.domain, "" | "ai.onnx") {
            Err(format!("it is of the package {}", clean(node.domain)))
        } else {
            ops::convert(builder, &name(node), node, &inputs, files)
        };
        let made = outcome.unwrap_or_else(|reason| {
            let op = if node.domain.is_empty() { node.op.to_string() } else { format!("{}.{}", node.domain, node.op) };
            self.problems.push(Unsupported { op, node: node.label().to_string(), reason });
            Meaning::Unknown
        });
        for (index, &output) in node.outputs.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            let meaning = match &made {
                Meaning::Pieces(..) if node.op == "Split" => {
                    builder.item(&made, index as i64).unwrap_or(Meaning::Unknown)
                }
                // Masks, indices and statistics of training.
                _ if index > 0 => Meaning::Unknown,
                made => made.clone(),
            };
            if self.meanings.insert(output.to_string(), meaning).is_some() {
                return Err(format!("it is damaged: two nodes make {}", clean(output)).into());
            }
        }
        Ok(())
    }

    /// Looks for traces of batch normalizations that are folded away.
    fn note(&mut self, node: &Node<'_>) {
        self.norms += usize::from(node.op == "BatchNormalization");
        if self.folded.is_some() {
            return;
        }
        if let Some((_, rule)) = node.metadata.iter().find(|(_, value)| value.contains(FOLDED)) {
            self.folded = Some(format!("the exporter folded them into convolutions ({})", clean(rule)));
        } else if node.op == "Conv" && node.inputs.get(1).is_some_and(|weight| weight.starts_with(FOLDED_WEIGHT)) {
            self.folded =
                Some(format!("the exporter folded them into convolutions (weight {})", clean(node.inputs[1])));
        }
    }

    fn results(&self, builder: &mut Builder, outputs: &[&str]) -> Result<Vec<crate::graph::NodeId>, Problem> {
        let mut results = Vec::new();
        for &output in outputs {
            let meaning = self.meanings.get(output);
            let meaning = meaning.ok_or_else(|| format!("no node makes the output {}", clean(output)))?;
            if matches!(meaning, Meaning::Unknown) {
                return Err(Problem::Unsupported(self.problems.clone()));
            }
            results.push(builder.value(meaning).map_err(|reason| format!("the output {}: {reason}", clean(output)))?);
        }
        Ok(results)
    }
}

/// Returns the path of the module that a node comes from, where PyTorch's exporter notes it; its name otherwise.
fn name(node: &Node<'_>) -> String {
    let scopes = node.metadata.iter().find(|(key, _)| *key == "pkg.torch.onnx.name_scopes").map(|(_, scopes)| *scopes);
    let mut scopes =
        scopes.unwrap_or_default().trim_matches(['[', ']']).rsplit(", ").map(|scope| scope.trim_matches('\''));
    match (scopes.next(), scopes.next()) {
        (Some(_), Some(path)) if !path.is_empty() => clean(path),
        _ => clean(node.label()),
    }
}
