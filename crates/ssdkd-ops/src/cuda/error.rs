//! Errors of drivers and libraries.

use std::fmt::Debug;

use candle_core::Result;

/// A driver's or a library's error as one of candle's.
pub(super) fn or_error<T, E: Debug>(what: &str, result: std::result::Result<T, E>) -> Result<T> {
    result.map_err(|error| candle_core::Error::Msg(format!("{what}: {error:?}")))
}

/// What to do about a GPU that is full; other errors as they are.
pub(super) fn no_room(error: candle_core::Error, bytes: usize) -> candle_core::Error {
    if !format!("{error:?}").contains("CUDA_ERROR_OUT_OF_MEMORY") {
        return error;
    }
    let wanted = bytes as f64 / f64::from(1 << 20);
    candle_core::Error::Msg(format!(
        "the GPU has no room for another {wanted:.1} MiB\nhint: take smaller batches, or end other programs that use it"
    ))
}
