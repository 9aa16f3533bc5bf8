//! What each operation is in ONNX.

use super::super::refused;
use super::super::windows::{beyond, explicit_padding};
use super::values::{Attribute, Values};
use crate::averages::averages;
use crate::error::GraphError;
use crate::graph::NodeId;
use crate::op::{Activation, BatchNorm, Conv2d, ConvTranspose2d, Op, PadValue, Pool, PoolKind, ResizeMethod};
use crate::shape::Shape;

/// Most numbers of a matrix that averages pixels.
const MOST_AVERAGES: usize = 1 << 22;

type Attributes = Vec<(&'static str, Attribute)>;

/// Writes a node.
pub(super) fn write(values: &mut Values<'_>, id: NodeId) -> Result<(), GraphError> {
    let graph = values.graph;
    let node = graph.node(id);
    let shape = graph.shape(id);
    let inputs = node.inputs.iter().map(|input| values.value(*input)).collect::<Vec<_>>();
    let names = inputs.iter().map(String::as_str).collect::<Vec<_>>();
    let (x, input) = match (names.first(), node.inputs.first()) {
        (Some(name), Some(input)) => (*name, graph.shape(*input)),
        _ => return Err(refused(node, "it has no input")),
    };
    let y = values.value(id);
    match &node.op {
        Op::Input { .. } => return Err(refused(node, "a graph has one input")),
        Op::Conv2d(conv) => {
            let tensors = layer(values, &conv.weight, conv.bias.as_ref())?;
            let names = [x].into_iter().chain(tensors.iter().map(String::as_str)).collect::<Vec<_>>();
            values.emit("Conv", &names, &y, convolution(conv, &graph.tensors()[&conv.weight].shape));
        }
        Op::ConvTranspose2d(conv) => {
            let tensors = layer(values, &conv.weight, conv.bias.as_ref())?;
            let names = [x].into_iter().chain(tensors.iter().map(String::as_str)).collect::<Vec<_>>();
            values.emit("ConvTranspose", &names, &y, transposed(conv, &graph.tensors()[&conv.weight].shape));
        }
        Op::BatchNorm(norm) => {
            let BatchNorm { weight, bias, running_mean, running_var, eps, momentum, .. } = norm;
            let tensors = [weight, bias, running_mean, running_var].map(|name| values.tensor(name));
            let [weight, bias, mean, variance] = tensors;
            // ONNX counts what stays, PyTorch what moves in.
            let attributes = vec![
                ("epsilon", Attribute::Float(*eps as f32)),
                ("momentum", Attribute::Float((1.0 - momentum) as f32)),
            ];
            values.emit("BatchNormalization", &[x, &weight?, &bias?, &mean?, &variance?], &y, attributes);
        }
        Op::Affine { scale, shift } => affine(values, x, scale.as_ref(), shift.as_ref(), input, &y)?,
        Op::Linear { weight, bias } => {
            let tensors = layer(values, weight, bias.as_ref())?;
            let names = [x].into_iter().chain(tensors.iter().map(String::as_str)).collect::<Vec<_>>();
            values.emit("Gemm", &names, &y, vec![("transB", Attribute::Int(1))]);
        }
        Op::Activation(activation) => self::activation(values, x, activation, input, &y)?,
        Op::Add => values.emit("Add", &names, &y, Vec::new()),
        Op::Mul => values.emit("Mul", &names, &y, Vec::new()),
        Op::Concat => values.emit("Concat", &names, &y, vec![("axis", Attribute::Int(1))]),
        Op::SliceChannels { start, end } => {
            let [start, end, axis] = [*start, *end, 1].map(|number| values.wholes(&[number as i64]));
            values.emit("Slice", &[x, &start, &end, &axis], &y, Vec::new());
        }
        Op::ChannelShuffle { groups } => shuffle(values, x, *groups, input, &y),
        Op::SubsamplePad { stride, before, after } => subsample(values, x, *stride, [*before, *after], &y),
        Op::Pad { sides, value } => {
            let value = if *value == PadValue::Zero { 0.0 } else { f32::NEG_INFINITY };
            pad(values, x, *sides, value, &y);
        }
        Op::MaxPool(pool) => {
            let padding = explicit_padding(pool, input.size(), shape.size());
            let mut attributes = windows(pool, padding);
            attributes.push(("dilations", ints(pool.dilation)));
            values.emit("MaxPool", &[x], &y, attributes);
        }
        Op::AvgPool { pool, .. } if pool.dilation != [1, 1] => {
            return Err(refused(node, "ONNX of version 17 has no average pooling with dilation"));
        }
        Op::AvgPool { pool, count_padding } => average(values, x, pool, *count_padding, [input, shape], &y),
        Op::AdaptivePool { kind, size } => {
            adaptive(values, x, *kind, *size, input, &y).map_err(|reason| refused(node, reason))?;
        }
        Op::Resize { method, .. } => resize(values, x, *method, [input, shape], &y),
        Op::Flatten => values.emit("Flatten", &[x], &y, vec![("axis", Attribute::Int(1))]),
        Op::Unflatten { channels, height, width } => {
            let sizes = values.wholes(&[0, *channels as i64, *height as i64, *width as i64]);
            values.emit("Reshape", &[x, &sizes], &y, Vec::new());
        }
        Op::Softmax { log } => {
            let op = if *log { "LogSoftmax" } else { "Softmax" };
            values.emit(op, &[x], &y, vec![("axis", Attribute::Int(1))]);
        }
    }
    Ok(())
}

fn ints<const N: usize>(numbers: [usize; N]) -> Attribute {
    Attribute::Ints(numbers.map(|number| number as i64).to_vec())
}

/// Weight and bias.
fn layer(values: &mut Values<'_>, weight: &str, bias: Option<&String>) -> Result<Vec<String>, GraphError> {
    [weight].into_iter().chain(bias.map(String::as_str)).map(|name| values.tensor(name)).collect()
}

fn convolution(conv: &Conv2d, weight: &[usize]) -> Attributes {
    vec![
        ("dilations", ints(conv.dilation)),
        ("group", Attribute::Int(conv.groups as i64)),
        ("kernel_shape", kernel_of(weight)),
        ("pads", ints(conv.padding)),
        ("strides", ints(conv.stride)),
    ]
}

fn transposed(conv: &ConvTranspose2d, weight: &[usize]) -> Attributes {
    vec![
        ("dilations", ints(conv.dilation)),
        ("group", Attribute::Int(conv.groups as i64)),
        ("kernel_shape", kernel_of(weight)),
        ("output_padding", ints(conv.output_padding)),
        ("pads", ints(conv.padding)),
        ("strides", ints(conv.stride)),
    ]
}

fn kernel_of(weight: &[usize]) -> Attribute {
    Attribute::Ints(weight.iter().skip(2).map(|&size| size as i64).collect())
}

fn windows(pool: &Pool, padding: [usize; 4]) -> Attributes {
    vec![("kernel_shape", ints(pool.kernel)), ("pads", ints(padding)), ("strides", ints(pool.stride))]
}

/// The sizes with which a tensor of one number for each channel is repeated along the channels.
fn along_channels(input: Shape) -> Vec<usize> {
    match input {
        Shape::Map { channels, .. } => vec![channels, 1, 1],
        Shape::Rows { features } => vec![features],
    }
}

fn affine(
    values: &mut Values<'_>,
    x: &str,
    scale: Option<&String>,
    shift: Option<&String>,
    input: Shape,
    y: &str,
) -> Result<(), GraphError> {
    let dims = along_channels(input);
    let parts = [("Mul", scale), ("Add", shift)];
    let parts = parts.into_iter().filter_map(|(op, name)| Some((op, name?))).collect::<Vec<_>>();
    let mut x = x.to_string();
    for (index, (op, name)) in parts.iter().enumerate() {
        let tensor = values.tensor_as(name, &dims)?;
        if index + 1 == parts.len() {
            values.emit(op, &[&x, &tensor], y, Vec::new());
        } else {
            x = values.emit_part(op, &[&x, &tensor], &format!("{y}.scaled"), Vec::new());
        }
    }
    if parts.is_empty() {
        values.emit("Identity", &[&x], y, Vec::new());
    }
    Ok(())
}

fn activation(
    values: &mut Values<'_>,
    x: &str,
    activation: &Activation,
    input: Shape,
    y: &str,
) -> Result<(), GraphError> {
    match activation {
        Activation::Relu => values.emit("Relu", &[x], y, Vec::new()),
        Activation::Clip { min, max } => {
            let [min, max] = [min, max].map(|limit| values.constant(&[], &[*limit]));
            values.emit("Clip", &[x, &min, &max], y, Vec::new());
        }
        Activation::LeakyRelu { slope } => {
            values.emit("LeakyRelu", &[x], y, vec![("alpha", Attribute::Float(*slope))]);
        }
        Activation::Prelu { weight } => {
            let is_one = values.graph.tensors()[weight].shape == [1];
            let dims = if is_one { vec![1; along_channels(input).len()] } else { along_channels(input) };
            let slope = values.tensor_as(weight, &dims)?;
            values.emit("PRelu", &[x, &slope], y, Vec::new());
        }
        Activation::Sigmoid => values.emit("Sigmoid", &[x], y, Vec::new()),
        Activation::HardSigmoid { alpha, beta } => {
            let attributes = vec![("alpha", Attribute::Float(*alpha)), ("beta", Attribute::Float(*beta))];
            values.emit("HardSigmoid", &[x], y, attributes);
        }
        Activation::HardSwish => values.emit("HardSwish", &[x], y, Vec::new()),
        Activation::Silu => {
            let gate = values.emit_part("Sigmoid", &[x], &format!("{y}.gate"), Vec::new());
            values.emit("Mul", &[x, &gate], y, Vec::new());
        }
    }
    Ok(())
}

/// Groups and channels of a group as two axes that change places.
fn shuffle(values: &mut Values<'_>, x: &str, groups: usize, input: Shape, y: &str) {
    let (channels, [height, width]) = (input.channels(), input.size());
    let sizes = |sizes: &[usize]| sizes.iter().map(|&size| size as i64).collect::<Vec<_>>();
    let apart = values.wholes(&sizes(&[0, groups, channels / groups, height, width]));
    let apart = values.emit_part("Reshape", &[x, &apart], &format!("{y}.groups"), Vec::new());
    let order = vec![("perm", Attribute::Ints(vec![0, 2, 1, 3, 4]))];
    let turned = values.emit_part("Transpose", &[&apart], &format!("{y}.turned"), order);
    let together = values.wholes(&sizes(&[0, channels, height, width]));
    values.emit("Reshape", &[&turned, &together], y, Vec::new());
}

fn subsample(values: &mut Values<'_>, x: &str, stride: usize, channels: [usize; 2], y: &str) {
    let [before, after] = channels.map(|channels| channels as i64);
    let is_padded = before + after > 0;
    let mut x = x.to_string();
    if stride > 1 {
        let (start, end) = (values.wholes(&[0, 0]), values.wholes(&[i64::MAX, i64::MAX]));
        let (axes, steps) = (values.wholes(&[2, 3]), values.wholes(&[stride as i64; 2]));
        let inputs = [&*x.clone(), &start, &end, &axes, &steps];
        if !is_padded {
            return values.emit("Slice", &inputs, y, Vec::new());
        }
        x = values.emit_part("Slice", &inputs, &format!("{y}.every"), Vec::new());
    }
    if is_padded {
        let (pads, zero) = (values.wholes(&[0, before, 0, 0, 0, after, 0, 0]), values.constant(&[], &[0.0]));
        values.emit("Pad", &[&x, &pads, &zero], y, Vec::new());
    } else {
        values.emit("Identity", &[&x], y, Vec::new());
    }
}

fn pad(values: &mut Values<'_>, x: &str, sides: [usize; 4], value: f32, y: &str) {
    let [top, left, bottom, right] = sides.map(|side| side as i64);
    let (pads, value) = (values.wholes(&[0, 0, top, left, 0, 0, bottom, right]), values.constant(&[], &[value]));
    values.emit("Pad", &[x, &pads, &value], y, Vec::new());
}

/// What reaches beyond the padding does not count, whether padding counts or not.
fn average(values: &mut Values<'_>, x: &str, pool: &Pool, count_padding: bool, [input, output]: [Shape; 2], y: &str) {
    let padding = explicit_padding(pool, input.size(), output.size());
    let [bottom, right] = beyond(padding, pool.padding);
    let (mut x, mut padding, mut counts) = (x.to_string(), padding, count_padding);
    if count_padding && bottom + right > 0 {
        if pool.padding != [0; 4] {
            let padded = values.unused(&format!("{y}.padded"));
            pad(values, &x, pool.padding, 0.0, &padded);
            (x, padding) = (padded, [0, 0, bottom, right]);
        }
        counts = false;
    }
    let mut attributes = windows(pool, padding);
    attributes.push(("count_include_pad", Attribute::Int(i64::from(counts))));
    values.emit("AveragePool", &[&x], y, attributes);
}

/// Windows of one size are a pooling. Means of others are a product with a matrix for each direction.
fn adaptive(
    values: &mut Values<'_>,
    x: &str,
    kind: PoolKind,
    size: [usize; 2],
    input: Shape,
    y: &str,
) -> Result<(), String> {
    let [height, width] = input.size();
    if size == [1, 1] {
        let op = if kind == PoolKind::Average { "GlobalAveragePool" } else { "GlobalMaxPool" };
        values.emit(op, &[x], y, Vec::new());
    } else if height.is_multiple_of(size[0]) && width.is_multiple_of(size[1]) {
        let kernel = [height / size[0], width / size[1]];
        let op = if kind == PoolKind::Average { "AveragePool" } else { "MaxPool" };
        values.emit(op, &[x], y, vec![("kernel_shape", ints(kernel)), ("strides", ints(kernel))]);
    } else if [height * size[0], width * size[1]].iter().any(|&numbers| numbers > MOST_AVERAGES) {
        return Err(format!("{height} by {width} pixels in {} by {} windows are too many", size[0], size[1]));
    } else if kind == PoolKind::Average {
        let rows = averages(height, size[0]);
        let rows = values.constant(&[size[0], height], &rows);
        let columns = averages(width, size[1]);
        let columns = (0..width * size[1]).map(|at| columns[at % size[1] * width + at / size[1]]).collect::<Vec<_>>();
        let columns = values.constant(&[width, size[1]], &columns);
        let averaged = values.emit_part("MatMul", &[&rows, x], &format!("{y}.rows"), Vec::new());
        values.emit("MatMul", &[&averaged, &columns], y, Vec::new());
    } else {
        return Err(format!(
            "ONNX has no operation for the largest numbers of {height} by {width} pixels in {} by {} windows",
            size[0], size[1]
        ));
    }
    Ok(())
}

/// Whole factors are written as such, other sizes as numbers of pixels.
fn resize(values: &mut Values<'_>, x: &str, method: ResizeMethod, [input, output]: [Shape; 2], y: &str) {
    let ([old_height, old_width], [height, width]) = (input.size(), output.size());
    let mut attributes = match method {
        ResizeMethod::Nearest => vec![
            ("coordinate_transformation_mode", Attribute::Text("asymmetric")),
            ("mode", Attribute::Text("nearest")),
            ("nearest_mode", Attribute::Text("floor")),
        ],
        ResizeMethod::Bilinear { align_corners } => {
            let coordinates = if align_corners { "align_corners" } else { "half_pixel" };
            vec![("coordinate_transformation_mode", Attribute::Text(coordinates)), ("mode", Attribute::Text("linear"))]
        }
    };
    attributes.sort_by_key(|(name, _)| *name);
    if height.is_multiple_of(old_height) && width.is_multiple_of(old_width) {
        let factors = [1.0, 1.0, (height / old_height) as f32, (width / old_width) as f32];
        let factors = values.constant(&[4], &factors);
        return values.emit("Resize", &[x, "", &factors], y, attributes);
    }
    let ends = vec![("start", Attribute::Int(0)), ("end", Attribute::Int(2))];
    let kept = values.emit_part("Shape", &[x], &format!("{y}.kept"), ends);
    let pixels = values.wholes(&[height as i64, width as i64]);
    let axis = vec![("axis", Attribute::Int(0))];
    let sizes = values.emit_part("Concat", &[&kept, &pixels], &format!("{y}.sizes"), axis);
    values.emit("Resize", &[x, "", "", &sizes], y, attributes);
}
