//! Drives the binaries as a user would. One test binary, so that the workspace links once.

mod bad_input;
mod baselines;
mod export;
mod health;
mod import;
mod integrity;
mod killed;
mod looking;
mod measuring;
mod networks;
mod oblong;
mod pipeline;
mod predict;
mod preflight;
mod refused;
mod rerun;
mod segmentation;
mod shards;
mod snapshots;
mod stopped;
mod support;
mod unlabelled;
