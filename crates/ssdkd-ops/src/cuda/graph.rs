//! Work that is recorded once and launched as one: a CUDA graph.
//!
//! A launch does the recorded work again, with the same addresses and numbers. What is needed for that:
//!
//! | of a launch | how |
//! |---|---|
//! | memory | blocks that a recording takes stay its own (`pools`) |
//! | numbers that the program sends while it records | kept on the device, and copied in each launch (`memory`) |
//! | scratch memory of the kernels and of cuBLAS | one block for as long as the program runs |
//! | cuDNN's workspace | the recording holds the one it was made with |
//! | which algorithm, which kernel | found and loaded by the same work before it is recorded |
//! | numbers that change | in tensors that the recorded work reads: the caller writes to them before a launch |
//!
//! Nothing may be waited for while work is recorded: the driver refuses that, and the recording ends with an error.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{CudaDevice, Result, bail};
use cudarc::cublas::sys::cublasSetWorkspace_v2;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaSlice, CudaStream};

use super::error::or_error;
use super::gpu::Gpu;
use super::memory;
use super::pools::RecordingId;
use super::settings::{CudaSettings, cuda_settings};

static NEXT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static LAUNCHES: Cell<u64> = const { Cell::new(0) };
}

/// How many graphs this thread has launched.
pub(crate) fn launches() -> u64 {
    LAUNCHES.get()
}

/// Recorded work.
pub(crate) struct Graph {
    // In this order: it is gone before its memory is. What gets the memory next is ordered after the launches.
    launched: CudaGraph,
    _memory: Memory,
    settings: CudaSettings,
    _workspace: Option<Arc<CudaSlice<u8>>>,
}

/// A recording's memory; released when it is dropped.
struct Memory {
    id: RecordingId,
    stream: Arc<CudaStream>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.stream.context().bind_to_thread().is_ok() {
            memory::release(self.id, self.stream.cu_stream());
        }
    }
}

/// A stream that is captured, and no longer when this is dropped.
struct Capture<'a> {
    stream: &'a Arc<CudaStream>,
    side: Arc<CudaStream>,
    ended: bool,
}

impl<'a> Capture<'a> {
    fn begin(stream: &'a Arc<CudaStream>, id: RecordingId) -> Result<Self> {
        // Memory that is free may still be in use by work before: what is sent beside the recording must not overtake it.
        or_error("waiting for the GPU", stream.synchronize())?;
        let side = or_error("a second stream", stream.context().new_stream())?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        or_error("the start of a recording", stream.begin_capture(mode))?;
        memory::record(id, stream.cu_stream(), side.cu_stream());
        Ok(Self { stream, side, ended: false })
    }

    fn end(mut self) -> Result<CudaGraph> {
        self.ended = true;
        memory::stop_recording();
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0));
        or_error("what was sent beside a recording", self.side.synchronize())?;
        match or_error("the end of a recording", graph)? {
            Some(graph) => Ok(graph),
            None => bail!("the end of a recording: there is no graph"),
        }
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if !self.ended {
            memory::stop_recording();
            // Nobody wants what was recorded, and an error has been returned already.
            let _ = self.stream.end_capture(CUgraphInstantiate_flags(0));
            let _ = self.side.synchronize();
        }
    }
}

impl Graph {
    /// Records what `work` orders, without doing it. `work` must have been done before, in the same sizes.
    pub(crate) fn record<T>(device: &CudaDevice, work: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        let stream = device.cuda_stream();
        if memory::records() {
            bail!("a recording is under way in this thread already");
        }
        if !stream.context().has_async_alloc() {
            bail!("work on this GPU cannot be recorded: its driver has no memory pool");
        }
        let gpu = Gpu::of_device(device)?;
        // Otherwise cuBLAS would make memory nodes of its own. SAFETY: the block lives as long as the program.
        let set = unsafe { cublasSetWorkspace_v2(gpu.blas(), gpu.scratch() as *mut _, gpu.blas_workspace()) };
        or_error("cuBLAS's workspace", set.result())?;
        let memory = Memory { id: NEXT.fetch_add(1, Ordering::Relaxed), stream: stream.clone() };
        let capture = Capture::begin(&stream, memory.id)?;
        let made = work()?;
        let launched = capture.end()?;
        let workspace = gpu.dnn().current_workspace();
        Ok((Self { launched, _memory: memory, settings: cuda_settings(), _workspace: workspace }, made))
    }

    /// Does the recorded work.
    pub(crate) fn launch(&self) -> Result<()> {
        LAUNCHES.set(LAUNCHES.get() + 1);
        or_error("a launch of recorded work", self.launched.launch())
    }

    /// Whether networks are still computed as when the work was recorded.
    pub(crate) fn is_current(&self) -> bool {
        self.settings == cuda_settings()
    }
}
