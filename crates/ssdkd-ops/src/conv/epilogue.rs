//! What is done to an output while it is still in registers: a convolution's result is then written once and not read again
//! before the next layer.

use crate::activation::{Relu, rectify_in_place};
use crate::simd::{SimdPath, Vector};
use crate::vectorised::vectorised;

/// `out = relu(out + residual)`, of which each part is optional.
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// As large as the output.
    pub residual: Option<&'a [f32]>,
    pub relu: bool,
}

impl Epilogue<'_> {
    /// The same, as kernels take it: the residual from number `at` of the output on.
    pub fn at(&self, at: usize) -> RawEpilogue {
        RawEpilogue { residual: self.residual.map(|residual| residual[at..].as_ptr()), relu: self.relu }
    }

    /// For kernels that do not finish their output themselves.
    pub fn finish(&self, path: SimdPath, out: &mut [f32], at: usize) {
        if let Some(residual) = self.residual {
            add_to(path, out, &residual[at..at + out.len()]);
        }
        if self.relu {
            rectify_in_place(path, out, Relu);
        }
    }
}

/// An [`Epilogue`] by address.
#[derive(Clone, Copy)]
pub(crate) struct RawEpilogue {
    pub residual: Option<*const f32>,
    pub relu: bool,
}

impl RawEpilogue {
    /// Whether there is anything to do.
    #[inline(always)]
    pub fn is_something(&self) -> bool {
        self.residual.is_some() || self.relu
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
            if self.relu { numbers.relu() } else { numbers }
        }
    }
}

vectorised! {
    fn add_to(out: &mut [f32], x: &[f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += x;
        }
    }
}
