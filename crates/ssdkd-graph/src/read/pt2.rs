//! PyTorch's `.pt2`: a zip file of a graph as JSON and of raw tensors.

mod alias;
mod archive;
mod arguments;
mod aten;
mod schema;

use std::collections::HashMap;

use self::alias::Aliases;
use self::archive::Archive;
use self::arguments::Value;
use self::schema::{Argument, InputSpec, Model, Node, Size};
use super::build::Builder;
use super::meaning::Meaning;
use super::{Problem, Raw, Unsupported};
use crate::error::clean;

/// Reads the network of a `.pt2` file.
pub(super) fn read(bytes: &[u8]) -> Result<Raw, Problem> {
    let mut archive = Archive::open(bytes)?;
    let model = archive.model()?;
    let (user, bound) = names(&model)?;
    let (input, batch) = image(&model, &user)?;
    let mut builder = Builder::new(&clean(&user), input, batch, bytes.len())?;
    let constants = archive.tensors(&mut builder.budget)?;

    let mut reader =
        Reader { builder, meanings: HashMap::new(), aliases: Aliases::of(&model), problems: Vec::new(), broken: false };
    reader.meanings.insert(user.clone(), Builder::INPUT);
    for (name, (tensor, trained)) in bound {
        let meaning = match constants.get(&tensor) {
            Some(constant) => {
                let mut constant = constant.clone();
                constant.trained = trained && constant.trained;
                Meaning::Constant(constant)
            }
            None => return Err(format!("the tensor {} is missing", clean(&tensor)).into()),
        };
        reader.meanings.insert(name, meaning);
    }
    for (position, node) in model.graph_module.graph.nodes.iter().enumerate() {
        reader.node(position, node)?;
    }
    if reader.broken {
        return Err(Problem::Unsupported(reader.problems));
    }
    let mut outputs = Vec::new();
    for output in &model.graph_module.graph.outputs {
        let Argument::Tensor(name) = output else { continue };
        let meaning = reader.meanings.get(reader.aliases.whole(name)).cloned();
        let meaning = meaning.ok_or_else(|| format!("the output {} is made by no node", clean(name)))?;
        if matches!(meaning, Meaning::Unknown) {
            return Err(Problem::Unsupported(reader.problems));
        }
        // A constant or a changed buffer is no result of the network.
        if matches!(meaning, Meaning::Value(_) | Meaning::Piece(..)) {
            outputs.push(reader.builder.value(&meaning)?);
        }
    }
    let mut builder = reader.builder;
    builder.graph.set_outputs(&outputs)?;
    Ok(Raw {
        builder,
        extra: archive.extra()?,
        producer: format!("PyTorch {}", clean(&model.torch_version)),
        folded: None,
    })
}

/// Returns the name of the image, and of each other input its tensor and whether that is a parameter.
#[expect(clippy::type_complexity, reason = "two lists that belong together")]
fn names(model: &Model) -> Result<(String, Vec<(String, (String, bool))>), Problem> {
    let (mut user, mut bound) = (Vec::new(), Vec::new());
    for spec in &model.graph_module.signature.input_specs {
        match spec {
            InputSpec::Parameter { name, tensor } => bound.push((name.clone(), (tensor.clone(), true))),
            InputSpec::Buffer { name, tensor } => bound.push((name.clone(), (tensor.clone(), false))),
            InputSpec::User(Some(name)) => user.push(name.clone()),
            InputSpec::User(None) | InputSpec::Other => {}
        }
    }
    match <[String; 1]>::try_from(user) {
        Ok([user]) => Ok((user, bound)),
        Err(user) => Err(format!(
            "it takes {} tensors; a network for images takes one\nhint: export a module whose forward takes the images alone",
            user.len()
        )
        .into()),
    }
}

/// Channels, height and width of the image, and the number of images where that is fixed.
fn image(model: &Model, user: &str) -> Result<([usize; 3], Option<i64>), Problem> {
    let missing = || format!("it does not tell the sizes of its input {}", clean(user));
    let meta = model.graph_module.graph.tensor_values.get(user).ok_or_else(missing)?;
    let [batch, channels, height, width] = meta.sizes.as_slice() else {
        return Err(format!(
            "its input has {} dimensions; images have batch, channels, height, width",
            meta.sizes.len()
        )
        .into());
    };
    let size = |size: &Size| size.known().and_then(|size| usize::try_from(size).ok()).ok_or_else(missing);
    let batch = match batch {
        Size::Fixed(batch) => Some(*batch),
        Size::Expression(_) => None,
    };
    Ok(([size(channels)?, size(height)?, size(width)?], batch))
}

/// Reads nodes one after the other.
pub(super) struct Reader {
    pub builder: Builder,
    meanings: HashMap<String, Meaning>,
    aliases: Aliases,
    problems: Vec<Unsupported>,
    broken: bool,
}

impl Reader {
    fn node(&mut self, position: usize, node: &Node) -> Result<(), Problem> {
        let mut arguments = HashMap::new();
        let mut unknown = false;
        for (index, input) in node.inputs.iter().enumerate() {
            let meaning = self.argument(&input.arg, node)?;
            unknown |= match &meaning {
                Value::One(Meaning::Unknown) => true,
                Value::Several(all) => all.iter().any(|one| matches!(one, Meaning::Unknown)),
                _ => false,
            };
            // Python's operators have no names for their arguments.
            let key = if input.name.is_empty() { index.to_string() } else { input.name.clone() };
            arguments.insert(key, meaning);
        }
        let path = node.path();
        let name = if path.is_empty() || self.builder.graph.find(path).is_some() {
            if path.is_empty() { node.label() } else { format!("{path}.{}", node.label()) }
        } else {
            path.to_string()
        };
        let outcome = if unknown {
            Ok(vec![Meaning::Unknown])
        } else {
            let checked = self.aliases.check(position, node);
            // What the other views show would be wrong from here on, whatever the output depends on.
            self.broken |= checked.is_err();
            checked.and_then(|()| aten::convert(&mut self.builder, &clean(&name), node, &arguments))
        };
        let made = match outcome {
            Ok(made) => made,
            Err(reason) => {
                self.problems.push(Unsupported { op: node.target.clone(), node: name, reason });
                vec![Meaning::Unknown]
            }
        };
        let names = node.outputs.iter().flat_map(Argument::names).collect::<Vec<_>>();
        for (index, output) in names.iter().enumerate() {
            let meaning = match made.as_slice() {
                [pieces @ Meaning::Pieces(..)] if names.len() > 1 || node.makes_list() => {
                    self.builder.item(pieces, index as i64).unwrap_or(Meaning::Unknown)
                }
                [Meaning::Unknown] => Meaning::Unknown,
                made => made.get(index).cloned().unwrap_or(Meaning::Unknown),
            };
            if matches!(meaning, Meaning::Unknown) {
                // What is read under the older name of a view would be what was there before.
                self.meanings.insert(self.aliases.whole(output).to_string(), Meaning::Unknown);
            }
            self.meanings.insert((*output).to_string(), meaning);
        }
        // Code that reads the changed tensor under an older name sees the change.
        if let (true, Some(changed), Some(result)) = (node.in_place(), node.first_tensor(), names.first()) {
            let meaning = self.meanings.get(*result).cloned().unwrap_or(Meaning::Unknown);
            self.meanings.insert(self.aliases.whole(changed).to_string(), meaning);
        }
        Ok(())
    }

    fn argument(&self, argument: &Argument, node: &Node) -> Result<Value, Problem> {
        let find = |name: &String| {
            self.meanings.get(self.aliases.whole(name)).cloned().ok_or_else(|| {
                let node = clean(&node.label());
                format!("the node {node} uses {}, which no node before it makes", clean(name))
            })
        };
        Value::of(argument, &find).map_err(Problem::from)
    }
}
