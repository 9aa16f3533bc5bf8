//! What reports are made of: pictures, charts, and the rows of results.

pub mod grid;
pub mod histogram;
pub mod pictures;
pub mod plot;
pub mod results;
