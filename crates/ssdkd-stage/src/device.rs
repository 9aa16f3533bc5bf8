//! The choice of a device, and what becomes of it on this machine. What a device is, the caller knows.

use std::fmt::{self, Display};
use std::str::FromStr;

use crate::code::Code;
use crate::error::StageError;
use crate::exit;

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// A GPU if this program was built for one and one is there; otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this index.
    Cuda(usize),
}

impl DeviceChoice {
    /// Refuses a GPU to a program that was built without: for when the device is opened later, or perhaps never.
    ///
    /// # Errors
    /// [`StageError::Usage`], which says what to use or to build instead.
    pub fn check(self, built_for_gpu: bool) -> Result<(), StageError> {
        match self {
            Self::Cuda(_) if !built_for_gpu => Err(StageError::Usage(format!(
                "--device {self}: this program was built for the CPU alone\nhint: use --device cpu, or build with make build-cuda"
            ))),
            _ => Ok(()),
        }
    }

    /// Opens what was chosen: `cpu`, or what `gpu` opens by its index. A program built for the CPU alone has no `gpu`.
    ///
    /// With [`Auto`](Self::Auto) a GPU that cannot be opened is a warning, and the CPU takes over.
    ///
    /// # Errors
    /// As [`check`](Self::check); and with [`Code::Failed`] if a GPU was asked for by name and cannot be opened.
    pub fn open<D, E: Display>(self, cpu: D, gpu: Option<impl FnOnce(usize) -> Result<D, E>>) -> Result<D, StageError> {
        self.check(gpu.is_some())?;
        let Some(gpu) = gpu else { return Ok(cpu) };
        match self {
            Self::Cpu => Ok(cpu),
            Self::Cuda(index) => {
                gpu(index).map_err(|error| StageError::other(Code::Failed, format!("--device {self}: {error}")))
            }
            Self::Auto => match gpu(0) {
                Ok(gpu) => {
                    tracing::info!("computing on the GPU, {}", Self::Cuda(0));
                    Ok(gpu)
                }
                Err(error) => {
                    tracing::warn!("computing on the CPU: {}", exit::without_frames(&error.to_string()));
                    Ok(cpu)
                }
            },
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", index)) => {
                index.parse().map(Self::Cuda).map_err(|_| format!("{index:?} is not a GPU's index"))
            }
            _ => Err("it must be cpu, cuda, cuda:N or auto".into()),
        }
    }
}

impl Display for DeviceChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(index) => write!(formatter, "cuda:{index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Gpu = fn(usize) -> Result<String, &'static str>;

    const WORKING: Option<Gpu> = Some(|index| Ok(format!("gpu {index}")));
    const BROKEN: Option<Gpu> = Some(|_| Err("no driver\nhint: install one"));
    const ABSENT: Option<Gpu> = None;

    #[track_caller]
    fn check(choice: DeviceChoice, gpu: Option<Gpu>, expected: &str) {
        assert_eq!(choice.open("cpu".into(), gpu).unwrap(), expected);
    }

    #[test]
    fn what_is_there_is_opened() {
        check(DeviceChoice::Cpu, WORKING, "cpu");
        check(DeviceChoice::Cuda(2), WORKING, "gpu 2");
        check(DeviceChoice::Auto, WORKING, "gpu 0");
        check(DeviceChoice::Auto, BROKEN, "cpu");
        check(DeviceChoice::Auto, ABSENT, "cpu");
    }

    #[track_caller]
    fn check_refused(gpu: Option<Gpu>, code: Code, expected: &str) {
        let error = DeviceChoice::Cuda(1).open(String::new(), gpu).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (code, expected));
    }

    #[test]
    fn a_gpu_that_was_named_and_is_not_there_is_an_error() {
        check_refused(BROKEN, Code::Failed, "--device cuda:1: no driver\nhint: install one");
        let built = "--device cuda:1: this program was built for the CPU alone\nhint: use --device cpu, or build with make build-cuda";
        check_refused(ABSENT, Code::Usage, built);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for device in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(3)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
    }
}
