//! The geometry of a convolution, checked once, so that the kernels cannot meet an impossible one.

use candle_core::{Result, bail};

/// How a convolution steps over its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dSpec {
    /// Pixels between neighbouring windows: down, across.
    pub stride: [usize; 2],
    /// Zero pixels added to the image: top, bottom, left, right.
    pub padding: [usize; 4],
    /// Pixels between neighbouring taps of the kernel: down, across.
    pub dilation: [usize; 2],
    /// Independent groups that the channels are split into; as many as channels: depthwise.
    pub groups: usize,
}

impl Conv2dSpec {
    /// Returns a convolution without dilation, of one group: one stride for both axes, one padding for all sides.
    pub fn new(stride: usize, padding: usize) -> Self {
        Self { stride: [stride; 2], padding: [padding; 4], ..Self::default() }
    }

    /// Zero pixels before the first row and the first column.
    pub(crate) fn before(&self) -> [usize; 2] {
        [self.padding[0], self.padding[2]]
    }

    /// Zero pixels after the last row and the last column.
    pub(crate) fn after(&self) -> [usize; 2] {
        [self.padding[1], self.padding[3]]
    }
}

impl Default for Conv2dSpec {
    fn default() -> Self {
        Self { stride: [1; 2], padding: [0; 4], dilation: [1; 2], groups: 1 }
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
        if stride.contains(&0) || dilation.contains(&0) || groups == 0 {
            bail!("conv2d: stride {stride:?}, dilation {dilation:?} and groups ({groups}) must be at least 1");
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
        let out_size = |size: usize, kernel: usize, axis: usize| {
            let reach = (kernel - 1).checked_mul(dilation[axis])?.checked_add(1)?;
            let padded = spec.before()[axis].checked_add(spec.after()[axis])?.checked_add(size)?;
            // Kernels compute positions as signed numbers.
            isize::try_from(padded.checked_add(reach)?).ok()?;
            Some(padded.checked_sub(reach)? / stride[axis] + 1)
        };
        let (Some(out_height), Some(out_width)) =
            (out_size(height, kernel_height, 0), out_size(width, kernel_width, 1))
        else {
            bail!(
                "conv2d: a {kernel_height}×{kernel_width} kernel with dilation {dilation:?} does not fit into a \
                 {height}×{width} image with padding {padding:?} (top, bottom, left, right)"
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
            (8, 3, Conv2dSpec { dilation: [2, 2], ..Conv2dSpec::new(1, 2) }, 8),
            (5, 1, Conv2dSpec::new(3, 0), 2),
        ] {
            let shape = ConvShape::new(&[1, size, size, 1], &[1, 1, kernel, kernel], None, spec)?;
            assert_eq!(shape.output, [expected, expected, 1], "size {size}, kernel {kernel}, {spec:?}");
        }
        Ok(())
    }

    #[test]
    fn each_side_has_its_padding_and_each_axis_its_stride() -> Result<()> {
        let same = Conv2dSpec { padding: [0, 1, 0, 1], ..Conv2dSpec::new(2, 0) };
        assert_eq!(ConvShape::new(&[1, 224, 112, 1], &[1, 1, 3, 3], None, same)?.output, [112, 56, 1]);
        let row = Conv2dSpec { stride: [1, 3], padding: [0, 0, 3, 3], dilation: [5, 1], ..Conv2dSpec::default() };
        assert_eq!(ConvShape::new(&[1, 17, 17, 1], &[1, 1, 1, 7], None, row)?.output, [17, 6, 1]);
        Ok(())
    }

    #[test]
    fn absurd_numbers_are_errors_not_overflows() {
        for spec in [
            Conv2dSpec::new(1, usize::MAX),
            Conv2dSpec { dilation: [1, usize::MAX], ..Conv2dSpec::default() },
            Conv2dSpec { padding: [0, 0, usize::MAX, 1], ..Conv2dSpec::default() },
            Conv2dSpec { groups: usize::MAX, ..Conv2dSpec::default() },
            Conv2dSpec::new(0, 0),
        ] {
            assert!(ConvShape::new(&[1, 4, 4, 2], &[2, 2, 3, 3], None, spec).is_err(), "{spec:?}");
        }
    }
}
