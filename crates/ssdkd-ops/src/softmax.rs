//! The softmax of one row of logits, or of two, in f64: what the losses over logits are made of.
//!
//! Segmentation has a row for each pixel, so the exponentials take a good part of a step. They are vectorised.

use crate::simd::SimdPath;
use crate::vectorised::vectorised;

/// Numbers that are computed together. Room for a row is a multiple of it, so that no number is left over for a slow loop.
const LANES: usize = 8;

/// Room for the softmax of a row, which holds that of the last row given to [`set`](Self::set).
pub(crate) struct Softmax {
    path: SimdPath,
    classes: usize,
    /// The probabilities, and numbers that count as zeros up to a multiple of [`LANES`].
    probabilities: Vec<f64>,
    sum: Sum,
}

/// Σ e^x = `of_shifted` · e^`largest`.
#[derive(Clone, Copy)]
struct Sum {
    largest: f64,
    of_shifted: f64,
}

impl Softmax {
    pub(crate) fn new(path: SimdPath, classes: usize) -> Self {
        let probabilities = vec![0.0; classes.next_multiple_of(LANES)];
        Self { path, classes, probabilities, sum: Sum { largest: 0.0, of_shifted: 1.0 } }
    }

    /// Computes softmax(logits / T) of one row.
    pub(crate) fn set(&mut self, logits: &[f32], temperature: f64) {
        debug_assert_eq!(logits.len(), self.classes);
        self.sum = softmax_row(self.path, logits, temperature, &mut self.probabilities);
    }

    /// softmax(logits / T), one number for each class.
    pub(crate) fn probabilities(&self) -> &[f64] {
        &self.probabilities[..self.classes]
    }

    /// The largest probability.
    pub(crate) fn largest(&self) -> f64 {
        1.0 / self.sum.of_shifted
    }

    /// ln Σ e^(logit / T).
    pub(crate) fn log_sum(&self) -> f64 {
        self.sum.largest + self.sum.of_shifted.ln()
    }
}

/// One row of a divergence: p = softmax(t / T) and q = softmax(s / T).
pub(crate) struct Pair<'a> {
    target: &'a [f32],
    logits: &'a [f32],
    temperature: f64,
    p: &'a Softmax,
    q: &'a Softmax,
}

impl<'a> Pair<'a> {
    pub(crate) fn new(scratch: &'a mut [Softmax; 2], target: &'a [f32], logits: &'a [f32], temperature: f64) -> Self {
        let [p, q] = scratch;
        p.set(target, temperature);
        q.set(logits, temperature);
        Self { target, logits, temperature, p, q }
    }

    pub(crate) fn p(&self) -> &[f64] {
        self.p.probabilities()
    }

    pub(crate) fn q(&self) -> &[f64] {
        self.q.probabilities()
    }

    /// ln p − ln q of every class.
    pub(crate) fn log_ratios(&self) -> impl Iterator<Item = f64> {
        let log_sums = self.p.log_sum() - self.q.log_sum();
        let factor = 1.0 / self.temperature;
        let pairs = self.target.iter().zip(self.logits);
        pairs.map(move |(&target, &logit)| (f64::from(target) - f64::from(logit)) * factor - log_sums)
    }

    pub(crate) fn divergence(&self) -> f64 {
        let divergence = self.p().iter().zip(self.log_ratios()).map(|(p, ratio)| p * ratio).sum::<f64>();
        // Rounding can leave a little less than nothing; NaN stays.
        if divergence < 0.0 { 0.0 } else { divergence }
    }
}

vectorised! {
    fn softmax_row(logits: &[f32], temperature: f64, out: &mut [f64]) -> Sum {
        let (scaled, rest) = out.split_at_mut(logits.len());
        let factor = 1.0 / temperature;
        for (scaled, &logit) in scaled.iter_mut().zip(logits) {
            *scaled = f64::from(logit) * factor;
        }
        // Too little to change the sum, which is at least 1.
        rest.fill(f64::NEG_INFINITY);
        let (blocks, _) = out.as_chunks_mut::<LANES>();
        let mut largest = [f64::NEG_INFINITY; LANES];
        for block in blocks.iter() {
            for lane in 0..LANES {
                largest[lane] = if block[lane] > largest[lane] { block[lane] } else { largest[lane] };
            }
        }
        let largest = largest.into_iter().fold(f64::NEG_INFINITY, f64::max);
        let mut sums = [0.0; LANES];
        for block in blocks.iter_mut() {
            for lane in 0..LANES {
                block[lane] = exponential(block[lane] - largest);
                sums[lane] += block[lane];
            }
        }
        let of_shifted = sums.iter().sum::<f64>();
        let factor = 1.0 / of_shifted;
        for block in blocks {
            for probability in block {
                *probability *= factor;
            }
        }
        Sum { largest, of_shifted }
    }
}

/// e^x for x up to 0, within 1e-14 of it; e^−700, which is 0 in f32, for all below. NaN stays NaN.
///
/// As `activation::exponential`: the standard library's is a call for every number, and differs from one C library to the next.
/// x = n ln 2 + r, then 2^n times the series of e^r, whose first term left out is below 7e-15 for |r| ≤ ln 2 / 2.
#[inline(always)]
fn exponential(x: f64) -> f64 {
    /// Adding and subtracting it rounds to the nearest integer, which stands in the last bits of the sum.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    /// ln 2 in two parts, the first exact in few bits, so that `n` times it is exact.
    const LN_2: (f64, f64) = (0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10);
    const SMALLEST: f64 = -700.0;

    // Not `max`, which loses NaN, and no branch, which would keep the loop around it from being vectorised.
    let x = if x < SMALLEST { SMALLEST } else { x };
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2.0) - n * LN_2.1;
    let mut series = 1.0 / 39_916_800.0;
    for factorial in [3_628_800.0, 362_880.0, 40_320.0, 5_040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        series = series * r + 1.0 / factorial;
    }
    series * f64::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(1023) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_fourteen_digits() {
        for step in 0..70_000 {
            let x = -f64::from(step) / 100.0 + 0.0007;
            let error = (exponential(x) - x.exp()).abs() / x.exp();
            assert!(error < 1e-14, "e^{x} is off by {error:e}");
        }
        assert_eq!(exponential(0.0), 1.0);
        assert_eq!([exponential(f64::NEG_INFINITY) as f32, exponential(-800.0) as f32], [0.0, 0.0]);
        assert!(exponential(f64::NAN).is_nan());
    }

    #[test]
    fn a_row_of_any_length_has_the_probabilities_of_the_formula() -> candle_core::Result<()> {
        for classes in [1, 2, 7, 8, 9, 21, 100, 1000] {
            for temperature in [0.5, 1.0, 4.0] {
                let logits = (0..classes).map(|class| (class as f32 * 1.7).sin() * 30.0).collect::<Vec<_>>();
                let mut softmax = Softmax::new(SimdPath::current()?, classes);
                softmax.set(&logits, temperature);
                let sum = logits.iter().map(|&logit| (f64::from(logit) / temperature).exp()).sum::<f64>();
                assert!((softmax.log_sum() - sum.ln()).abs() < 1e-12);
                let largest = softmax.probabilities().iter().copied().fold(0.0, f64::max);
                assert!((softmax.largest() - largest).abs() < 1e-15);
                for (&logit, &p) in logits.iter().zip(softmax.probabilities()) {
                    let expected = (f64::from(logit) / temperature).exp() / sum;
                    assert!((p - expected).abs() <= 1e-13 * expected, "{p} is not {expected}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_logit_that_is_not_a_number_shows_in_every_probability() -> candle_core::Result<()> {
        for broken in [f32::NAN, f32::INFINITY] {
            let mut softmax = Softmax::new(SimdPath::current()?, 9);
            softmax.set(&[0.0, 1.0, broken, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 1.0);
            assert!(softmax.probabilities().iter().any(|p| p.is_nan()) && softmax.log_sum().is_nan());
        }
        Ok(())
    }
}
