//! Where a process computes.

use std::cell::OnceCell;

use candle_core::Device;
use ssdkd_nn::{OPEN_GPU, device_name};
use ssdkd_stage::{DeviceChoice, StageError};

/// A device that is opened when something is computed: a fresh stage needs no GPU.
pub(crate) struct LazyDevice {
    choice: DeviceChoice,
    opened: OnceCell<Device>,
}

impl LazyDevice {
    pub(crate) fn new(choice: DeviceChoice) -> Self {
        Self { choice, opened: OnceCell::new() }
    }

    /// Returns where to compute.
    ///
    /// # Errors
    /// If a GPU was asked for by name and cannot be opened.
    pub(crate) fn get(&self) -> Result<&Device, StageError> {
        if let Some(device) = self.opened.get() {
            return Ok(device);
        }
        let device = self.choice.open(Device::Cpu, OPEN_GPU)?;
        Ok(self.opened.get_or_init(|| device))
    }

    /// Returns the name of the device that was opened. A process that opened none works on the CPU.
    pub(crate) fn name(&self) -> String {
        self.opened.get().map_or_else(|| "cpu".into(), device_name)
    }
}
