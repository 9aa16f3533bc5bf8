//! ONNX's operations with many attributes.

use super::attributes::{Attributes, widened};
use super::constants::whole;
use crate::op::{Pool, ResizeMethod, ResizeTo};
use crate::read::build::{Builder, Outcome, normal_axis};
use crate::read::layers::{Steps, constant, optional};
use crate::read::meaning::{Dim, Meaning};
use crate::shape::Shape;

pub(super) fn pixels(b: &mut Builder, x: &Meaning) -> Result<[usize; 2], String> {
    let id = b.value(x)?;
    match b.shape(id) {
        Shape::Map { height, width, .. } => Ok([height, width]),
        Shape::Rows { .. } => Err("its input is no map".into()),
    }
}

pub(super) fn convolution(b: &mut Builder, name: &str, a: &Attributes<'_, '_>, inputs: &[Meaning]) -> Outcome {
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

pub(super) fn gemm(b: &mut Builder, name: &str, a: &Attributes<'_, '_>, inputs: &[Meaning]) -> Outcome {
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

pub(super) fn pool(b: &mut Builder, a: &Attributes<'_, '_>, x: &Meaning) -> Result<Pool, String> {
    let kernel = a.sizes("kernel_shape", [0; 2])?;
    let (stride, dilation) = (a.sizes("strides", [1; 2])?, a.sizes("dilations", [1; 2])?);
    let padding = a.padding(pixels(b, x)?, kernel, stride, dilation)?;
    Ok(Pool { kernel, stride, padding, dilation, ceil_mode: a.int("ceil_mode", 0)? != 0 })
}

pub(super) fn slice(b: &mut Builder, inputs: &[Meaning]) -> Outcome {
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

pub(super) fn pad(b: &mut Builder, name: &str, a: &Attributes<'_, '_>, inputs: &[Meaning]) -> Outcome {
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

pub(super) fn resize(b: &mut Builder, name: &str, a: &Attributes<'_, '_>, inputs: &[Meaning]) -> Outcome {
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
