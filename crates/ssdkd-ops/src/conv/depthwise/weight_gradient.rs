//! The gradient of a depthwise convolution's weight: for every tap and channel, the sum of products over the pixels that the tap
//! pairs. A row of the kernel at once, whose sums stay in registers while the pixels of a row stream by.

use std::ops::Range;

use crate::conv::shape::ConvShape;
use crate::parallel::{self, SharedMut};
use crate::simd::{SimdPath, Vector, dispatch};

/// Images that one partial gradient is summed over at most, and pixels of their outputs.
const IMAGES: usize = 8;
const PIXELS: usize = 4096;

/// Channels that one unit of work takes, of every pixel: some cache lines.
const CHANNELS: usize = 128;

/// Computes the gradient of the weight (C, 1, kh, kw).
pub(crate) fn weight_gradient(path: SimdPath, shape: &ConvShape, input: &[f32], gradient: &[f32], out: &mut [f32]) {
    let (channels, taps) = (shape.input[2], shape.taps());
    let images = (PIXELS / (shape.output[0] * shape.output[1])).clamp(1, IMAGES);
    let (chunks, blocks) = (shape.batch.div_ceil(images), channels.div_ceil(CHANNELS));
    let mut partials = vec![0.0; chunks * taps * channels];
    let shared = SharedMut::new(&mut partials);
    assert!(input.len() == shape.batch * shape.input_len() && gradient.len() == shape.batch * shape.output_len());
    parallel::for_each_piece(chunks * blocks, |unit| {
        let (chunk, block) = (unit / blocks, unit % blocks);
        let channels_of = block * CHANNELS..((block + 1) * CHANNELS).min(channels);
        for image in chunk * images..((chunk + 1) * images).min(shape.batch) {
            let job = &Products {
                shape,
                input: &input[image * shape.input_len()..(image + 1) * shape.input_len()],
                gradient: &gradient[image * shape.output_len()..(image + 1) * shape.output_len()],
                channels: channels_of.clone(),
                sums: shared.at(chunk * taps * channels),
            };
            // SAFETY: a path is only obtained where the CPU has its instructions. Each unit has its own channels of its
            // chunk's sums.
            unsafe { dispatch!(path, add_products, [], [], [], (job: &Products)) }
        }
    });
    for channel in 0..channels {
        for tap in 0..taps {
            out[channel * taps + tap] = partials[tap * channels + channel..].iter().step_by(taps * channels).sum();
        }
    }
}

/// One image, and some of its channels.
struct Products<'a> {
    shape: &'a ConvShape,
    input: &'a [f32],
    gradient: &'a [f32],
    channels: Range<usize>,
    /// `[tap][channel]`, of all channels.
    sums: *mut f32,
}

/// Adds the products over one image, a row of the kernel at once: their sums stay in registers while the pixels of a row
/// stream by.
///
/// # Safety
/// The channels of the sums are nobody else's; the CPU has the instructions of `V`.
#[inline(always)]
unsafe fn add_products<V: Vector>(job: &Products) {
    let ConvShape { spec, kernel, input: [height, width, channels], output: [out_height, out_width, _], .. } =
        *job.shape;
    let [above, before] = spec.before();
    for row in 0..out_height {
        for tap_row in 0..kernel[0] {
            let at = (row * spec.stride[0] + tap_row * spec.dilation[0]).checked_sub(above);
            let Some(in_row) = at.filter(|at| *at < height) else { continue };
            let mut tap_column = 0;
            while tap_column < kernel[1] {
                let line = Line {
                    input: job.input[in_row * width * channels..].as_ptr(),
                    gradient: job.gradient[row * out_width * channels..].as_ptr(),
                    sums: job.sums.wrapping_add((tap_row * kernel[1] + tap_column) * channels),
                    channels,
                    sizes: [width, out_width],
                    stride: spec.stride[1],
                    dilation: spec.dilation[1],
                    first: tap_column * spec.dilation[1],
                    padding: before,
                };
                // SAFETY: handed on: these are rows of the images, and the sums of so many taps.
                unsafe {
                    tap_column += match kernel[1] - tap_column {
                        7.. => line.add::<V, 7>(&job.channels),
                        5.. => line.add::<V, 5>(&job.channels),
                        3.. => line.add::<V, 3>(&job.channels),
                        _ => line.add::<V, 1>(&job.channels),
                    };
                }
            }
        }
    }
}

/// A row of the input, one of the output's gradient, and neighbouring taps of a row of the kernel.
struct Line {
    input: *const f32,
    gradient: *const f32,
    sums: *mut f32,
    /// In a pixel.
    channels: usize,
    /// Pixels of both rows.
    sizes: [usize; 2],
    stride: usize,
    dilation: usize,
    /// Position of the first tap, which the padding is taken from.
    first: usize,
    padding: usize,
}

impl Line {
    /// The columns of the gradient that tap `tap` pairs with pixels of the image.
    #[inline(always)]
    fn columns(&self, tap: usize) -> [usize; 2] {
        let position = self.first + tap * self.dilation;
        let first = self.padding.saturating_sub(position).div_ceil(self.stride);
        let end = (self.sizes[0] + self.padding).saturating_sub(position).div_ceil(self.stride).min(self.sizes[1]);
        [first.min(end), end]
    }

    /// Adds the products of `TAPS` taps; returns how many those are.
    ///
    /// # Safety
    /// Rows have their pixels with all channels; the sums of these `channels` are nobody else's; the CPU has the instructions
    /// of `V`.
    #[inline(always)]
    unsafe fn add<V: Vector, const TAPS: usize>(&self, channels: &Range<usize>) -> usize {
        let (wide, narrow) = (V::LANES, <V::Narrow as Vector>::LANES);
        let columns: [[usize; 2]; TAPS] = std::array::from_fn(|tap| self.columns(tap));
        let mut channel = channels.start;
        // SAFETY: handed on.
        unsafe {
            while channel + 2 * wide <= channels.end {
                self.add_channels::<V, TAPS, 2>(channel, &columns);
                channel += 2 * wide;
            }
            while channel + wide <= channels.end {
                self.add_channels::<V, TAPS, 1>(channel, &columns);
                channel += wide;
            }
            while channel + narrow <= channels.end {
                self.add_channels::<V::Narrow, TAPS, 1>(channel, &columns);
                channel += narrow;
            }
            for channel in channel..channels.end {
                for tap in 0..TAPS {
                    let [start, end] = columns[tap];
                    let sum = self.sums.add(tap * self.channels + channel);
                    for column in start..end {
                        *sum += *self.pixel(tap, column).add(channel)
                            * *self.gradient.add(column * self.channels + channel);
                    }
                }
            }
        }
        TAPS
    }

    /// The pixel that tap `tap` pairs with the gradient's `column`.
    #[inline(always)]
    fn pixel(&self, tap: usize, column: usize) -> *const f32 {
        let at = column * self.stride + self.first + tap * self.dilation;
        self.input.wrapping_add(at.wrapping_sub(self.padding).wrapping_mul(self.channels))
    }

    /// # Safety
    /// As [`add`](Self::add), for some registers of channels.
    #[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
    #[inline(always)]
    unsafe fn add_channels<V: Vector, const TAPS: usize, const VECTORS: usize>(
        &self,
        channel: usize,
        columns: &[[usize; 2]; TAPS],
    ) {
        // SAFETY: as the contract says; `columns` keeps to pixels that exist on both sides.
        unsafe {
            let at = |tap: usize, vector: usize| self.sums.add(tap * self.channels + channel + vector * V::LANES);
            let mut sums = [[V::zero(); VECTORS]; TAPS];
            for tap in 0..TAPS {
                for vector in 0..VECTORS {
                    sums[tap][vector] = V::load(at(tap, vector));
                }
            }
            // What all taps pair, and then what only some do.
            let (mut start, mut end) = (0, self.sizes[1]);
            for [first, last] in columns {
                (start, end) = (start.max(*first), end.min(*last));
            }
            let end = end.max(start);
            for column in start..end {
                let (gradient, input) = (self.gradient.add(column * self.channels + channel), self.pixel(0, column));
                for vector in 0..VECTORS {
                    let product = V::load(gradient.add(vector * V::LANES));
                    for tap in 0..TAPS {
                        let numbers =
                            input.wrapping_add(tap * self.dilation * self.channels + channel + vector * V::LANES);
                        sums[tap][vector] = V::load(numbers).multiply_add(product, sums[tap][vector]);
                    }
                }
            }
            for tap in 0..TAPS {
                let [first, last] = columns[tap];
                for column in (first..last.min(start)).chain(first.max(end)..last) {
                    for vector in 0..VECTORS {
                        let place = channel + vector * V::LANES;
                        let gradient = V::load(self.gradient.add(column * self.channels + place));
                        let numbers = V::load(self.pixel(tap, column).wrapping_add(place));
                        sums[tap][vector] = numbers.multiply_add(gradient, sums[tap][vector]);
                    }
                }
            }
            for tap in 0..TAPS {
                for vector in 0..VECTORS {
                    sums[tap][vector].store(at(tap, vector));
                }
            }
        }
    }
}
