//! ONNX's operations as nodes.

use super::external::Files;
use super::model::{self, Attribute, Node};
use crate::op::{Activation, Pool, PoolKind, ResizeMethod, ResizeTo};
use crate::read::build::{Builder, Outcome, normal_axis};
use crate::read::constant::Constant;
use crate::read::frozen::Origin;
use crate::read::layers::{Arithmetic, Norm, Steps, constant, optional};
use crate::read::meaning::{Dim, MOST_LISTED, MOST_WHOLE, Meaning, Whole};
use crate::shape::Shape;

/// The attributes of a node.
struct Attributes<'n, 'a>(&'n Node<'a>);

impl Attributes<'_, '_> {
    fn get(&self, name: &str) -> Option<&Attribute<'_>> {
        self.0.attributes.get(name)
    }

    fn int(&self, name: &str, default: i64) -> Result<i64, String> {
        match self.get(name) {
            None => Ok(default),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(_) => Err(format!("its attribute {name} is no whole number")),
        }
    }

    fn float(&self, name: &str, default: f64) -> Result<f64, String> {
        match self.get(name) {
            None => Ok(default),
            Some(Attribute::Float(value)) => Ok(widened(*value)),
            Some(_) => Err(format!("its attribute {name} is no number")),
        }
    }

    fn text(&self, name: &str, default: &'static str) -> Result<&str, String> {
        match self.get(name) {
            None => Ok(default),
            Some(Attribute::Text(text)) => {
                std::str::from_utf8(text).map_err(|_| format!("its attribute {name} is no text"))
            }
            Some(_) => Err(format!("its attribute {name} is no text")),
        }
    }

    fn ints(&self, name: &str) -> Result<Option<&[i64]>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values)),
            Some(_) => Err(format!("its attribute {name} is no list of whole numbers")),
        }
    }

    /// Sizes that are not negative.
    fn sizes<const N: usize>(&self, name: &str, default: [usize; N]) -> Result<[usize; N], String> {
        let Some(values) = self.ints(name)? else { return Ok(default) };
        let sizes = values.iter().map(|&value| usize::try_from(value)).collect::<Result<Vec<_>, _>>();
        let sizes = sizes.map_err(|_| format!("its attribute {name} has a negative size"))?;
        sizes.try_into().map_err(|_| format!("its attribute {name} has {} sizes instead of {N}", values.len()))
    }

    /// Padding on each side of windows of this size: top, left, bottom, right.
    fn padding(
        &self,
        input: [usize; 2],
        kernel: [usize; 2],
        stride: [usize; 2],
        dilation: [usize; 2],
    ) -> Result<[usize; 4], String> {
        let lower = match self.text("auto_pad", "NOTSET")? {
            "NOTSET" => return self.sizes("pads", [0; 4]),
            "VALID" => return Ok([0; 4]),
            "SAME_UPPER" => false,
            "SAME_LOWER" => true,
            other => return Err(format!("its padding {} is unknown", crate::error::clean(other))),
        };
        let side = |axis: usize| -> Result<[usize; 2], String> {
            let impossible = || "its windows are impossible".to_string();
            let reach = kernel[axis].checked_sub(1).and_then(|taps| taps.checked_mul(dilation[axis]));
            let reach = reach.and_then(|reach| reach.checked_add(1)).ok_or_else(impossible)?;
            if stride[axis] == 0 {
                return Err(impossible());
            }
            let windows = input[axis].div_ceil(stride[axis]);
            let covered = (windows - 1).checked_mul(stride[axis]).and_then(|start| start.checked_add(reach));
            let all = covered.ok_or_else(impossible)?.saturating_sub(input[axis]);
            let before = if lower { all.div_ceil(2) } else { all / 2 };
            Ok([before, all - before])
        };
        let ([top, bottom], [left, right]) = (side(0)?, side(1)?);
        Ok([top, left, bottom, right])
    }
}

/// A number of 32 bits as someone would have written it: 0.001, not 0.0010000000474974513.
fn widened(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// What a node makes. Its second result and the following ones are those of training.
pub(super) fn convert(
    b: &mut Builder,
    name: &str,
    node: &Node<'_>,
    inputs: &[Meaning],
    files: &mut Files<'_>,
) -> Outcome {
    let a = Attributes(node);
    let input = |index: usize| inputs.get(index).unwrap_or(&Meaning::Nothing);
    let x = input(0);
    match node.op {
        "Conv" | "ConvTranspose" => convolution(b, name, &a, inputs),
        "BatchNormalization" => {
            if a.int("training_mode", 0)? != 0 {
                return Err("it was exported in training mode: call model.eval() before".into());
            }
            let norm = Norm {
                scale: optional(input(1), "factor")?,
                bias: optional(input(2), "sum")?,
                mean: constant(input(3), "running mean")?,
                variance: constant(input(4), "running variance")?,
                eps: a.float("epsilon", 1e-5)?,
                // ONNX counts what stays, PyTorch what moves in.
                momentum: widened(1.0 - a.float("momentum", 0.9)? as f32),
            };
            b.batch_norm(name, x, &norm)
        }
        "Gemm" => gemm(b, name, &a, inputs),
        "MatMul" => {
            let weight = constant(input(1), "matrix")?;
            if weight.dims.len() != 2 {
                return Err("its matrix has other than 2 dimensions".into());
            }
            let weight = weight.transposed(&[1, 0], &mut b.budget)?;
            b.linear(name, x, &weight, None)
        }
        "Relu" => b.activation(name, x, Activation::Relu),
        "LeakyRelu" => {
            let slope = a.float("alpha", 0.01)? as f32;
            b.activation(name, x, Activation::LeakyRelu { slope })
        }
        "PRelu" => {
            let slope = constant(input(1), "slope")?;
            if slope.dims.iter().filter(|&&size| size != 1).count() > 1 {
                return Err("its slopes differ within a channel".into());
            }
            b.prelu(name, x, slope)
        }
        "Sigmoid" => b.activation(name, x, Activation::Sigmoid),
        "HardSigmoid" => {
            let (alpha, beta) = (a.float("alpha", 0.2)? as f32, a.float("beta", 0.5)? as f32);
            // Some exporters write a sixth with fewer digits.
            let activation = if (alpha - 1.0 / 6.0).abs() < 1e-4 && beta == 0.5 {
                Activation::HARD_SIGMOID
            } else {
                Activation::HardSigmoid { alpha, beta }
            };
            b.activation(name, x, activation)
        }
        "HardSwish" => b.activation(name, x, Activation::HardSwish),
        "Swish" if a.float("alpha", 1.0)? == 1.0 => b.activation(name, x, Activation::Silu),
        "Clip" => {
            let end = |index: usize, open: f64| match input(index) {
                Meaning::Nothing => Ok(open),
                end => {
                    constant(end, "limit")?.scalar().map(widened).ok_or_else(|| "its limit is no number".to_string())
                }
            };
            b.clip(name, x, end(1, f64::NEG_INFINITY)?, end(2, f64::INFINITY)?)
        }
        "Add" => b.arithmetic(name, x, input(1), Arithmetic::Add),
        "Sub" => b.arithmetic(name, x, input(1), Arithmetic::Sub),
        "Mul" => b.arithmetic(name, x, input(1), Arithmetic::Mul),
        "Div" => b.arithmetic(name, x, input(1), Arithmetic::Div),
        "Sqrt" | "Neg" | "Reciprocal" => {
            let x = constant(x, "input")?;
            let (f, origin): (fn(f32) -> f32, _) = match node.op {
                "Sqrt" => (f32::sqrt, Origin::root(x)),
                "Neg" => (|x| -x, None),
                _ => (|x| 1.0 / x, Origin::reciprocal(x)),
            };
            Ok(Meaning::Constant(x.map(name, f, &mut b.budget)?.computed(origin)))
        }
        "Softmax" => b.softmax(name, x, a.int("axis", -1)?, false),
        "LogSoftmax" => b.softmax(name, x, a.int("axis", -1)?, true),
        "GlobalAveragePool" => b.adaptive_pool(name, x, PoolKind::Average, [1, 1]),
        "GlobalMaxPool" => b.adaptive_pool(name, x, PoolKind::Max, [1, 1]),
        "ReduceMean" | "ReduceMax" => {
            let axes = match (input(1), a.ints("axes")?) {
                (Meaning::Nothing, Some(axes)) => axes.to_vec(),
                (Meaning::Nothing, None) => return Err("it reduces everything".into()),
                (axes, _) => whole(axes)?.fixed()?,
            };
            let kind = if node.op == "ReduceMean" { PoolKind::Average } else { PoolKind::Max };
            b.reduce(name, x, &axes, a.int("keepdims", 1)? != 0, kind)
        }
        "MaxPool" | "AveragePool" => {
            let pool = pool(b, &a, x)?;
            if node.op == "MaxPool" {
                return b.max_pool(name, x, pool);
            }
            b.avg_pool(name, x, pool, a.int("count_include_pad", 0)? != 0)
        }
        "Concat" => b.concat(name, inputs, a.int("axis", 0)?),
        "Flatten" => {
            let rank = b.dims(x)?.len();
            match a.int("axis", 1)? {
                axis if axis == 1 || axis == 1 - rank as i64 => b.flatten(name, x, 1, -1),
                axis => Err(format!("it flattens from axis {axis}")),
            }
        }
        "Reshape" => {
            let mut dims = whole(input(1))?.values.to_vec();
            if a.int("allowzero", 0)? == 0 {
                let old = b.dims(x)?;
                for (dim, old) in dims.iter_mut().zip(old.iter().map(Some).chain(std::iter::repeat(None))) {
                    if *dim == Dim::Fixed(0) {
                        *dim = *old.ok_or("it keeps a size that there is not")?;
                    }
                }
            }
            b.reshape(name, x, &dims)
        }
        "Transpose" => {
            let rank = b.dims(x)?.len();
            let order = match a.ints("perm")? {
                Some(order) => order.iter().map(|&axis| normal_axis(axis, rank)).collect::<Result<Vec<_>, _>>()?,
                None => (0..rank).rev().collect(),
            };
            b.transpose(x, &order)
        }
        "Squeeze" | "Unsqueeze" => {
            let axes = match (input(1), a.ints("axes")?) {
                (Meaning::Nothing, Some(axes)) => axes.to_vec(),
                (Meaning::Nothing, None) if matches!(x, Meaning::Whole(_)) => Vec::new(),
                (Meaning::Nothing, None) => return Err("it leaves the axes open".into()),
                (axes, _) => whole(axes)?.fixed()?,
            };
            if node.op == "Squeeze" { b.squeeze(name, x, &axes) } else { b.unsqueeze(name, x, &axes) }
        }
        "Slice" => slice(b, inputs),
        "Split" => {
            let axis = a.int("axis", 0)?;
            match input(1) {
                Meaning::Nothing => {
                    let Dim::Fixed(size) = b.dims(x)?[b.axis(x, axis)?] else {
                        return Err("it splits the images".into());
                    };
                    let parts = a.int("num_outputs", node.outputs.len() as i64)?.max(1);
                    b.split_evenly(x, axis, size.div_euclid(parts) + i64::from(size % parts != 0))
                }
                sizes => b.split(x, axis, &whole(sizes)?.fixed()?),
            }
        }
        "SplitToSequence" => {
            if a.int("keepdims", 1)? == 0 && matches!(input(1), Meaning::Nothing) {
                return Err("it drops the axis".into());
            }
            let sizes = whole(input(1))?;
            match sizes.fixed()?.as_slice() {
                [size] if sizes.scalar => b.split_evenly(x, a.int("axis", 0)?, *size),
                sizes => b.split(x, a.int("axis", 0)?, sizes),
            }
        }
        "SequenceAt" => {
            let index = whole(input(1))?.fixed()?;
            b.item(x, *index.first().ok_or("it has no position")?)
        }
        "Pad" => pad(b, name, &a, inputs),
        "Resize" => resize(b, name, &a, inputs),
        "Identity" | "Dropout" => Ok(x.clone()),
        "Cast" => match (a.int("to", 1)?, x) {
            (1, x) => float(x),
            (6 | 7, Meaning::Whole(_)) => Ok(x.clone()),
            (to, _) => Err(format!("it changes numbers to type {to}")),
        },
        "CastLike" => match input(1) {
            Meaning::Whole(_) => Ok(x.clone()),
            _ => float(x),
        },
        "Constant" => constant_of(name, node, files),
        "ConstantOfShape" => {
            let dims = whole(x)?.fixed()?;
            let value = match node.attributes.get("value") {
                None => Meaning::Constant(Constant::fill(name, 0.0, &[])),
                Some(Attribute::Tensor(tensor)) => model::tensor(tensor.clone(), files)?.1,
                Some(_) => return Err("its value is no tensor".into()),
            };
            fill(name, &value, &dims)
        }
        "Expand" => {
            let dims = whole(input(1))?;
            match x {
                Meaning::Value(_) => {
                    let old = b.dims(x)?;
                    if *old == *dims.values { Ok(x.clone()) } else { Err("it repeats a value".into()) }
                }
                x => fill(name, x, &dims.fixed()?),
            }
        }
        "Shape" => {
            let dims = b.dims(x)?;
            let place =
                |at: i64| (if at < 0 { at + dims.len() as i64 } else { at }).clamp(0, dims.len() as i64) as usize;
            let (start, end) = (place(a.int("start", 0)?.max(-99)), place(a.int("end", i64::from(i32::MAX))?.max(-99)));
            Ok(Meaning::Whole(Whole::list(dims.get(start..end).unwrap_or_default().to_vec())))
        }
        "Size" => Err("it counts numbers".into()),
        "Gather" => gather(b, &a, x, input(1)),
        "Range" => {
            let value = |index: usize| {
                whole(input(index)).and_then(Whole::fixed).map(|values| values.first().copied().unwrap_or(0))
            };
            let (start, end, step) = (value(0)?, value(1)?, value(2)?);
            let count = if step > 0 {
                end.saturating_sub(start).max(0).unsigned_abs().div_ceil(step.unsigned_abs())
            } else {
                u64::MAX
            };
            if count > MOST_WHOLE as u64 {
                return Err(format!("it counts from {start} to {end} in steps of {step}"));
            }
            Ok(Meaning::Whole(Whole::list((0..count as i64).map(|i| Dim::Fixed(start + i * step)).collect())))
        }
        _ => Err("there is no such operation here".into()),
    }
}

fn whole(meaning: &Meaning) -> Result<&Whole, String> {
    match meaning {
        Meaning::Whole(whole) => Ok(whole),
        _ => Err("an input that tells sizes is not known beforehand".into()),
    }
}

/// Whole numbers as numbers; numbers as they are.
fn float(x: &Meaning) -> Outcome {
    let Meaning::Whole(whole) = x else { return Ok(x.clone()) };
    let numbers = whole.fixed()?.iter().map(|&value| value as f32).collect::<Vec<_>>();
    let dims = if whole.scalar { vec![] } else { vec![numbers.len()] };
    Constant::new("whole", &dims, numbers, false).map(Meaning::Constant)
}

/// `dims` times the same number.
fn fill(name: &str, value: &Meaning, dims: &[i64]) -> Outcome {
    match value {
        Meaning::Constant(constant) => {
            let sizes = dims.iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<_>, _>>();
            let sizes = sizes.map_err(|_| "it has a negative size")?;
            let sizes = crate::read::constant::broadcast(&constant.dims, &sizes).ok_or("it cannot be repeated so")?;
            match constant.scalar() {
                _ if *constant.dims == *sizes => Ok(Meaning::Constant(constant.clone())),
                Some(value) => Ok(Meaning::Constant(Constant::fill(name, value, &sizes))),
                None => Err("it repeats numbers".into()),
            }
        }
        Meaning::Whole(whole) if whole.values.len() == 1 && dims.len() <= 1 => {
            let count = dims.first().copied().unwrap_or(1);
            let count = usize::try_from(count).ok().filter(|&count| count <= MOST_WHOLE);
            let values = vec![whole.values[0]; count.ok_or("it makes a long list of whole numbers")?];
            Ok(Meaning::Whole(Whole { values: values.into(), scalar: dims.is_empty() }))
        }
        _ => Err("it repeats something else than one number".into()),
    }
}

fn constant_of(name: &str, node: &Node<'_>, files: &mut Files<'_>) -> Outcome {
    let one = |value: i64| Meaning::Whole(Whole::one(Dim::Fixed(value)));
    for (key, attribute) in &node.attributes {
        return match (*key, attribute) {
            ("value", Attribute::Tensor(tensor)) => Ok(match model::tensor(tensor.clone(), files)?.1 {
                Meaning::Constant(constant) => {
                    Meaning::Constant(Constant { name: name.into(), trained: false, ..constant })
                }
                meaning => meaning,
            }),
            ("value_int", Attribute::Int(value)) => Ok(one(*value)),
            ("value_float", Attribute::Float(value)) => Ok(Meaning::Constant(Constant::fill(name, *value, &[]))),
            ("value_ints", Attribute::Ints(values)) if values.len() <= MOST_LISTED => {
                Ok(Meaning::Whole(Whole::list(values.iter().map(|&value| Dim::Fixed(value)).collect())))
            }
            ("value_floats", Attribute::Floats(values)) => {
                Constant::new(name, &[values.len()], values.clone(), false).map(Meaning::Constant)
            }
            _ => continue,
        };
    }
    Err("it is neither numbers nor a tensor".into())
}

fn pixels(b: &mut Builder, x: &Meaning) -> Result<[usize; 2], String> {
    let id = b.value(x)?;
    match b.shape(id) {
        Shape::Map { height, width, .. } => Ok([height, width]),
        Shape::Rows { .. } => Err("its input is no map".into()),
    }
}

fn convolution(b: &mut Builder, name: &str, a: &Attributes<'_, '_>, inputs: &[Meaning]) -> Outcome {
    let (x, weight) = (&inputs[0], constant(inputs.get(1).unwrap_or(&Meaning::Nothing), "weight")?);
    let bias = optional(inputs.get(2).unwrap_or(&Meaning::Nothing), "bias")?;
    let &[_, _, height, width] = &*weight.dims else { return Err("its weight has other than 4 dimensions".into()) };
    let (stride, dilation) = (a.sizes("strides", [1; 2])?, a.sizes("dilations", [1; 2])?);
    let groups = usize::try_from(a.int("group", 1)?).map_err(|_| "its groups are negative")?;
    if a.0.op == "ConvTranspose" {
        if a.get("output_shape").is_some() || a.text("auto_pad", "NOTSET")? != "NOTSET" {
            return Err("it has its size instead of its padding".into());
        }
        let output_padding = a.sizes("output_padding", [0; 2])?;
        let steps = Steps { stride, padding: a.sizes("pads", [0; 4])?, dilation, output_padding, groups };
        return b.conv_transpose2d(name, x, weight, bias, &steps);
    }
    let padding = a.padding(pixels(b, x)?, [height, width], stride, dilation)?;
    b.conv2d(name, x, weight, bias, &Steps { stride, padding, dilation, output_padding: [0; 2], groups })
}

fn gemm(b: &mut Builder, name: &str, a: &Attributes<'_, '_>, inputs: &[Meaning]) -> Outcome {
    if a.float("alpha", 1.0)? != 1.0 || a.float("beta", 1.0)? != 1.0 || a.int("transA", 0)? != 0 {
        return Err("its alpha or beta is not 1, or its input is transposed".into());
    }
    let weight = constant(inputs.get(1).unwrap_or(&Meaning::Nothing), "matrix")?;
    let bias = optional(inputs.get(2).unwrap_or(&Meaning::Nothing), "bias")?;
    if a.int("transB", 0)? != 0 {
        return b.linear(name, &inputs[0], weight, bias);
    }
    let weight = weight.transposed(&[1, 0], &mut b.budget)?;
    b.linear(name, &inputs[0], &weight, bias)
}

fn pool(b: &mut Builder, a: &Attributes<'_, '_>, x: &Meaning) -> Result<Pool, String> {
    let kernel = a.sizes("kernel_shape", [0; 2])?;
    let (stride, dilation) = (a.sizes("strides", [1; 2])?, a.sizes("dilations", [1; 2])?);
    let padding = a.padding(pixels(b, x)?, kernel, stride, dilation)?;
    Ok(Pool { kernel, stride, padding, dilation, ceil_mode: a.int("ceil_mode", 0)? != 0 })
}

fn slice(b: &mut Builder, inputs: &[Meaning]) -> Outcome {
    let input = |index: usize| inputs.get(index).unwrap_or(&Meaning::Nothing);
    let (starts, ends) = (whole(input(1))?.fixed()?, whole(input(2))?.fixed()?);
    let list = |index: usize, default: Vec<i64>| match input(index) {
        Meaning::Nothing => Ok(default),
        values => whole(values)?.fixed(),
    };
    let axes = list(3, (0..starts.len() as i64).collect())?;
    let steps = list(4, vec![1; starts.len()])?;
    if [ends.len(), axes.len(), steps.len()].iter().any(|&length| length != starts.len()) || starts.len() > 8 {
        return Err("its lists differ in length".into());
    }
    let mut x = input(0).clone();
    for index in 0..starts.len() {
        x = b.slice(&x, axes[index], [starts[index], ends[index], steps[index]])?;
    }
    Ok(x)
}

fn pad(b: &mut Builder, name: &str, a: &Attributes<'_, '_>, inputs: &[Meaning]) -> Outcome {
    if a.text("mode", "constant")? != "constant" {
        return Err("it repeats or mirrors pixels".into());
    }
    let pads = whole(inputs.get(1).unwrap_or(&Meaning::Nothing))?.fixed()?;
    let value = match inputs.get(2).unwrap_or(&Meaning::Nothing) {
        Meaning::Nothing => 0.0,
        value => f64::from(constant(value, "value")?.scalar().ok_or("its value is no number")?),
    };
    let rank = b.dims(&inputs[0])?.len();
    let axes = match inputs.get(3).unwrap_or(&Meaning::Nothing) {
        Meaning::Nothing => (0..rank).collect(),
        axes => whole(axes)?.fixed()?.iter().map(|&axis| normal_axis(axis, rank)).collect::<Result<Vec<_>, _>>()?,
    };
    if pads.len() != 2 * axes.len() || rank != 4 {
        return Err(format!("it has {} sides for {} axes", pads.len(), axes.len()));
    }
    // As PyTorch has them: the last axis first.
    let mut sides = [0; 8];
    for (index, &axis) in axes.iter().enumerate() {
        sides[2 * (3 - axis)] = pads[index];
        sides[2 * (3 - axis) + 1] = pads[axes.len() + index];
    }
    b.pad(name, &inputs[0], &sides, value)
}

fn resize(b: &mut Builder, name: &str, a: &Attributes<'_, '_>, inputs: &[Meaning]) -> Outcome {
    let input = |index: usize| inputs.get(index).unwrap_or(&Meaning::Nothing);
    let given = |index: usize| !matches!(input(index), Meaning::Nothing);
    let size = if given(3) {
        let sizes = &whole(input(3))?.values;
        match **sizes {
            [_, _, Dim::Fixed(height), Dim::Fixed(width)] if height > 0 && width > 0 => {
                ResizeTo::Fixed([height as usize, width as usize])
            }
            _ => return Err("its sizes are not those of maps".into()),
        }
    } else {
        let factors = constant(input(2), "list of factors")?;
        match factors.materialized(&mut b.budget)?.as_slice() {
            &[images, channels, height, width] if images == 1.0 && channels == 1.0 => {
                ResizeTo::Factor([widened(height), widened(width)])
            }
            _ => return Err("it resizes more than height and width".into()),
        }
    };
    let whole_factors = match size {
        ResizeTo::Factor(factors) => factors.iter().all(|factor| factor.fract() == 0.0),
        _ => false,
    };
    let coordinates = a.text("coordinate_transformation_mode", "half_pixel")?;
    let method = match (a.text("mode", "nearest")?, coordinates) {
        ("linear", "half_pixel" | "pytorch_half_pixel") => ResizeMethod::Bilinear { align_corners: false },
        ("linear", "align_corners") => ResizeMethod::Bilinear { align_corners: true },
        ("nearest", "asymmetric") if a.text("nearest_mode", "round_prefer_floor")? == "floor" => ResizeMethod::Nearest,
        // Where each pixel is repeated equally often, all ways to round agree.
        ("nearest", "half_pixel" | "pytorch_half_pixel") if whole_factors => ResizeMethod::Nearest,
        (mode, _) => {
            let (mode, coordinates) = (crate::error::clean(mode), crate::error::clean(coordinates));
            return Err(format!("it resizes by {mode} with {coordinates}"));
        }
    };
    if a.int("antialias", 0)? != 0 {
        return Err("it smooths before it resizes".into());
    }
    b.resize(name, &inputs[0], size, method)
}

fn gather(b: &mut Builder, a: &Attributes<'_, '_>, x: &Meaning, at: &Meaning) -> Outcome {
    let (Meaning::Whole(values), Meaning::Whole(positions)) = (x, at) else {
        return Err("it picks numbers of a tensor".into());
    };
    b.axis(x, a.int("axis", 0)?)?;
    let pick = |&at: &i64| normal_axis(at, values.values.len()).map(|at| values.values[at]);
    let picked = positions.fixed()?.iter().map(pick).collect::<Result<Vec<_>, _>>()?;
    if picked.len() > MOST_WHOLE {
        return Err("it picks many whole numbers".into());
    }
    Ok(Meaning::Whole(Whole { values: picked.into(), scalar: positions.scalar }))
}
