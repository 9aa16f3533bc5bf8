//! What a step gives back to the program, in one piece: each copy from a GPU waits until all work before it is done.

use candle_core::{Result, Tensor};

use crate::device;

/// The numbers of several tensors, put together on their device.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use ssdkd_ops::Packed;
///
/// let [loss, norms] = [vec![1.5_f32], vec![3.0, 4.0]].map(|x| Tensor::new(x, &Device::Cpu));
/// let packed = Packed::of(&[&loss?, &norms?])?;
/// assert_eq!(packed.read()?, [vec![1.5], vec![3.0, 4.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Packed {
    numbers: Tensor,
    lengths: Vec<usize>,
}

impl Packed {
    /// Puts `tensors` together, which are contiguous `f32` on one device; there is at least one.
    ///
    /// # Errors
    /// If they are not.
    pub fn of(tensors: &[&Tensor]) -> Result<Self> {
        let lengths = tensors.iter().map(|tensor| tensor.elem_count()).collect();
        Ok(Self { numbers: together(tensors)?, lengths })
    }

    /// Returns a copy on the same device.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn copy(&self) -> Result<Self> {
        Ok(Self { numbers: self.numbers.copy()?, lengths: self.lengths.clone() })
    }

    /// Copies the numbers of each tensor, in order, to the program. A GPU is waited for, once.
    ///
    /// # Errors
    /// If a launch before it has failed.
    pub fn read(&self) -> Result<Vec<Vec<f32>>> {
        let numbers = self.numbers.to_vec1::<f32>()?;
        let mut rest = &numbers[..];
        let split = |&length: &usize| {
            let (piece, behind) = rest.split_at(length);
            rest = behind;
            piece.to_vec()
        };
        Ok(self.lengths.iter().map(split).collect())
    }
}

fn together(tensors: &[&Tensor]) -> Result<Tensor> {
    let operation = "pack";
    if tensors.is_empty() {
        candle_core::bail!("{operation}: there are no tensors");
    }
    on_gpu!(tensors[0] => crate::cuda::pack(operation, tensors));
    let mut numbers = Vec::with_capacity(tensors.iter().map(|tensor| tensor.elem_count()).sum());
    for tensor in tensors {
        numbers.extend_from_slice(&device::slice(tensor, operation)?);
    }
    let count = numbers.len();
    device::tensor(numbers, count)
}

/// Returns how often this thread has copied numbers from a GPU so far: it waits for the GPU each time.
pub fn read_backs() -> u64 {
    #[cfg(feature = "cuda")]
    return crate::cuda::read_backs();
    #[cfg(not(feature = "cuda"))]
    0
}
