//! Revocation lists, fetched where they are published.
//!
//! A [`Poller`] fetches one list, has it verified and enforced ([`Intake`](super::Intake)), and keeps it on disk, so
//! that a start without a network refuses what was refused. A list that cannot be had, or is not good, changes
//! nothing: the last one stays in force, and gets older.

mod authorities;
mod points;
mod poller;
mod series;
mod shelf;

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde::Deserialize;

use super::check_terms;
use super::fetch::Url;
use crate::revocation::FeedTerms;
use crate::revocation::OnStale;
use authorities::Authorities;
use authorities::Pool;
pub use poller::Poller;
use shelf::Shelf;

/// `[[feed.crl]]`: one place where a revocation list is published.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its name in logs, metrics and answers; by default `crl`, or `crl-2` and so on.
    pub name: Option<String>,
    /// Where it is: `https:`, `http:` or `file:`.
    pub url: Url,
    /// Of an `https:` URL: the authorities that its server's certificate may be of, PEM; the system's by default.
    pub ca: Option<PathBuf>,
    /// The authority whose list it is, PEM; by default any of the gate's client authorities. One that is not among
    /// them must be signed by one that is, or by another in the file.
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
        let refuse = |key, reason: &str| Err(Error { key, reason: reason.to_owned() });
        check_terms(self.terms()).map_err(|(key, reason)| Error { key, reason })?;
        if self.interval < Duration::from_secs(1) {
            return refuse("interval", "at least 1s");
        }
        if self.max_age < self.interval {
            return refuse(
                "max_age",
                "shorter than `interval`: it would be stale before it is looked at again",
            );
        }
        if self.max_bytes < LEAST_BYTES {
            return refuse("max_bytes", "at least 64: no list is smaller");
        }
        if self.timeout.is_zero() {
            return refuse("timeout", "zero: nothing would ever be fetched");
        }
        if self.ca.is_some() && !self.url.is_https() {
            return refuse("ca", "only an `https:` server shows a certificate");
        }
        Ok(())
    }

    /// The usual one, for a list that nothing was configured for but where it is.
    fn of(url: Url) -> Self {
        Self {
            name: None,
            url,
            ca: None,
            issuer: None,
            interval: interval(),
            max_age: max_age(),
            on_stale: OnStale::default(),
            required: false,
            max_bytes: max_bytes(),
            timeout: timeout(),
        }
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

/// Every feed of revocation lists that a process has, by name.
pub(super) struct Pollers {
    pub(super) named: Vec<(String, Arc<Poller>)>,
    shelf: Shelf,
}

impl Pollers {
    /// Those of a configuration, with their authorities read. `anchors` are the gate's client authorities, `state`
    /// the process's state directory, below which lists are kept. Touches neither the network nor `state`.
    pub(super) fn new(
        config: &super::Config,
        anchors: &[CertificateDer<'static>],
        state: &Path,
    ) -> Result<Self, super::Error> {
        let failed =
            |i: usize| move |e: Error| super::Error { key: format!("crl[{i}].{}", e.key), reason: e.reason };
        let mut files = Vec::new();
        for (i, config) in config.crl.iter().enumerate() {
            let file = config.issuer.as_deref().map(authorities::read).transpose();
            files.push(file.map_err(|reason| failed(i)(Error { key: "issuer", reason }))?);
        }
        let others = files.iter().flatten().flatten().cloned().collect::<Vec<_>>();
        let pool = Pool { anchors, others: &others };
        let mut pollers = Self { named: Vec::new(), shelf: Shelf::new(state) };
        for (i, (config, name)) in config.crl.iter().zip(config.crl_names()).enumerate() {
            let taken = match files.get(i).and_then(Option::as_ref) {
                None => Authorities::any(&pool),
                Some(own) => Authorities::named(&pool, own),
            };
            let poller = taken.and_then(|taken| Poller::new(config.clone(), taken, pollers.shelf.clone()));
            pollers.named.push((name, Arc::new(poller.map_err(failed(i))?)));
        }
        if config.crl_discover {
            let urls = config.crl.iter().map(|crl| &crl.url).collect::<Vec<_>>();
            pollers.discover(&pool, &urls)?;
        }
        Ok(pollers)
    }

    /// Adds those that the authorities themselves point to, but for the `urls` that are known.
    fn discover(&mut self, pool: &Pool<'_>, urls: &[&Url]) -> Result<(), super::Error> {
        let failed = |e: Error| super::Error { key: "crl_discover".to_owned(), reason: e.reason };
        for point in points::discover(&[pool.anchors, pool.others].concat()) {
            if urls.contains(&&point.url) {
                continue;
            }
            let first = point.name();
            let is_free = |name: &String| name != "sqs" && self.named.iter().all(|(other, _)| other != name);
            let numbered = (2..).map(|i| format!("{first}-{i}"));
            let name = std::iter::once(first.clone()).chain(numbered).find(is_free).unwrap_or_default();
            let taken = Authorities::of(pool, point.authority).map_err(failed)?;
            tracing::info!(feed = name, url = %point.url, "an authority points to this revocation list");
            let poller = Poller::new(Config::of(point.url), taken, self.shelf.clone());
            self.named.push((name, Arc::new(poller.map_err(failed)?)));
        }
        Ok(())
    }

    /// To be called when all of them have taken in again what they knew.
    pub(super) fn tidy(&self) {
        let feeds: Vec<_> = self.named.iter().map(|(name, poller)| (name.as_str(), poller.url())).collect();
        self.shelf.tidy(&feeds);
    }
}

/// No list is smaller.
const LEAST_BYTES: usize = 64;

const fn interval() -> Duration {
    Duration::from_secs(15 * 60)
}

const fn max_age() -> Duration {
    Duration::from_secs(60 * 60)
}

/// Some 1,500,000 entries. Whoever answers for a URL may make the process hold as much, several times over.
const fn max_bytes() -> usize {
    64 << 20
}

const fn timeout() -> Duration {
    Duration::from_secs(60)
}
