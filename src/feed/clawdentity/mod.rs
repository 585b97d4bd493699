//! A clawdentity registry: its signed list of revoked tokens, polled.
//!
//! The registry's events name agents, its list names tokens: what is on the list alone is known by polling alone.

mod kept;

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::Link;
use super::check_terms;
use super::fetch;
use super::fetch::Bounds;
use super::fetch::Fault;
use super::fetch::Fetched;
use super::fetch::Fetcher;
use super::fetch::Roots;
use super::fetch::Url;
use super::poll::Looked;
use super::poll::counted;
use super::poll::poll;
use crate::clock::Timestamp;
use crate::revocation::FeedTerms;
use crate::revocation::OnStale;
use crate::revocation::crl::Verdict;
use crate::revocation::token_list;
use crate::revocation::token_list::Keys;
use crate::revocation::token_list::TokenList;
use kept::Kept;

const LIST: &str = "/v1/crl";
const KEYS: &str = "/.well-known/claw-keys.json";
/// The code of the 404 of a registry that has never revoked anything.
const NO_LIST: &str = "CRL_NOT_FOUND";
/// How far ahead the registry's clock may be.
const SKEW: Duration = Duration::from_secs(60);
const REDIRECTS: usize = 3;
/// No list is smaller.
const LEAST_BYTES: usize = 64;

/// `[[feed.clawdentity]]`: one registry.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its name in logs, metrics and answers; by default `clawdentity`, or `clawdentity-2` and so on.
    pub name: Option<String>,
    /// The registry: `https:` or `http:`, without a path.
    pub url: String,
    /// The `iss` of its lists, if that is not `url`.
    pub issuer: Option<String>,
    /// The authorities that its server's certificate may be of, PEM; the system's by default.
    pub ca: Option<PathBuf>,
    /// How often it is looked at; sooner, when the list expires.
    #[serde(default = "interval", with = "humantime_serde")]
    pub interval: Duration,
    /// How long after it was read last it counts as fresh, if the list does not expire before.
    #[serde(default = "max_age", with = "humantime_serde")]
    pub max_age: Duration,
    /// What it does to requests, if it is required, when it is stale.
    #[serde(default)]
    pub on_stale: OnStale,
    /// Without it the gate is not ready.
    #[serde(default)]
    pub required: bool,
    /// The largest list that is read, bytes.
    #[serde(default = "max_bytes")]
    pub max_bytes: usize,
    /// How long one fetch may take.
    #[serde(default = "timeout", with = "humantime_serde")]
    pub timeout: Duration,
}

/// Why a registry cannot be polled as it is configured.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct Error {
    /// The key in `[[feed.clawdentity]]`.
    pub key: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl Config {
    /// Makes relative paths relative to `base`.
    pub(super) fn rebase(&mut self, base: &Path) {
        self.ca.iter_mut().for_each(|file| *file = base.join(&*file));
    }

    /// What must hold of it.
    pub(super) fn check(&self) -> Result<(), Error> {
        let refuse = |key, reason: &str| Err(Error { key, reason: reason.to_owned() });
        let url = self.at("")?;
        if !url.is_remote() {
            return refuse("url", "a registry is asked over `https:` or `http:`");
        }
        let place = self.url.split_once("://").map_or("", |(_, rest)| rest).trim_end_matches('/');
        if place.contains(['/', '?', '#']) {
            return refuse("url", "a registry has no path: `https://registry.lab.test`");
        }
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
        if self.ca.is_some() && !url.is_https() {
            return refuse("ca", "only an `https:` server shows a certificate");
        }
        Ok(())
    }

    fn at(&self, path: &str) -> Result<Url, Error> {
        let url = format!("{}{path}", self.url.trim_end_matches('/'));
        Url::parse(&url).map_err(|e| Error { key: "url", reason: e.to_string() })
    }

    fn issuer(&self) -> &str {
        self.issuer.as_deref().unwrap_or(&self.url)
    }

    fn terms(&self) -> FeedTerms {
        FeedTerms { required: self.required, max_age: self.max_age, on_stale: self.on_stale }
    }
}

/// The poller of one registry.
#[derive(Debug)]
pub struct Registry {
    config: Config,
    list: Url,
    keys: Url,
    fetcher: Fetcher,
    file: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    keys: Option<Shown>,
    /// How many entries the list has, and when it expires; `None` of one that was never read.
    list: Option<(u64, Option<Timestamp>)>,
}

/// The keys that the registry has shown.
#[derive(Clone, Debug)]
struct Shown {
    at: Timestamp,
    /// As they were fetched.
    bytes: Bytes,
    keys: Keys,
}

impl Registry {
    /// A poller; `state` is the process's state directory. Touches neither the network nor `state`.
    pub(super) fn new(config: Config, state: &Path) -> Result<Self, Error> {
        let (list, keys) = (config.at(LIST)?, config.at(KEYS)?);
        let roots = match &config.ca {
            Some(file) => Roots::File(file),
            None if list.is_https() => Roots::System,
            None => Roots::Nobody,
        };
        let bounds = Bounds { max_bytes: config.max_bytes, timeout: config.timeout, redirects: REDIRECTS };
        let fetcher = Fetcher::new(roots, bounds).map_err(|reason| Error { key: "ca", reason })?;
        let file = state.join("lists").join(Kept::name(config.issuer()));
        Ok(Self { config, list, keys, fetcher, file, known: Mutex::default() })
    }

    /// How much depends on it.
    pub fn terms(&self) -> FeedTerms {
        self.config.terms()
    }

    /// Takes the list that was read last in again, from disk, before anybody is served. Blocks.
    pub fn restore(&self, link: &Link) {
        let (feed, file) = (link.name(), self.file.display());
        let kept = match Kept::read(&self.file, self.config.max_bytes) {
            Ok(None) => return,
            Ok(Some(kept)) => kept,
            Err(why) => {
                tracing::error!(feed, %file, why, "a list that was kept is left out");
                return;
            }
        };
        let latest = kept.read.plus(SKEW).max(link.intake.now().plus(SKEW));
        let list = Keys::read(kept.keys.as_bytes())
            .and_then(|keys| TokenList::read(kept.list.as_bytes(), &keys, self.config.issuer(), latest));
        let taken = list.and_then(|list| {
            let (entries, expires_at) = (list.entries.len() as u64, list.expires_at);
            link.intake.restore_tokens(list).map(|()| (entries, expires_at))
        });
        match taken {
            Ok((entries, expires_at)) => {
                tracing::info!(feed, %file, entries, "a list that was kept is in effect again");
                link.freshness.restored(kept.read.min(link.intake.now()), Some(expires_at), entries);
                self.known().list = Some((entries, Some(expires_at)));
            }
            Err(error) => tracing::error!(feed, %file, why = %error, "a list that was kept is left out"),
        }
    }

    /// Polls until `stop`.
    pub async fn run(self: Arc<Self>, link: Arc<Link>, stop: watch::Receiver<bool>) {
        poll(&link, self.config.interval, stop, async |stop: &mut watch::Receiver<bool>| {
            let now = link.intake.now();
            let result = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return None,
                fetched = self.fetch(now) => match fetched {
                    Ok(Some(fetched)) => self.take(&link, fetched, now).await,
                    Ok(None) => Ok(self.take_none(&link, now)),
                    Err(why) => Err(why),
                },
            };
            Some(Looked { result, next_update: self.known().list.and_then(|(_, expires_at)| expires_at) })
        })
        .await;
    }

    /// The registry's list, verified, with its bytes; `None` if it says that there is none yet.
    async fn fetch(&self, now: Timestamp) -> Result<Option<(TokenList, Bytes)>, String> {
        let bytes = match self.fetcher.get(&self.list, None).await {
            Ok(Fetched::Body { bytes, .. }) => bytes,
            Ok(Fetched::Unchanged) => return Err(format!("{}: unchanged, to no question", self.list)),
            // Nobody signs that. What was revoked stays so: there is no way back.
            Err(error) if says_none(&error) && self.known().list.is_some_and(|(entries, _)| entries > 0) => {
                return Err(format!("{error}: there is no list any more, but there was one"));
            }
            Err(error) if says_none(&error) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let known = match self.fresh_keys(now) {
            Some(keys) => Some(self.read(&bytes, keys, now).await),
            None => None,
        };
        let list = match known {
            None | Some(Err(token_list::Error::UnknownKey(_))) => {
                let keys = self.fetch_keys(now).await?;
                self.read(&bytes, keys, now).await
            }
            Some(read) => read,
        };
        list.map(|list| Some((list, bytes))).map_err(|error| format!("{}: {error}", self.list))
    }

    /// On a thread where it may take its time: the queue is read on this one.
    async fn read(&self, bytes: &Bytes, keys: Keys, now: Timestamp) -> Result<TokenList, token_list::Error> {
        let (bytes, issuer) = (bytes.clone(), self.config.issuer().to_owned());
        let read = spawn_blocking(move || TokenList::read(&bytes, &keys, &issuer, now.plus(SKEW))).await;
        read.unwrap_or_else(|error| Err(token_list::Error::Malformed(error.to_string())))
    }

    /// Keys that are known for long are asked for anew: one of them may have been revoked.
    fn fresh_keys(&self, now: Timestamp) -> Option<Keys> {
        let known = self.known();
        let shown = known.keys.as_ref().filter(|shown| now.since(shown.at) < self.config.max_age);
        shown.map(|shown| shown.keys.clone())
    }

    async fn fetch_keys(&self, now: Timestamp) -> Result<Keys, String> {
        let fetched = self.fetcher.get(&self.keys, None).await.map_err(|error| error.to_string())?;
        let Fetched::Body { bytes, .. } = fetched else {
            return Err(format!("{}: unchanged, to no question", self.keys));
        };
        let keys = Keys::read(&bytes).map_err(|error| format!("{}: {error}", self.keys))?;
        self.known().keys = Some(Shown { at: now, bytes, keys: keys.clone() });
        Ok(keys)
    }

    async fn take(
        &self,
        link: &Link,
        (list, bytes): (TokenList, Bytes),
        now: Timestamp,
    ) -> Result<String, String> {
        let (entries, id, expires_at) = (list.entries.len() as u64, list.id.clone(), Some(list.expires_at));
        let taken = link.intake.take_tokens(link.name(), list).await;
        let taken = taken.map_err(|error| format!("{}: {error}", self.list))?;
        self.known().list = Some((entries, expires_at));
        link.freshness.read(now, expires_at, entries);
        let words = match taken.verdict {
            Verdict::New => {
                let ended = u64::try_from(taken.sessions_ended).unwrap_or(u64::MAX);
                let (tokens, ended) =
                    (counted(entries, "token", "tokens"), counted(ended, "session", "sessions"));
                format!("new list {id}, {tokens}, {ended} ended")
            }
            Verdict::Unchanged | Verdict::Superseded => "unchanged".to_owned(),
        };
        self.keep(bytes, now).await.map_err(|why| format!("{words}; {why}"))?;
        Ok(words)
    }

    /// A registry that has never revoked anything. Nothing is taken in: a list that nobody issued has no time, and must
    /// not outrank the first that is.
    fn take_none(&self, link: &Link, now: Timestamp) -> String {
        self.known().list = Some((0, None));
        link.freshness.read(now, None, 0);
        "no list yet: nothing was ever revoked".to_owned()
    }

    /// Writes down what was read, with the keys that it was verified by.
    async fn keep(&self, list: Bytes, now: Timestamp) -> Result<(), String> {
        let keys = self.known().keys.as_ref().map(|shown| shown.bytes.clone());
        let Some(keys) = keys else { return Ok(()) };
        let (kept, file) = (Kept::new(now, &keys, &list), self.file.clone());
        let written = spawn_blocking(move || kept?.write(&file)).await;
        let written = written.unwrap_or_else(|error| Err(error.to_string()));
        written.map_err(|why| format!("it is in effect, but not kept for the next start: {why}"))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this is the one 404 that means "nothing was ever revoked".
fn says_none(error: &fetch::Error) -> bool {
    #[derive(Deserialize)]
    struct Answer {
        error: Code,
    }
    #[derive(Deserialize)]
    struct Code {
        code: String,
    }
    let Fault::Status { status: StatusCode::NOT_FOUND, body } = &error.fault else { return false };
    serde_json::from_slice::<Answer>(body).is_ok_and(|answer| answer.error.code == NO_LIST)
}

const fn interval() -> Duration {
    Duration::from_secs(5 * 60)
}

const fn max_age() -> Duration {
    Duration::from_secs(15 * 60)
}

const fn max_bytes() -> usize {
    64 << 20
}

const fn timeout() -> Duration {
    Duration::from_secs(30)
}
