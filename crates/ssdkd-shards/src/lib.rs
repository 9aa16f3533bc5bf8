//! The files between stages: image shards, tables and manifests.
//!
//! Stages meet only through files, and people look into those files with ordinary Arrow tools, so the columns and their
//! metadata are the interface of the whole pipeline. This crate is that interface, as plain structs on one side and
//! bytes on the other: it opens no files and knows no tensors. Encoding is a pure function: the same rows give the same
//! bytes, and nothing with a clock, a host or a path of this machine gets in.
//!
//! - [`images`]: what `invert` made, once; everything later refers to it by sample id, or by shard and row.
//! - [`tables`]: what is in the buffer, the priorities, what was drawn, how the student did.
//! - [`manifest`]: what a finished stage and round consists of, and what it was made from.
//! - [`digest`]: how "the same file" is decided.

pub mod canonical;
mod column;
pub mod digest;
mod document;
mod error;
mod file;
mod guard;
pub mod images;
pub mod manifest;
pub mod tables;

pub use column::{Cell, Columns, Row};
pub use document::tables_markdown;
pub use error::ShardError;
pub use file::{Description, Origin, describe};
pub use guard::{guard, row_bytes};
pub use images::{ImageInfo, ImageReader, ImageShard, Normalisation, Pixels, Rows, SampleRow};
pub use manifest::{FileEntry, Manifest, Role, Timing};
pub use tables::{BufferRow, ClassRow, DrawRow, ImageRef, ObservedRow, PriorityRow, StepRow};

/// The version of every layout in this crate. Raised when a reader of the old one would misunderstand the new one.
///
/// | version | since |
/// |---|---|
/// | 1 | the first layout; its last program is that of commit 172d8de |
/// | 2 | a column for each term of the loss; settings in manifests have the recipe's new names |
pub const SCHEMA_VERSION: u32 = 2;

/// The oldest version that this program reads.
pub const OLDEST_SCHEMA_VERSION: u32 = 2;

/// The last program that reads versions before [`OLDEST_SCHEMA_VERSION`].
pub const LAST_PROGRAM_BEFORE: &str = "the last program that reads it is that of commit 172d8de";

/// What the macro [`table!`] needs of other crates.
#[doc(hidden)]
pub mod macro_support {
    pub use arrow::array::ArrayRef;
    pub use arrow::datatypes::Field;
}
