//! The program: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use portcullis::cli::Cli;

/// glibc gives freed memory back only from the end of a heap, where something is always in use: what a peak of clients
/// took stayed with the process. jemalloc gives it back within ten seconds, in threads of its own (`jemalloc_bg_thd`).
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
