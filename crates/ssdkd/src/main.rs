//! `ssdkd`: parses the command line and runs its command.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: ssdkd_ops::CachingAllocator = ssdkd_ops::CachingAllocator::new(4 << 30);

fn main() -> ExitCode {
    ssdkd_context::finish(ssdkd::run(ssdkd::Program::from_command_line()))
}
