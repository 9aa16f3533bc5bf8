//! What the end-to-end tests in `tests/tests/` and the fuzz targets in `tests/fuzz/` share.

pub mod readers;
