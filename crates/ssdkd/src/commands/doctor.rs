//! `ssdkd doctor`: what this machine offers.

use std::path::PathBuf;

use anyhow::Result;
use candle_core::Device;
use ssdkd_nn::{OPEN_GPU, device_name};
use ssdkd_stage::{CommonArgs, exit};

/// Prints version, threads, kernels and device.
pub fn doctor(arguments: &CommonArgs) -> Result<()> {
    let threads = arguments.set_up()?;
    let current = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let lines = format!(
        "version   {}\nthreads   {threads}\nkernels   {:?} (SSDKD_SIMD forces another; SSDKD_CONV=direct: plain sums)\ndevice    {}\nfolder    {}\n",
        env!("CARGO_PKG_VERSION"),
        ssdkd_ops::SimdPath::current()?,
        device_name(&arguments.device.open(Device::Cpu, OPEN_GPU)?),
        current.display()
    );
    Ok(exit::print(&lines)?)
}
