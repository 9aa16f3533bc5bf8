//! `ssdkd`: the front. Runs whole pipelines, looks into runs, brings teachers in and students out.

mod asked;
mod cli;
mod commands;
mod current;
mod estimate;
mod footprint;
mod measure;
mod network_file;
mod preflight;
mod report;
mod stages;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: ssdkd_ops::CachingAllocator = ssdkd_ops::CachingAllocator::new(4 << 30);

fn main() -> ExitCode {
    cli::run()
}
