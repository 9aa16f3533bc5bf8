//! The generator: latents to images. Up to 64 pixels a side it is that of Fast-Datafree and DAFL.
//!
//! ```text
//! z (latent) → Linear → (H/4, W/4, 2·width) → BN → ×2 → Conv3×3 2·width → BN → LeakyReLU 0.2
//!                                                → ×2 → Conv3×3 width   → BN → LeakyReLU 0.2 → Conv3×3 → sigmoid
//! ```
//!
//! For larger images the linear layer would be most of the network. So the map that it makes is smaller, there are more stages of
//! ×2, convolution, batch norm and LeakyReLU, and the finest two have width/2 and width/4 channels \[O\]. A size that is not reached by
//! doubling is reached by stages of almost ×2.
//!
//! Fresh weights are PyTorch's defaults, as in that code.

use candle_core::{Result, bail};
use ssdkd_graph::op::{Activation, ResizeMethod, ResizeTo};
use ssdkd_graph::{Executor, GraphError, Mode, Op};
use ssdkd_ops as ops;
use ssdkd_ops::Value;

use super::Blueprint;
use super::builder::{Builder, Convolution, Draw};
use crate::store::Store;

/// The generator of the module's diagram. With latent 256 and width 64 it has 2,328,899 parameters for 32×32×3 images.
pub struct Generator {
    executor: Executor,
    latent: usize,
}

/// The slope of the leaky ReLU below zero.
const SLOPE: f32 = 0.2;

/// Longest side that two stages make.
const SMALL: usize = 64;

/// Most stages, and the fewest pixels a side of the map that the first one gets.
const MOST_STAGES: usize = 5;
const SMALLEST_START: usize = 4;

/// Returns how many times the resolution doubles for images of that size.
fn stages(height: usize, width: usize) -> usize {
    if height.max(width) <= SMALL {
        return 2;
    }
    (2..=MOST_STAGES).rev().find(|stages| height.min(width) >> stages >= SMALLEST_START).unwrap_or(2)
}

/// Returns height and width of the map before the last `halvings` stages.
fn size_before(halvings: usize, [height, width]: [usize; 2]) -> [usize; 2] {
    [height.div_ceil(1 << halvings), width.div_ceil(1 << halvings)]
}

/// Returns channels that a stage makes; `halvings` stages follow it.
fn channels_of(halvings: usize, stages: usize, width: usize) -> usize {
    match (stages, halvings) {
        (2, 0) => width,
        (2, _) | (_, 3..) => 2 * width,
        (_, 2) => width,
        (_, 1) => (width / 2).max(8),
        _ => (width / 4).max(8),
    }
}

impl Generator {
    /// Makes a generator of images of `size` (height, width).
    ///
    /// # Errors
    /// If a number is 0.
    pub fn new(latent: usize, width: usize, size: [usize; 2], channels: usize, store: &Store) -> Result<Self> {
        if latent == 0 || width == 0 || size.contains(&0) || channels == 0 {
            bail!(
                "a generator needs a latent, a width, a size and channels above 0, not {latent}, {width}, {size:?} and {channels}"
            );
        }
        let blueprint = blueprint(latent, width, size, channels).map_err(candle_core::Error::wrap)?;
        let tensors = store.tensors_of(&blueprint)?;
        let executor = Executor::new(blueprint.graph, tensors, &[]).map_err(candle_core::Error::wrap)?;
        Ok(Self { executor, latent })
    }

    /// Makes images (B, H, W, C) in `[0, 1]` from latents (B, latent).
    ///
    /// # Errors
    /// If the latents have another length.
    pub fn forward(&self, latents: &Value, mode: Mode) -> Result<Value> {
        let batch = latents.dims().first().copied().unwrap_or(0);
        let latents = ops::reshape(latents, (batch, 1, 1, self.latent))?;
        let mut outputs = self.executor.run(&latents, mode)?.outputs;
        match outputs.pop() {
            Some(images) => Ok(images),
            None => bail!("the generator has no output"),
        }
    }
}

fn blueprint(
    latent: usize,
    width: usize,
    size: [usize; 2],
    channels: usize,
) -> std::result::Result<Blueprint, GraphError> {
    let (mut net, z) = Builder::new([latent, 1, 1])?;
    let stages = stages(size[0], size[1]);
    let draw = Draw::PYTORCH;
    let [height, wide] = size_before(stages, size);
    let x = net.apply("flatten", Op::Flatten, &[z])?;
    let x = net.linear(x, "l1.0", 2 * width * height * wide, draw)?;
    let x = net.apply("unflatten", Op::Unflatten { channels: 2 * width, height, width: wide }, &[x])?;
    let mut x = net.norm(x, "conv_blocks.0")?;
    for stage in 0..stages {
        let halvings = stages - 1 - stage;
        let name = |entry: usize| format!("conv_blocks.{}", 4 * stage + entry);
        let (from, to) = (net.size(x), size_before(halvings, size));
        let by = if to == [2 * from[0], 2 * from[1]] { ResizeTo::Factor([2.0; 2]) } else { ResizeTo::Fixed(to) };
        x = net.resize(x, &name(1), by, ResizeMethod::Nearest, None)?;
        let convolution = Convolution::new(channels_of(halvings, stages, width), 3, 1, draw);
        x = net.conv_norm(x, (&name(2), &name(3)), convolution, Some(Activation::LeakyRelu { slope: SLOPE }))?;
    }
    let last = Convolution { bias: true, ..Convolution::new(channels, 3, 1, draw) };
    let x = net.conv(x, &format!("conv_blocks.{}", 4 * stages + 1), last)?;
    let x = net.activate(x, Activation::Sigmoid)?;
    net.finish(x, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns height and width of the first map and of what each stage makes of it.
    fn sizes([height, width]: [usize; 2]) -> Vec<[usize; 2]> {
        (0..=stages(height, width)).rev().map(|halvings| size_before(halvings, [height, width])).collect()
    }

    #[test]
    fn images_up_to_64_pixels_have_the_stages_of_fast_datafree() {
        assert_eq!(sizes([32, 32]), [[8, 8], [16, 16], [32, 32]]);
        assert_eq!(sizes([64, 48]), [[16, 12], [32, 24], [64, 48]]);
        assert_eq!([1, 0].map(|halvings| channels_of(halvings, 2, 64)), [128, 64]);
    }

    #[test]
    fn larger_images_have_more_stages_and_fewer_channels_at_the_end() {
        assert_eq!(sizes([224, 224]), [[7, 7], [14, 14], [28, 28], [56, 56], [112, 112], [224, 224]]);
        assert_eq!(sizes([96, 160]), [[6, 10], [12, 20], [24, 40], [48, 80], [96, 160]]);
        assert_eq!([4, 3, 2, 1, 0].map(|halvings| channels_of(halvings, 5, 64)), [128, 128, 64, 32, 16]);
        // A narrow generator keeps enough channels for a picture.
        assert_eq!([1, 0].map(|halvings| channels_of(halvings, 5, 12)), [8, 8]);
    }

    #[test]
    fn every_stage_doubles_the_size_or_almost() {
        for height in 1..=130 {
            for width in [1, 7, 31, 64, 65, 100, 129] {
                let sizes = sizes([height, width]);
                assert_eq!(sizes.last(), Some(&[height, width]));
                for pair in sizes.windows(2) {
                    let fits = |side: usize| [2 * pair[0][side] - 1, 2 * pair[0][side]].contains(&pair[1][side]);
                    assert!(fits(0) && fits(1), "{sizes:?}");
                }
            }
        }
    }

    #[test]
    fn a_generator_makes_images_of_its_size() {
        for size in [[1, 1], [30, 30], [7, 9], [100, 72], [161, 224]] {
            let graph = blueprint(8, 4, size, 3).unwrap().graph;
            let images = graph.shape(graph.outputs()[0]);
            assert_eq!((images.channels(), images.size()), (3, size));
        }
    }
}
