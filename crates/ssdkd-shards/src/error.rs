//! Why a shard, a table or a manifest cannot be used: which file, what is wrong with it, and what to do.

use std::path::PathBuf;

/// Why a shard, a table or a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// Truncated, overwritten, or never Parquet.
    #[error("{} cannot be read as Parquet: {reason}\nhint: `ssdkd verify RUN` says what makes a run's file again; any other has to be fetched again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        reason: String,
    },
    /// A Parquet file of something else.
    #[error("{} has no column `{column}`; its columns are {found}\nhint: check that this is the file you mean", path.display())]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column that is not there.
        column: String,
        /// Those that are.
        found: String,
    },
    /// A column of another type.
    #[error("column `{column}` of {} is {found}, and should be {expected}\nhint: check that this is the file you mean", path.display())]
    ColumnType {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The type that this crate writes.
        expected: String,
        /// The type in the file.
        found: String,
    },
    /// Nothing where something must be.
    #[error("column `{column}` of {} has {nulls} empty values\nhint: `ssdkd verify RUN` says what makes a run's file again; any other has to be fetched again", path.display())]
    Nulls {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// How many.
        nulls: usize,
    },
    /// A Parquet file that this program did not write.
    #[error("{} does not say its `{key}` in the file metadata\nhint: only files written by ssdkd can be read here", path.display())]
    MissingMetadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
    },
    /// Metadata that does not mean anything.
    #[error("{}: the file metadata `{key}` is unusable: {reason}\nhint: only files written by ssdkd can be read here", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Written by a later version of this program.
    #[error("{} has schema version {found}, and this program knows versions up to {supported}\nhint: use the ssdkd that wrote it, or a newer one", path.display())]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// Ours.
        supported: u32,
    },
    /// Written by an older program, in a layout that this one does not read.
    #[error("{} has schema version {found}, and this program reads versions from {} to {}; {}\nhint: start the run again, in another runs folder", path.display(), crate::OLDEST_SCHEMA_VERSION, crate::SCHEMA_VERSION, crate::LAST_PROGRAM_BEFORE)]
    OlderSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// A table of another kind.
    #[error("{} is a `{found}` table, and a `{expected}` table is needed here\nhint: check that this is the file you mean", path.display())]
    WrongTable {
        /// The file.
        path: PathBuf,
        /// What is needed.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A row that the shard does not have.
    #[error("row {row} of {} was asked for, but it has {rows} rows\nhint: the buffer and its shards do not belong together; rerun `balance`", path.display())]
    RowOutOfRange {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: u32,
        /// How many there are.
        rows: usize,
    },
    /// Columns that do not fit together, at encoding.
    #[error("a shard of {rows} images cannot have {found} {what}; {expected} are needed")]
    Uneven {
        /// Images.
        rows: usize,
        /// What there is too much or too little of.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much there should be.
        expected: usize,
    },
    /// Parquet refuses to encode.
    #[error("cannot encode a `{table}` table: {reason}")]
    Encode {
        /// What was to be encoded.
        table: &'static str,
        /// What the encoder says.
        reason: String,
    },
    /// A manifest that says nothing usable.
    #[error("the manifest {} is unusable: {reason}\nhint: `ssdkd verify RUN` says what makes a run's file again; any other has to be fetched again", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}
