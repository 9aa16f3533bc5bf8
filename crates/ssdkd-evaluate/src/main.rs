//! `ssdkd-evaluate`: measures one model.

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: ssdkd_ops::CachingAllocator = ssdkd_ops::CachingAllocator::new(4 << 30);

fn main() -> ExitCode {
    let arguments = ssdkd_evaluate::EvaluateArgs::parse();
    ssdkd_stage::exit::main(|| ssdkd_evaluate::run(&arguments))
}
