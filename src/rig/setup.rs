//! The machine and the command line, as findings name them.

use std::fs;

use super::findings::Setup;

/// What this process can say of where it runs; what cannot be read is empty.
pub fn setup() -> Setup {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let system = format!("{}, kernel {}", name.unwrap_or("").trim_matches('"'), kernel.trim());
    let kib = value(&meminfo, "MemTotal").and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
    Setup {
        portcullis: env!("CARGO_PKG_VERSION").to_owned(),
        command: std::env::args().collect(),
        system: system.trim_start_matches(", ").to_owned(),
        processor: value(&cpuinfo, "model name").unwrap_or_default().to_owned(),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory: kib.unwrap_or_default() * 1024,
    }
}

/// The value behind `name:`, as `/proc` has it.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}
