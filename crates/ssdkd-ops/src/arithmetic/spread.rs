//! How a smaller tensor is repeated over a larger one.

use crate::vectorised::pattern_rows;

/// How a smaller tensor is repeated over a larger one of images × pixels × channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    pub(crate) images: usize,
    pub(crate) pixels: usize,
    pub(crate) channels: usize,
    /// From one image, pixel and channel to the next, in numbers of the smaller tensor; 0 where it is repeated.
    pub(crate) steps: [usize; 3],
}

impl Spread {
    /// `None` if the shapes do not fit.
    pub(super) fn new(large: &[usize], small: &[usize]) -> Option<Self> {
        let rank = large.len();
        if small.len() > rank {
            return None;
        }
        let mut sides = vec![1; rank - small.len()];
        sides.extend_from_slice(small);
        if sides.iter().zip(large).any(|(small, large)| small != large && *small != 1) {
            return None;
        }
        let Some((&channels, before)) = large.split_last() else {
            return Some(Self { images: 1, pixels: 1, channels: 1, steps: [0; 3] });
        };
        let (images, middle) = before.split_first().map_or((1, &[][..]), |(images, middle)| (*images, middle));
        let small_middle = if rank >= 2 { &sides[1..rank - 1] } else { &[][..] };
        let (pixels, small_pixels) = (middle.iter().product::<usize>(), small_middle.iter().product::<usize>());
        let (small_images, small_channels) = (if rank >= 2 { sides[0] } else { 1 }, sides[rank - 1]);
        // Rows without columns, or columns without rows, are no pixels.
        if small_pixels != 1 && small_pixels != pixels {
            return None;
        }
        let step = |size: usize, step: usize| if size == 1 { 0 } else { step };
        let steps = [
            step(small_images, small_pixels * small_channels),
            step(small_pixels, small_channels),
            step(small_channels, 1),
        ];
        Some(Self { images, pixels, channels, steps })
    }

    pub(super) fn image_len(&self) -> usize {
        self.pixels * self.channels
    }

    pub(super) fn len(&self) -> usize {
        self.images * self.image_len()
    }

    /// Numbers of the smaller tensor.
    pub(crate) fn small_len(&self) -> usize {
        let sizes = [self.images, self.pixels, self.channels];
        sizes.iter().zip(self.steps).map(|(size, step)| if step == 0 { 1 } else { *size }).product()
    }

    /// Which number of the smaller tensor belongs to a pixel's first channel.
    pub(super) fn at(&self, image: usize, pixel: usize) -> usize {
        image * self.steps[0] + pixel * self.steps[1]
    }

    /// Pixels that one piece of work takes: so many patterns of channels.
    pub(super) fn piece(&self) -> usize {
        let rows = pattern_rows(self.channels);
        crate::parallel::rows_per_piece(self.channels).div_ceil(rows) * rows
    }

    /// Image and first pixel of each piece of work.
    pub(super) fn pieces(&self) -> Vec<(usize, usize)> {
        let firsts = |image| (0..self.pixels).step_by(self.piece()).map(move |first| (image, first));
        (0..self.images).flat_map(firsts).collect()
    }

    /// The smaller tensor's numbers for the pixels of an image, where all of them take the same: repeated to a pattern.
    pub(super) fn pattern(&self, small: &[f32], image: usize) -> Vec<f32> {
        let start = self.at(image, 0);
        let one = (0..self.channels).map(|channel| small[start + channel * self.steps[2]]).collect::<Vec<_>>();
        one.repeat(pattern_rows(self.channels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_can_be_repeated() {
        let steps = |large: &[usize], small: &[usize]| Spread::new(large, small).map(|spread| spread.steps);
        let images = [2, 3, 4, 5];
        assert_eq!(steps(&images, &[]), Some([0, 0, 0]));
        assert_eq!(steps(&images, &[1, 1]), Some([0, 0, 0]));
        assert_eq!(steps(&images, &[5]), Some([0, 0, 1]));
        assert_eq!(steps(&images, &[2, 1, 1, 5]), Some([5, 0, 1]));
        assert_eq!(steps(&images, &[2, 1, 1, 1]), Some([1, 0, 0]));
        assert_eq!(steps(&images, &[2, 3, 4, 1]), Some([12, 1, 0]));
        assert_eq!(steps(&images, &[3, 4, 5]), Some([0, 5, 1]));
        assert_eq!(steps(&[7], &[1]), Some([0, 0, 0]));
        for small in [&[4][..], &[2, 5], &[2, 3, 1, 1], &[1, 2, 3, 4, 5]] {
            assert_eq!(steps(&images, small), None, "{small:?}");
        }
    }
}
