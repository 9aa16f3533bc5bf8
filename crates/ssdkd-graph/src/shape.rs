//! Shapes of values: what each operation makes of the shapes of its inputs.
//!
//! The batch is not part of a shape: it is any number, and no operation depends on it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::op::{Activation, Conv2d, ConvTranspose2d, Op, Pool, ResizeTo};

/// A tensor that nodes use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// Its sizes, as PyTorch stores it.
    pub shape: Vec<usize>,
    /// Whether training changes it. Running statistics and constants are not trained.
    pub trained: bool,
}

/// The shape of a value, without the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// (B, C, H, W) as PyTorch counts; the executor stores (B, H, W, C).
    Map {
        /// Channels.
        channels: usize,
        /// Rows of pixels.
        height: usize,
        /// Columns of pixels.
        width: usize,
    },
    /// (B, F).
    Rows {
        /// Numbers in a row.
        features: usize,
    },
}

/// Most channels, pixels along a side, or padding. Sizes beyond it are mistakes or attacks, and products stay countable.
const LARGEST: usize = 1 << 24;

/// Most numbers of one value for one image.
const MOST_NUMBERS: usize = 1 << 32;

impl Shape {
    /// Returns channels of a map, features of a row.
    pub fn channels(self) -> usize {
        match self {
            Self::Map { channels, .. } => channels,
            Self::Rows { features } => features,
        }
    }

    /// Returns height and width; a row is one pixel.
    pub fn size(self) -> [usize; 2] {
        match self {
            Self::Map { height, width, .. } => [height, width],
            Self::Rows { .. } => [1, 1],
        }
    }

    /// Numbers for one image.
    pub fn numbers(self) -> usize {
        let [height, width] = self.size();
        self.channels() * height * width
    }

    fn checked(self) -> Result<Self, String> {
        let [height, width] = self.size();
        let sizes = [self.channels(), height, width];
        if sizes.contains(&0) {
            return Err(format!("its result {self} is empty"));
        }
        let numbers = sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
        if sizes.iter().any(|&size| size > LARGEST) || numbers.is_none_or(|numbers| numbers > MOST_NUMBERS) {
            return Err(format!("its result {self} is too large"));
        }
        Ok(self)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map { channels, height, width } => write!(f, "[batch, {channels}, {height}, {width}]"),
            Self::Rows { features } => write!(f, "[batch, {features}]"),
        }
    }
}

/// Infers the shape of `op`'s result. The error says what does not fit.
pub(crate) fn infer(op: &Op, inputs: &[Shape], tensors: &BTreeMap<String, TensorSpec>) -> Result<Shape, String> {
    check_count(op, inputs.len())?;
    let shape = match op {
        Op::Input { channels, height, width } => Shape::Map { channels: *channels, height: *height, width: *width },
        Op::Conv2d(conv) => convolution(conv, map(inputs[0])?, tensors)?,
        Op::ConvTranspose2d(conv) => transposed(conv, map(inputs[0])?, tensors)?,
        Op::BatchNorm(norm) => {
            if !(norm.eps.is_finite() && norm.eps >= 0.0) {
                return Err(format!("its epsilon {} is not a positive number", norm.eps));
            }
            if !(0.0..=1.0).contains(&norm.momentum) {
                return Err(format!("its momentum {} is not between 0 and 1", norm.momentum));
            }
            let channels = inputs[0].channels();
            for name in [&norm.weight, &norm.bias, &norm.running_mean, &norm.running_var] {
                expect(tensors, name, &[channels])?;
            }
            expect(tensors, &norm.num_batches_tracked, &[])?;
            inputs[0]
        }
        Op::Affine { scale, shift } => {
            for name in scale.iter().chain(shift) {
                expect(tensors, name, &[inputs[0].channels()])?;
            }
            inputs[0]
        }
        Op::Linear { weight, bias } => {
            let Shape::Rows { features } = inputs[0] else {
                return Err(format!("it takes rows [batch, features], not {}", inputs[0]));
            };
            let &[outputs, expected] = dims(tensors, weight)? else {
                return Err(format!("its weight has {} dimensions instead of 2", dims(tensors, weight)?.len()));
            };
            if expected != features {
                return Err(format!(
                    "its weight [{outputs}, {expected}] takes {expected} features, its input has {features}"
                ));
            }
            if let Some(bias) = bias {
                expect(tensors, bias, &[outputs])?;
            }
            Shape::Rows { features: outputs }
        }
        Op::Activation(activation) => {
            check_activation(activation, inputs[0], tensors)?;
            inputs[0]
        }
        Op::Add | Op::Mul => broadcast(inputs[0], inputs[1])?,
        Op::Concat => concatenated(inputs)?,
        Op::SliceChannels { start, end } => {
            let channels = inputs[0].channels();
            if start >= end || *end > channels {
                return Err(format!("the channels {start}..{end} are not among its input's {channels}"));
            }
            with_channels(inputs[0], end - start)
        }
        Op::ChannelShuffle { groups } => {
            let (channels, ..) = map(inputs[0])?;
            if *groups == 0 || !channels.is_multiple_of(*groups) {
                return Err(format!("{channels} channels do not split into {groups} groups"));
            }
            inputs[0]
        }
        Op::SubsamplePad { stride, before, after } => {
            let (channels, height, width) = map(inputs[0])?;
            let added = limited(*before)? + limited(*after)?;
            if *stride == 0 {
                return Err("its stride is 0".into());
            }
            let (height, width) = (height.div_ceil(*stride), width.div_ceil(*stride));
            Shape::Map { channels: channels + added, height, width }
        }
        Op::Pad { sides, .. } => {
            let (channels, height, width) = map(inputs[0])?;
            let [top, left, bottom, right] = limited_all(*sides)?;
            Shape::Map { channels, height: height + top + bottom, width: width + left + right }
        }
        Op::MaxPool(pool) | Op::AvgPool { pool, .. } => pooled(pool, map(inputs[0])?)?,
        Op::AdaptivePool { size: [height, width], .. } => {
            let (channels, ..) = map(inputs[0])?;
            Shape::Map { channels, height: *height, width: *width }
        }
        Op::Resize { size, .. } => resized(*size, inputs)?,
        Op::Flatten => {
            map(inputs[0])?;
            Shape::Rows { features: inputs[0].numbers() }
        }
        Op::Unflatten { channels, height, width } => {
            let to = Shape::Map { channels: *channels, height: *height, width: *width }.checked()?;
            let Shape::Rows { features } = inputs[0] else {
                return Err(format!("it takes rows [batch, features], not {}", inputs[0]));
            };
            if to.numbers() != features {
                return Err(format!("{features} features do not make a map {to}"));
            }
            to
        }
        Op::Softmax { .. } => inputs[0],
    };
    shape.checked()
}

fn check_count(op: &Op, found: usize) -> Result<(), String> {
    let (least, most) = match op {
        Op::Input { .. } => (0, 0),
        Op::Add | Op::Mul | Op::Resize { size: ResizeTo::Like, .. } => (2, 2),
        Op::Concat => (2, usize::MAX),
        _ => (1, 1),
    };
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(format!("it has {found} inputs instead of {least}{}", if most > least { " or more" } else { "" }))
}

fn map(shape: Shape) -> Result<(usize, usize, usize), String> {
    match shape {
        Shape::Map { channels, height, width } => Ok((channels, height, width)),
        Shape::Rows { .. } => Err(format!("it takes maps [batch, channels, height, width], not {shape}")),
    }
}

fn with_channels(shape: Shape, channels: usize) -> Shape {
    match shape {
        Shape::Map { height, width, .. } => Shape::Map { channels, height, width },
        Shape::Rows { .. } => Shape::Rows { features: channels },
    }
}

fn dims<'a>(tensors: &'a BTreeMap<String, TensorSpec>, name: &str) -> Result<&'a [usize], String> {
    match tensors.get(name) {
        Some(tensor) => Ok(&tensor.shape),
        None => Err(format!("the tensor {} is missing", crate::error::clean(name))),
    }
}

fn expect(tensors: &BTreeMap<String, TensorSpec>, name: &str, wanted: &[usize]) -> Result<(), String> {
    let found = dims(tensors, name)?;
    if found == wanted {
        return Ok(());
    }
    Err(format!("the tensor {} has shape {found:?} instead of {wanted:?}", crate::error::clean(name)))
}

/// Returns a size that others may be added to without overflow.
fn limited(size: usize) -> Result<usize, String> {
    if size > LARGEST { Err(format!("its size {size} is too large")) } else { Ok(size) }
}

fn limited_all<const N: usize>(sizes: [usize; N]) -> Result<[usize; N], String> {
    sizes.iter().try_for_each(|&size| limited(size).map(drop))?;
    Ok(sizes)
}

/// Returns what the axes of a convolution or a pooling have to fulfil.
fn check_steps(kernel: [usize; 2], stride: [usize; 2], dilation: [usize; 2]) -> Result<(), String> {
    let sizes = [kernel, stride, dilation].concat();
    if sizes.contains(&0) {
        return Err(format!("its kernel {kernel:?}, stride {stride:?} or dilation {dilation:?} is 0"));
    }
    sizes.iter().try_for_each(|&size| limited(size).map(drop))
}

/// Windows that fit into `size` pixels with `padding` around: with both kinds of rounding.
fn windows(
    size: usize,
    padding: [usize; 2],
    kernel: usize,
    stride: usize,
    dilation: usize,
    ceil: bool,
) -> Result<usize, String> {
    let [before, after] = padding;
    let padded = size + before + after;
    let reach = (kernel - 1) * dilation + 1;
    let Some(rest) = padded.checked_sub(reach) else {
        return Err(format!("a window of {reach} pixels does not fit into {padded}"));
    };
    let mut count = if ceil { rest.div_ceil(stride) } else { rest / stride } + 1;
    // A window that begins beyond the image and its first padding is left out, as in PyTorch.
    if ceil && (count - 1) * stride >= size + before {
        count -= 1;
    }
    Ok(count)
}

fn convolution(
    conv: &Conv2d,
    (channels, height, width): (usize, usize, usize),
    tensors: &BTreeMap<String, TensorSpec>,
) -> Result<Shape, String> {
    let &[outputs, per_group, kernel_height, kernel_width] = dims(tensors, &conv.weight)? else {
        return Err(format!("its weight has {} dimensions instead of 4", dims(tensors, &conv.weight)?.len()));
    };
    let Conv2d { stride, dilation, groups, .. } = *conv;
    check_steps([kernel_height, kernel_width], stride, dilation)?;
    let [top, left, bottom, right] = limited_all(conv.padding)?;
    if groups == 0 || !outputs.is_multiple_of(groups) {
        return Err(format!("{outputs} output channels do not split into {groups} groups"));
    }
    if per_group.checked_mul(groups) != Some(channels) {
        return Err(format!(
            "its weight takes {per_group} channels in each of {groups} groups, its input has {channels}"
        ));
    }
    if let Some(bias) = &conv.bias {
        expect(tensors, bias, &[outputs])?;
    }
    Ok(Shape::Map {
        channels: outputs,
        height: windows(height, [top, bottom], kernel_height, stride[0], dilation[0], false)?,
        width: windows(width, [left, right], kernel_width, stride[1], dilation[1], false)?,
    })
}

fn transposed(
    conv: &ConvTranspose2d,
    (channels, height, width): (usize, usize, usize),
    tensors: &BTreeMap<String, TensorSpec>,
) -> Result<Shape, String> {
    let &[inputs, per_group, kernel_height, kernel_width] = dims(tensors, &conv.weight)? else {
        return Err(format!("its weight has {} dimensions instead of 4", dims(tensors, &conv.weight)?.len()));
    };
    let ConvTranspose2d { stride, dilation, groups, .. } = *conv;
    check_steps([kernel_height, kernel_width], stride, dilation)?;
    let [top, left, bottom, right] = limited_all(conv.padding)?;
    let [more_height, more_width] = limited_all(conv.output_padding)?;
    if groups == 0 || inputs != channels || !channels.is_multiple_of(groups) {
        return Err(format!("its weight takes {inputs} channels in {groups} groups, its input has {channels}"));
    }
    let outputs = limited(per_group.saturating_mul(groups))?;
    if let Some(bias) = &conv.bias {
        expect(tensors, bias, &[outputs])?;
    }
    let side = |size: usize, cut: usize, kernel: usize, stride: usize, dilation: usize, more: usize| {
        ((size - 1) * stride + (kernel - 1) * dilation + 1 + more)
            .checked_sub(cut)
            .ok_or_else(|| "its padding cuts off the whole result".to_string())
    };
    Ok(Shape::Map {
        channels: outputs,
        height: side(height, top + bottom, kernel_height, stride[0], dilation[0], more_height)?,
        width: side(width, left + right, kernel_width, stride[1], dilation[1], more_width)?,
    })
}

fn check_activation(
    activation: &Activation,
    input: Shape,
    tensors: &BTreeMap<String, TensorSpec>,
) -> Result<(), String> {
    match activation {
        Activation::Clip { min, max } if !(min.is_finite() && max.is_finite() && min < max) => {
            Err(format!("its interval {min} to {max} is not one of finite numbers"))
        }
        Activation::LeakyRelu { slope } if !slope.is_finite() => Err(format!("its slope {slope} is not finite")),
        Activation::HardSigmoid { alpha, beta } if !(alpha.is_finite() && beta.is_finite()) => {
            Err(format!("its alpha {alpha} or beta {beta} is not finite"))
        }
        Activation::Prelu { weight } if dims(tensors, weight)? != [1] => expect(tensors, weight, &[input.channels()]),
        _ => Ok(()),
    }
}

fn broadcast(a: Shape, b: Shape) -> Result<Shape, String> {
    let differ = || format!("its inputs {a} and {b} do not fit together");
    let side = |a: usize, b: usize| match (a, b) {
        (a, b) if a == b => Ok(a),
        (1, more) | (more, 1) => Ok(more),
        _ => Err(differ()),
    };
    match (a, b) {
        (Shape::Rows { features: a }, Shape::Rows { features: b }) => Ok(Shape::Rows { features: side(a, b)? }),
        (Shape::Map { channels: ac, height: ah, width: aw }, Shape::Map { channels: bc, height: bh, width: bw }) => {
            Ok(Shape::Map { channels: side(ac, bc)?, height: side(ah, bh)?, width: side(aw, bw)? })
        }
        _ => Err(differ()),
    }
}

fn concatenated(inputs: &[Shape]) -> Result<Shape, String> {
    let first = with_channels(inputs[0], 1);
    if let Some(other) = inputs.iter().find(|&&shape| with_channels(shape, 1) != first) {
        return Err(format!("its inputs {} and {other} differ in more than channels", inputs[0]));
    }
    let channels = inputs.iter().map(|shape| shape.channels()).fold(0, usize::saturating_add);
    Ok(with_channels(inputs[0], channels))
}

fn pooled(pool: &Pool, (channels, height, width): (usize, usize, usize)) -> Result<Shape, String> {
    let Pool { kernel, stride, dilation, ceil_mode, .. } = *pool;
    check_steps(kernel, stride, dilation)?;
    let [top, left, bottom, right] = limited_all(pool.padding)?;
    if [top, bottom].iter().any(|&side| side >= kernel[0]) || [left, right].iter().any(|&side| side >= kernel[1]) {
        return Err(format!("its padding {:?} is as large as its window {kernel:?}", pool.padding));
    }
    Ok(Shape::Map {
        channels,
        height: windows(height, [top, bottom], kernel[0], stride[0], dilation[0], ceil_mode)?,
        width: windows(width, [left, right], kernel[1], stride[1], dilation[1], ceil_mode)?,
    })
}

fn resized(size: ResizeTo, inputs: &[Shape]) -> Result<Shape, String> {
    let (channels, height, width) = map(inputs[0])?;
    let [height, width] = match size {
        ResizeTo::Fixed(size) => size,
        ResizeTo::Like => {
            map(inputs[1])?;
            inputs[1].size()
        }
        ResizeTo::Factor(factors) => {
            if factors.iter().any(|&factor| !(factor.is_finite() && factor > 0.0)) {
                return Err(format!("its factors {factors:?} are not positive numbers"));
            }
            // A float too large for the cast saturates, and is refused as too large.
            [(height as f64 * factors[0]).floor() as usize, (width as f64 * factors[1]).floor() as usize]
        }
    };
    Ok(Shape::Map { channels, height, width })
}
