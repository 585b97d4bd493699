//! The whole chain, read once while the gate already works: what is opened is looked at by its end only.
//!
//! **Invariant:** it reads what was on disk before the writer began, which nobody writes to again, and takes no lock.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use rustix::process::setpriority_process;

use super::verify::Survey;
use super::verify::VerifyError;
use super::verify::advised;
use super::writer::Shared;

/// After all that the gate itself does.
const NICE: i32 = 19;

/// A verification that is under way, or done. Dropping it ends it.
pub(super) struct Check {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Check {
    /// Begins it. What is wrong goes to the log and to whoever shares `shared`.
    /// Of the damage that `shared` counts, `noted` is in the files already.
    pub(super) fn begin(
        directory: PathBuf,
        survey: Survey,
        shared: Arc<Shared>,
        noted: usize,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || {
            // Of a thread on Linux. Where it is refused, the check has its share like everybody.
            let _ = setpriority_process(None, NICE);
            if let Some(found) = check(&directory, &survey, &stopped, &shared) {
                shared.damages.fetch_add(found, Ordering::AcqRel);
                shared.damages.fetch_sub(noted, Ordering::AcqRel);
            }
        };
        let thread = std::thread::Builder::new().name("audit-check".into()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Returns how much damage is not accepted; `None` if it was stopped.
fn check(directory: &Path, survey: &Survey, stop: &AtomicBool, shared: &Shared) -> Option<usize> {
    let mut watch = |_, _| match stop.load(Ordering::Acquire) {
        true => Err(io::Error::other("the gate ends")),
        false => Ok(()),
    };
    // Whether older files were archived on purpose, only `portcullis audit verify` is told.
    match survey.verify(u64::MAX, None, &mut watch) {
        Ok(report) => {
            if report.starts_midway {
                let (directory, first) = (directory.display(), report.first_sequence);
                tracing::warn!(
                    "audit: {directory}: whole from {first} on; older files were archived or taken away"
                );
            }
            Some(0)
        }
        Err(VerifyError::Read { .. }) if stop.load(Ordering::Acquire) => None,
        Err(error) => {
            let count = if let VerifyError::Broken(fault) = &error { fault.count } else { 1 };
            tracing::error!("audit: {}", advised(&error.to_string(), count));
            shared.blame(error.to_string());
            Some(count)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Audit;
    use super::super::Config;
    use super::super::Entry;
    use super::super::files;
    use super::*;
    use crate::clock::Clock;
    use crate::clock::Timestamp;

    fn open(directory: &Path) -> Audit {
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        Audit::open(directory, &Config { max_bytes: Config::MIN_BYTES }, clock).unwrap()
    }

    /// A directory with so many lines, closed.
    fn site(count: usize) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let audit = open(directory.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for number in 0..count {
            let entry = Entry { target: Some(format!("agent-{number}")), ..Entry::default() };
            runtime.block_on(audit.append(entry)).unwrap();
        }
        directory
    }

    /// What the check of a directory says, once it is done.
    fn said(directory: &Path, stop: bool) -> Option<String> {
        let shared = Shared::default();
        check(directory, &Survey::take(directory).unwrap(), &AtomicBool::new(stop), &shared);
        shared.fault()
    }

    /// Seen failing with a check that goes on after the end.
    #[test]
    fn a_line_that_was_changed_long_ago_is_named_unless_the_gate_ends() {
        let site = site(100);
        assert_eq!(said(site.path(), false), None);
        let (aside, _) = files::list(site.path()).unwrap();
        let file = site.path().join(aside[1].name());
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replacen("agent", "AGENT", 1)).unwrap();
        let sequence = aside[1].first + 1;
        let reason = "it was changed: its hash does not fit it";
        let expected = format!("{}:2: sequence {sequence}: {reason}", file.display());
        assert_eq!(said(site.path(), false), Some(expected));
        // It is told so after the first file.
        assert_eq!(said(site.path(), true), None);
    }
}
