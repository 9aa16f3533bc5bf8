//! Where tests run: on the CPU, or where `SSDKD_TEST_DEVICE` says. The crates above include this file, too.
#![allow(dead_code, reason = "every test program uses its own part")]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::Device;

/// The device that this process tests: `cpu`, or in a build with the feature `cuda` also `cuda` and `cuda:N`.
///
/// Products are those of f32 there: what TF32 leaves of them could not be told from an error.
pub fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let named = || {
        let device = open(&std::env::var("SSDKD_TEST_DEVICE").unwrap_or_default());
        #[cfg(feature = "cuda")]
        ssdkd_ops::set_cuda_settings(ssdkd_ops::CudaSettings {
            tf32: false,
            deterministic: !takes_the_fastest_algorithms(),
            bf16: false,
            graphs: false,
        });
        device
    };
    DEVICE.get_or_init(named).clone()
}

/// `SSDKD_TEST_ALGORITHMS=fastest`: the algorithms that a GPU's library finds by trial. Otherwise those that give the same
/// bytes every time.
pub fn takes_the_fastest_algorithms() -> bool {
    std::env::var("SSDKD_TEST_ALGORITHMS").is_ok_and(|algorithms| algorithms == "fastest")
}

/// The device of a name.
pub fn open(name: &str) -> Device {
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    match (kind, index.parse()) {
        ("" | "cpu", _) => Device::Cpu,
        ("cuda", Ok(index)) => open_cuda(index),
        _ => panic!("{name:?} is no device: it is cpu, cuda or cuda:N"),
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(index: usize) -> Device {
    ssdkd_ops::cuda_device(index).unwrap_or_else(|error| panic!("there is no device cuda:{index}: {error}"))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(index: usize) -> Device {
    panic!("there is no device cuda:{index}: this program was built without the feature `cuda`")
}

pub fn on_cuda() -> bool {
    device().is_cuda()
}

/// How far numbers may be off where the CPU's may by `cpu`. A GPU adds in other orders, and its library chooses by itself
/// where to transform a convolution.
pub fn tolerance(cpu: f32) -> f32 {
    if on_cuda() { (4.0 * cpu).max(2e-5) } else { cpu }
}

/// Whether a test is passed over because only the CPU promises `what`.
pub fn skips(what: &str) -> bool {
    if on_cuda() {
        eprintln!("skipped: only the CPU promises {what}");
    }
    on_cuda()
}

/// A file of golden values. Where it is is asked at run time, as cargo says it then: a test's program may have moved.
pub fn golden(file: &str) -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).join("../../tests/golden").join(file)
}
