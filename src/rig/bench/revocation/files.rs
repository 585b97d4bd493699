//! How many files may be open: enough, or nothing is begun.

use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::setrlimit;

use super::Error;
use super::Options;

/// Beside connections: files, runtimes, queues, listeners.
const BESIDE: u64 = 256;
/// Of its descriptors a gate lets its clients have one of so many, at most.
const SHARE: u64 = 4;
/// What it keeps for other things first.
const KEPT: u64 = 128;

/// Raises the soft limit to the hard one, which the gates inherit, and refuses if it does not suffice.
pub(super) fn raise(options: &Options) -> Result<(), Error> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = wanted(options);
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    if wanted > allowed {
        return Err(Error::Files { wanted, allowed });
    }
    if limit.current.is_some_and(|current| current < allowed) {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        let failed = |e: rustix::io::Errno| Error::System("cannot raise the limit of open files", e.into());
        setrlimit(Resource::Nofile, raised).map_err(failed)?;
    }
    Ok(())
}

/// What the process that needs the most needs: this one, or a gate.
fn wanted(options: &Options) -> u64 {
    let (window, _) = options.watch();
    let alive = options.rate * (super::LEAD * 3 / 2 + window).as_secs_f64();
    // One connection, and one that is tried after the answer.
    let victims = 2 * (alive.ceil() as u64).min(options.revocations as u64).max(1);
    let gates = options.gates.iter().copied().max().unwrap_or(1).max(1) as u64;
    let others = options.connections as u64;
    // The upstream is in this process, with as many connections again.
    let own = BESIDE + 2 * (others + victims * gates);
    let gate = KEPT + SHARE * (others.div_ceil(gates) + victims);
    own.max(gate)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::FeedOptions;
    use super::super::Mode;
    use super::*;

    #[test]
    fn what_is_needed_grows_with_connections_and_gates() {
        let options = |gates, connections| Options {
            portcullis: "portcullis".into(),
            gates: vec![1, gates],
            feed: FeedOptions::Admin,
            entries: 0,
            connections,
            rate: 20.0,
            revocations: 10_000,
            window: Duration::from_secs(2),
            pace: Duration::ZERO,
            mode: Mode::Strict,
        };
        assert_eq!(wanted(&options(1, 1000)), KEPT + 4 * (1000 + 2 * 100));
        assert_eq!(wanted(&options(16, 1000)), BESIDE + 2 * (1000 + 16 * 2 * 100));
        assert!(matches!(raise(&options(1, usize::MAX >> 8)), Err(Error::Files { .. })));
    }
}
