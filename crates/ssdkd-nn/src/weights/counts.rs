//! The batch counts of batch norms, which some tools store in another form.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};

/// Gives every `num_batches_tracked` the form of PyTorch's buffer: a scalar of type I64.
///
/// `state_dict` entries that were all converted to floats have float counts. PyTorch casts them when it loads them.
pub(super) fn restore(tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
    for (name, tensor) in tensors {
        let is_count = name.rsplit('.').next() == Some("num_batches_tracked");
        if !is_count || tensor.rank() > 1 || tensor.elem_count() != 1 {
            continue;
        }
        if tensor.dtype().is_float() {
            let count = tensor.to_dtype(DType::F64)?.reshape(())?.to_scalar::<f64>()?.round();
            // A half holds no count above 65504. Evaluation does not use the count.
            let count = if count.is_finite() { count as i64 } else { 0 };
            *tensor = Tensor::new(count, &Device::Cpu)?;
        } else {
            *tensor = tensor.reshape(())?;
        }
    }
    Ok(())
}
