//! One list, over and over: fetch, take in, keep, and say how it went.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::Config;
use super::Error;
use super::authorities::Authorities;
use super::series::Series;
use super::shelf::Digest;
use super::shelf::Record;
use super::shelf::Shelf;
use crate::clock::Timestamp;
use crate::feed::Link;
use crate::feed::TakenList;
use crate::feed::fetch::Bounds;
use crate::feed::fetch::Fetched;
use crate::feed::fetch::Fetcher;
use crate::feed::fetch::Roots;
use crate::feed::fetch::Url;
use crate::feed::fetch::Validators;
use crate::feed::poll::Looked;
use crate::feed::poll::counted;
use crate::feed::poll::poll;
use crate::revocation::FeedTerms;
use crate::revocation::Target;
use crate::revocation::crl;
use crate::revocation::crl::Crl;
use crate::revocation::crl::Limits;
use crate::revocation::crl::SignerFault;
use crate::revocation::crl::Verdict;

/// More redirects than this are a mistake.
const REDIRECTS: usize = 3;

/// The poller of one list.
#[derive(Debug)]
pub struct Poller {
    config: Config,
    authorities: Authorities,
    fetcher: Fetcher,
    shelf: Shelf,
    /// Which lists it is for: those of the first that it read. Only such a list makes it fresh.
    of: OnceLock<Series>,
    last: Mutex<Option<Known>>,
}

/// The list that was read last.
#[derive(Clone, Debug)]
struct Known {
    digest: Digest,
    of: Series,
    next_update: Timestamp,
    entries: u64,
    /// What to ask with whether it is still the one; empty unless it is on disk, so that it comes in whole until it
    /// is.
    validators: Validators,
    is_kept: bool,
}

impl Known {
    fn new(crl: &Crl, validators: Validators) -> Self {
        let Crl { digest, next_update, entries, .. } = *crl;
        Self { digest, of: Series::of(crl), next_update, entries, validators, is_kept: true }
    }
}

impl Poller {
    pub(super) fn new(config: Config, authorities: Authorities, shelf: Shelf) -> Result<Self, Error> {
        let roots = match &config.ca {
            Some(file) => Roots::File(file),
            None if config.url.is_https() => Roots::System,
            None => Roots::Nobody,
        };
        let bounds = Bounds { max_bytes: config.max_bytes, timeout: config.timeout, redirects: REDIRECTS };
        let fetcher = Fetcher::new(roots, bounds).map_err(|reason| Error { key: "ca", reason })?;
        Ok(Self { config, authorities, fetcher, shelf, of: OnceLock::new(), last: Mutex::default() })
    }

    /// Where its list is.
    pub(super) fn url(&self) -> &Url {
        &self.config.url
    }

    /// How much depends on it.
    pub fn terms(&self) -> FeedTerms {
        self.config.terms()
    }

    /// The authorities whose certificates its list revokes, as [`Level::Issuer`](crate::revocation::Level) targets;
    /// `None`: any.
    pub fn scope(&self) -> Option<Vec<Target>> {
        self.authorities.scope()
    }

    /// Takes the lists that were in force last in again, from disk, before anybody is served. Blocks.
    ///
    /// Only what was read at its own URL says how fresh the feed is. But every feed tries every list: which feed
    /// brought it, and under what name, makes no difference as long as its authority is believed. None is believed
    /// because it is there.
    pub fn restore(&self, link: &Link) {
        let record = self.shelf.record(&self.config.url);
        let mut own = None;
        for digest in self.shelf.lists() {
            let is_own = record.as_ref().is_some_and(|record| record.names(&digest));
            if !is_own && is_in_force(link, &digest) {
                continue;
            }
            let read = self.restore_list(link, &digest);
            own = own.or(read.filter(|crl| is_own && crl.digest == digest));
        }
        let Some(record) = record else { return };
        if let Some(of) = record.of {
            // Nothing else has said so before.
            let _ = self.of.set(of);
        }
        let (feed, url) = (link.name(), &self.config.url);
        let Some(crl) = own else {
            tracing::warn!(feed, %url, "the list that was read last is gone, or not good: it has to be fetched");
            return;
        };
        // From the future: all that is known is that it was not read before it was issued. That may be in the future
        // as well, and would make it fresh for longer than it is.
        let now = link.intake.now();
        let read = if record.read > now { crl.this_update } else { record.read };
        let known = Known::new(&crl, record.validators);
        if read <= now && self.judge(link, &known.of).is_ok() {
            link.freshness.restored(read, Some(known.next_update), known.entries);
        }
        *self.last() = Some(known);
    }

    fn restore_list(&self, link: &Link, digest: &Digest) -> Option<Crl> {
        let (feed, file) = (link.name(), self.shelf.path(digest));
        let file = file.display();
        let bytes = self.shelf.read(digest, self.config.max_bytes);
        let bytes = bytes
            .map_err(|why| tracing::error!(feed, %file, why, "a list that was kept is left out"))
            .ok()?;
        // By the clock it was judged when it was taken in: one that was set back since lifts nothing.
        let limits = Limits { skew: Duration::MAX, ..self.limits() };
        match link.intake.restore_list(&bytes, &self.authorities.issuers, &limits) {
            Ok(crl) => {
                let (list, entries) = (title(&crl), crl.entries);
                tracing::info!(feed, %file, list, entries, "a list that was kept is in effect again");
                Some(crl)
            }
            Err(error) => {
                match error {
                    // Most are for another feed; whose own it was says so.
                    crl::Error::Signer { fault: SignerFault::Unknown | SignerFault::Other, .. } => {
                        tracing::info!(feed, %file, why = %error, "a list that was kept is not for this feed");
                    }
                    _ => tracing::error!(feed, %file, why = %error, "a list that was kept is left out"),
                }
                None
            }
        }
    }

    /// Fetches until `stop`. A list that has come is taken in and kept before it ends.
    pub async fn run(self: Arc<Self>, link: Arc<Link>, stop: watch::Receiver<bool>) {
        poll(&link, self.config.interval, stop, async |stop: &mut watch::Receiver<bool>| {
            let result = self.look(&link, stop).await?;
            let next_update = self.last().as_ref().map(|known| known.next_update);
            Some(Looked { result, next_update })
        })
        .await;
    }

    /// Looks once. What came of it, in words; `None` if it has to end.
    async fn look(
        self: &Arc<Self>,
        link: &Link,
        stop: &mut watch::Receiver<bool>,
    ) -> Option<Result<String, String>> {
        // What an answer says is as old as the question.
        let now = link.intake.now();
        let known = self.last().clone().filter(|known| is_in_force(link, &known.digest));
        let fetching = self.fetcher.get(&self.config.url, known.as_ref().map(|known| &known.validators));
        let fetched = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return None,
            fetched = fetching => fetched,
        };
        Some(match (fetched, known) {
            (Ok(Fetched::Unchanged), Some(known)) => self.unchanged(link, known, now).await,
            // The fetcher takes no 304 for an answer to a question that names nothing.
            (Ok(Fetched::Unchanged), None) => {
                Err(format!("{}: unchanged, but nothing is known", self.config.url))
            }
            (Ok(Fetched::Body { bytes, validators }), _) => self.take(link, bytes, validators, now).await,
            (Err(error), _) => Err(error.to_string()),
        })
    }

    /// The server says that it is still the list that is known.
    async fn unchanged(
        self: &Arc<Self>,
        link: &Link,
        known: Known,
        now: Timestamp,
    ) -> Result<String, String> {
        // Another feed may have brought a newer one in the meantime: what this server has is then not what is in
        // force.
        if !is_in_force(link, &known.digest) {
            *self.last() = None;
            return Err(format!("{}: unchanged, but what it was is not in force any more", self.config.url));
        }
        self.judge(link, &known.of)?;
        link.freshness.read(now, Some(known.next_update), known.entries);
        self.keep(link, known, None, now).await?;
        Ok("unchanged".to_owned())
    }

    /// The server sent a list.
    async fn take(
        self: &Arc<Self>,
        link: &Link,
        bytes: Bytes,
        validators: Validators,
        now: Timestamp,
    ) -> Result<String, String> {
        let (issuers, limits) = (Arc::clone(&self.authorities.issuers), self.limits());
        let taken = link.intake.take_list(link.name(), bytes.clone(), issuers, limits).await;
        let taken = taken.map_err(|error| format!("{}: {error}", self.config.url))?;
        let known = Known::new(&taken.crl, validators);
        if let Err(why) = self.judge(link, &known.of) {
            // What was read before is asked for as before: nothing of what this one is called is kept.
            self.keep_another(link, &taken, bytes).await.map_err(|more| format!("{why}; {more}"))?;
            return Err(why);
        }
        let before = self.last().replace(known.clone());
        link.freshness.read(now, Some(known.next_update), known.entries);
        let is_here = before.is_some_and(|before| before.is_kept && before.digest == known.digest);
        let words = in_words(&taken, link.intake.now());
        self.keep(link, known, Some(bytes).filter(|_| !is_here), now)
            .await
            .map_err(|why| format!("{words}; {why}"))?;
        Ok(words)
    }

    /// Whether a list is one of those that this feed is for; the first that is read says which these are.
    fn judge(&self, link: &Link, of: &Series) -> Result<(), String> {
        let url = &self.config.url;
        if let Some(own) = self.of.get().filter(|own| !own.is(of)) {
            let record = self.shelf.record_path(link.name());
            return Err(format!(
                "{url}: it is the {of}, not the {own} that this feed is for; if that is meant, change its url, or \
                 remove {} and restart",
                record.display()
            ));
        }
        if !of.is_whole(&link.intake.lists()) {
            return Err(format!(
                "{url}: it is the {of}, but no full list of {} is in force yet",
                of.covered()
            ));
        }
        let _ = self.of.get_or_init(|| of.clone());
        Ok(())
    }

    /// Writes down what was read. Where that fails the list is in effect all the same, and is fetched in whole again.
    async fn keep(
        self: &Arc<Self>,
        link: &Link,
        known: Known,
        bytes: Option<Bytes>,
        now: Timestamp,
    ) -> Result<(), String> {
        let Known { digest, of, validators, .. } = known;
        let record = Record::new(&self.config.url, &digest, of, now, validators);
        self.write(link, Some(record), bytes.map(|bytes| (digest, bytes))).await.inspect_err(|_| {
            if let Some(known) = self.last().as_mut() {
                known.is_kept = false;
                known.validators = Validators::default();
            }
        })
    }

    /// Keeps a list that is not the feed's own: it is in effect, and is to be after a start.
    async fn keep_another(
        self: &Arc<Self>,
        link: &Link,
        taken: &TakenList,
        bytes: Bytes,
    ) -> Result<(), String> {
        let digest = taken.crl.digest;
        match taken.verdict {
            Verdict::New => self.write(link, None, Some((digest, bytes))).await,
            Verdict::Unchanged if !self.shelf.path(&digest).exists() => {
                self.write(link, None, Some((digest, bytes))).await
            }
            Verdict::Unchanged | Verdict::Superseded => Ok(()),
        }
    }

    async fn write(
        self: &Arc<Self>,
        link: &Link,
        record: Option<Record>,
        list: Option<(Digest, Bytes)>,
    ) -> Result<(), String> {
        let (poller, intake, feed) = (Arc::clone(self), link.intake.clone(), link.name().to_owned());
        let kept = spawn_blocking(move || {
            let list = list.as_ref().map(|(digest, bytes)| (digest, bytes));
            poller.shelf.keep(&feed, record.as_ref(), list, || digests(&intake.lists()))
        });
        let kept = kept.await.unwrap_or_else(|error| Err(error.to_string()));
        kept.map_err(|why| {
            tracing::error!(feed = link.name(), why, "a revocation list that is in effect could not be kept");
            format!("it is in effect, but not kept for the next start: {why}")
        })
    }

    fn limits(&self) -> Limits {
        Limits { max_bytes: self.config.max_bytes, ..Limits::default() }
    }

    fn last(&self) -> MutexGuard<'_, Option<Known>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digests(lists: &[Crl]) -> Vec<Digest> {
    lists.iter().map(|crl| crl.digest).collect()
}

fn is_in_force(link: &Link, digest: &Digest) -> bool {
    link.intake.lists().iter().any(|crl| crl.digest == *digest)
}

/// What became of a list, for whoever asked.
fn in_words(taken: &TakenList, now: Timestamp) -> String {
    let TakenList { crl, verdict, sessions_ended } = taken;
    let entries = counted(crl.entries, "entry", "entries");
    let mut words = match verdict {
        Verdict::New => {
            let ended = u64::try_from(*sessions_ended).unwrap_or(u64::MAX);
            let ended = counted(ended, "session", "sessions");
            format!("new {}, {entries}, {ended} ended", title(crl))
        }
        Verdict::Unchanged => "unchanged".to_owned(),
        Verdict::Superseded => format!("{}, which a newer full list includes", title(crl)),
    };
    if crl.next_update <= now {
        words = format!("{words}; out of date since {}", crl.next_update);
    }
    words
}

fn title(crl: &Crl) -> String {
    let kind = if matches!(crl.kind, crl::Kind::Full) { "list" } else { "delta" };
    match crl.number {
        Some(number) => format!("{kind} {number} of {}", crl.issuer.name),
        None => format!("{kind} of {}", crl.issuer.name),
    }
}
