//! From candle tensors to slices and back: the only place that looks into a tensor's storage.
//!
//! Every kernel of this crate works on contiguous `f32` slices. What the kernels are not built for (another device,
//! another number type, a strided view) is an error here that names the operation, never a silent copy.

use std::ops::Deref;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Shape, Storage, StorageRef, Tensor, bail};

/// The numbers of a contiguous `f32` tensor on the CPU, borrowed for reading.
///
/// Holds the tensor's read lock: drop it before writing to the same storage.
pub(crate) struct Slice<'a> {
    storage: StorageRef<'a>,
    start: usize,
    end: usize,
}

impl Deref for Slice<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(numbers)) => &numbers[self.start..self.end],
            _ => unreachable!("`slice` lets nothing else through"),
        }
    }
}

/// Borrows the numbers of `tensor` for `operation`.
///
/// # Errors
/// If the tensor is not on the CPU, not `f32` or not contiguous.
pub(crate) fn slice<'a>(tensor: &'a Tensor, operation: &str) -> Result<Slice<'a>> {
    check_device(tensor.device(), operation)?;
    check_dtype(tensor.dtype(), operation)?;
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = contiguous_range(layout, operation)?;
    Ok(Slice { storage, start, end })
}

/// Lets `change` write to the numbers of `tensor`, in place.
///
/// `change` must not look into another tensor of the same storage: the lock is held.
///
/// # Errors
/// As [`slice()`], and whatever `change` returns.
pub(crate) fn update(
    tensor: &Tensor,
    operation: &'static str,
    change: impl Fn(&mut [f32]) -> Result<()>,
) -> Result<()> {
    struct Update<F>(&'static str, F);

    impl<F: Fn(&mut [f32]) -> Result<()>> InplaceOp1 for Update<F> {
        fn name(&self) -> &'static str {
            self.0
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let (start, end) = contiguous_range(layout, self.0)?;
            match storage {
                CpuStorage::F32(numbers) => (self.1)(&mut numbers[start..end]),
                _ => unreachable!("`update` checked the number type"),
            }
        }
    }

    check_device(tensor.device(), operation)?;
    check_dtype(tensor.dtype(), operation)?;
    tensor.inplace_op1(&Update(operation, change))
}

/// A vector of `len` numbers of unspecified value, for kernels that write every one of them.
///
/// Zeroing an activation only to overwrite it would cost a pass over memory, which is what bounds most operations.
pub(crate) fn unspecified(len: usize) -> Vec<f32> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let mut numbers = Vec::<f32>::with_capacity(len);
        // SAFETY: the empty assembly receives the pointer and is not marked as leaving memory alone, so the compiler
        // has to assume that it wrote every element: from here on they are initialised, with unspecified values, and
        // every bit pattern is an f32. `len` elements lie within the capacity.
        unsafe {
            std::arch::asm!("/* {0} */", in(reg) numbers.as_mut_ptr(), options(nostack, preserves_flags));
            numbers.set_len(len);
        }
        numbers
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        vec![0.0; len]
    }
}

/// A CPU tensor that takes over `numbers`, without a copy.
pub(crate) fn tensor(numbers: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(numbers, shape.into(), &Device::Cpu)
}

/// The tensor's numbers on the CPU: the tensor itself, or a copy, for which the GPU is waited for.
pub(crate) fn on_cpu(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_device(&Device::Cpu)
}

fn check_device(device: &Device, operation: &str) -> Result<()> {
    if !device.is_cpu() {
        bail!("{operation}: not built for this device ({:?})\nhint: run with --device cpu", device.location());
    }
    Ok(())
}

fn check_dtype(dtype: DType, operation: &str) -> Result<()> {
    if dtype != DType::F32 {
        bail!("{operation}: takes f32 tensors, this one is {dtype:?}\nhint: convert it with to_dtype(DType::F32)");
    }
    Ok(())
}

fn contiguous_range(layout: &Layout, operation: &str) -> Result<(usize, usize)> {
    match layout.contiguous_offsets() {
        Some(range) => Ok(range),
        None => bail!(
            "{operation}: takes contiguous tensors, this one has shape {:?} and strides {:?}\nhint: call contiguous() first",
            layout.dims(),
            layout.stride()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_window_of_a_narrowed_tensor() -> Result<()> {
        let rows = Tensor::arange(0f32, 12f32, &Device::Cpu)?.reshape((4, 3))?;
        assert_eq!(&*slice(&rows.narrow(0, 1, 2)?, "test")?, &[3., 4., 5., 6., 7., 8.]);
        Ok(())
    }

    #[test]
    fn writes_in_place() -> Result<()> {
        let numbers = Tensor::zeros(3, DType::F32, &Device::Cpu)?;
        update(&numbers, "test", |numbers| {
            numbers[1] = 2.0;
            Ok(())
        })?;
        assert_eq!(numbers.to_vec1::<f32>()?, [0.0, 2.0, 0.0]);
        Ok(())
    }

    #[test]
    fn refuses_what_the_kernels_cannot_read() -> Result<()> {
        let message = |tensor: &Tensor| slice(tensor, "blur").err().map(|error| error.to_string()).unwrap_or_default();
        let integers = Tensor::zeros(3, DType::U32, &Device::Cpu)?;
        assert!(message(&integers).contains("blur: takes f32 tensors, this one is U32"));
        let transposed = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?.t()?;
        assert!(message(&transposed).contains("blur: takes contiguous tensors"));
        Ok(())
    }

    #[test]
    fn unspecified_vectors_have_their_length() {
        let mut numbers = unspecified(1000);
        numbers.fill(1.0);
        assert!((numbers.iter().sum::<f32>() - 1000.0).abs() < f32::EPSILON);
    }
}
