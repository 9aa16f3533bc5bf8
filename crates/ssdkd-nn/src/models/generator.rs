//! The generator: latents to images, as in Fast-Datafree and DAFL.
//!
//! ```text
//! z (latent) → Linear → (H/4, W/4, 2·width) → BN → ×2 → Conv3×3 2·width → BN → LeakyReLU 0.2
//!                                                → ×2 → Conv3×3 width   → BN → LeakyReLU 0.2 → Conv3×3 → sigmoid
//! ```
//!
//! Fresh weights are PyTorch's defaults, as in that code.

use candle_core::{Result, bail};
use candle_nn::VarBuilder;
use ssdkd_ops as ops;
use ssdkd_ops::{Activation, Conv2dSpec, Value};

use crate::layers::{BatchNorm2d, Conv2d, Draw, Linear};
use crate::pass::Pass;

/// The generator of the module's diagram. With latent 256 and width 64 it has 2,328,899 parameters for 32×32×3 images.
pub struct Generator {
    linear: Linear,
    bn0: BatchNorm2d,
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    conv3: Conv2d,
    /// Height and width, and channels, of what the linear layer makes.
    start: (usize, usize),
}

/// The slope of the leaky ReLU below zero.
const SLOPE: f32 = 0.2;

impl Generator {
    /// A side of its images is a multiple of this: it doubles the first map twice.
    pub const STEP: usize = 4;

    /// Checks whether a generator can make images of this size.
    ///
    /// # Errors
    /// If it cannot; the error names the nearest sizes.
    pub fn check_size(height: usize, width: usize) -> std::result::Result<(), String> {
        if height != width {
            return Err(format!("the generator makes square images, not {height} by {width} pixels"));
        }
        if height > 0 && height.is_multiple_of(Self::STEP) {
            return Ok(());
        }
        let below = height / Self::STEP * Self::STEP;
        let above = below + Self::STEP;
        let nearest = if below == 0 { format!("{above}") } else { format!("{below} and {above}") };
        Err(format!(
            "the generator makes images whose side is a multiple of {}, not {height} pixels; the nearest are {nearest}",
            Self::STEP
        ))
    }

    /// Makes a generator of square images of `size` (a multiple of [`STEP`](Self::STEP)) pixels a side.
    ///
    /// # Errors
    /// If the generator cannot make images of this size; see [`check_size`](Self::check_size).
    pub fn new(latent: usize, width: usize, size: usize, channels: usize, vb: VarBuilder<'_>) -> Result<Self> {
        if let Err(reason) = Self::check_size(size, size) {
            bail!("{reason}");
        }
        let start = (size / Self::STEP, 2 * width);
        let (spec, draw) = (Conv2dSpec::new(1, 1), Draw::PYTORCH);
        let linear = Linear::new(latent, start.0 * start.0 * start.1, draw, vb.pp("l1").pp(0))?;
        let vb = vb.pp("conv_blocks");
        Ok(Self {
            linear,
            bn0: BatchNorm2d::new(2 * width, vb.pp(0))?,
            conv1: Conv2d::new((2 * width, 2 * width, 3), spec, draw, vb.pp(2))?,
            bn1: BatchNorm2d::new(2 * width, vb.pp(3))?,
            conv2: Conv2d::new((2 * width, width, 3), spec, draw, vb.pp(6))?,
            bn2: BatchNorm2d::new(width, vb.pp(7))?,
            conv3: Conv2d::with_bias((width, channels, 3), spec, draw, vb.pp(9))?,
            start,
        })
    }

    /// From latents (B, latent) to images (B, H, W, C) in `[0, 1]`.
    pub fn forward(&self, z: &Value, pass: &Pass) -> Result<Value> {
        let batch = z.dims()[0];
        let (side, channels) = self.start;
        let leaky = Activation::LeakyRelu(SLOPE);
        // The linear layer's outputs are in PyTorch's order: channels first.
        let x = ops::reshape(&self.linear.forward(z, pass)?, (batch, channels, side, side))?;
        let x = ops::to_reduced_precision(&ops::nchw_to_nhwc(&x)?)?;
        let x = self.bn0.forward(&x, Activation::None, pass)?;
        let x = self.conv1.forward(&ops::upsample_nearest(&x, 2)?, pass)?;
        let x = self.bn1.forward(&x, leaky, pass)?;
        let x = self.conv2.forward(&ops::upsample_nearest(&x, 2)?, pass)?;
        let x = self.bn2.forward(&x, leaky, pass)?;
        ops::sigmoid(&ops::to_f32(&self.conv3.forward(&x, pass)?)?)
    }
}
