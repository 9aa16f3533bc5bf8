//! What the buffer knows of a sample, and the orders in which samples leave.

use std::cmp::Ordering;

use crate::modulation::Factors;

/// One sample in the buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Unique in a run, and growing: of two samples of one round, the smaller is the older.
    pub sample_id: u64,
    /// The image's row in the shard of its round; the buffer only hands it back.
    pub row: u32,
    /// The teacher's class of the clean image.
    pub class: u32,
    /// The teacher's probability for it, in `[0, 1]`.
    pub confidence: f32,
    /// φ's factors at birth.
    pub factors: Factors,
    /// The round that made it.
    pub birth_round: u32,
    /// δ, 0 or above; a new sample's is set when it enters.
    pub priority: f64,
}

pub(super) fn older(a: &Member, b: &Member) -> Ordering {
    (a.birth_round, a.sample_id).cmp(&(b.birth_round, b.sample_id))
}

pub(super) fn lower_priority(a: &Member, b: &Member) -> Ordering {
    a.priority.total_cmp(&b.priority).then_with(|| older(a, b))
}

/// Why samples cannot be members.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BufferError {
    /// More members than the buffer holds.
    #[error(
        "{members} members do not fit into a buffer of {capacity}\nhint: balance.capacity was lowered in mid-run; set it back, or start a new run"
    )]
    TooMany {
        /// As given.
        members: usize,
        /// The buffer's.
        capacity: usize,
    },
    /// Two samples with one id.
    #[error("sample {sample_id} is in the buffer twice")]
    Duplicate {
        /// The id.
        sample_id: u64,
    },
    /// A class that the teacher does not have.
    #[error("sample {sample_id} is of class {class}, but the teacher has {classes} classes")]
    UnknownClass {
        /// The sample.
        sample_id: u64,
        /// Its class.
        class: u32,
        /// The teacher's.
        classes: usize,
    },
    /// A priority that cannot be compared.
    #[error("the priority of sample {sample_id} is {priority}; priorities are 0 or above")]
    Priority {
        /// The sample.
        sample_id: u64,
        /// Its priority.
        priority: f64,
    },
}
