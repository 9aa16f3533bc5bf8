//! `ssdkd-sample`: one round of the stage `sample`, as a program.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: ssdkd_ops::CachingAllocator = ssdkd_ops::CachingAllocator::new(4 << 30);

fn main() -> ExitCode {
    let (name, about) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_DESCRIPTION"));
    ssdkd_context::stage_main(ssdkd_sample::STAGE, name, about, ssdkd_sample::run)
}
