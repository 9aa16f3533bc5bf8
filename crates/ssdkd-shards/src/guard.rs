//! The Parquet decoder, kept from ending the process: on some damaged files it panics, which is the file's fault.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::LazyLock;

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

/// Runs the decoder; what it cannot decode is an error, however it says so.
pub(crate) fn guard<T>(path: &Path, decode: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ShardError> {
    LazyLock::force(&QUIET);
    DECODING.set(true);
    let decoded = panic::catch_unwind(AssertUnwindSafe(decode));
    DECODING.set(false);
    let reason = match decoded {
        Ok(Ok(decoded)) => return Ok(decoded),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the decoder met something impossible".into(),
    };
    Err(ShardError::Damaged { path: path.into(), reason })
}
