//! A global allocator that keeps large freed blocks for the next training step.
//!
//! A training step allocates its activations and gradients, frees them all, and the next step asks for the same sizes
//! again. The system's allocator hands large blocks back to the kernel in between, so that every step pays for mapping,
//! zeroing and faulting in the same pages: a good part of the time of operations that are bound by memory. Here, freed
//! blocks of 64 KiB and more wait in lists by size for the next request of that size. Blocks of 4 MiB and more lie on pages of
//! 2 MiB, where Linux gives such on request: a pass over an activation then misses far fewer entries of the page tables. A binary
//! opts in with
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: ssdkd_ops::CachingAllocator = ssdkd_ops::CachingAllocator::new(4 << 30);
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Requests below this go to the system's allocator, which is good at them.
const SMALLEST: usize = 1 << SMALLEST_LOG2;
const SMALLEST_LOG2: u32 = 16;

/// Requests above this are not kept: no shape of this project comes near.
const LARGEST_LOG2: u32 = 40;

/// Sizes between one power of two and the next: at most an eighth of a block is wasted.
const STEPS_LOG2: u32 = 3;

const CLASSES: usize = (((LARGEST_LOG2 - SMALLEST_LOG2) as usize) << STEPS_LOG2) + 1;

/// Alignment of every kept block: a cache line, and a register of AVX-512.
const ALIGNMENT: usize = 64;

/// Blocks from here on lie on huge pages: at most half of one is left over on either side of a block.
const HUGE: usize = 2 * HUGE_PAGE;
const HUGE_PAGE: usize = 1 << 21;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Bytes that the program holds now, as far as it uses a [`CachingAllocator`]; blocks kept for reuse are not counted.
pub fn allocated_bytes() -> usize {
    ALLOCATED.load(Ordering::Relaxed)
}

/// The most bytes held at once since the start, or since [`reset_peak`].
pub fn peak_bytes() -> usize {
    PEAK.load(Ordering::Relaxed)
}

/// Starts a new measurement of [`peak_bytes`] from what is held now.
pub fn reset_peak() {
    PEAK.store(allocated_bytes(), Ordering::Relaxed);
}

fn count_allocated(bytes: usize) {
    let now = ALLOCATED.fetch_add(bytes, Ordering::Relaxed) + bytes;
    // The peak moves seldom: look before taking the cache line from other threads.
    if now > PEAK.load(Ordering::Relaxed) {
        PEAK.fetch_max(now, Ordering::Relaxed);
    }
}

fn count_freed(bytes: usize) {
    ALLOCATED.fetch_sub(bytes, Ordering::Relaxed);
}

/// The system's allocator with lists of freed large blocks in front; see the module's prose.
pub struct CachingAllocator {
    /// Bytes in the lists at most.
    limit: usize,
    kept: Mutex<Kept>,
}

/// Freed blocks, by class of size; the first word of each points to the next.
struct Kept {
    first: [*mut FreeBlock; CLASSES],
    bytes: usize,
    /// The class that gives way next when the limit is reached.
    next_to_shrink: usize,
}

struct FreeBlock {
    next: *mut FreeBlock,
}

// SAFETY: the pointers own their blocks, which belong to no thread.
unsafe impl Send for Kept {}

impl CachingAllocator {
    /// An allocator that keeps at most `limit` bytes of freed blocks.
    pub const fn new(limit: usize) -> Self {
        let kept = Kept { first: [ptr::null_mut(); CLASSES], bytes: 0, next_to_shrink: 0 };
        Self { limit, kept: Mutex::new(kept) }
    }

    /// Bytes waiting for reuse.
    pub fn kept_bytes(&self) -> usize {
        self.kept().bytes
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing below panics while holding the lock; and an allocator has nobody to tell.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, class: usize) -> Option<*mut u8> {
        let mut kept = self.kept();
        let block = kept.first[class];
        if block.is_null() {
            return None;
        }
        // SAFETY: blocks in the lists are ours, and were given their header when they were filed.
        kept.first[class] = unsafe { (*block).next };
        kept.bytes -= class_size(class);
        Some(block.cast())
    }

    /// Files a block, and frees others if that is more than the limit allows.
    ///
    /// # Safety
    /// `block` was allocated by the system with [`class_layout`] of `class`, and nobody uses it any more.
    unsafe fn keep(&self, class: usize, block: *mut u8) {
        let size = class_size(class);
        if size > self.limit {
            // SAFETY: as the contract says.
            return unsafe { System.dealloc(block, class_layout(class)) };
        }
        let mut kept = self.kept();
        while kept.bytes + size > self.limit {
            kept.shrink();
        }
        #[expect(clippy::cast_ptr_alignment, reason = "blocks are aligned to cache lines")]
        let block = block.cast::<FreeBlock>();
        // SAFETY: the block is ours now, and larger and better aligned than a header.
        unsafe { block.write(FreeBlock { next: kept.first[class] }) };
        kept.first[class] = block;
        kept.bytes += size;
    }
}

impl Kept {
    /// Frees one block of the next class that has any, so that sizes no longer asked for make room for those that are.
    fn shrink(&mut self) {
        for _ in 0..CLASSES {
            let class = self.next_to_shrink;
            self.next_to_shrink = (class + 1) % CLASSES;
            let block = self.first[class];
            if !block.is_null() {
                self.bytes -= class_size(class);
                // SAFETY: blocks in the lists are ours and were allocated with this layout.
                unsafe {
                    self.first[class] = (*block).next;
                    System.dealloc(block.cast(), class_layout(class));
                }
                return;
            }
        }
    }
}

/// The class of blocks that serves a request, if it is one to keep blocks for.
fn class_of(layout: Layout) -> Option<usize> {
    if layout.size() < SMALLEST || layout.size() > 1 << LARGEST_LOG2 || layout.align() > ALIGNMENT {
        return None;
    }
    let last = layout.size() - 1;
    let log2 = last.ilog2();
    if log2 < SMALLEST_LOG2 {
        return Some(0);
    }
    let step = (last >> (log2 - STEPS_LOG2)) - (1 << STEPS_LOG2);
    Some((((log2 - SMALLEST_LOG2) as usize) << STEPS_LOG2) + step + 1)
}

/// The size of a class's blocks.
fn class_size(class: usize) -> usize {
    let Some(index) = class.checked_sub(1) else { return SMALLEST };
    let (doublings, step) = (index >> STEPS_LOG2, index & ((1 << STEPS_LOG2) - 1));
    ((1 << STEPS_LOG2) + step + 1) << (doublings + (SMALLEST_LOG2 - STEPS_LOG2) as usize)
}

fn class_layout(class: usize) -> Layout {
    let size = class_size(class);
    let alignment = if size < HUGE { ALIGNMENT } else { HUGE_PAGE };
    // SAFETY: the alignment is a power of two, and no size comes near `isize::MAX`.
    unsafe { Layout::from_size_align_unchecked(size, alignment) }
}

/// A new block for a class; null if there is no memory.
fn allocate(class: usize) -> *mut u8 {
    // SAFETY: the layout of a class is not empty.
    let block = unsafe { System.alloc(class_layout(class)) };
    if !block.is_null() && class_size(class) >= HUGE {
        ask_for_huge_pages(block, class_size(class));
    }
    block
}

/// Linux gives huge pages to programs that ask for them, unless it is told otherwise.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages(block: *mut u8, size: usize) {
    use std::ffi::{c_int, c_void};
    const MADV_HUGEPAGE: c_int = 14;
    unsafe extern "C" {
        fn madvise(start: *mut c_void, len: usize, advice: c_int) -> c_int;
    }
    // SAFETY: the block is ours and begins at a page. The advice changes no contents; where it is refused, pages stay small.
    unsafe { madvise(block.cast(), size, MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_: *mut u8, _: usize) {}

// SAFETY: requests outside of the classes are the system's. Those inside get a block that the system allocated with the
// class's layout, at least as large and as aligned as asked for; the class is a function of the layout, so that the
// block is filed or freed under the layout that it was allocated with. A block is in a list or handed out, never both.
unsafe impl GlobalAlloc for CachingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = match class_of(layout) {
            // SAFETY: the layouts are not empty: the caller's by contract, a class's by definition.
            None => unsafe { System.alloc(layout) },
            Some(class) => self.take(class).unwrap_or_else(|| allocate(class)),
        };
        if !block.is_null() {
            count_allocated(layout.size());
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let block = match class_of(layout).map(|class| (class, self.take(class))) {
            // SAFETY: as in `alloc`.
            None => unsafe { System.alloc_zeroed(layout) },
            Some((_, Some(block))) => {
                // SAFETY: the block is ours and has at least the size of the request.
                unsafe { ptr::write_bytes(block, 0, layout.size()) };
                block
            }
            Some((class, None)) => {
                let block = allocate(class);
                if !block.is_null() {
                    // SAFETY: as above.
                    unsafe { ptr::write_bytes(block, 0, layout.size()) };
                }
                block
            }
        };
        if !block.is_null() {
            count_allocated(layout.size());
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count_freed(layout.size());
        match class_of(layout) {
            // SAFETY: allocated by the system with this layout, see above.
            None => unsafe { System.dealloc(block, layout) },
            // SAFETY: allocated by the system with the class's layout, and the caller gives it up.
            Some(class) => unsafe { self.keep(class, block) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller guarantees that the new size with the old alignment is a layout.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        let (old_class, new_class) = (class_of(layout), class_of(new_layout));
        let moved = match (old_class, new_class) {
            // SAFETY: allocated by the system with this layout.
            (None, None) => unsafe { System.realloc(block, layout, new_size) },
            (Some(old), Some(new)) if old == new => {
                // Nothing is held twice, not even for a moment.
                count_freed(layout.size().saturating_sub(new_size));
                count_allocated(new_size.saturating_sub(layout.size()));
                return block;
            }
            _ => {
                // SAFETY: both layouts are valid, the blocks are different, and the smaller size fits into both.
                unsafe {
                    let moved = self.alloc(new_layout);
                    if !moved.is_null() {
                        ptr::copy_nonoverlapping(block, moved, layout.size().min(new_size));
                        self.dealloc(block, layout);
                    }
                    return moved;
                }
            }
        };
        if !moved.is_null() {
            count_allocated(new_size);
            count_freed(layout.size());
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 4).expect("a small layout")
    }

    #[test]
    fn classes_hold_what_they_serve_and_waste_an_eighth_at_most() {
        assert_eq!(class_of(layout(SMALLEST - 1)), None);
        assert_eq!(class_of(Layout::from_size_align(SMALLEST, 4096).expect("a small layout")), None);
        let mut before = 0;
        for size in (SMALLEST..1 << 22).step_by(1021).chain([SMALLEST, SMALLEST + 1, 1 << 20, 1 << LARGEST_LOG2]) {
            let class = class_of(layout(size)).expect("large enough to keep");
            assert!(class < CLASSES);
            let block = class_size(class);
            assert!(block >= size && block - size <= size.div_ceil(8), "{size} is served by {block}");
            assert_eq!(class_of(layout(block)), Some(class));
            if size > before {
                assert!(class_size(class_of(layout(before.max(SMALLEST))).expect("large enough")) <= block);
                before = size;
            }
        }
    }

    #[test]
    fn a_freed_block_serves_the_next_request_of_its_size() {
        let allocator = CachingAllocator::new(1 << 20);
        // SAFETY: every block is used within its layout, and freed once with the layout it was allocated with.
        unsafe {
            let block = allocator.alloc(layout(100_000));
            assert_eq!(block.addr() % ALIGNMENT, 0);
            block.write_bytes(7, 100_000);
            allocator.dealloc(block, layout(100_000));
            assert!(allocator.kept_bytes() >= 100_000);
            let again = allocator.alloc_zeroed(layout(99_000));
            assert_eq!(again, block);
            assert!(std::slice::from_raw_parts(again, 99_000).iter().all(|byte| *byte == 0));
            assert_eq!(allocator.kept_bytes(), 0);
            allocator.dealloc(again, layout(99_000));
        }
    }

    #[test]
    fn the_lists_stay_within_their_limit_and_follow_the_sizes_in_use() {
        let allocator = CachingAllocator::new(1 << 20);
        // SAFETY: as above.
        unsafe {
            for size in [300_000, 100_000, 2_000_000] {
                let blocks = [0; 12].map(|_| allocator.alloc(layout(size)));
                for block in blocks {
                    allocator.dealloc(block, layout(size));
                    assert!(allocator.kept_bytes() <= 1 << 20);
                }
            }
            let recent = class_of(layout(100_000)).expect("large enough to keep");
            assert!(allocator.take(recent).is_some_and(|block| {
                allocator.keep(recent, block);
                true
            }));
        }
    }

    #[test]
    fn growing_keeps_the_contents() {
        let allocator = CachingAllocator::new(1 << 24);
        // SAFETY: as above.
        unsafe {
            let mut size = 10_000;
            let mut block = allocator.alloc(layout(size));
            block.write_bytes(3, size);
            for larger in [60_000, 66_000, 67_000, 1_000_000, 50_000] {
                block = allocator.realloc(block, layout(size), larger);
                let same = std::slice::from_raw_parts(block, size.min(larger));
                assert!(same.iter().all(|byte| *byte == 3));
                block.write_bytes(3, larger);
                size = larger;
            }
            allocator.dealloc(block, layout(size));
        }
    }
}
