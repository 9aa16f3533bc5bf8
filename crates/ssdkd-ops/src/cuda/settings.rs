//! How networks are computed on a GPU, in the whole program.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Result, Tensor, bail};

/// How activations and their gradients are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stored {
    /// As everything else.
    F32,
    /// In the upper half of an `f32`; all is computed in `f32` and `f64` as ever, but a convolution's products.
    Bf16,
}

impl Stored {
    /// How the numbers of `tensor` are.
    pub(super) fn of(tensor: &Tensor, operation: &str) -> Result<Self> {
        match tensor.dtype() {
            DType::F32 => Ok(Self::F32),
            DType::BF16 => Ok(Self::Bf16),
            other => bail!(
                "{operation}: takes f32 or bf16 tensors, this one is {other:?}\nhint: convert it with to_dtype(DType::F32)"
            ),
        }
    }
}

/// How networks are computed on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub struct CudaSettings {
    /// Round factors to 10 bits (TF32) for the tensor cores, as PyTorch does unless told otherwise; sums stay f32.
    pub tf32: bool,
    /// Only algorithms that give the same bytes every time, chosen by rule. Otherwise the fastest on this GPU, by trial.
    pub deterministic: bool,
    /// [`to_reduced_precision`](crate::to_reduced_precision) makes bf16: activations of two bytes a number.
    pub bf16: bool,
    /// Steps are recorded once their sizes repeat, and replayed as CUDA graphs; see [`Recording`](crate::Recording).
    pub graphs: bool,
}

static TF32: AtomicBool = AtomicBool::new(true);
static DETERMINISTIC: AtomicBool = AtomicBool::new(false);
static BF16: AtomicBool = AtomicBool::new(false);
static GRAPHS: AtomicBool = AtomicBool::new(false);

/// Sets how networks are computed on GPUs from now on, in the whole program.
pub fn set_cuda_settings(settings: CudaSettings) {
    TF32.store(settings.tf32, Ordering::Relaxed);
    DETERMINISTIC.store(settings.deterministic, Ordering::Relaxed);
    BF16.store(settings.bf16, Ordering::Relaxed);
    GRAPHS.store(settings.graphs, Ordering::Relaxed);
}

/// How networks are computed on GPUs; see [`set_cuda_settings`].
pub fn cuda_settings() -> CudaSettings {
    let [tf32, deterministic, bf16, graphs] =
        [&TF32, &DETERMINISTIC, &BF16, &GRAPHS].map(|setting| setting.load(Ordering::Relaxed));
    CudaSettings { tf32, deterministic, bf16, graphs }
}
