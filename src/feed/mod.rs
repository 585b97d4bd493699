//! What brings revocations in from elsewhere.
//!
//! The contract of a feed:
//! - **At least once, idempotent.** What may have been lost is asked for again; what comes twice changes nothing.
//! - **Acknowledged only after effect and journal.** A message is deleted, a list is remembered as read, once
//!   [`Intake`] has said that it is in effect and, of an event, on disk.
//! - **A failure keeps the last good state** and makes the feed older, never empty: see
//!   [`Freshness`].
//! - **A task of its own**, which ends when `stop` says so, with what it has in hand finished; `supervise` begins it
//!   anew if it fails. All of them run on one thread that serves nobody: what takes long (a list) goes to a blocking thread.
//! - **Bad input is named** (which feed, which message or URL, why), counted, and never in the log in full.

pub mod backoff;
pub mod clawdentity;
pub mod crl;
pub mod fetch;
mod files;
pub mod intake;
pub mod message;
mod poll;
mod schedule;
pub mod sqs;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::task::JoinSet;
use tokio::task::spawn_local;

use crate::revocation::About;
use crate::revocation::Asked;
use crate::revocation::FeedTerms;
use crate::revocation::Feeds;
use crate::revocation::Fingerprinter;
use crate::revocation::Freshness;
use crate::revocation::OnStale;
use crate::revocation::Target;
use backoff::Backoff;
pub use intake::Intake;
pub use intake::NotTaken;
pub use intake::Record;
pub use intake::Taken;
pub use intake::TakenList;
pub use intake::Witness;

/// `[feed]`: where revocations come from, beside the admin API.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The queue.
    pub sqs: Option<sqs::Config>,
    /// Revocation lists.
    pub crl: Vec<crl::Config>,
    /// Registries of tokens.
    pub clawdentity: Vec<clawdentity::Config>,
    /// Whether the lists that the certificates of the client authorities, and of each `issuer`, point to are fetched too.
    pub crl_discover: bool,
}

impl Config {
    /// Returns whether the gate waits for a feed before it serves.
    pub fn is_required(&self) -> bool {
        self.sqs.iter().any(|sqs| sqs.required)
            || self.crl.iter().any(|list| list.required)
            || self.clawdentity.iter().any(|registry| registry.required)
    }
}

/// Why a feed cannot be what its configuration says.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct Error {
    /// The key below `feed`, such as `crl[0].issuer`.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A stale feed keeps requests out only where the gate is not to be without it.
fn check_terms(terms: FeedTerms) -> Result<(), (&'static str, String)> {
    if terms.on_stale == OnStale::Deny && !terms.required {
        return Err(("on_stale", "`deny` needs `required = true`".to_owned()));
    }
    if terms.max_age.is_zero() {
        return Err(("max_age", "zero: it would never be fresh".to_owned()));
    }
    Ok(())
}

/// What ties a feed to its process.
pub struct Link {
    /// Where it hands in what it learned.
    pub intake: Intake,
    /// What it reports to.
    pub freshness: Arc<Freshness>,
    /// Who wants it to look now; whoever runs the feed holds this.
    pub asked: Mutex<mpsc::Receiver<Asked>>,
}

impl Link {
    /// The feed's name.
    pub fn name(&self) -> &str {
        &self.freshness.about().name
    }
}

/// The feeds of a configuration, ready to run.
pub struct Plan {
    fingerprinter: Fingerprinter,
    sqs: Option<Arc<sqs::Sqs>>,
    crl: crl::Pollers,
    registries: Vec<(String, Arc<clawdentity::Registry>)>,
}

/// The feeds, each tied to the process.
pub struct Running {
    sqs: Option<(Arc<sqs::Sqs>, Arc<Link>)>,
    crl: Vec<(Arc<crl::Poller>, Arc<Link>)>,
    registries: Vec<(Arc<clawdentity::Registry>, Arc<Link>)>,
}

impl Plan {
    /// Reads what the configuration names, and nothing else: neither the network nor `state` is touched.
    pub fn new(
        config: &Config,
        anchors: &[CertificateDer<'static>],
        state: &Path,
        fingerprinter: Fingerprinter,
    ) -> Result<Self, Error> {
        let sqs = config.sqs.clone().map(|config| sqs::Sqs::new(config, state)).transpose();
        let sqs = sqs.map_err(|e| Error { key: format!("sqs.{}", e.key), reason: e.reason })?;
        let crl = crl::Pollers::new(config, anchors, state)?;
        let registry = |(i, (config, name)): (usize, (&clawdentity::Config, String))| {
            let registry = clawdentity::Registry::new(config.clone(), state);
            let failed = |e: clawdentity::Error| Error {
                key: format!("clawdentity[{i}].{}", e.key),
                reason: e.reason,
            };
            registry.map(|registry| (name, Arc::new(registry))).map_err(failed)
        };
        let named = config.clawdentity.iter().zip(config.registry_names());
        let registries = named.enumerate().map(registry).collect::<Result<_, _>>()?;
        Ok(Self { fingerprinter, sqs: sqs.map(Arc::new), crl, registries })
    }

    /// Announces each feed, and takes in again what they said before this process began. Blocks.
    pub fn begin(self, feeds: &mut Feeds, intake: &Intake) -> Running {
        let Self { fingerprinter, sqs, crl, registries } = self;
        let mut link = |about| {
            let (freshness, asked) = feeds.add(about);
            Arc::new(Link { intake: intake.clone(), freshness, asked: Mutex::new(asked) })
        };
        let sqs = sqs.map(|sqs| {
            let about = About { name: "sqs".to_owned(), kind: "sqs", terms: sqs.terms(), scope: None };
            (sqs, link(about))
        });
        let prints = |scope: Vec<Target>| scope.iter().map(|target| fingerprinter.target(target)).collect();
        let tied = crl.named.iter().map(|(name, poller)| {
            let scope = poller.scope().map(prints);
            let link = link(About { name: name.clone(), kind: "crl", terms: poller.terms(), scope });
            poller.restore(&link);
            (Arc::clone(poller), link)
        });
        let tied = tied.collect();
        crl.tidy();
        let registries = registries.into_iter().map(|(name, registry)| {
            // A token says nothing of which authority is above it.
            let about = About { name, kind: "clawdentity", terms: registry.terms(), scope: None };
            let link = link(about);
            registry.restore(&link);
            (registry, link)
        });
        let registries = registries.collect();
        Running { sqs, crl: tied, registries }
    }
}

impl Config {
    /// Whether nothing comes in but by the admin API.
    pub fn is_empty(&self) -> bool {
        self.sqs.is_none() && self.crl.is_empty() && self.clawdentity.is_empty() && !self.crl_discover
    }

    /// Makes relative paths relative to `base`.
    pub fn rebase(&mut self, base: &Path) {
        self.sqs.iter_mut().for_each(|sqs| sqs.rebase(base));
        self.crl.iter_mut().for_each(|crl| crl.rebase(base));
        self.clawdentity.iter_mut().for_each(|registry| registry.rebase(base));
    }

    /// What must hold of it, and between its parts.
    pub fn check(&self) -> Result<(), Error> {
        if let Some(sqs) = &self.sqs {
            sqs.check().map_err(|e| Error { key: format!("sqs.{}", e.key), reason: e.reason })?;
        }
        for (i, crl) in self.crl.iter().enumerate() {
            crl.check().map_err(|e| Error { key: format!("crl[{i}].{}", e.key), reason: e.reason })?;
        }
        for (i, registry) in self.clawdentity.iter().enumerate() {
            let failed = |e: clawdentity::Error| (format!("clawdentity[{i}].{}", e.key), e.reason);
            registry.check().map_err(failed).map_err(|(key, reason)| Error { key, reason })?;
        }
        self.check_names()
    }

    /// A name is part of the names of metrics' series and files, and says which feed it is.
    fn check_names(&self) -> Result<(), Error> {
        let lists =
            self.crl_names().into_iter().enumerate().map(|(i, name)| (format!("crl[{i}].name"), name));
        let registries = self.registry_names().into_iter().enumerate();
        let registries = registries.map(|(i, name)| (format!("clawdentity[{i}].name"), name));
        // What the queue and the admin API are called where feeds are told apart.
        let mut known = vec!["sqs".to_owned(), "admin".to_owned()];
        for (key, name) in lists.chain(registries) {
            let fits = (1..=64).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if !fits {
                let reason = format!("`{name}`: up to 64 letters, digits, `-`, `_` and `.`");
                return Err(Error { key, reason });
            }
            if known.contains(&name) {
                return Err(Error { key, reason: format!("`{name}` is the name of another feed") });
            }
            known.push(name);
        }
        Ok(())
    }

    /// The name of each `[[feed.crl]]`.
    pub fn crl_names(&self) -> Vec<String> {
        named("crl", self.crl.iter().map(|crl| crl.name.as_deref()))
    }

    /// The name of each `[[feed.clawdentity]]`.
    pub fn registry_names(&self) -> Vec<String> {
        named("clawdentity", self.clawdentity.iter().map(|registry| registry.name.as_deref()))
    }
}

/// Each name, or its kind and how many there are.
fn named<'a>(kind: &str, names: impl Iterator<Item = Option<&'a str>>) -> Vec<String> {
    let numbered = |i: usize| if i == 0 { kind.to_owned() } else { format!("{kind}-{}", i + 1) };
    names.enumerate().map(|(i, name)| name.map_or_else(|| numbered(i), str::to_owned)).collect()
}

impl Running {
    /// Runs them all until `stop`, and then until each has finished what it has in hand. Needs a local runtime.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        if let Some((sqs, link)) = self.sqs {
            let (tied, stopped) = (Arc::clone(&link), stop.clone());
            let begin = move || Arc::clone(&sqs).run(Arc::clone(&tied), stopped.clone());
            tasks.spawn_local(supervise(link, stop.clone(), begin));
        }
        for (poller, link) in self.crl {
            let (tied, stopped) = (Arc::clone(&link), stop.clone());
            let begin = move || Arc::clone(&poller).run(Arc::clone(&tied), stopped.clone());
            tasks.spawn_local(supervise(link, stop.clone(), begin));
        }
        for (registry, link) in self.registries {
            let (tied, stopped) = (Arc::clone(&link), stop.clone());
            let begin = move || Arc::clone(&registry).run(Arc::clone(&tied), stopped.clone());
            tasks.spawn_local(supervise(link, stop.clone(), begin));
        }
        drop(tasks.join_all().await);
    }
}

/// A feed that ran for so long was well.
const WELL: Duration = Duration::from_secs(300);

/// Runs a feed until `stop`: `begin` makes its task, again after each time that it failed.
async fn supervise<F>(link: Arc<Link>, mut stop: watch::Receiver<bool>, mut begin: impl FnMut() -> F)
where
    F: Future<Output = ()> + 'static,
{
    let feed = link.name();
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    loop {
        let begun = Instant::now();
        let ended = spawn_local(begin()).await;
        if begun.elapsed() > WELL {
            backoff.reset();
        }
        if *stop.borrow() {
            return;
        }
        let why = ended.map_or_else(|error| reason(&error), |()| "its task has ended".to_owned());
        tracing::error!(feed, why, "a feed failed, and is begun anew");
        link.freshness.failed(link.intake.now(), why);
        tokio::select! {
            () = tokio::time::sleep(backoff.wait()) => {}
            // A sender that is gone means the same.
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

fn reason(error: &JoinError) -> String {
    if error.is_panic() { "its task panicked".to_owned() } else { "its task was cancelled".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::runtime::Builder;
    use tokio::runtime::LocalOptions;

    use super::*;
    use crate::clock::Clock;
    use crate::revocation;
    use crate::revocation::Engine;
    use crate::revocation::FeedTerms;
    use crate::telemetry::Metrics;

    /// Seen failing with a supervisor that lets a panic through, and with one that begins nothing anew.
    #[test]
    fn a_feed_that_fails_is_begun_anew_and_ends_when_it_is_told_to() {
        let clock = Clock::system();
        let engine = Engine::in_memory(&revocation::Config::default(), clock.clone()).unwrap();
        let intake = Intake::new(Arc::new(engine), Arc::default(), clock, Metrics::new().unwrap());
        let terms = FeedTerms { required: false, max_age: Duration::from_secs(60), on_stale: OnStale::Allow };
        let about = About { name: "crl".into(), kind: "crl", terms, scope: None };
        let (freshness, asked) = Feeds::default().add(about);
        let link = Arc::new(Link { intake, freshness, asked: Mutex::new(asked) });
        let (stop, stopped) = watch::channel(false);
        let stop = Rc::new(stop);
        let begun = Rc::new(Cell::new(0));
        let runtime = Builder::new_current_thread().enable_time().build_local(LocalOptions::default());
        let (count, tied, told) = (Rc::clone(&begun), Arc::clone(&link), stopped.clone());
        let begin = move || {
            count.set(count.get() + 1);
            let (turn, link, mut told) = (count.get(), Arc::clone(&tied), told.clone());
            let stop = Rc::clone(&stop);
            async move {
                // Whoever was asked before is asked again: what fails lets go of it.
                let _asked = link.asked.lock().await;
                assert!(turn > 1, "the first turn fails");
                if turn > 2 {
                    stop.send_replace(true);
                    let _ = told.wait_for(|stop| *stop).await;
                }
            }
        };
        runtime.unwrap().block_on(supervise(Arc::clone(&link), stopped, begin));
        assert_eq!(begun.get(), 3);
        let error = link.freshness.status(link.intake.now()).last_error.unwrap();
        assert_eq!(error, "its task has ended");
    }
}
