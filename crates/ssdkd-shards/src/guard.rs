//! The Parquet decoder, kept from ending the process: on some damaged files it panics, which is the file's fault.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::LazyLock;

use arrow::datatypes::DataType;
use parquet::errors::ParquetError;

use crate::ShardError;

thread_local! {
    /// Whether this thread is in the decoder.
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Panics of the decoder are not said: what follows from one is an error like any other.
static QUIET: LazyLock<()> = LazyLock::new(|| {
    let otherwise = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !DECODING.get() {
            otherwise(info);
        }
    }));
});

/// Runs the decoder; what it cannot decode is an error that says why, however it says so.
///
/// For all code that decodes Parquet of strangers, not only for this crate's files. So the error names no file.
pub fn guard<T>(decode: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    LazyLock::force(&QUIET);
    DECODING.set(true);
    let decoded = panic::catch_unwind(AssertUnwindSafe(decode));
    DECODING.set(false);
    match decoded {
        Ok(decoded) => decoded.map_err(|error| error.to_string()),
        Err(_) => Err("the decoder met something impossible".into()),
    }
}

/// Returns the bytes that a row of this type takes in memory, at least. Fixed sizes are what the file's own schema says, which need not
/// have a byte behind them: nulls and repeated values are still decoded to them.
pub fn row_bytes(data_type: &DataType) -> u64 {
    let size = |length: i32| u64::try_from(length).unwrap_or(0);
    match data_type {
        DataType::FixedSizeList(field, length) => row_bytes(field.data_type()).saturating_mul(size(*length)),
        DataType::FixedSizeBinary(length) => size(*length),
        DataType::Struct(fields) => {
            fields.iter().fold(0, |sum, field| sum.saturating_add(row_bytes(field.data_type())))
        }
        other => other.primitive_width().unwrap_or(1) as u64,
    }
}

/// Returns the same for a file of this crate.
pub(crate) fn guard_file<T>(path: &Path, decode: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ShardError> {
    guard(decode).map_err(|reason| ShardError::Damaged { path: path.into(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_panics_are_reasons() {
        assert_eq!(guard(|| Ok(7)), Ok(7));
        let refused = guard::<u32>(|| Err(ParquetError::General("no footer".into())));
        assert!(refused.unwrap_err().contains("no footer"));
        assert!(guard::<u32>(|| panic!("a page of -1 values")).unwrap_err().contains("impossible"));
        assert_eq!(guard(|| Ok(8)), Ok(8), "and goes on");
    }
}
