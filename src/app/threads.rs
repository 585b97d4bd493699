//! Threads, each with a runtime of its own. **Invariant:** a thread whose runtime cannot be made never counts as started, and
//! one that has ended is known to have.

use std::io;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use tokio::runtime::Builder;
use tokio::runtime::LocalOptions;
use tokio::runtime::LocalRuntime;

use super::Error;

/// A thread that runs one future.
pub(super) struct Thread<T> {
    name: String,
    handle: JoinHandle<Option<T>>,
}

impl<T: Send + 'static> Thread<T> {
    /// Starts a thread with a runtime, in which `begin` makes the future that the thread then runs to its end. Returns once
    /// that future is made.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made, or `begin` fails.
    pub(super) fn start<F>(
        name: &str,
        begin: impl FnOnce() -> io::Result<F> + Send + 'static,
    ) -> Result<Self, Error>
    where
        F: Future<Output = io::Result<T>> + 'static,
    {
        let (tell, told) = sync_channel(1);
        let run = move || {
            let (runtime, future) = match prepare(begin) {
                Ok(prepared) => prepared,
                Err(error) => {
                    // The thread that waits for this cannot have ended.
                    let _ = tell.send(Err(error));
                    return None;
                }
            };
            let _ = tell.send(Ok(()));
            let result = runtime.block_on(future);
            result.inspect_err(|error| tracing::error!(%error, "a thread failed")).ok()
        };
        let failed = |error| Error::Thread { thread: name.to_owned(), error };
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(failed)?;
        match told.recv() {
            Ok(Ok(())) => Ok(Self { name: name.to_owned(), handle }),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(failed(io::Error::other("it panicked"))),
        }
    }

    /// The name, if the thread has ended.
    pub(super) fn ended(&self) -> Option<&str> {
        self.handle.is_finished().then_some(&self.name)
    }

    /// Waits for its end; `None` if it failed.
    pub(super) fn join(self) -> Option<T> {
        let Self { name, handle } = self;
        let ended = handle.join().unwrap_or_default();
        if ended.is_none() {
            tracing::error!(thread = name, "a thread failed");
        }
        ended
    }
}

fn prepare<F>(begin: impl FnOnce() -> io::Result<F>) -> io::Result<(LocalRuntime, F)> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let future = runtime.block_on(async { begin() })?;
    Ok((runtime, future))
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::future::ready;

    use super::*;

    fn until_ended(thread: &Thread<()>) -> &str {
        loop {
            match thread.ended() {
                Some(name) => return name,
                None => std::thread::yield_now(),
            }
        }
    }

    #[test]
    fn what_cannot_begin_has_not_started() {
        let begin = || Err::<std::future::Ready<io::Result<()>>, _>(io::Error::other("no driver"));
        let refused = Thread::start("gate-7", begin).err().unwrap();
        assert!(refused.to_string().contains("gate-7"), "{refused}");
        assert!(refused.to_string().contains("no driver"), "{refused}");
    }

    #[test]
    fn a_thread_that_panics_or_fails_has_ended() {
        let runs: Thread<()> = Thread::start("runs", || Ok(pending())).unwrap();
        let panics: Thread<()> = Thread::start("panics", || Ok(async { panic!("meant to") })).unwrap();
        let fails = Thread::start("fails", || Ok(ready(Err(io::Error::other("meant to"))))).unwrap();
        assert_eq!((until_ended(&panics), until_ended(&fails), runs.ended()), ("panics", "fails", None));
        assert_eq!((panics.join(), fails.join()), (None, None));
    }
}
