//! Copies of some channels of many pixels, side by side.
//!
//! Pixels are read from end to end, as the hardware's prefetcher likes it, and all pieces of a pixel are written before the next few
//! pixels are read.

use crate::simd::{NARROW, SimdPath, Vector, dispatch, prefetch};

/// Which pixels are read: in numbers, from `start` on, with steps from one image, row and column to the next.
pub(super) struct Pixels {
    pub start: usize,
    pub images: usize,
    pub rows: usize,
    pub columns: usize,
    pub steps: [usize; 3],
}

/// Some channels of every pixel: `count` of them, from `first` on, become pixels of `width` numbers in the copy, from number
/// `to` on. Those that are left over become 0.
pub(super) struct Piece {
    pub first: usize,
    pub count: usize,
    pub width: usize,
    pub to: usize,
}

impl Pixels {
    pub fn count(&self) -> usize {
        self.images * self.rows * self.columns
    }
}

/// Pixels that are copied piece by piece.
const AT_ONCE: usize = 8;

/// Pixels between one that is copied and one that is asked for: where a piece is a small part of its pixel, the hardware's
/// prefetcher has no end to follow.
const AHEAD: usize = 16;

/// Numbers in a cache line.
const CACHE_LINE: usize = 16;

/// Copies all `pieces` of all `pixels`; the copy takes `len` numbers.
pub(super) fn copy(path: SimdPath, from: &[f32], pixels: &Pixels, pieces: &[Piece], to: &mut Vec<f32>, len: usize) {
    if pieces.is_empty() || pixels.count() == 0 {
        return;
    }
    if to.len() < len {
        to.resize(len, 0.0);
    }
    let sizes = [pixels.images, pixels.rows, pixels.columns];
    let last = pixels.start + sizes.iter().zip(pixels.steps).map(|(size, step)| (size - 1) * step).sum::<usize>();
    for piece in pieces {
        assert!(piece.count <= piece.width && last + piece.first + piece.count <= from.len());
        assert!(piece.to + pixels.count() * piece.width <= len);
    }
    let to = to.as_mut_slice();
    // SAFETY: a path is only obtained where the CPU has its instructions; all pieces of the last pixel lie within both slices,
    // as asserted, and so do those of the pixels before.
    unsafe { dispatch!(path, copy_rows, [], [], [], (from: &[f32], pixels: &Pixels, pieces: &[Piece], to: &mut [f32])) }
}

/// # Safety
/// As [`copy`] has seen to; the CPU has the instructions of `V`.
#[inline(always)]
unsafe fn copy_rows<V: Vector>(from: &[f32], pixels: &Pixels, pieces: &[Piece], to: &mut [f32]) {
    let [image_step, row_step, column_step] = pixels.steps;
    let read = pieces[0].first..pieces.last().map_or(0, |piece| piece.first + piece.count);
    let mut pixel = 0;
    for image in 0..pixels.images {
        for row in 0..pixels.rows {
            let start = pixels.start + image * image_step + row * row_step;
            for column in (0..pixels.columns).step_by(AT_ONCE) {
                let count = AT_ONCE.min(pixels.columns - column);
                let ahead = start + (column + AHEAD) * column_step;
                for pixel in 0..count {
                    for number in read.clone().step_by(CACHE_LINE) {
                        prefetch(from.as_ptr().wrapping_add(ahead + pixel * column_step + number));
                    }
                }
                for piece in pieces {
                    let from = from.as_ptr().wrapping_add(start + column * column_step + piece.first);
                    let to = to.as_mut_ptr().wrapping_add(piece.to + pixel * piece.width);
                    // SAFETY: handed on.
                    unsafe { copy_piece::<V>(piece, (from, column_step), to, count) };
                }
                pixel += count;
            }
        }
    }
}

/// `pixels` pixels of one piece.
///
/// # Safety
/// As [`copy_rows`], of these pixels.
#[inline(always)]
unsafe fn copy_piece<V: Vector>(piece: &Piece, (from, step): (*const f32, usize), to: *mut f32, pixels: usize) {
    let (count, width) = (piece.count, piece.width);
    let addresses = |pixel: usize| (from.wrapping_add(pixel * step), to.wrapping_add(pixel * width));
    // Each loop has a fixed number of registers: of any number, the compiler makes a call for every pixel.
    // SAFETY: no register ends beyond the channels of its pixel on either side.
    unsafe {
        if count == width && count == 2 * V::LANES {
            for pixel in 0..pixels {
                let (from, to) = addresses(pixel);
                V::load(from).store(to);
                V::load(from.wrapping_add(V::LANES)).store(to.wrapping_add(V::LANES));
            }
        } else if count == width && count == V::LANES {
            for pixel in 0..pixels {
                let (from, to) = addresses(pixel);
                V::load(from).store(to);
            }
        } else if count == width && (NARROW..=3 * NARROW).contains(&count) {
            // Three narrow registers, which overlap where that is more than there are.
            let [middle, last] = [NARROW.min(count - NARROW), count - NARROW];
            for pixel in 0..pixels {
                let (from, to) = addresses(pixel);
                for at in [0, middle, last] {
                    <V::Narrow as Vector>::load(from.wrapping_add(at)).store(to.wrapping_add(at));
                }
            }
        } else {
            for pixel in 0..pixels {
                let (from, to) = addresses(pixel);
                let mut at = 0;
                while at < width {
                    let [left, room] = [count.saturating_sub(at).min(NARROW), NARROW.min(width - at)];
                    <V::Narrow as Vector>::load_first(from.wrapping_add(at), left)
                        .store_first(to.wrapping_add(at), room);
                    at += NARROW;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_channels_of_every_pixel() {
        let (images, height, width, channels) = (2, 3, 5, 40);
        let from = (0..images * height * width * channels).map(|number| number as f32).collect::<Vec<_>>();
        // Every second column, and rows from the second on.
        let steps = [height * width * channels, width * channels, 2 * channels];
        let pixels = Pixels { start: width * channels, images, rows: 2, columns: 3, steps };
        for path in SimdPath::ALL.into_iter().filter(|path| path.is_available()) {
            for (first, count, width_of) in
                [(8, 32, 32), (3, 16, 16), (0, 12, 12), (5, 11, 11), (7, 4, 4), (39, 1, 1), (1, 3, 4), (2, 9, 16)]
            {
                let mut to = Vec::new();
                let piece = Piece { first, count, width: width_of, to: 2 };
                copy(path, &from, &pixels, &[piece], &mut to, 2 + pixels.count() * width_of);
                let mut expected = vec![0.0; 2];
                for pixel in 0..pixels.count() {
                    let [image, row, column] = [pixel / 6, pixel / 3 % 2, pixel % 3];
                    let at = image * steps[0] + (row + 1) * steps[1] + column * steps[2] + first;
                    expected.extend(&from[at..at + count]);
                    expected.resize(expected.len() + width_of - count, 0.0);
                }
                assert_eq!(to, expected, "{count} of {width_of} on {}", path.name());
            }
        }
    }
}
