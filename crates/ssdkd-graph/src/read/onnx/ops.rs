//! ONNX's operations as nodes.

use super::attributes::{Attributes, widened};
use super::constants::{constant_of, fill, float, gather, whole};
use super::external::Files;
use super::layers::{convolution, gemm, pad, pool, resize, slice};
use super::model::{self, Attribute, Node};
use crate::op::{Activation, PoolKind};
use crate::read::build::{Builder, Outcome, normal_axis};
use crate::read::constant::{Arithmetic, Constant, Origin};
use crate::read::layers::{Norm, constant, optional};
use crate::read::meaning::{Dim, MOST_WHOLE, Meaning, Whole};

/// Returns what a node makes. Its second result and the following ones are those of training.
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
            if let Meaning::Constant(matrix) = x {
                return b.averaged(name, input(1), matrix, true);
            }
            let weight = constant(input(1), "matrix")?;
            if weight.dims.len() != 2 {
                return Err("its matrix has other than 2 dimensions".into());
            }
            if b.dims(x)?.len() == 4 {
                return b.averaged(name, x, weight, false);
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
