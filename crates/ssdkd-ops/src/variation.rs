//! What pictures are like, whatever they show: neighbouring pixels are alike.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::device;
use crate::elementwise::{scalar_of, scalar_tensor};
use crate::images::{Images, map_images};
use crate::value::Value;

/// Rows and columns to the neighbours that a pixel is compared with: right, below, and the two diagonals below.
const NEIGHBOURS: [(usize, isize); 4] = [(0, 1), (1, 0), (1, -1), (1, 1)];

/// `Σ ‖x − its neighbours‖₂` over the four directions right, below, left below and right below, each norm taken over all
/// images (B, H, W, C), pixels and channels: the total variation of DeepInversion (Yin et al. 2020).
///
/// # Errors
/// If `x` is not of rank 4.
pub fn total_variation(x: &Value) -> Result<Value> {
    let operation = "total_variation";
    let images = Images::of(operation, x.tensor())?;
    on_gpu!(x.tensor() => crate::cuda::total_variation(operation, x, images));
    let squares = squared_differences(operation, images, x.tensor())?;
    let norms = squares.map(f64::sqrt);
    let kept = x.tensor().clone();
    Ok(Value::record1(scalar_tensor(norms.iter().sum())?, &[x], move |flow| {
        let flow = scalar_of(operation, flow)?;
        let factors = norms.map(|norm| if norm == 0.0 { 0.0 } else { (flow / norm) as f32 });
        let grad = map_images(operation, &kept, images, images, |_, x, out| {
            out.fill(0.0);
            for (neighbour, factor) in NEIGHBOURS.into_iter().zip(factors) {
                for_each_pair(images, neighbour, |a, b| {
                    for channel in 0..images.channels {
                        let pull = factor * (x[a + channel] - x[b + channel]);
                        out[a + channel] += pull;
                        out[b + channel] -= pull;
                    }
                });
            }
        })?;
        Ok(vec![Some(grad)])
    }))
}

/// The sum of squared differences in each direction, images added in order.
fn squared_differences(operation: &str, images: Images, x: &Tensor) -> Result<[f64; 4]> {
    let numbers = device::slice(x, operation)?;
    let of_image = |x: &[f32]| {
        NEIGHBOURS.map(|neighbour| {
            let mut sum = 0.0;
            for_each_pair(images, neighbour, |a, b| {
                for channel in 0..images.channels {
                    sum += f64::from(x[a + channel] - x[b + channel]).powi(2);
                }
            });
            sum
        })
    };
    let sums = numbers.par_chunks_exact(images.size()).with_max_len(1).map(of_image).collect::<Vec<_>>();
    let mut total = [0.0; 4];
    for sums in sums {
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
    }
    Ok(total)
}

/// Calls `visit` with where the numbers of a pixel and of its neighbour begin, for every pixel that has it.
fn for_each_pair(images: Images, (down, right): (usize, isize), mut visit: impl FnMut(usize, usize)) {
    for row in 0..images.height.saturating_sub(down) {
        for column in 0..images.width {
            let Some(beside) = column.checked_add_signed(right).filter(|beside| *beside < images.width) else {
                continue;
            };
            let at = |row: usize, column: usize| row * images.row() + column * images.channels;
            visit(at(row, column), at(row + down, beside));
        }
    }
}
