//! Rows of single kernels: a convolution or a resize, and each of its gradients alone.

use candle_core::{Device, Result, Tensor, bail};
use ssdkd_ops::{self as ops, Conv2dSpec, Interpolation, Value};

use super::{Step, random};

/// One 3×3 convolution, `MAPxINxOUT`: the shapes that the CIFAR networks spend their time on.
const CIFAR: [&str; 6] = ["32x16x16", "32x32x32", "32x64x64", "16x64x64", "8x128x128", "4x512x512"];

/// Convolutions of networks at 224 pixels, `MAPxINxOUT-KxK[-sSTRIDE][-depthwise]`.
const LARGE: [&str; 17] = [
    "224x3x64-7x7-s2",
    "224x3x32-3x3-s2",
    "56x128x128-3x3-s2",
    "14x512x512-3x3-s2",
    "56x64x64-3x3",
    "14x256x256-3x3",
    "56x24x144-1x1",
    "56x64x256-1x1",
    "14x96x576-1x1",
    "14x1024x256-1x1",
    "7x320x1280-1x1",
    "112x32x32-3x3-depthwise",
    "112x96x96-3x3-s2-depthwise",
    "14x576x576-3x3-depthwise",
    "28x240x240-5x5-depthwise",
    "56x144x144-5x5-s2-depthwise",
    "14x672x672-5x5-s2-depthwise",
];

/// A bilinear resize, `FROMxCHANNELSxTO`.
const RESIZES: [&str; 2] = ["28x21x224", "14x256x28"];

/// Images in a row of networks at 224 pixels.
pub const BATCH: usize = 16;

/// Calls in a step: alone one would be too short to time.
const CALLS: usize = 10;

pub fn cifar_rows(batch: usize) -> impl Iterator<Item = String> {
    rows("conv", &["forward", "input", "weight"], &CIFAR, batch)
}

pub fn large_rows() -> impl Iterator<Item = String> {
    let convolutions = rows("conv", &["forward", "input", "weight"], &LARGE, BATCH);
    convolutions.chain(rows("resize", &["forward", "input"], &RESIZES, BATCH))
}

fn rows<'a>(
    kernel: &'a str,
    directions: &'a [&'a str],
    shapes: &'a [&'a str],
    batch: usize,
) -> impl Iterator<Item = String> + 'a {
    directions
        .iter()
        .flat_map(move |direction| shapes.iter().map(move |shape| format!("{kernel}-{direction} {shape} {batch}")))
}

/// A square convolution whose padding keeps the middle of the kernel on the map.
struct Convolution {
    map: usize,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    spec: Conv2dSpec,
}

impl Convolution {
    fn parse(text: &str) -> Result<Self> {
        let mut words = text.split('-');
        let [map, inputs, outputs] = sizes(words.next().unwrap_or_default(), text)?;
        let (mut kernel, mut stride, mut groups) = (3, 1, 1);
        for word in words {
            if word == "depthwise" {
                groups = inputs;
            } else if let Some(number) = word.strip_prefix('s') {
                stride = number.parse().map_err(candle_core::Error::wrap)?;
            } else {
                let side = word.split('x').next().unwrap_or_default();
                kernel = side.parse().map_err(candle_core::Error::wrap)?;
            }
        }
        Ok(Self { map, inputs, outputs, kernel, spec: Conv2dSpec { groups, ..Conv2dSpec::new(stride, kernel / 2) } })
    }
}

fn sizes(text: &str, row: &str) -> Result<[usize; 3]> {
    let sizes = text.split('x').filter_map(|size| size.parse().ok()).collect::<Vec<usize>>();
    let Ok(sizes) = sizes.try_into() else { bail!("a kernel begins with three sizes AxBxC, not {row:?}") };
    Ok(sizes)
}

/// The output, the input's gradient or the weight's gradient alone, [`CALLS`] times.
pub fn convolution(direction: &str, shape: &str, batch: usize, device: &Device) -> Result<Step> {
    let Convolution { map, inputs, outputs, kernel, spec } = Convolution::parse(shape)?;
    let x = random((batch, map, map, inputs), device)?;
    let weight = random((outputs, inputs / spec.groups, kernel, kernel), device)?;
    let (x, weight) = match direction {
        "forward" => (Value::constant(x), Value::constant(weight)),
        "input" => (Value::leaf(&x), Value::constant(weight)),
        "weight" => (Value::constant(x), Value::leaf(&weight)),
        _ => bail!("{direction:?} is not a direction of a convolution"),
    };
    repeated(direction, device, move || ops::conv2d(&x, &weight, None, spec))
}

/// The output or the input's gradient of a bilinear resize, [`CALLS`] times.
pub fn resize(direction: &str, shape: &str, batch: usize, device: &Device) -> Result<Step> {
    let [from, channels, to] = sizes(shape, shape)?;
    let x = random((batch, from, from, channels), device)?;
    let x = match direction {
        "forward" => Value::constant(x),
        "input" => Value::leaf(&x),
        _ => bail!("{direction:?} is not a direction of a resize"),
    };
    repeated(direction, device, move || ops::resize(&x, [to; 2], Interpolation::Bilinear { align_corners: false }))
}

fn repeated(direction: &str, device: &Device, forward: impl Fn() -> Result<Value> + 'static) -> Result<Step> {
    if direction == "forward" {
        return Ok(Box::new(move || (0..CALLS).try_for_each(|_| forward().map(|_| ()))));
    }
    let y = forward()?;
    let &[batch, height, width, channels] = y.dims() else { bail!("the result has {} axes, not 4", y.dims().len()) };
    let gradient: Tensor = random((batch, height, width, channels), device)?;
    Ok(Box::new(move || (0..CALLS).try_for_each(|_| y.clone().backward_from(gradient.clone()).map(|_| ()))))
}
