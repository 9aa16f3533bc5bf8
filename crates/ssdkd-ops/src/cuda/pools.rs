//! Memory of recordings: a graph reads and writes the same addresses each time that it is launched, so they are its own.
//!
//! A block belongs to the recording that took it, or in which it was given back, until the recording ends. One that was given back
//! is used again within the recording alone: the order of the stream is that of the graph.

use std::collections::HashMap;

use cudarc::driver::sys::CUdeviceptr;

/// Names a recording.
pub(super) type RecordingId = u64;

/// What a block of a recording is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// A tensor has it.
    Taken,
    /// What the recording asks for next may have it.
    Free,
    /// A launch reads what was written before the recording began or by a copy outside of it. Nothing may overwrite it.
    Held,
}

struct Block {
    recording: RecordingId,
    /// 0: it never went through the cache, so its size is not known.
    bytes: usize,
    of: Use,
}

/// A block whose recording is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Released {
    pub(super) address: CUdeviceptr,
    pub(super) bytes: usize,
    /// Whether a tensor still has it.
    pub(super) taken: bool,
}

/// What becomes of a block of a recording that is given back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Returned {
    Kept,
    /// It is in nobody's use already.
    Twice,
    /// It is no recording's.
    Unknown,
}

#[derive(Default)]
pub(super) struct Pools {
    blocks: HashMap<CUdeviceptr, Block>,
    free: HashMap<(RecordingId, usize), Vec<CUdeviceptr>>,
}

impl Pools {
    /// A block that the recording has used before, and uses no longer.
    pub(super) fn take(&mut self, recording: RecordingId, bytes: usize) -> Option<CUdeviceptr> {
        let address = self.free.get_mut(&(recording, bytes))?.pop()?;
        if let Some(block) = self.blocks.get_mut(&address) {
            block.of = Use::Taken;
        }
        Some(address)
    }

    /// A block that is new to the recording, for a tensor of it.
    pub(super) fn add(&mut self, address: CUdeviceptr, recording: RecordingId, bytes: usize) {
        self.blocks.insert(address, Block { recording, bytes, of: Use::Taken });
    }

    /// A block whose numbers have to stay for as long as the recording does.
    pub(super) fn hold(&mut self, address: CUdeviceptr, recording: RecordingId, bytes: usize) {
        self.blocks.insert(address, Block { recording, bytes, of: Use::Held });
    }

    pub(super) fn give_back(&mut self, address: CUdeviceptr) -> Returned {
        let Some(block) = self.blocks.get_mut(&address) else { return Returned::Unknown };
        if block.of != Use::Taken {
            return Returned::Twice;
        }
        block.of = Use::Free;
        self.free.entry((block.recording, block.bytes)).or_default().push(address);
        Returned::Kept
    }

    /// All blocks of a recording that is over.
    pub(super) fn release(&mut self, recording: RecordingId) -> Vec<Released> {
        self.free.retain(|(of, _), _| *of != recording);
        let ours = self.blocks.extract_if(|_, block| block.recording == recording);
        ours.map(|(address, Block { bytes, of, .. })| Released { address, bytes, taken: of == Use::Taken }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_used_again_by_its_recording_alone() {
        let mut pools = Pools::default();
        pools.add(16, 1, 512);
        assert_eq!(pools.take(1, 512), None, "a tensor has it");
        assert_eq!(pools.give_back(16), Returned::Kept);
        assert_eq!(pools.give_back(16), Returned::Twice);
        assert_eq!(pools.give_back(32), Returned::Unknown);
        assert_eq!(pools.take(2, 512), None);
        assert_eq!(pools.take(1, 1024), None);
        assert_eq!(pools.take(1, 512), Some(16));
    }

    #[test]
    fn what_a_launch_reads_is_not_overwritten() {
        let mut pools = Pools::default();
        pools.hold(16, 1, 512);
        assert_eq!(pools.take(1, 512), None);
        assert_eq!(pools.give_back(16), Returned::Twice);
    }

    #[test]
    fn a_recording_that_is_over_has_no_blocks() {
        let mut pools = Pools::default();
        pools.add(16, 1, 512);
        pools.add(32, 1, 512);
        pools.hold(48, 1, 0);
        pools.add(64, 2, 512);
        pools.give_back(32);
        let mut released = pools.release(1);
        released.sort_by_key(|block| block.address);
        let block = |address, bytes, taken| Released { address, bytes, taken };
        assert_eq!(released, [block(16, 512, true), block(32, 512, false), block(48, 0, false)]);
        assert_eq!(pools.give_back(16), Returned::Unknown);
        assert_eq!(pools.take(1, 512), None);
        assert_eq!(pools.give_back(64), Returned::Kept);
    }
}
