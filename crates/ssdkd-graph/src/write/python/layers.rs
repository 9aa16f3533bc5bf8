//! The layers of a module: what holds tensors.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::graph::{Graph, Node, NodeId};
use crate::op::{Activation, BatchNorm, Conv2d, ConvTranspose2d, Op};
use crate::shape::Shape;

/// A layer.
pub(super) struct Layer {
    /// Where it is in the module, as in `layer1.0.conv1`.
    pub path: String,
    /// The code that makes it.
    pub made: String,
    /// Names of its tensors below the path, and their names in the graph.
    tensors: Vec<(&'static str, String)>,
}

/// All layers of a network.
pub(super) struct Layers {
    layers: Vec<Layer>,
    /// Of each node with tensors, its layer.
    places: HashMap<NodeId, usize>,
}

/// What modules have already: nothing in a path can be called so.
const TAKEN: &str = " add_module apply bfloat16 buffers call_super_init children compile cpu cuda double dump_patches eval extra_repr \
    float forward get_buffer get_extra_state get_parameter get_submodule half ipu load_state_dict modules mtia named_buffers \
    named_children named_modules named_parameters parameters register_backward_hook register_buffer register_forward_hook \
    register_forward_pre_hook register_full_backward_hook register_full_backward_pre_hook \
    register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module register_parameter \
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict \
    to to_empty train training type xpu zero_grad T_destination weight bias running_mean running_var num_batches_tracked in_channels \
    out_channels kernel_size stride padding dilation transposed output_padding groups padding_mode num_features eps momentum \
    affine track_running_stats in_features out_features num_parameters ";

/// Tensors of layers that training moves.
const PARAMETERS: [&str; 4] = ["weight", "bias", "scale", "shift"];

/// Longest path of a layer.
const LONGEST: usize = 200;

impl Layers {
    pub fn of(graph: &Graph) -> Self {
        let mut layers = Self { layers: Vec::new(), places: HashMap::new() };
        let mut by_content = HashMap::new();
        let mut paths = BTreeMap::<String, usize>::new();
        let wanted = graph.ids().filter_map(|id| path_of(graph.node(id))).collect::<BTreeSet<_>>();
        for id in graph.ids() {
            let node = graph.node(id);
            let Some((made, tensors)) = layer(graph, id) else { continue };
            let key = (made.clone(), tensors.clone());
            if let Some(&there) = by_content.get(&key) {
                layers.places.insert(id, there);
                continue;
            }
            let own = path_of(node).filter(|path| !paths.contains_key(path));
            let path = own.unwrap_or_else(|| {
                let numbered = (layers.layers.len()..).map(|number| format!("{}_{number}", node.op.kind()));
                let free =
                    |path: &String| !paths.contains_key(path) && !wanted.iter().any(|other| is_below(other, path));
                numbered.into_iter().find(free).unwrap_or_default()
            });
            let position = layers.layers.len();
            paths.insert(path.clone(), position);
            by_content.insert(key, position);
            layers.places.insert(id, position);
            layers.layers.push(Layer { path, made, tensors });
        }
        layers
    }

    pub fn all(&self) -> &[Layer] {
        &self.layers
    }

    /// The path of a node's layer.
    pub fn path(&self, id: NodeId) -> &str {
        self.places.get(&id).map_or("", |&at| &self.layers[at].path)
    }

    /// Parameters that are those of an earlier layer: their paths, and those of the earlier one.
    pub fn tied(&self) -> Vec<([&str; 2], [&str; 2])> {
        let mut first = HashMap::new();
        let mut tied = Vec::new();
        for layer in &self.layers {
            for (name, tensor) in layer.tensors.iter().filter(|(name, _)| PARAMETERS.contains(name)) {
                let own = [layer.path.as_str(), *name];
                match first.get(tensor.as_str()) {
                    Some(earlier) => tied.push((own, *earlier)),
                    None => drop(first.insert(tensor.as_str(), own)),
                }
            }
        }
        tied
    }

    /// Names of tensors in the module and in the graph, where they differ.
    pub fn renamed(&self) -> Vec<(String, String)> {
        let named = |layer: &Layer| {
            let path = layer.path.clone();
            layer.tensors.clone().into_iter().map(move |(name, tensor)| (format!("{path}.{name}"), tensor))
        };
        self.layers.iter().flat_map(named).filter(|(ours, theirs)| ours != theirs).collect()
    }
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The path that a layer's tensors have in common, if they are named as PyTorch's module names them.
fn path_of(node: &Node) -> Option<String> {
    let tensors = named_tensors(&node.op)?;
    let (first, tensor) = tensors.first()?;
    let path = tensor.strip_suffix(first)?.strip_suffix('.')?;
    let is_plain = |part: &str| {
        let is_word = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        is_word && !part.is_empty() && !part.starts_with('_') && !TAKEN.contains(&format!(" {part} "))
    };
    let fits = tensors
        .iter()
        .all(|(name, tensor)| tensor.strip_prefix(path).and_then(|rest| rest.strip_prefix('.')) == Some(name));
    (fits && path.len() <= LONGEST && path.split('.').all(is_plain)).then(|| path.to_string())
}

/// A layer's tensors: their names in PyTorch's module, and in the graph.
fn named_tensors(op: &Op) -> Option<Vec<(&'static str, String)>> {
    let pair = |weight: &String, bias: &Option<String>| {
        let bias = bias.iter().map(|bias| ("bias", bias.clone()));
        [("weight", weight.clone())].into_iter().chain(bias).collect()
    };
    Some(match op {
        Op::Conv2d(Conv2d { weight, bias, .. })
        | Op::ConvTranspose2d(ConvTranspose2d { weight, bias, .. })
        | Op::Linear { weight, bias } => pair(weight, bias),
        Op::BatchNorm(norm) => vec![
            ("weight", norm.weight.clone()),
            ("bias", norm.bias.clone()),
            ("running_mean", norm.running_mean.clone()),
            ("running_var", norm.running_var.clone()),
            ("num_batches_tracked", norm.num_batches_tracked.clone()),
        ],
        Op::Affine { scale, shift } => {
            let scale = scale.iter().map(|name| ("scale", name.clone()));
            scale.chain(shift.iter().map(|name| ("shift", name.clone()))).collect()
        }
        Op::Activation(Activation::Prelu { weight }) => vec![("weight", weight.clone())],
        _ => return None,
    })
}

/// The code that makes a node's layer, and its tensors.
fn layer(graph: &Graph, id: NodeId) -> Option<(String, Vec<(&'static str, String)>)> {
    let node = graph.node(id);
    let tensors = named_tensors(&node.op)?;
    let shape = |name: &str| graph.tensors().get(name).map(|spec| spec.shape.as_slice()).unwrap_or_default();
    let is_map = matches!(graph.shape(id), Shape::Map { .. });
    let made = match &node.op {
        Op::Conv2d(conv) => {
            let &[outputs, per_group, height, width] = shape(&conv.weight) else { return None };
            let Conv2d { stride, padding: [top, left, bottom, right], dilation, groups, .. } = conv;
            let mut arguments = vec![(per_group * groups).to_string(), outputs.to_string(), pair([height, width])];
            option(&mut arguments, "stride", *stride, [1, 1]);
            // Padding that differs between sides is a step of its own.
            if top == bottom && left == right {
                option(&mut arguments, "padding", [*top, *left], [0, 0]);
            }
            option(&mut arguments, "dilation", *dilation, [1, 1]);
            rest(&mut arguments, *groups, conv.bias.is_some());
            format!("nn.Conv2d({})", arguments.join(", "))
        }
        Op::ConvTranspose2d(conv) => {
            let &[inputs, per_group, height, width] = shape(&conv.weight) else { return None };
            let ConvTranspose2d {
                stride, padding: [top, left, bottom, right], output_padding, dilation, groups, ..
            } = conv;
            let mut arguments = vec![inputs.to_string(), (per_group * groups).to_string(), pair([height, width])];
            option(&mut arguments, "stride", *stride, [1, 1]);
            if top == bottom && left == right {
                option(&mut arguments, "padding", [*top, *left], [0, 0]);
            }
            option(&mut arguments, "output_padding", *output_padding, [0, 0]);
            option(&mut arguments, "dilation", *dilation, [1, 1]);
            rest(&mut arguments, *groups, conv.bias.is_some());
            format!("nn.ConvTranspose2d({})", arguments.join(", "))
        }
        Op::BatchNorm(BatchNorm { weight, eps, momentum, .. }) => {
            let kind = if is_map { "2d" } else { "1d" };
            let (eps, momentum) = (number(*eps), number(*momentum));
            format!("nn.BatchNorm{kind}({}, eps={eps}, momentum={momentum})", shape(weight).first()?)
        }
        Op::Linear { weight, bias } => {
            let &[outputs, inputs] = shape(weight) else { return None };
            let mut arguments = vec![inputs.to_string(), outputs.to_string()];
            rest(&mut arguments, 1, bias.is_some());
            format!("nn.Linear({})", arguments.join(", "))
        }
        Op::Affine { scale, shift } => {
            let channels = graph.shape(id).channels();
            let has = |tensor: &Option<String>| if tensor.is_some() { "True" } else { "False" };
            format!("Affine({channels}, scale={}, shift={})", has(scale), has(shift))
        }
        Op::Activation(Activation::Prelu { weight }) => format!("nn.PReLU({})", shape(weight).first()?),
        _ => return None,
    };
    Some((made, tensors))
}

fn option(arguments: &mut Vec<String>, name: &str, value: [usize; 2], usual: [usize; 2]) {
    if value != usual {
        arguments.push(format!("{name}={}", pair(value)));
    }
}

fn rest(arguments: &mut Vec<String>, groups: usize, has_bias: bool) {
    if groups != 1 {
        arguments.push(format!("groups={groups}"));
    }
    if !has_bias {
        arguments.push("bias=False".into());
    }
}

/// One number for both directions, or a tuple.
pub(super) fn pair([a, b]: [usize; 2]) -> String {
    if a == b { a.to_string() } else { format!("({a}, {b})") }
}

/// A number with as many digits as it takes.
pub(super) fn number(value: f64) -> String {
    format!("{value:?}")
}
