//! Mean and variance of every channel: in cache-sized pieces, twice over each, and the pieces merged in f64.
//!
//! One pass with a sum and a sum of squares would lose the variance of a channel whose mean is large. The second look
//! at a piece finds it in the cache and costs next to nothing.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::kernels::{add_deviations, add_rows, fold};
use crate::device;
use crate::simd::SimdPath;
use crate::vectorised::{pattern, pattern_piece_rows, pattern_rows};

/// Mean and summed squared deviations of each channel over some rows.
pub(super) struct Moments {
    pub(super) rows: usize,
    pub(super) mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Moments {
    /// Of all rows of `x` (rows, C).
    pub(super) fn of(path: SimdPath, channels: usize, x: &[f32]) -> Self {
        let pieces = x
            .par_chunks(pattern_piece_rows(channels) * channels)
            .map(|piece| Self::of_piece(path, channels, piece))
            .collect::<Vec<_>>();
        Self::merged(channels, pieces)
    }

    /// Of a piece that fits into the cache.
    pub(super) fn of_piece(path: SimdPath, channels: usize, x: &[f32]) -> Self {
        let rows = x.len() / channels;
        let lanes = pattern_rows(channels) * channels;
        let mut sums = vec![0.0; lanes];
        add_rows(path, x, &mut sums);
        let rough = fold(channels, &sums).iter().map(|sum| (sum / rows as f64) as f32).collect::<Vec<_>>();

        // Deviations from a rounded mean tell how far off it is.
        sums.fill(0.0);
        let mut squares = vec![0.0; lanes];
        add_deviations(path, x, &pattern(channels, |c| rough[c]), &mut sums, &mut squares);
        let off = fold(channels, &sums).iter().map(|sum| sum / rows as f64).collect::<Vec<_>>();
        let mean = rough.iter().zip(&off).map(|(&rough, off)| f64::from(rough) + off).collect();
        let mut squares = fold(channels, &squares);
        for (squares, off) in squares.iter_mut().zip(&off) {
            *squares = (*squares - off * off * rows as f64).max(0.0);
        }
        Self { rows, mean, squares }
    }

    /// Of the rows of all pieces, merged in order (Chan, Golub and LeVeque 1979).
    pub(super) fn merged(channels: usize, pieces: Vec<Self>) -> Self {
        let none = Self { rows: 0, mean: vec![0.0; channels], squares: vec![0.0; channels] };
        pieces.into_iter().fold(none, |mut all, piece| {
            let share = piece.rows as f64 / (all.rows + piece.rows) as f64;
            for c in 0..channels {
                let apart = piece.mean[c] - all.mean[c];
                all.mean[c] += apart * share;
                all.squares[c] += piece.squares[c] + apart * apart * share * all.rows as f64;
            }
            all.rows += piece.rows;
            all
        })
    }

    /// The biased variance of channel `c`.
    pub(super) fn variance(&self, c: usize) -> f64 {
        self.squares[c] / self.rows as f64
    }

    /// The mean and the biased variance, as tensors (C,).
    pub(super) fn tensors(&self) -> Result<(Tensor, Tensor)> {
        let channels = self.mean.len();
        let mean = self.mean.iter().map(|&mean| mean as f32).collect();
        let variance = (0..channels).map(|c| self.variance(c) as f32).collect();
        Ok((device::tensor(mean, channels)?, device::tensor(variance, channels)?))
    }
}
