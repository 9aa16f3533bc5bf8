//! What is done to an output while it is still in registers: a convolution's result is then written once and not read again
//! before the next layer.

use crate::activation::{Activation, activate_in_place, with_activation};
use crate::simd::{SimdPath, Vector};
use crate::vectorised::vectorised;

/// `out = activation(out + residual)`, of which each part is optional.
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// As large as the output.
    pub residual: Option<&'a [f32]>,
    pub activation: Activation,
}

impl Epilogue<'_> {
    /// Whether registers of sums are activated before they are written. The other activations take a pass of their own.
    pub fn fuses(activation: Activation) -> bool {
        matches!(activation, Activation::None | Activation::Relu | Activation::Clip(..))
    }

    /// The same, as kernels take it: the residual from number `at` of the output on. The activation is one that it
    /// [`fuses`](Self::fuses).
    pub fn at(&self, at: usize) -> RawEpilogue {
        let range = match self.activation {
            Activation::Relu => Range::Positive,
            Activation::Clip(low, high) => Range::Between(low, high),
            _ => Range::All,
        };
        RawEpilogue { residual: self.residual.map(|residual| residual[at..].as_ptr()), range }
    }

    /// For kernels that do not finish their output themselves; of any activation.
    pub fn finish(&self, path: SimdPath, out: &mut [f32], at: usize) {
        if let Some(residual) = self.residual {
            add_to(path, out, &residual[at..at + out.len()]);
        }
        if self.activation != Activation::None {
            with_activation!(self.activation, |function| activate_in_place(path, out, function));
        }
    }
}

/// What an output is limited to.
#[derive(Clone, Copy, PartialEq)]
enum Range {
    All,
    Positive,
    Between(f32, f32),
}

/// An [`Epilogue`] by address.
#[derive(Clone, Copy)]
pub(crate) struct RawEpilogue {
    pub residual: Option<*const f32>,
    range: Range,
}

impl RawEpilogue {
    /// Whether there is anything to do.
    #[inline(always)]
    pub fn is_something(&self) -> bool {
        self.residual.is_some() || self.range != Range::All
    }

    /// What becomes of the register of numbers that belongs at `at`.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`, and the residual has its numbers there.
    #[inline(always)]
    pub unsafe fn apply<V: Vector>(&self, mut numbers: V, at: usize) -> V {
        // SAFETY: as the contract says.
        unsafe {
            if let Some(residual) = self.residual {
                numbers = numbers.add(V::load(residual.add(at)));
            }
            self.activate([[numbers]])[0][0]
        }
    }

    /// The activation of some registers alone.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`.
    #[expect(clippy::needless_range_loop, reason = "constant ends are unrolled; iterators by value go through memory")]
    #[inline(always)]
    pub unsafe fn activate<V: Vector, const PIXELS: usize, const VECTORS: usize>(
        &self,
        mut numbers: [[V; VECTORS]; PIXELS],
    ) -> [[V; VECTORS]; PIXELS] {
        // SAFETY: as the contract says.
        unsafe {
            match self.range {
                Range::All => {}
                Range::Positive => {
                    for pixel in 0..PIXELS {
                        for vector in 0..VECTORS {
                            numbers[pixel][vector] = numbers[pixel][vector].relu();
                        }
                    }
                }
                Range::Between(low, high) => {
                    let (low, high) = (V::splat(&raw const low), V::splat(&raw const high));
                    for pixel in 0..PIXELS {
                        for vector in 0..VECTORS {
                            numbers[pixel][vector] = numbers[pixel][vector].clip(low, high);
                        }
                    }
                }
            }
        }
        numbers
    }
}

vectorised! {
    fn add_to(out: &mut [f32], x: &[f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += x;
        }
    }
}
