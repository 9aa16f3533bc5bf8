//! Drives the binaries as a user would. One test binary, so that the workspace links once.

mod bad_input;
mod baselines;
mod pipeline;
mod shards;
mod support;
