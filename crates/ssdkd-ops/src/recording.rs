//! Work on a GPU that is recorded once and replayed: a step has hundreds of launches, and a replay costs the program as much as one.

use candle_core::{Device, Result, bail};

/// Work that was recorded, on a GPU; dropped, it gives its memory back.
///
/// A replay reads and writes the tensors of the recorded work at the same addresses, so they have to live, and what changes from
/// replay to replay is [copied](crate::copy_assign) to them before. One thread at a time may use a GPU on which work is recorded.
pub struct Recording {
    #[cfg(feature = "cuda")]
    graph: crate::cuda::Graph,
}

impl Recording {
    /// Records what `work` orders, without doing it. Tensors that `work` makes have their numbers after a replay.
    ///
    /// The same work must have been done before, in the same sizes: libraries choose their algorithms then.
    ///
    /// # Errors
    /// If `device` is no GPU, this thread records already, or `work` fails. It fails if it waits for the GPU, as it does to read
    /// numbers. Nothing that `work` ordered has been done then.
    pub fn of<T>(device: &Device, work: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = device {
            let (graph, made) = crate::cuda::Graph::record(device, work)?;
            return Ok((Self { graph }, made));
        }
        drop(work);
        bail!("a recording takes work on a GPU, this is for {:?}", device.location())
    }

    /// Orders the recorded work, after all that was ordered before.
    ///
    /// # Errors
    /// If the driver refuses it.
    pub fn replay(&self) -> Result<()> {
        #[cfg(feature = "cuda")]
        return self.graph.launch();
        #[cfg(not(feature = "cuda"))]
        bail!("there is nothing to replay without a GPU")
    }

    /// Returns whether work is still computed as it was when it was recorded; not after `set_cuda_settings`.
    pub fn is_current(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.graph.is_current();
        #[cfg(not(feature = "cuda"))]
        false
    }
}

/// Returns whether steps on this device are to be recorded and replayed.
pub fn records_steps(device: &Device) -> bool {
    #[cfg(feature = "cuda")]
    return device.is_cuda() && crate::cuda::cuda_settings().graphs;
    #[cfg(not(feature = "cuda"))]
    {
        let _ = device;
        false
    }
}

/// Returns how often this thread has replayed recorded work so far.
pub fn replays() -> u64 {
    #[cfg(feature = "cuda")]
    return crate::cuda::launches();
    #[cfg(not(feature = "cuda"))]
    0
}
