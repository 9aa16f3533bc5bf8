//! `ssdkd-distill`: one round of the stage `distill`, as a program.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: ssdkd_ops::CachingAllocator = ssdkd_ops::CachingAllocator::new(4 << 30);

fn main() -> ExitCode {
    ssdkd_context::stage_main(ssdkd_distill::STAGE)
}
