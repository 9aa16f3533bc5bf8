//! `ssdkd-teach`: trains one teacher.

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: ssdkd_ops::CachingAllocator = ssdkd_ops::CachingAllocator::new(4 << 30);

fn main() -> ExitCode {
    let arguments = ssdkd_teach::TeachArgs::parse();
    ssdkd_stage::exit::main(|| ssdkd_teach::run(&arguments))
}
