//! Convolutions with different padding on opposite sides, which cuDNN does not have: on images with the zeros around them.

use candle_core::{Result, Tensor};

use super::gpu::{Gpu, count};
use super::images::Image;
use super::program::{Argument, arguments};
use super::settings::Stored;
use crate::conv::ConvShape;

/// A convolution as cuDNN takes it.
pub(super) struct Padded {
    /// Without padding where opposite sides differ in it; otherwise as it was asked for.
    pub(super) shape: ConvShape,
    /// The image with zeros around, where there is one.
    wide: Option<Wide>,
}

struct Wide {
    _image: Tensor,
    at: u64,
    stored: Stored,
    batch: usize,
    inner: Image,
    outer: Image,
    before: [usize; 2],
}

impl Padded {
    pub(super) fn of(gpu: &Gpu, shape: &ConvShape, stored: Stored) -> Result<Self> {
        let (before, after) = (shape.spec.before(), shape.spec.after());
        if before == after {
            return Ok(Self { shape: *shape, wide: None });
        }
        let [height, width, channels] = shape.input;
        let input = [height + before[0] + after[0], width + before[1] + after[1], channels];
        let spec = crate::Conv2dSpec { padding: [0; 4], ..shape.spec };
        let (image, at) = gpu.new_activations(stored, (shape.batch, input[0], input[1], channels))?;
        let wide = Wide {
            _image: image,
            at,
            stored,
            batch: shape.batch,
            inner: shape.input.into(),
            outer: input.into(),
            before,
        };
        Ok(Self { shape: ConvShape { input, spec, ..*shape }, wide: Some(wide) })
    }

    /// The address of `x` with zeros around; of `x` itself where cuDNN pads.
    pub(super) fn surround(&self, gpu: &Gpu, x: u64) -> Result<u64> {
        let Some(wide) = &self.wide else { return Ok(x) };
        let [above, left] = wide.before.map(|zeros| -(zeros as i32));
        wide.copy(gpu, (x, &wide.inner), (wide.at, &wide.outer), [above, left])?;
        Ok(wide.at)
    }

    /// The address that takes the gradient of the image, in place of `out`.
    pub(super) fn room(&self, out: u64) -> u64 {
        self.wide.as_ref().map_or(out, |wide| wide.at)
    }

    /// Copies the image out of what [`room`](Self::room) got.
    pub(super) fn cut(&self, gpu: &Gpu, out: u64) -> Result<()> {
        let Some(wide) = &self.wide else { return Ok(()) };
        let [above, left] = wide.before.map(|zeros| zeros as i32);
        wide.copy(gpu, (wide.at, &wide.outer), (out, &wide.inner), [above, left])
    }
}

impl Wide {
    /// Pixel (row, column) of `to` is pixel (row + above, column + left) of `from`, or zero where that has none.
    fn copy(&self, gpu: &Gpu, from: (u64, &Image), to: (u64, &Image), [above, left]: [i32; 2]) -> Result<()> {
        let numbers = self.batch * to.1.size();
        let arguments = arguments![from.0, to.0, count(numbers), Argument::of(from.1), Argument::of(to.1), above, left];
        gpu.launch_each_for(self.stored, "shift_image", numbers, arguments)
    }
}
