//! How images are brought into the shape that a model takes.

use crate::resample::{Filter, Span, resample};
use crate::{DataError, UNLABELLED};

/// The shape that a model takes, and how images of another size get it. An image that has the shape's height and width stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    shape: [usize; 3],
    resizing: Option<Resizing>,
}

/// Resizing as a model's authors did it. The window of the shape's height and width is then cut out of the middle, as torchvision does it: a
/// smaller image gets black around it, and its mask pixels of no class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resizing {
    /// The size before the window is cut out.
    pub scale: Scale,
    /// How pixels are computed.
    pub filter: Filter,
}

/// The size that an image gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// That which it has.
    Keep,
    /// The shorter side gets this length, and the longer one keeps the aspect ratio, rounded down.
    ShortSide(usize),
    /// Height and width.
    Exact([usize; 2]),
}

impl From<[usize; 3]> for Fit {
    /// Images are resized to the shape bilinearly, and lose their aspect ratio.
    fn from(shape: [usize; 3]) -> Self {
        Self { shape, resizing: None }
    }
}

impl Fit {
    /// Images get the shape \[C, H, W\] by this resizing.
    pub fn new(shape: [usize; 3], resizing: Resizing) -> Self {
        Self { shape, resizing: Some(resizing) }
    }

    /// Returns \[C, H, W\]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    pub(crate) fn resizing(&self) -> Option<Resizing> {
        self.resizing
    }

    /// Refuses a shape or a size that no image can be brought into.
    pub(crate) fn check(&self) -> Result<(), DataError> {
        let possible = |side: &usize| (1..=16_384).contains(side);
        let scale = match self.resizing.map(|resizing| resizing.scale) {
            Some(Scale::ShortSide(length)) => possible(&length),
            Some(Scale::Exact(size)) => size.iter().all(possible),
            Some(Scale::Keep) | None => true,
        };
        if !scale || !self.shape.iter().all(possible) {
            let what = format!("images cannot be brought into the shape {:?} ({self})", self.shape);
            return Err(DataError::Invalid { what });
        }
        Ok(())
    }

    /// Returns the plane (H, W) of an image of the size `found` as one of the shape's size, with `blank` where the image is too small.
    pub(crate) fn plane(&self, plane: &[u8], found: [usize; 2], resizing: Resizing, blank: u8) -> Vec<u8> {
        let wanted = [self.shape[1], self.shape[2]];
        if found == wanted {
            return plane.to_vec();
        }
        let size = size(resizing.scale, found);
        let [rows, columns] = [0, 1].map(|side| Window::new(found[side], size[side], wanted[side]));
        let inner = resample(plane, rows.span, columns.span, resizing.filter);
        if inner.len() == wanted[0] * wanted[1] {
            return inner;
        }
        let mut framed = vec![blank; wanted[0] * wanted[1]];
        for (y, row) in inner.chunks_exact(columns.span.count).enumerate() {
            framed[(rows.before + y) * wanted[1] + columns.before..][..row.len()].copy_from_slice(row);
        }
        framed
    }

    /// Returns the mask (H, W) of an image of the size `found`, moved as the image is: each pixel is the nearest one of the original, since between two classes
    /// there is none.
    pub(crate) fn mask(&self, mask: &[u8], found: [usize; 2]) -> Vec<u8> {
        let [_, height, width] = self.shape;
        let scale = self.resizing.map_or(Scale::Exact([height, width]), |resizing| resizing.scale);
        self.plane(mask, found, Resizing { scale, filter: Filter::Nearest }, UNLABELLED)
    }
}

impl std::fmt::Display for Fit {
    /// Returns what happens to images of another size, as in "resized to a short side of 256, then cropped to 224×224 (height × width)".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [_, height, width] = self.shape;
        match self.resizing.map(|resizing| resizing.scale) {
            Some(Scale::Keep) => {}
            Some(Scale::ShortSide(length)) => write!(f, "resized to a short side of {length}, then ")?,
            Some(Scale::Exact(size)) if size != [height, width] => {
                write!(f, "resized to {}×{}, then ", size[0], size[1])?;
            }
            Some(Scale::Exact(_)) | None => return write!(f, "resized to {height}×{width} (height × width)"),
        }
        write!(f, "cropped to {height}×{width} (height × width)")
    }
}

/// Returns the size of an image of the size `found` after resizing.
fn size(scale: Scale, found: [usize; 2]) -> [usize; 2] {
    match scale {
        Scale::Keep => found,
        Scale::Exact(size) => size,
        Scale::ShortSide(length) => {
            let short = found[0].min(found[1]).max(1);
            found.map(|side| if side == short { length } else { length * side / short })
        }
    }
}

/// The middle of one axis.
struct Window {
    span: Span,
    /// Blank pixels before it.
    before: usize,
}

impl Window {
    /// Returns the middle `wanted` pixels of an axis of `from` pixels that is resized to `to`, or all of them.
    fn new(from: usize, to: usize, wanted: usize) -> Self {
        if to < wanted {
            return Self { span: Span { from, to, first: 0, count: to }, before: (wanted - to) / 2 };
        }
        // Half of an odd number is rounded to an even one, as Python's `round` does it for torchvision.
        let (half, is_odd) = ((to - wanted) / 2, (to - wanted) % 2 == 1);
        let first = half + usize::from(is_odd && half % 2 == 1);
        Self { span: Span { from, to, first, count: wanted }, before: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crop(scale: Scale, height: usize, width: usize) -> Fit {
        Fit::new([1, height, width], Resizing { scale, filter: Filter::Nearest })
    }

    #[track_caller]
    fn check_crop(fit: Fit, plane: &[u8], found: [usize; 2], expected: &[u8]) {
        assert_eq!(fit.plane(plane, found, fit.resizing().unwrap(), 9), expected);
    }

    #[test]
    fn the_middle_is_cut_out() {
        check_crop(crop(Scale::Keep, 1, 2), &[1, 2, 3, 4], [1, 4], &[2, 3]);
    }

    #[test]
    fn half_a_pixel_goes_to_the_even_side() {
        check_crop(crop(Scale::Keep, 1, 1), &[1, 2], [1, 2], &[1]);
        check_crop(crop(Scale::Keep, 1, 1), &[1, 2, 3, 4], [1, 4], &[3]);
    }

    #[test]
    fn a_small_image_gets_a_frame() {
        check_crop(crop(Scale::Keep, 3, 4), &[1, 2], [2, 1], &[9, 1, 9, 9, 9, 2, 9, 9, 9, 9, 9, 9]);
    }

    #[test]
    fn the_short_side_is_the_shorter_one() {
        assert_eq!(size(Scale::ShortSide(256), [375, 500]), [256, 341]);
        assert_eq!(size(Scale::ShortSide(256), [500, 375]), [341, 256]);
        assert_eq!(size(Scale::ShortSide(6), [3, 3]), [6, 6]);
    }

    #[test]
    fn an_image_of_the_shape_stays_as_it_is() {
        check_crop(crop(Scale::ShortSide(4), 2, 2), &[1, 2, 3, 4], [2, 2], &[1, 2, 3, 4]);
    }

    #[test]
    fn a_mask_is_cropped_as_its_image() {
        let fit = Fit::new([1, 2, 3], Resizing { scale: Scale::ShortSide(4), filter: Filter::Lanczos });
        // 2×4 becomes 4×8, and rows 1 to 2 with columns 2 to 4 are left.
        assert_eq!(fit.mask(&[1, 2, 3, 4, 5, 6, 7, 8], [2, 4]), [2, 2, 3, 6, 6, 7]);
        assert_eq!(crop(Scale::Keep, 1, 3).mask(&[7], [1, 1]), [UNLABELLED, 7, UNLABELLED]);
    }

    #[test]
    fn a_very_long_image_needs_no_more_than_its_window() {
        let fit = crop(Scale::ShortSide(16_384), 2, 2);
        assert_eq!(fit.plane(&[5; 16_384], [1, 16_384], fit.resizing().unwrap(), 0), [5; 4]);
    }
}
