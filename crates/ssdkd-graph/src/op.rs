//! The operations of a graph: a small closed set, with PyTorch's meaning.
//!
//! Sizes are (height, width), sides are (top, left, bottom, right). Tensors are named as in the `state_dict`.

use serde::{Deserialize, Serialize};

/// What a node computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// The image that the network takes. Every graph has exactly one, as its first node.
    Input {
        /// Color channels.
        channels: usize,
        /// Rows of pixels that the network was exported with.
        height: usize,
        /// Columns of pixels that the network was exported with.
        width: usize,
    },
    /// A convolution.
    Conv2d(Conv2d),
    /// A transposed convolution.
    ConvTranspose2d(ConvTranspose2d),
    /// Batch normalization of maps or rows.
    BatchNorm(BatchNorm),
    /// `scale · x + shift`, with one number of each per channel.
    Affine {
        /// The tensor (C,) that multiplies; `None` is 1.
        scale: Option<String>,
        /// The tensor (C,) that is added; `None` is 0.
        shift: Option<String>,
    },
    /// A fully connected layer on rows.
    Linear {
        /// The tensor (out, in).
        weight: String,
        /// The tensor (out,).
        bias: Option<String>,
    },
    /// A function of each number.
    Activation(Activation),
    /// The sum of two values. A map with one channel or one pixel is repeated where the other has more.
    Add,
    /// The product of two values, repeated as in [`Op::Add`].
    Mul,
    /// Two or more values behind each other along the channels.
    Concat,
    /// The channels from `start` up to but not including `end`.
    SliceChannels {
        /// The first channel.
        start: usize,
        /// One more than the last channel.
        end: usize,
    },
    /// Channel i · (C / groups) + j moves to j · groups + i.
    ChannelShuffle {
        /// How many groups are interleaved.
        groups: usize,
    },
    /// Every `stride`-th pixel, with channels of zeros before and after: the shortcut without parameters of CIFAR ResNets.
    SubsamplePad {
        /// Pixels between those kept.
        stride: usize,
        /// Channels of zeros before.
        before: usize,
        /// Channels of zeros after.
        after: usize,
    },
    /// Pixels around an image.
    Pad {
        /// Pixels on each side: top, left, bottom, right.
        sides: [usize; 4],
        /// What the new pixels are.
        value: PadValue,
    },
    /// The largest number of each window. Padding is minus infinity.
    MaxPool(Pool),
    /// The mean of each window.
    AvgPool {
        /// The windows.
        pool: Pool,
        /// Whether pixels of padding count as zeros.
        count_padding: bool,
    },
    /// A pooling to a fixed size, as PyTorch's `AdaptiveAvgPool2d` and `AdaptiveMaxPool2d`.
    AdaptivePool {
        /// What is taken of each window.
        kind: PoolKind,
        /// Height and width of the result; `[1, 1]` is global pooling.
        size: [usize; 2],
    },
    /// A change of resolution.
    Resize {
        /// The new size.
        size: ResizeTo,
        /// How pixels between pixels are found.
        method: ResizeMethod,
    },
    /// A map as a row, channel by channel, as PyTorch stores it.
    Flatten,
    /// A row as a map, channel by channel.
    Unflatten {
        /// Channels of the map.
        channels: usize,
        /// Height of the map.
        height: usize,
        /// Width of the map.
        width: usize,
    },
    /// The probabilities of classes, along the channels.
    Softmax {
        /// Whether the result is their logarithm.
        log: bool,
    },
}

/// A convolution: weight (out, in / groups, height, width).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv2d {
    /// The weight's name.
    pub weight: String,
    /// The bias's name, a tensor (out,).
    pub bias: Option<String>,
    /// Pixels between neighboring windows.
    pub stride: [usize; 2],
    /// Zero pixels on each side: top, left, bottom, right.
    pub padding: [usize; 4],
    /// Pixels between neighboring taps of the kernel.
    pub dilation: [usize; 2],
    /// Independent groups of channels.
    pub groups: usize,
}

/// A transposed convolution: weight (in, out / groups, height, width).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvTranspose2d {
    /// The weight's name.
    pub weight: String,
    /// The bias's name, a tensor (out,).
    pub bias: Option<String>,
    /// Pixels between the results of neighboring pixels.
    pub stride: [usize; 2],
    /// Pixels cut off from each side of the result: top, left, bottom, right.
    pub padding: [usize; 4],
    /// Rows and columns added at the bottom and on the right.
    pub output_padding: [usize; 2],
    /// Pixels between neighboring taps of the kernel.
    pub dilation: [usize; 2],
    /// Independent groups of channels.
    pub groups: usize,
}

/// Batch normalization: every tensor but the last is (C,).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchNorm {
    /// The factor's name.
    pub weight: String,
    /// The name of what is added.
    pub bias: String,
    /// The running mean's name.
    pub running_mean: String,
    /// The running variance's name.
    pub running_var: String,
    /// The name of the count of batches, a whole number.
    pub num_batches_tracked: String,
    /// Added to the variance.
    pub eps: f64,
    /// How much of a batch's statistics moves into the running ones, as PyTorch counts it.
    pub momentum: f64,
}

/// A function of each number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x limited to an interval; ReLU6 is from 0 to 6.
    Clip {
        /// Smallest result.
        min: f32,
        /// Largest result.
        max: f32,
    },
    /// x where it is positive, slope · x elsewhere.
    LeakyRelu {
        /// Factor of negative numbers.
        slope: f32,
    },
    /// x where it is positive, slope · x elsewhere, with a trained slope.
    Prelu {
        /// The slope's name, a tensor (C,) or (1,).
        weight: String,
    },
    /// 1 / (1 + e^−x).
    Sigmoid,
    /// alpha · x + beta limited to 0 to 1. PyTorch has alpha 1/6 and beta 1/2.
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Value at 0.
        beta: f32,
    },
    /// x · HardSigmoid(x).
    HardSwish,
    /// x · Sigmoid(x).
    Silu,
}

/// Pooling windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Height and width of a window.
    pub kernel: [usize; 2],
    /// Pixels between neighboring windows.
    pub stride: [usize; 2],
    /// Pixels on each side: top, left, bottom, right.
    pub padding: [usize; 4],
    /// Pixels between neighboring pixels of a window.
    pub dilation: [usize; 2],
    /// Whether a last window may reach over the edge.
    pub ceil_mode: bool,
}

/// What a pooling takes of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolKind {
    /// The mean.
    Average,
    /// The largest number.
    Max,
}

/// What pixels of padding are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PadValue {
    /// 0.
    Zero,
    /// Minus infinity, before a max pooling.
    NegativeInfinity,
}

/// The size that an image is brought to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ResizeTo {
    /// Height and width.
    Fixed([usize; 2]),
    /// Factors of height and width.
    Factor([f64; 2]),
    /// The size of the node's second input.
    Like,
}

/// How a pixel between pixels is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ResizeMethod {
    /// The pixel at ⌊i · old size / new size⌋, as PyTorch's `nearest`.
    Nearest,
    /// Linear in both directions.
    Bilinear {
        /// Whether the corners' centers stay where they are.
        align_corners: bool,
    },
}

/// What a tensor is to its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A kernel or matrix.
    Weight,
    /// Added to each channel.
    Bias,
    /// A factor of each channel.
    Scale,
    /// A slope of each channel.
    Slope,
    /// Running mean.
    RunningMean,
    /// Running variance.
    RunningVar,
    /// Count of batches.
    BatchCount,
}

impl Op {
    /// Returns its name in errors and listings.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Input { .. } => "input",
            Self::Conv2d(_) => "conv2d",
            Self::ConvTranspose2d(_) => "conv_transpose2d",
            Self::BatchNorm(_) => "batch_norm",
            Self::Affine { .. } => "affine",
            Self::Linear { .. } => "linear",
            Self::Activation(activation) => activation.kind(),
            Self::Add => "add",
            Self::Mul => "mul",
            Self::Concat => "concat",
            Self::SliceChannels { .. } => "slice_channels",
            Self::ChannelShuffle { .. } => "channel_shuffle",
            Self::SubsamplePad { .. } => "subsample_pad",
            Self::Pad { .. } => "pad",
            Self::MaxPool(_) => "max_pool",
            Self::AvgPool { .. } => "avg_pool",
            Self::AdaptivePool { .. } => "adaptive_pool",
            Self::Resize { .. } => "resize",
            Self::Flatten => "flatten",
            Self::Unflatten { .. } => "unflatten",
            Self::Softmax { .. } => "softmax",
        }
    }

    /// Returns the tensors it uses.
    pub fn tensors(&self) -> Vec<(&str, Role)> {
        match self {
            Self::Conv2d(Conv2d { weight, bias, .. })
            | Self::ConvTranspose2d(ConvTranspose2d { weight, bias, .. })
            | Self::Linear { weight, bias } => {
                let bias = bias.iter().map(|bias| (bias.as_str(), Role::Bias));
                [(weight.as_str(), Role::Weight)].into_iter().chain(bias).collect()
            }
            Self::BatchNorm(norm) => vec![
                (&norm.weight, Role::Scale),
                (&norm.bias, Role::Bias),
                (&norm.running_mean, Role::RunningMean),
                (&norm.running_var, Role::RunningVar),
                (&norm.num_batches_tracked, Role::BatchCount),
            ],
            Self::Affine { scale, shift } => {
                let scale = scale.iter().map(|name| (name.as_str(), Role::Scale));
                scale.chain(shift.iter().map(|name| (name.as_str(), Role::Bias))).collect()
            }
            Self::Activation(Activation::Prelu { weight }) => vec![(weight, Role::Slope)],
            _ => Vec::new(),
        }
    }

    /// The names of the tensors it uses.
    pub(crate) fn tensors_mut(&mut self) -> Vec<&mut String> {
        match self {
            Self::Conv2d(Conv2d { weight, bias, .. })
            | Self::ConvTranspose2d(ConvTranspose2d { weight, bias, .. })
            | Self::Linear { weight, bias } => [weight].into_iter().chain(bias).collect(),
            Self::BatchNorm(norm) => vec![
                &mut norm.weight,
                &mut norm.bias,
                &mut norm.running_mean,
                &mut norm.running_var,
                &mut norm.num_batches_tracked,
            ],
            Self::Affine { scale, shift } => scale.iter_mut().chain(shift).collect(),
            Self::Activation(Activation::Prelu { weight }) => vec![weight],
            _ => Vec::new(),
        }
    }
}

impl Role {
    /// Returns whether large numbers mean that a channel matters.
    pub(crate) fn is_measured(self) -> bool {
        matches!(self, Self::Weight | Self::Scale)
    }
}

impl Activation {
    /// PyTorch's ReLU6.
    pub const RELU6: Self = Self::Clip { min: 0.0, max: 6.0 };

    /// PyTorch's hard sigmoid.
    pub const HARD_SIGMOID: Self = Self::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 };

    /// Returns its name in errors and listings.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::Clip { .. } => "clip",
            Self::LeakyRelu { .. } => "leaky_relu",
            Self::Prelu { .. } => "prelu",
            Self::Sigmoid => "sigmoid",
            Self::HardSigmoid { .. } => "hard_sigmoid",
            Self::HardSwish => "hard_swish",
            Self::Silu => "silu",
        }
    }
}

impl Conv2d {
    /// Creates a convolution without bias, dilation or groups.
    pub fn new(weight: impl Into<String>, stride: usize, padding: usize) -> Self {
        Self {
            weight: weight.into(),
            bias: None,
            stride: [stride; 2],
            padding: [padding; 4],
            dilation: [1; 2],
            groups: 1,
        }
    }
}

impl BatchNorm {
    /// Creates a normalization with PyTorch's names below `prefix`, its epsilon and its momentum.
    pub fn new(prefix: &str) -> Self {
        let name = |tensor: &str| format!("{prefix}.{tensor}");
        Self {
            weight: name("weight"),
            bias: name("bias"),
            running_mean: name("running_mean"),
            running_var: name("running_var"),
            num_batches_tracked: name("num_batches_tracked"),
            eps: 1e-5,
            momentum: 0.1,
        }
    }
}

impl Pool {
    /// Square windows.
    pub fn new(kernel: usize, stride: usize, padding: usize) -> Self {
        Self { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 4], dilation: [1; 2], ceil_mode: false }
    }
}
