//! PyTorch's operations as nodes.

use std::collections::HashMap;

use super::arguments::{Arguments, Value};
use super::schema::Node;
use crate::op::{Activation, PoolKind, ResizeMethod, ResizeTo};
use crate::read::build::Builder;
use crate::read::constant::{Arithmetic, Constant, Origin};
use crate::read::layers::{Norm, Steps, constant, optional};
use crate::read::meaning::{Dim, Meaning, Whole};

/// Returns the results of a node.
pub(super) fn convert(
    builder: &mut Builder,
    name: &str,
    node: &Node,
    arguments: &HashMap<String, Value>,
) -> Result<Vec<Meaning>, String> {
    let one = convert_one(builder, name, node, &Arguments(arguments))?;
    Ok(vec![one])
}

fn convert_one(b: &mut Builder, name: &str, node: &Node, a: &Arguments<'_>) -> Result<Meaning, String> {
    // Most operations call their first input `self`, some `input`.
    let x = match a.tensor("self")? {
        Meaning::Nothing => a.tensor("input")?,
        x => x,
    };
    match node.operation() {
        "conv2d" => {
            let (weight, bias) = (constant(a.tensor("weight")?, "weight")?, optional(a.tensor("bias")?, "bias")?);
            let steps = match a.0.get("padding") {
                Some(Value::Text(text)) if text == "same" => same_padding(a, weight)?,
                _ => a.steps()?,
            };
            b.conv2d(name, x, weight, bias, &steps)
        }
        "convolution" | "conv_transpose2d" => {
            let (weight, bias) = (constant(a.tensor("weight")?, "weight")?, optional(a.tensor("bias")?, "bias")?);
            let steps = a.steps()?;
            if node.operation() == "conv_transpose2d" || a.bool("transposed", false)? {
                b.conv_transpose2d(name, x, weight, bias, &steps)
            } else {
                b.conv2d(name, x, weight, bias, &steps)
            }
        }
        "batch_norm" | "_native_batch_norm_legit_no_training" => {
            if a.bool("training", false)? {
                return Err("it was exported in training mode: call model.eval() before".into());
            }
            let norm = Norm {
                scale: optional(a.tensor("weight")?, "weight")?,
                bias: optional(a.tensor("bias")?, "bias")?,
                mean: constant(a.tensor("running_mean")?, "running mean")?,
                variance: constant(a.tensor("running_var")?, "running variance")?,
                eps: a.float("eps", 1e-5)?,
                momentum: a.float("momentum", 0.1)?,
            };
            b.batch_norm(name, x, &norm)
        }
        "linear" => {
            let (weight, bias) = (constant(a.tensor("weight")?, "weight")?, optional(a.tensor("bias")?, "bias")?);
            b.linear(name, x, weight, bias)
        }
        "addmm" => {
            let weight = constant(a.tensor("mat2")?, "matrix")?.transposed(&[1, 0], &mut b.budget)?;
            if a.float("alpha", 1.0)? != 1.0 || a.float("beta", 1.0)? != 1.0 {
                return Err("its alpha or beta is not 1".into());
            }
            b.linear(name, a.tensor("mat1")?, &weight, optional(x, "bias")?)
        }
        "relu" => b.activation(name, x, Activation::Relu),
        "relu6" => b.activation(name, x, Activation::RELU6),
        "hardtanh" => b.clip(name, x, a.float("min_val", -1.0)?, a.float("max_val", 1.0)?),
        "clamp" => b.clip(name, x, a.float("min", f64::NEG_INFINITY)?, a.float("max", f64::INFINITY)?),
        "clamp_min" => b.clip(name, x, a.float("min", f64::NEG_INFINITY)?, f64::INFINITY),
        "clamp_max" => b.clip(name, x, f64::NEG_INFINITY, a.float("max", f64::INFINITY)?),
        "leaky_relu" => {
            let slope = a.float("negative_slope", 0.01)? as f32;
            b.activation(name, x, Activation::LeakyRelu { slope })
        }
        "prelu" => b.prelu(name, x, constant(a.tensor("weight")?, "slope")?),
        "sigmoid" => b.activation(name, x, Activation::Sigmoid),
        "hardsigmoid" => b.activation(name, x, Activation::HARD_SIGMOID),
        "hardswish" => b.activation(name, x, Activation::HardSwish),
        "silu" => b.activation(name, x, Activation::Silu),
        "add" | "sub" if a.float("alpha", 1.0)? != 1.0 => Err("its alpha is not 1".into()),
        "add" => b.arithmetic(name, x, &a.operand("other")?, Arithmetic::Add),
        "sub" => b.arithmetic(name, x, &a.operand("other")?, Arithmetic::Sub),
        "rsub" => b.arithmetic(name, &a.operand("other")?, x, Arithmetic::Sub),
        "mul" => b.arithmetic(name, x, &a.operand("other")?, Arithmetic::Mul),
        "div" => b.arithmetic(name, x, &a.operand("other")?, Arithmetic::Div),
        "_operator.add" | "_operator.sub" | "_operator.mul" | "_operator.floordiv" => whole(b, name, node, a),
        "_operator.getitem" => b.item(a.tensor("0")?, a.int("1", 0)?),
        "rsqrt" | "sqrt" | "neg" | "reciprocal" => {
            let x = constant(x, "input")?;
            let origin = match node.operation() {
                "rsqrt" => Origin::inverse_root(x),
                "sqrt" => Origin::root(x),
                "neg" => None,
                _ => Origin::reciprocal(x),
            };
            let f = match node.operation() {
                "rsqrt" => |x: f32| 1.0 / x.sqrt(),
                "sqrt" => f32::sqrt,
                "neg" => |x: f32| -x,
                _ => |x: f32| 1.0 / x,
            };
            Ok(Meaning::Constant(x.map(name, f, &mut b.budget)?.computed(origin)))
        }
        "cat" | "concat" | "concatenate" => b.concat(name, a.several("tensors")?, a.int("dim", 0)?),
        "slice" => {
            let bounds = [a.int("start", 0)?, a.int("end", i64::MAX)?, a.int("step", 1)?];
            b.slice(x, a.int("dim", 0)?, bounds)
        }
        "narrow" => {
            let start = a.int("start", 0)?;
            let length = a.int("length", 0)?;
            b.slice(x, a.int("dim", 0)?, [start, start.saturating_add(length), 1])
        }
        "chunk" => {
            let dim = a.int("dim", 0)?;
            let chunks = a.int("chunks", 1)?;
            let Dim::Fixed(size) = b.dims(x)?[b.axis(x, dim)?] else { return Err("it splits the images".into()) };
            if chunks < 1 {
                return Err(format!("it makes {chunks} chunks"));
            }
            b.split_evenly(x, dim, size.div_euclid(chunks) + i64::from(size % chunks != 0))
        }
        "split" | "split_with_sizes" => {
            match a.ints("split_size").and_then(|one| Ok(one.or(a.ints("split_sizes")?)))? {
                Some(sizes) if node.operation() == "split" && sizes.len() == 1 => {
                    b.split_evenly(x, a.int("dim", 0)?, sizes[0])
                }
                Some(sizes) => b.split(x, a.int("dim", 0)?, &sizes),
                None => Err("it has no sizes".into()),
            }
        }
        "view" | "reshape" | "_unsafe_view" => {
            let dims = a.dims(if a.0.contains_key("size") { "size" } else { "shape" })?;
            b.reshape(name, x, &dims.ok_or("it has no sizes")?)
        }
        "flatten" => b.flatten(name, x, a.int("start_dim", 0)?, a.int("end_dim", -1)?),
        "unflatten" => {
            let (axis, sizes) = (b.axis(x, a.int("dim", 0)?)?, a.dims("sizes")?.ok_or("it has no sizes")?);
            let mut dims = b.dims(x)?;
            dims.splice(axis..=axis, sizes);
            b.reshape(name, x, &dims)
        }
        "transpose" => {
            let rank = b.dims(x)?.len();
            let mut order = (0..rank).collect::<Vec<_>>();
            order.swap(b.axis(x, a.int("dim0", 0)?)?, b.axis(x, a.int("dim1", 1)?)?);
            b.transpose(x, &order)
        }
        "permute" => {
            let axes = a.ints("dims")?.ok_or("it has no order")?;
            let order = axes.iter().map(|&axis| b.axis(x, axis)).collect::<Result<Vec<_>, _>>()?;
            b.transpose(x, &order)
        }
        "t" => b.transpose(x, &[1, 0]),
        "squeeze" => match a.ints("dim")? {
            Some(axes) => b.squeeze(name, x, &axes),
            None => Err("it leaves the axes open".into()),
        },
        "unsqueeze" => b.unsqueeze(name, x, &[a.int("dim", 0)?]),
        "contiguous" | "clone" | "alias" | "detach" | "dropout" | "feature_dropout" | "lift_fresh_copy" => {
            if a.bool("train", false)? {
                return Err("it was exported in training mode: call model.eval() before".into());
            }
            Ok(x.clone())
        }
        "to" | "_to_copy" => match a.int("dtype", 7)? {
            7 => Ok(x.clone()),
            other => Err(format!("it changes numbers to type {other}")),
        },
        "max_pool2d" | "max_pool2d_with_indices" => b.max_pool(name, x, a.pool()?),
        "avg_pool2d" => {
            if a.ints("divisor_override")?.is_some() {
                return Err("it overrides its divisor".into());
            }
            b.avg_pool(name, x, a.pool()?, a.bool("count_include_pad", true)?)
        }
        "adaptive_avg_pool2d" => b.adaptive_pool(name, x, PoolKind::Average, a.pair("output_size", None)?),
        "adaptive_max_pool2d" => b.adaptive_pool(name, x, PoolKind::Max, a.pair("output_size", None)?),
        "mean" => {
            let axes = a.ints("dim")?.ok_or("it is the mean of everything")?;
            b.reduce(name, x, &axes, a.bool("keepdim", false)?, PoolKind::Average)
        }
        "amax" => {
            let axes = a.ints("dim")?.ok_or("it is the largest number of everything")?;
            b.reduce(name, x, &axes, a.bool("keepdim", false)?, PoolKind::Max)
        }
        "upsample_bilinear2d" => {
            let method = ResizeMethod::Bilinear { align_corners: a.bool("align_corners", false)? };
            resize(b, name, x, a, method)
        }
        "upsample_nearest2d" => resize(b, name, x, a, ResizeMethod::Nearest),
        "pad" | "constant_pad_nd" => {
            if !matches!(a.0.get("mode"), None | Some(Value::Text(_)))
                || matches!(a.0.get("mode"), Some(Value::Text(mode)) if mode != "constant")
            {
                return Err("it repeats or mirrors pixels".into());
            }
            b.pad(name, x, &a.ints("pad")?.ok_or("it has no sides")?, a.float("value", 0.0)?)
        }
        "softmax" | "_softmax" => b.softmax(name, x, a.int("dim", -1)?, false),
        "log_softmax" | "_log_softmax" => b.softmax(name, x, a.int("dim", -1)?, true),
        "sym_size" => {
            let axis = b.axis(x, a.int("dim", 0)?)?;
            Ok(Meaning::Whole(Whole::one(b.dims(x)?[axis])))
        }
        // Checks of the exporter, which have no result.
        _ if node.outputs.is_empty() => Ok(Meaning::Nothing),
        _ => Err("there is no such operation here".into()),
    }
}

/// Returns padding that keeps the size at stride 1, with the odd pixel at the bottom and on the right.
fn same_padding(a: &Arguments<'_>, weight: &Constant) -> Result<Steps, String> {
    let (stride, dilation) = (a.pair("stride", Some([1; 2]))?, a.pair("dilation", Some([1; 2]))?);
    let &[_, _, height, width] = &*weight.dims else { return Err("its weight has other than 4 dimensions".into()) };
    let all = [height, width].map(|size| size.saturating_sub(1));
    let all = [all[0].saturating_mul(dilation[0]), all[1].saturating_mul(dilation[1])];
    let (top, left) = (all[0] / 2, all[1] / 2);
    Ok(Steps {
        stride,
        padding: [top, left, all[0] - top, all[1] - left],
        dilation,
        output_padding: [0; 2],
        groups: usize::try_from(a.int("groups", 1)?).map_err(|_| "its groups are negative")?,
    })
}

/// Arithmetic of whole numbers, whose arguments have no names.
fn whole(b: &mut Builder, name: &str, node: &Node, a: &Arguments<'_>) -> Result<Meaning, String> {
    let operand = |key: &str, position: &str| -> Result<Meaning, String> {
        let dims = a.dims(key)?.map_or_else(|| a.dims(position), |dims| Ok(Some(dims)))?;
        let dims = dims.ok_or("it has too few arguments")?;
        Ok(Meaning::Whole(Whole { values: dims.into(), scalar: true }))
    };
    let kind = match node.operation() {
        "_operator.add" => Arithmetic::Add,
        "_operator.sub" => Arithmetic::Sub,
        "_operator.mul" => Arithmetic::Mul,
        _ => Arithmetic::Div,
    };
    b.arithmetic(name, &operand("a", "0")?, &operand("b", "1")?, kind)
}

fn resize(
    b: &mut Builder,
    name: &str,
    x: &Meaning,
    a: &Arguments<'_>,
    method: ResizeMethod,
) -> Result<Meaning, String> {
    let factors = match a.0.get("scale_factors") {
        Some(Value::Floats(factors)) => Some(factors.clone()),
        _ => None,
    };
    let size = match (a.ints("output_size")?.as_deref(), factors.as_deref()) {
        (Some(&[height, width]), _) if height > 0 && width > 0 => ResizeTo::Fixed([height as usize, width as usize]),
        (_, Some(&[height, width])) => ResizeTo::Factor([height, width]),
        _ => return Err("it has neither a size nor factors".into()),
    };
    b.resize(name, x, size, method)
}
