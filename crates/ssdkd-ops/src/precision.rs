//! Activations in fewer bits, where the settings of their device ask for that.

use candle_core::{DType, Result};

use crate::value::Value;

/// `x` as activations are stored where the caller lets them be of fewer bits: in bf16 on a GPU with `CudaSettings::bf16`, else
/// as it is. Gradients come back as `x` is.
///
/// Convolutions, normalisations, activations, pooling, resampling and sums take bf16 and make bf16. Their weights, statistics
/// and the gradients of these are `f32`; a convolution rounds its weight to bf16, and cuDNN the weight's gradient. Everything else takes `f32` alone: see [`to_f32`].
pub fn to_reduced_precision(x: &Value) -> Result<Value> {
    #[cfg(feature = "cuda")]
    if x.tensor().device().is_cuda() && x.tensor().dtype() == DType::F32 && crate::cuda::cuda_settings().bf16 {
        return crate::cuda::to_bf16(x);
    }
    Ok(x.clone())
}

/// `x` in `f32`; itself, if it is. Gradients go back as `x` is.
pub fn to_f32(x: &Value) -> Result<Value> {
    if x.tensor().dtype() == DType::BF16 {
        on_gpu!(x.tensor() => crate::cuda::to_f32(x));
    }
    Ok(x.clone())
}
