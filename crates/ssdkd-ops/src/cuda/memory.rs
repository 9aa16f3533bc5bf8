//! Memory of a GPU: what is given back is kept for whoever asks for as much next.
//!
//! A training step takes and gives back some hundred tensors, of the same sizes as in the step before. candle does that through
//! the driver's `cuMemAllocAsync` and `cuMemFreeAsync`, two calls for each of them. There is no hook in between, but the calls
//! are bound by name (`libraries`), and what a program defines itself comes before what it opens: the functions here are what candle
//! calls, and hand on to the driver what they have nothing for. Two more are here for the same reason: one counts how often numbers
//! come back to the program, and one keeps for a recording (`graph`) what the program sends meanwhile.
//!
//! A block may be used again at once, as all work on it is in the order of its stream, and a device has one, for as long as the
//! program runs (`gpu::open`). What is kept has no bound but that it is given back when the driver has nothing left.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::sys::{
    CUcontext, CUdeviceptr, CUresult, CUstream, CUstreamCaptureMode, cuCtxGetCurrent, cuMemcpyDtoDAsync_v2,
    cuThreadExchangeStreamCaptureMode,
};

use super::pools::{self, Pools, RecordingId};

/// Sizes are multiples of this, as the driver's are.
const GRAIN: usize = 512;

/// Larger blocks are the driver's to keep, which can make smaller ones of them: what is done with so much takes longer than a call.
const LARGEST: usize = 64 << 20;

/// `on`, or `off`: every request goes to the driver, for tools that look for memory used wrongly.
const VARIABLE: &str = "SSDKD_GPU_CACHE";

type Alloc = unsafe extern "C" fn(*mut CUdeviceptr, usize, CUstream) -> CUresult;
type Free = unsafe extern "C" fn(CUdeviceptr, CUstream) -> CUresult;
type Upload = unsafe extern "C" fn(CUdeviceptr, *const c_void, usize, CUstream) -> CUresult;
type Read = unsafe extern "C" fn(*mut c_void, CUdeviceptr, usize, CUstream) -> CUresult;

/// The driver's own functions.
pub(super) struct Driver {
    pub(super) alloc: Alloc,
    pub(super) free: Free,
    pub(super) send: Upload,
    pub(super) read: Read,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

/// Of all GPUs.
static MEMORY: Mutex<Option<Memory>> = Mutex::new(None);

/// The blocks that are not the driver's at the moment.
#[derive(Default)]
struct Memory {
    /// `None` where it is turned off.
    cache: Option<Cache>,
    pools: Pools,
}

/// What a thread records.
#[derive(Clone, Copy)]
struct Recording {
    id: RecordingId,
    stream: usize,
    /// Its work is done at once, beside what is recorded.
    side: usize,
}

thread_local! {
    static READ_BACKS: Cell<u64> = const { Cell::new(0) };
    static RECORDING: Cell<Option<Recording>> = const { Cell::new(None) };
}

/// How often this thread has copied numbers to the program.
pub(crate) fn read_backs() -> u64 {
    READ_BACKS.get()
}

/// Blocks of one size on one stream: those are interchangeable.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    context: usize,
    stream: usize,
    bytes: usize,
}

/// A block that came from the driver for it.
struct Block {
    kind: Kind,
    used: bool,
}

#[derive(Default)]
struct Cache {
    blocks: HashMap<CUdeviceptr, Block>,
    /// Those that nobody uses.
    free: HashMap<Kind, Vec<CUdeviceptr>>,
}

/// What becomes of a block that is given back.
#[derive(Debug, PartialEq, Eq)]
enum Returned {
    Kept,
    /// It is in nobody's use already.
    Twice,
    /// It never went through here.
    Unknown,
}

/// Before any memory is asked for, once the driver is open.
///
/// # Errors
/// If the environment says something else than `on` or `off`.
pub(super) fn install(driver: Driver) -> Result<(), String> {
    let cache = match std::env::var(VARIABLE).as_deref() {
        Ok("on" | "") | Err(_) => Some(Cache::default()),
        Ok("off") => None,
        Ok(other) => return Err(format!("{VARIABLE}: {other:?} is not one of on, off")),
    };
    *memory() = Some(Memory { cache, pools: Pools::default() });
    let _ = DRIVER.set(driver);
    // Named here, so that a linker takes them for what the calls in cudarc mean, whatever order it reads libraries in.
    std::hint::black_box((
        cuMemAllocAsync as Alloc,
        cuMemFreeAsync as Free,
        cuMemcpyHtoDAsync_v2 as Upload,
        cuMemcpyDtoHAsync_v2 as Read,
    ));
    Ok(())
}

fn memory() -> MutexGuard<'static, Option<Memory>> {
    MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the recording `id` the memory that this thread asks for on `stream` from now on. What cannot be recorded is done on
/// `side`, to be waited for before the first launch.
pub(super) fn record(id: RecordingId, stream: CUstream, side: CUstream) {
    RECORDING.set(Some(Recording { id, stream: stream as usize, side: side as usize }));
}

/// Whether this thread records.
pub(super) fn records() -> bool {
    RECORDING.get().is_some()
}

/// Ends what [`record`] began; the recording keeps its memory.
pub(super) fn stop_recording() {
    RECORDING.set(None);
}

/// Takes its memory from a recording that is launched no more. Its stream, on which all launches were, belongs to the current
/// context.
pub(super) fn release(id: RecordingId, stream: CUstream) {
    let context = current_context();
    let unwanted = {
        let mut memory = memory();
        memory.as_mut().map_or_else(Vec::new, |memory| memory.release(id, context, stream as usize))
    };
    let Some(driver) = DRIVER.get() else { return };
    for address in unwanted {
        // SAFETY: nobody uses it, and all work on it was ordered on this stream.
        let _ = unsafe { (driver.free)(address, stream) };
    }
}

impl Memory {
    /// Hands a recording's blocks over to the cache. Returns those that are the driver's.
    fn release(&mut self, id: RecordingId, context: usize, stream: usize) -> Vec<CUdeviceptr> {
        let mut unwanted = Vec::new();
        for pools::Released { address, bytes, taken } in self.pools.release(id) {
            match self.cache.as_mut().filter(|_| (1..=LARGEST).contains(&bytes)) {
                Some(cache) => {
                    cache.add(address, Kind { context, stream, bytes });
                    if !taken {
                        cache.give_back(address);
                    }
                }
                // One that a tensor has goes to the driver with it.
                None if taken => {}
                None => unwanted.push(address),
            }
        }
        unwanted
    }
}

impl Recording {
    /// A block of at least `bytes`, with a multiple of [`GRAIN`]. One that `holds` numbers for the launches is new to the recording.
    fn alloc(self, driver: &Driver, address: &mut CUdeviceptr, bytes: usize, holds: bool) -> CUresult {
        let bytes = bytes.max(1).next_multiple_of(GRAIN);
        let mut memory = memory();
        let Some(Memory { cache, pools }) = memory.as_mut() else { return CUresult::CUDA_ERROR_NOT_INITIALIZED };
        if let Some(again) = (!holds).then(|| pools.take(self.id, bytes)).flatten() {
            *address = again;
            return CUresult::CUDA_SUCCESS;
        }
        let kind = Kind { context: current_context(), stream: self.stream, bytes };
        if let Some(kept) = cache.as_mut().and_then(|cache| cache.hand_over(kind)) {
            *address = kept;
        } else {
            // SAFETY: the stream lives until the recording has stopped.
            let result = beside(|| unsafe { (driver.alloc)(&raw mut *address, bytes, self.side as CUstream) });
            if result != CUresult::CUDA_SUCCESS {
                return result;
            }
        }
        if holds {
            pools.hold(*address, self.id, bytes);
        } else {
            pools.add(*address, self.id, bytes);
        }
        CUresult::CUDA_SUCCESS
    }

    /// Numbers of the program's for `to` in every launch: the program's own may be gone by then.
    ///
    /// # Safety
    /// `from` can be read, `to` can be written on this stream.
    unsafe fn send(self, driver: &Driver, to: CUdeviceptr, from: *const c_void, bytes: usize) -> CUresult {
        let mut held = 0;
        let result = self.alloc(driver, &mut held, bytes, true);
        if result != CUresult::CUDA_SUCCESS {
            return result;
        }
        // SAFETY: the caller's, and the block was just made for it.
        unsafe {
            match beside(|| (driver.send)(held, from, bytes, self.side as CUstream)) {
                CUresult::CUDA_SUCCESS => cuMemcpyDtoDAsync_v2(to, held, bytes, self.stream as CUstream),
                error => error,
            }
        }
    }
}

/// Makes a call on a stream that is not recorded, which the driver might refuse in a thread that records another.
fn beside(call: impl FnOnce() -> CUresult) -> CUresult {
    let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: one number is exchanged.
    let _ = unsafe { cuThreadExchangeStreamCaptureMode(&raw mut mode) };
    let result = call();
    // SAFETY: as above.
    let _ = unsafe { cuThreadExchangeStreamCaptureMode(&raw mut mode) };
    result
}

impl Cache {
    fn add(&mut self, address: CUdeviceptr, kind: Kind) {
        self.blocks.insert(address, Block { kind, used: true });
    }

    fn take(&mut self, kind: Kind) -> Option<CUdeviceptr> {
        let address = self.free.get_mut(&kind)?.pop()?;
        if let Some(block) = self.blocks.get_mut(&address) {
            block.used = true;
        }
        Some(address)
    }

    /// As [`take`](Self::take), of a block that is the cache's no more.
    fn hand_over(&mut self, kind: Kind) -> Option<CUdeviceptr> {
        let address = self.take(kind)?;
        self.blocks.remove(&address);
        Some(address)
    }

    /// Forgets a block that a tensor has. Returns its size.
    fn forget(&mut self, address: CUdeviceptr) -> Option<usize> {
        if !self.blocks.get(&address)?.used {
            return None;
        }
        self.blocks.remove(&address).map(|block| block.kind.bytes)
    }

    fn give_back(&mut self, address: CUdeviceptr) -> Returned {
        let Some(block) = self.blocks.get_mut(&address) else { return Returned::Unknown };
        if !block.used {
            return Returned::Twice;
        }
        block.used = false;
        self.free.entry(block.kind).or_default().push(address);
        Returned::Kept
    }

    /// All that is kept of a context, with the streams that it is to be given back on.
    fn empty(&mut self, context: usize) -> Vec<(CUdeviceptr, usize)> {
        let mut emptied = Vec::new();
        self.free.retain(|kind, addresses| {
            if kind.context == context {
                emptied.extend(addresses.iter().map(|&address| (address, kind.stream)));
            }
            kind.context != context
        });
        for (address, _) in &emptied {
            self.blocks.remove(address);
        }
        emptied
    }
}

fn current_context() -> usize {
    let mut context: CUcontext = std::ptr::null_mut();
    // SAFETY: one address is written.
    let _ = unsafe { cuCtxGetCurrent(&raw mut context) };
    context as usize
}

/// What this thread records on `stream`.
fn recorded_on(stream: CUstream) -> Option<Recording> {
    RECORDING.get().filter(|recording| recording.stream == stream as usize)
}

/// The driver's function of this name, as all calls of this program see it.
///
/// # Safety
/// As the driver's: `address` can be written to, `stream` is one of the current context's.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocAsync(address: *mut CUdeviceptr, bytes: usize, stream: CUstream) -> CUresult {
    let Some(driver) = DRIVER.get() else { return CUresult::CUDA_ERROR_NOT_INITIALIZED };
    if let Some(recording) = recorded_on(stream) {
        // SAFETY: the caller's.
        return recording.alloc(driver, unsafe { &mut *address }, bytes, false);
    }
    let context = current_context();
    let mut rounded = bytes;
    let mut kind = None;
    if (1..=LARGEST).contains(&bytes)
        && let Some(cache) = memory().as_mut().and_then(|memory| memory.cache.as_mut())
    {
        rounded = bytes.next_multiple_of(GRAIN);
        let wanted = Kind { context, stream: stream as usize, bytes: rounded };
        if let Some(kept) = cache.take(wanted) {
            // SAFETY: the caller's.
            unsafe { *address = kept };
            return CUresult::CUDA_SUCCESS;
        }
        kind = Some(wanted);
    }
    // SAFETY: the caller's.
    let mut result = unsafe { (driver.alloc)(address, rounded, stream) };
    if result == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        // What is kept may be enough for it, in other sizes.
        let emptied = memory().as_mut().and_then(|memory| Some(memory.cache.as_mut()?.empty(context)));
        for (kept, stream) in emptied.unwrap_or_default() {
            // SAFETY: nobody uses what is kept, and it came from this context and stream.
            let _ = unsafe { (driver.free)(kept, stream as CUstream) };
        }
        // SAFETY: the caller's.
        result = unsafe { (driver.alloc)(address, rounded, stream) };
    }
    if let Some(kind) = kind.filter(|_| result == CUresult::CUDA_SUCCESS)
        && let Some(cache) = memory().as_mut().and_then(|memory| memory.cache.as_mut())
    {
        // SAFETY: the driver wrote it.
        cache.add(unsafe { *address }, kind);
    }
    result
}

/// The driver's function of this name, as all calls of this program see it.
///
/// # Safety
/// As the driver's: all work on `address` was ordered on `stream` or before.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFreeAsync(address: CUdeviceptr, stream: CUstream) -> CUresult {
    let Some(driver) = DRIVER.get() else { return CUresult::CUDA_ERROR_NOT_INITIALIZED };
    let returned = memory().as_mut().map_or(Returned::Unknown, |memory| memory.give_back(address, recorded_on(stream)));
    match returned {
        Returned::Kept => CUresult::CUDA_SUCCESS,
        // The driver would take it back, and the cache hand it out once more.
        Returned::Twice => CUresult::CUDA_ERROR_INVALID_VALUE,
        // SAFETY: the caller's.
        Returned::Unknown => unsafe { (driver.free)(address, stream) },
    }
}

impl Memory {
    fn give_back(&mut self, address: CUdeviceptr, recording: Option<Recording>) -> Returned {
        match self.pools.give_back(address) {
            pools::Returned::Kept => return Returned::Kept,
            pools::Returned::Twice => return Returned::Twice,
            pools::Returned::Unknown => {}
        }
        let Some(recording) = recording else {
            return self.cache.as_mut().map_or(Returned::Unknown, |cache| cache.give_back(address));
        };
        // It is older than the recording, which may read it in every launch.
        let bytes = self.cache.as_mut().and_then(|cache| cache.forget(address)).unwrap_or(0);
        self.pools.hold(address, recording.id, bytes);
        Returned::Kept
    }
}

/// The driver's function of this name, as all calls of this program see it.
///
/// # Safety
/// As the driver's: `bytes` can be read at `from` and written at `to`, and stay until the stream has been waited for.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    let Some(driver) = DRIVER.get() else { return CUresult::CUDA_ERROR_NOT_INITIALIZED };
    // SAFETY: the caller's.
    unsafe {
        match recorded_on(stream) {
            Some(recording) => recording.send(driver, to, from, bytes),
            None => (driver.send)(to, from, bytes, stream),
        }
    }
}

/// The driver's function of this name, as all calls of this program see it: counted.
///
/// # Safety
/// As the driver's: `bytes` can be written to `to` until the stream has been waited for.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    let Some(driver) = DRIVER.get() else { return CUresult::CUDA_ERROR_NOT_INITIALIZED };
    READ_BACKS.set(READ_BACKS.get() + 1);
    // SAFETY: the caller's.
    unsafe { (driver.read)(to, from, bytes, stream) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_used_again_by_those_that_ask_for_as_much_in_the_same_place() {
        let kind = Kind { context: 1, stream: 7, bytes: 1024 };
        let mut cache = Cache::default();
        assert_eq!(cache.take(kind), None);
        for address in [16, 32] {
            cache.add(address, kind);
            assert_eq!(cache.give_back(address), Returned::Kept);
        }
        assert_eq!(cache.give_back(16), Returned::Twice);
        assert_eq!(cache.give_back(48), Returned::Unknown);
        for other in [
            Kind { context: 2, ..kind },
            Kind { stream: 8, ..kind },
            Kind { bytes: 512, ..kind },
            Kind { bytes: 1536, ..kind },
        ] {
            assert_eq!(cache.take(other), None);
        }
        assert_eq!(cache.take(kind), Some(32), "the last: what is warm");
        assert_eq!(cache.take(kind), Some(16));
        assert_eq!(cache.take(kind), None);
    }

    #[test]
    fn what_is_kept_is_given_back_where_it_came_from() {
        let kind = Kind { context: 1, stream: 7, bytes: 1024 };
        let mut cache = Cache::default();
        let kinds = [kind, Kind { stream: 8, ..kind }, Kind { context: 2, ..kind }];
        for (address, kind) in (1..).zip(kinds) {
            cache.add(address, kind);
            cache.give_back(address);
        }
        let mut emptied = cache.empty(1);
        emptied.sort_unstable();
        assert_eq!(emptied, [(1, 7), (2, 8)]);
        assert_eq!(cache.empty(1), []);
        assert_eq!(cache.give_back(1), Returned::Unknown, "it is the driver's again");
        assert_eq!(cache.empty(2), [(3, 7)]);
    }
}
