//! Memory of a GPU: what is given back is kept for whoever asks for as much next.
//!
//! A training step takes and gives back some hundred tensors, of the same sizes as in the step before. candle does that through
//! the driver's `cuMemAllocAsync` and `cuMemFreeAsync`, two calls for each of them. There is no hook in between, but the calls
//! are bound by name (`libraries`), and what a program defines itself comes before what it opens: the functions here are what candle
//! calls, and hand on to the driver what they have nothing for. A third one counts how often numbers come back to the program.
//!
//! A block may be used again at once, as all work on it is in the order of its stream, and a device has one, for as long as the
//! program runs (`gpu::open`). What is kept has no bound but that it is given back when the driver has nothing left.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, OnceLock, PoisonError};

use cudarc::driver::sys::{CUcontext, CUdeviceptr, CUresult, CUstream, cuCtxGetCurrent};

/// Sizes are multiples of this, as the driver's are.
const GRAIN: usize = 512;

/// Larger blocks are the driver's to keep, which can make smaller ones of them: what is done with so much takes longer than a call.
const LARGEST: usize = 64 << 20;

/// `on`, or `off`: every request goes to the driver, for tools that look for memory used wrongly.
const VARIABLE: &str = "SSDKD_GPU_CACHE";

type Alloc = unsafe extern "C" fn(*mut CUdeviceptr, usize, CUstream) -> CUresult;
type Free = unsafe extern "C" fn(CUdeviceptr, CUstream) -> CUresult;
type Read = unsafe extern "C" fn(*mut c_void, CUdeviceptr, usize, CUstream) -> CUresult;

/// The driver's own functions.
pub(super) struct Driver {
    pub(super) alloc: Alloc,
    pub(super) free: Free,
    pub(super) read: Read,
}

thread_local! {
    static READ_BACKS: Cell<u64> = const { Cell::new(0) };
}

/// How often this thread has copied numbers to the program.
pub(crate) fn read_backs() -> u64 {
    READ_BACKS.get()
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

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

/// Of all GPUs; nothing where it is turned off.
static CACHE: OnceLock<Mutex<Cache>> = OnceLock::new();

/// Before any memory is asked for, once the driver is open.
///
/// # Errors
/// If the environment says something else than `on` or `off`.
pub(super) fn install(driver: Driver) -> Result<(), String> {
    match std::env::var(VARIABLE).as_deref() {
        Ok("on" | "") | Err(_) => _ = CACHE.set(Mutex::default()),
        Ok("off") => {}
        Ok(other) => return Err(format!("{VARIABLE}: {other:?} is not one of on, off")),
    }
    let _ = DRIVER.set(driver);
    // Named here, so that a linker takes them for what the calls in cudarc mean, whatever order it reads libraries in.
    std::hint::black_box((cuMemAllocAsync as Alloc, cuMemFreeAsync as Free, cuMemcpyDtoHAsync_v2 as Read));
    Ok(())
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

/// The driver's function of this name, as all calls of this program see it.
///
/// # Safety
/// As the driver's: `address` can be written to, `stream` is one of the current context's.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocAsync(address: *mut CUdeviceptr, bytes: usize, stream: CUstream) -> CUresult {
    let Some(driver) = DRIVER.get() else { return CUresult::CUDA_ERROR_NOT_INITIALIZED };
    let Some(cache) = CACHE.get() else {
        // SAFETY: the caller's.
        return unsafe { (driver.alloc)(address, bytes, stream) };
    };
    let lock = || cache.lock().unwrap_or_else(PoisonError::into_inner);
    let context = current_context();
    let is_kept = (1..=LARGEST).contains(&bytes);
    let bytes = if is_kept { bytes.next_multiple_of(GRAIN) } else { bytes };
    let kind = Kind { context, stream: stream as usize, bytes };
    if let Some(kept) = is_kept.then(|| lock().take(kind)).flatten() {
        // SAFETY: the caller's.
        unsafe { *address = kept };
        return CUresult::CUDA_SUCCESS;
    }
    // SAFETY: the caller's.
    let mut result = unsafe { (driver.alloc)(address, bytes, stream) };
    if result == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        // What is kept may be enough for it, in other sizes.
        let emptied = lock().empty(context);
        for (kept, stream) in emptied {
            // SAFETY: nobody uses what is kept, and it came from this context and stream.
            let _ = unsafe { (driver.free)(kept, stream as CUstream) };
        }
        // SAFETY: the caller's.
        result = unsafe { (driver.alloc)(address, bytes, stream) };
    }
    if is_kept && result == CUresult::CUDA_SUCCESS {
        // SAFETY: the driver wrote it.
        lock().add(unsafe { *address }, kind);
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
    let cache = CACHE.get().map(|cache| cache.lock().unwrap_or_else(PoisonError::into_inner).give_back(address));
    match cache {
        Some(Returned::Kept) => CUresult::CUDA_SUCCESS,
        // The driver would take it back, and the cache hand it out once more.
        Some(Returned::Twice) => CUresult::CUDA_ERROR_INVALID_VALUE,
        // SAFETY: the caller's.
        Some(Returned::Unknown) | None => unsafe { (driver.free)(address, stream) },
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
