//! The file descriptors that the process may have.

use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::setrlimit;

/// Where there is no limit.
const MANY_DESCRIPTORS: usize = 1_000_000;
/// Descriptors that are no connections of the gate: files, runtimes, administrators.
const RESERVED: usize = 128;
/// With fewer nothing could be served.
const MIN_DESCRIPTORS: usize = 16;

/// How many file descriptors connections may take: what the journal, the audit and the admin listener need is not
/// among them.
pub(super) fn descriptors() -> usize {
    raise_descriptors().saturating_sub(RESERVED).max(MIN_DESCRIPTORS)
}

/// Lets the process have as many file descriptors as it may; returns how many that is.
fn raise_descriptors() -> usize {
    let limits = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limits.maximum, maximum: limits.maximum };
    let current = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limits.maximum,
        Err(_) => limits.current,
    };
    current.and_then(|current| usize::try_from(current).ok()).unwrap_or(MANY_DESCRIPTORS)
}
