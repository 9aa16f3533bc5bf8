//! Devices: the GPU where this was built for one, how it computes, and what devices are called.

#[cfg(feature = "cuda")]
use candle_core::bail;
use candle_core::{Device, DeviceLocation, Result};

/// Opens the GPU of an index.
pub type OpenGpu = fn(usize) -> Result<Device>;

/// What opens a GPU, or `None` in a program that was built without the feature `cuda`.
#[cfg(feature = "cuda")]
pub const OPEN_GPU: Option<OpenGpu> = Some(open_gpu);
/// What opens a GPU, or `None` in a program that was built without the feature `cuda`.
#[cfg(not(feature = "cuda"))]
pub const OPEN_GPU: Option<OpenGpu> = None;

/// How a GPU computes: words separated by commas.
///
/// `tf32` (factors of convolutions rounded to ten bits, as PyTorch does unless told otherwise; the default) or `f32`; `bf16`
/// (the teacher's and the generator's activations, with weights in `f32`; students stay as they are); and `deterministic`: the
/// same bytes every time.
#[cfg(feature = "cuda")]
const MATH: &str = "SSDKD_GPU_MATH";

/// `on`: steps of generator and student, and the teacher's labeling, are recorded once and replayed as CUDA graphs; `off`, the
/// default: their work is ordered each time.
#[cfg(feature = "cuda")]
const GRAPHS: &str = "SSDKD_GPU_GRAPHS";

#[cfg(feature = "cuda")]
fn open_gpu(index: usize) -> Result<Device> {
    let words = std::env::var(MATH).unwrap_or_default();
    let graphs = match std::env::var(GRAPHS).as_deref() {
        Ok("on") => true,
        Ok("off" | "") | Err(_) => false,
        Ok(other) => bail!("{GRAPHS}: {other:?} is not one of on, off"),
    };
    let mut settings = ssdkd_ops::CudaSettings { tf32: true, deterministic: false, bf16: false, graphs };
    for word in words.split(',').filter(|word| !word.is_empty()) {
        match word {
            "tf32" => settings.tf32 = true,
            "f32" => settings.tf32 = false,
            "bf16" => settings.bf16 = true,
            "deterministic" => settings.deterministic = true,
            _ => bail!("{MATH}: {word:?} is not one of tf32, f32, bf16, deterministic"),
        }
    }
    ssdkd_ops::set_cuda_settings(settings);
    ssdkd_ops::cuda_device(index)
}

/// Returns `cpu`, `cuda:0 (NVIDIA H100 80GB HBM3)`: as one asks for a device, and what it is.
pub fn device_name(device: &Device) -> String {
    let name = match device.location() {
        DeviceLocation::Cpu => "cpu".into(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    };
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        return format!("{name} ({})", ssdkd_ops::cuda_name(gpu));
    }
    name
}
