//! The lines of `forward`.

use std::collections::{BTreeSet, HashMap};

use super::super::refused;
use super::super::windows::{beyond, explicit_padding};
use super::layers::{Layers, number, pair};
use super::python_string;
use crate::error::GraphError;
use crate::graph::{Graph, Node, NodeId};
use crate::op::{Activation, Op, PadValue, Pool, PoolKind, ResizeMethod, ResizeTo};
use crate::shape::Shape;

/// A network's lines, and what they call.
pub(super) struct Steps {
    pub lines: Vec<String>,
    pub helpers: BTreeSet<&'static str>,
}

/// A layer that multiplies and adds a number for each channel.
const AFFINE: &str = r"class Affine(nn.Module):
    def __init__(self, channels, scale, shift):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels)) if scale else None
        self.shift = nn.Parameter(torch.zeros(channels)) if shift else None

    def forward(self, x):
        shape = (1, -1) + (1,) * (x.ndim - 2)
        if self.scale is not None:
            x = x * self.scale.reshape(shape)
        return x if self.shift is None else x + self.shift.reshape(shape)
";

/// Means of windows with padding that differs between sides. Pixels beyond the padding do not count.
const MEANS: &str = r"def means(x, kernel, stride, padding, beyond, counts_padding):
    left, right, top, bottom = padding
    ones = F.pad(torch.ones_like(x[:1, :1]), padding, value=1.0 if counts_padding else 0.0)
    ones = F.pad(ones, (0, beyond[1], 0, beyond[0]))
    x = F.pad(x, (left, right + beyond[1], top, bottom + beyond[0]))
    return F.avg_pool2d(x, kernel, stride) / F.avg_pool2d(ones, kernel, stride)
";

pub(super) fn steps(graph: &Graph, layers: &Layers) -> Result<Steps, GraphError> {
    let mut steps = Steps { lines: Vec::new(), helpers: BTreeSet::new() };
    let mut variables = Variables::of(graph);
    for id in graph.ids().skip(1) {
        let inputs = graph.node(id).inputs.iter().map(|input| variables.name(*input)).collect::<Vec<_>>();
        let expression = expression(graph, layers, id, &inputs, &mut steps.helpers)?;
        steps.lines.push(format!("{} = {expression}", variables.make(id)));
    }
    let outputs = graph.outputs().iter().map(|output| variables.name(*output)).collect::<Vec<_>>();
    steps.lines.push(format!("return {}", outputs.join(", ")));
    Ok(steps)
}

/// Variables, each of which is used again as soon as its value is not needed any more.
struct Variables {
    names: HashMap<NodeId, usize>,
    free: BTreeSet<usize>,
    made: usize,
    /// Of each node, the values that nothing needs after it.
    last: HashMap<NodeId, Vec<NodeId>>,
}

impl Variables {
    fn of(graph: &Graph) -> Self {
        let mut last_uses = HashMap::<NodeId, NodeId>::new();
        for id in graph.ids() {
            last_uses.insert(id, id);
            for input in &graph.node(id).inputs {
                last_uses.insert(*input, id);
            }
        }
        for output in graph.outputs() {
            last_uses.remove(output);
        }
        let mut last = HashMap::<NodeId, Vec<NodeId>>::new();
        for (value, user) in last_uses {
            last.entry(user).or_default().push(value);
        }
        Self { names: HashMap::new(), free: BTreeSet::new(), made: 0, last }
    }

    fn name(&self, id: NodeId) -> String {
        match self.names.get(&id) {
            Some(number) => format!("x{number}"),
            None => "images".into(),
        }
    }

    /// The variable for a node's value: the first one that is free by then.
    fn make(&mut self, id: NodeId) -> String {
        let done = self.last.remove(&id).unwrap_or_default();
        let freed = done.iter().filter(|value| **value != id).filter_map(|value| self.names.get(value));
        self.free.extend(freed);
        let number = self.free.pop_first().unwrap_or_else(|| {
            self.made += 1;
            self.made
        });
        self.names.insert(id, number);
        if done.contains(&id) {
            self.free.insert(number);
        }
        format!("x{number}")
    }
}

fn expression(
    graph: &Graph,
    layers: &Layers,
    id: NodeId,
    inputs: &[String],
    helpers: &mut BTreeSet<&'static str>,
) -> Result<String, GraphError> {
    let node = graph.node(id);
    let (Some(x), Some(source)) = (inputs.first(), node.inputs.first()) else {
        return Err(refused(node, "it has no input"));
    };
    let (input, output) = (graph.shape(*source), graph.shape(id));
    let called = |x: &str| format!("layer({})({x})", python_string(layers.path(id)));
    Ok(match &node.op {
        Op::Input { .. } => return Err(refused(node, "a graph has one input")),
        Op::Conv2d(conv) => {
            let [top, left, bottom, right] = conv.padding;
            if top == bottom && left == right { called(x) } else { called(&padded(x, conv.padding, "0.0")) }
        }
        Op::ConvTranspose2d(conv) => {
            let [top, left, bottom, right] = conv.padding;
            if top == bottom && left == right {
                called(x)
            } else {
                let [height, width] = output.size();
                format!("{}[:, :, {top}:{}, {left}:{}]", called(x), top + height, left + width)
            }
        }
        Op::Affine { .. } => {
            helpers.insert(AFFINE);
            called(x)
        }
        Op::BatchNorm(_) | Op::Linear { .. } | Op::Activation(Activation::Prelu { .. }) => called(x),
        Op::Activation(activation) => self::activation(x, activation),
        Op::Add => format!("{x} + {}", inputs[1]),
        Op::Mul => format!("{x} * {}", inputs[1]),
        Op::Concat => format!("torch.cat([{}], 1)", inputs.join(", ")),
        Op::SliceChannels { start, end } => format!("{x}[:, {start}:{end}]"),
        Op::ChannelShuffle { groups } => {
            format!("{x}.unflatten(1, ({groups}, -1)).transpose(1, 2).flatten(1, 2)")
        }
        Op::SubsamplePad { stride, before, after } => {
            let every = if *stride > 1 { format!("{x}[:, :, ::{stride}, ::{stride}]") } else { x.clone() };
            if before + after > 0 { format!("F.pad({every}, (0, 0, 0, 0, {before}, {after}))") } else { every }
        }
        Op::Pad { sides, value } => padded(x, *sides, if *value == PadValue::Zero { "0.0" } else { "float(\"-inf\")" }),
        Op::MaxPool(pool) => {
            let padding = explicit_padding(pool, input.size(), output.size());
            let (x, padding) = symmetric(x, padding, pool, "float(\"-inf\")");
            let mut arguments = vec![x, pair(pool.kernel), pair(pool.stride)];
            arguments.extend((padding != [0, 0]).then(|| format!("padding={}", pair(padding))));
            arguments.extend((pool.dilation != [1, 1]).then(|| format!("dilation={}", pair(pool.dilation))));
            format!("F.max_pool2d({})", arguments.join(", "))
        }
        Op::AvgPool { pool, .. } if pool.dilation != [1, 1] => {
            return Err(refused(node, "PyTorch has no average pooling with dilation"));
        }
        Op::AvgPool { pool, count_padding } => means(x, pool, *count_padding, [input, output], helpers),
        Op::AdaptivePool { kind, size } => {
            let kind = if *kind == PoolKind::Average { "avg" } else { "max" };
            format!("F.adaptive_{kind}_pool2d({x}, {})", pair(*size))
        }
        Op::Resize { size, method } => resized(node, x, inputs, *size, *method)?,
        Op::Flatten => format!("{x}.flatten(1)"),
        Op::Unflatten { channels, height, width } => format!("{x}.unflatten(1, ({channels}, {height}, {width}))"),
        Op::Softmax { log } => format!("{x}.{}softmax(1)", if *log { "log_" } else { "" }),
    })
}

/// Top, left, bottom, right in PyTorch's order.
fn sides([top, left, bottom, right]: [usize; 4]) -> String {
    format!("({left}, {right}, {top}, {bottom})")
}

fn padded(x: &str, padding: [usize; 4], value: &str) -> String {
    format!("F.pad({x}, {}, value={value})", sides(padding))
}

/// The input and the padding of a pooling, which in PyTorch is at most half a window and the same on both sides.
fn symmetric(x: &str, padding: [usize; 4], pool: &Pool, value: &str) -> (String, [usize; 2]) {
    let [top, left, bottom, right] = padding;
    if top == bottom && left == right && 2 * top <= pool.kernel[0] && 2 * left <= pool.kernel[1] {
        (x.to_string(), [top, left])
    } else {
        (padded(x, padding, value), [0, 0])
    }
}

fn means(
    x: &str,
    pool: &Pool,
    count_padding: bool,
    [input, output]: [Shape; 2],
    helpers: &mut BTreeSet<&'static str>,
) -> String {
    let explicit = explicit_padding(pool, input.size(), output.size());
    let [bottom, right] = beyond(explicit, pool.padding);
    let (kernel, stride) = (pair(pool.kernel), pair(pool.stride));
    let (same, padding) = symmetric(x, explicit, pool, "0.0");
    if bottom + right == 0 && same == x {
        let counts = if padding == [0, 0] || count_padding { "" } else { ", count_include_pad=False" };
        let padding = if padding == [0, 0] { String::new() } else { format!(", padding={}", pair(padding)) };
        return format!("F.avg_pool2d({x}, {kernel}, {stride}{padding}{counts})");
    }
    helpers.insert(MEANS);
    let counts = if count_padding { "True" } else { "False" };
    let padding = [0, 1, 2, 3].map(|side| explicit[side].min(pool.padding[side]));
    format!("means({x}, {kernel}, {stride}, {}, ({bottom}, {right}), {counts})", sides(padding))
}

fn resized(
    node: &Node,
    x: &str,
    inputs: &[String],
    size: ResizeTo,
    method: ResizeMethod,
) -> Result<String, GraphError> {
    let size = match (size, inputs.get(1)) {
        (ResizeTo::Fixed([height, width]), _) => format!("size=({height}, {width})"),
        (ResizeTo::Factor([down, right]), _) => format!("scale_factor=({}, {})", number(down), number(right)),
        (ResizeTo::Like, Some(other)) => format!("size={other}.shape[-2:]"),
        (ResizeTo::Like, None) => return Err(refused(node, "it has no second input")),
    };
    let method = match method {
        ResizeMethod::Nearest => "\"nearest\"",
        ResizeMethod::Bilinear { align_corners: true } => "\"bilinear\", align_corners=True",
        ResizeMethod::Bilinear { align_corners: false } => "\"bilinear\", align_corners=False",
    };
    Ok(format!("F.interpolate({x}, {size}, mode={method})"))
}

fn activation(x: &str, activation: &Activation) -> String {
    let number = |value: &f32| format!("{value:?}");
    match activation {
        Activation::Relu => format!("F.relu({x})"),
        Activation::Clip { min, max } => format!("{x}.clamp({}, {})", number(min), number(max)),
        Activation::LeakyRelu { slope } => format!("F.leaky_relu({x}, {})", number(slope)),
        Activation::Sigmoid => format!("{x}.sigmoid()"),
        activation if *activation == Activation::HARD_SIGMOID => format!("F.hardsigmoid({x})"),
        Activation::HardSigmoid { alpha, beta } => {
            format!("({} * {x} + {}).clamp(0.0, 1.0)", number(alpha), number(beta))
        }
        Activation::HardSwish => format!("F.hardswish({x})"),
        Activation::Silu => format!("F.silu({x})"),
        Activation::Prelu { .. } => x.to_string(),
    }
}
