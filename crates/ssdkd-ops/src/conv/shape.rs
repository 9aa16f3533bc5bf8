//! The geometry of a convolution, checked once, so that the kernels cannot meet an impossible one.

use candle_core::{Result, bail};

/// How a convolution steps over its input: the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dSpec {
    /// Pixels between neighbouring windows.
    pub stride: usize,
    /// Zero pixels added on each side of the image.
    pub padding: usize,
    /// Pixels between neighbouring taps of the kernel.
    pub dilation: usize,
    /// Independent groups that the channels are split into; as many as channels: depthwise.
    pub groups: usize,
}

impl Conv2dSpec {
    /// A plain convolution: no dilation, one group.
    pub fn new(stride: usize, padding: usize) -> Self {
        Self { stride, padding, ..Self::default() }
    }
}

impl Default for Conv2dSpec {
    fn default() -> Self {
        Self { stride: 1, padding: 0, dilation: 1, groups: 1 }
    }
}

/// All sizes of one convolution, known to fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConvShape {
    pub batch: usize,
    /// Input image: (H, W, C).
    pub input: [usize; 3],
    /// Output image: (H, W, C).
    pub output: [usize; 3],
    /// Kernel: (kh, kw).
    pub kernel: [usize; 2],
    pub spec: Conv2dSpec,
}

impl ConvShape {
    /// Checks `input` (B, H, W, C), `weight` (O, C/groups, kh, kw) and `bias` (O,) against each other.
    pub fn new(input: &[usize], weight: &[usize], bias: Option<&[usize]>, spec: Conv2dSpec) -> Result<Self> {
        let &[batch, height, width, channels] = input else {
            bail!("conv2d: the input must be (B, H, W, C), this one has shape {input:?}");
        };
        let &[out_channels, channels_per_group, kernel_height, kernel_width] = weight else {
            bail!("conv2d: the weight must be (O, C/groups, kh, kw), this one has shape {weight:?}");
        };
        let Conv2dSpec { stride, padding, dilation, groups } = spec;
        if stride == 0 || dilation == 0 || groups == 0 {
            bail!("conv2d: stride ({stride}), dilation ({dilation}) and groups ({groups}) must be at least 1");
        }
        let sizes = [batch, height, width, channels, out_channels, kernel_height, kernel_width];
        if sizes.contains(&0) {
            bail!("conv2d: nothing to compute on an input of shape {input:?} with a weight of shape {weight:?}");
        }
        if !out_channels.is_multiple_of(groups) {
            bail!("conv2d: {out_channels} output channels do not split into {groups} groups");
        }
        if channels_per_group.checked_mul(groups) != Some(channels) {
            bail!(
                "conv2d: the input has {channels} channels, the weight {weight:?} with {groups} groups takes {}\n\
                 hint: inputs are channels-last, (B, H, W, C)",
                channels_per_group.saturating_mul(groups)
            );
        }
        if let Some(bias) = bias
            && bias != [out_channels]
        {
            bail!("conv2d: the bias has shape {bias:?}, the weight asks for [{out_channels}]");
        }
        let out_size = |size: usize, kernel: usize| {
            let reach = (kernel - 1).checked_mul(dilation)?.checked_add(1)?;
            Some(padding.checked_mul(2)?.checked_add(size)?.checked_sub(reach)? / stride + 1)
        };
        let (Some(out_height), Some(out_width)) = (out_size(height, kernel_height), out_size(width, kernel_width))
        else {
            bail!(
                "conv2d: a {kernel_height}×{kernel_width} kernel with dilation {dilation} does not fit into a \
                 {height}×{width} image with padding {padding}"
            );
        };
        let output = [out_height, out_width, out_channels];
        if batch.checked_mul(out_height).and_then(|n| n.checked_mul(out_width)?.checked_mul(out_channels)).is_none() {
            bail!("conv2d: an output of {batch} images of {output:?} is too large to count");
        }
        Ok(Self { batch, input: [height, width, channels], output, kernel: [kernel_height, kernel_width], spec })
    }

    /// One pixel of one group in and one out: each channel on its own.
    pub fn is_depthwise(&self) -> bool {
        self.spec.groups > 1 && self.spec.groups == self.input[2] && self.spec.groups == self.output[2]
    }

    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Numbers in one input image.
    pub fn input_len(&self) -> usize {
        self.input.iter().product()
    }

    /// Numbers in one output image.
    pub fn output_len(&self) -> usize {
        self.output.iter().product()
    }

    pub fn weight_len(&self) -> usize {
        self.output[2] * self.in_per_group() * self.taps()
    }

    pub fn in_per_group(&self) -> usize {
        self.input[2] / self.spec.groups
    }

    pub fn out_per_group(&self) -> usize {
        self.output[2] / self.spec.groups
    }

    /// (B, H, W, O) of the output.
    pub fn output_dims(&self) -> [usize; 4] {
        [self.batch, self.output[0], self.output[1], self.output[2]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_sizes() -> Result<()> {
        for (size, kernel, spec, expected) in [
            (32, 3, Conv2dSpec::new(1, 1), 32),
            (32, 3, Conv2dSpec::new(2, 1), 16),
            (7, 7, Conv2dSpec::default(), 1),
            (8, 3, Conv2dSpec { dilation: 2, ..Conv2dSpec::new(1, 2) }, 8),
            (5, 1, Conv2dSpec::new(3, 0), 2),
        ] {
            let shape = ConvShape::new(&[1, size, size, 1], &[1, 1, kernel, kernel], None, spec)?;
            assert_eq!(shape.output, [expected, expected, 1], "size {size}, kernel {kernel}, {spec:?}");
        }
        Ok(())
    }

    #[test]
    fn absurd_numbers_are_errors_not_overflows() {
        for spec in [
            Conv2dSpec::new(1, usize::MAX),
            Conv2dSpec { dilation: usize::MAX, ..Conv2dSpec::default() },
            Conv2dSpec { groups: usize::MAX, ..Conv2dSpec::default() },
            Conv2dSpec::new(0, 0),
        ] {
            assert!(ConvShape::new(&[1, 4, 4, 2], &[2, 2, 3, 3], None, spec).is_err(), "{spec:?}");
        }
    }
}
