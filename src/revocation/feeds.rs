//! The feeds as everybody else sees them: how fresh each is, what depends on it, and the way to ask one to look now.
//!
//! A feed never tells anybody itself: it reports to its [`Freshness`], and whoever wants to know asks [`Feeds`].
//! **Invariant:** a required feed that has never been read, or is stale with `on_stale = "deny"`, lets no credential that
//! depends on it pass; failures never make a feed fresher, and time alone makes it stale.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::timeout_at;
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::session::Credential;
use crate::session::Fingerprint;

/// How long somebody who asks waits for one that looks: longer than a list may take to fetch.
const PATIENCE: Duration = Duration::from_secs(75);
/// How many may ask one feed to look at once.
const ASKED: usize = 64;

/// What becomes of requests whose credentials depend on a feed that is stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnStale {
    /// They are judged by what the feed said last.
    #[default]
    Allow,
    /// They are refused: 503 `revocation_state_stale`.
    Deny,
}

/// How much depends on a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Without it the gate is not ready, and until it was read once nothing that depends on it passes.
    pub required: bool,
    /// How long after it was read last it counts as fresh.
    pub max_age: Duration,
    /// What a required feed does to requests when it is stale.
    pub on_stale: OnStale,
}

/// What a feed is called, and for whom it speaks.
#[derive(Clone, Debug)]
pub struct About {
    /// Its name in logs, metrics and answers; unique.
    pub name: String,
    /// What kind it is: `sqs`, `crl`, `clawdentity`.
    pub kind: &'static str,
    /// How much depends on it.
    pub terms: Terms,
    /// The authorities that it speaks for; a credential under none of them does not depend on it. `None`: all do.
    pub scope: Option<Vec<Fingerprint>>,
}

/// How fresh a feed is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It was read within its `max_age`, and what it said is not out of date.
    Fresh,
    /// It was not.
    Stale,
    /// It has never been read.
    Never,
}

impl State {
    /// The name in answers and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Never => "never",
        }
    }
}

/// What a feed has told.
#[derive(Clone, Debug, Default)]
struct Told {
    /// When it was read last; of one that was restored from disk, before this process began.
    read: Option<Timestamp>,
    /// The same by the clock that nobody sets; of one that was restored, when that was.
    read_at: Option<Instant>,
    /// When what it said is out of date: a list's `nextUpdate`.
    next_update: Option<Timestamp>,
    entries: Option<u64>,
    error: Option<(Timestamp, String)>,
    /// What the log was told last.
    logged: Option<State>,
}

/// One feed's report. The feed writes it; everybody else reads it.
#[derive(Debug)]
pub struct Freshness {
    about: About,
    told: Mutex<Told>,
    ask: mpsc::Sender<Asked>,
}

/// Somebody wants a feed to look now, and waits for what came of it: [`Self::answer`].
#[derive(Debug)]
pub struct Asked(oneshot::Sender<Result<String, String>>);

impl Asked {
    /// Says what came of it, in a few words such as `new list, 3 entries`; or why nothing did.
    pub fn answer(self, result: Result<String, String>) {
        // Whoever asked may be gone.
        let _ = self.0.send(result);
    }
}

/// What somebody may know of a feed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FeedStatus {
    /// Its name.
    pub name: String,
    /// `sqs`, `crl` or `clawdentity`.
    pub kind: &'static str,
    /// `fresh`, `stale` or `never`.
    pub state: State,
    /// Since when it is stale.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub stale_since: Option<Timestamp>,
    /// When it was read last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub read: Option<Timestamp>,
    /// How long ago that was, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub age_seconds: Option<u64>,
    /// When what it said is out of date: a revocation list's `nextUpdate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub next_update: Option<Timestamp>,
    /// How many entries it holds; of a queue, how many events were taken in by this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub entries: Option<u64>,
    /// Without it the gate is not ready.
    pub required: bool,
    /// How old it may be, seconds.
    pub max_age_seconds: u64,
    /// What happens to requests when it is stale.
    pub on_stale: OnStale,
    /// What went wrong last, until it is read again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last_error: Option<String>,
    /// When that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub last_error_at: Option<Timestamp>,
}

/// Every feed of a process.
#[derive(Debug)]
pub struct Feeds {
    feeds: Vec<Arc<Freshness>>,
    /// Until when (Unix milliseconds) no credential has to be held against any feed. What the request path reads.
    good_until: AtomicI64,
}

/// The name of the feed for want of which a credential cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the revocation state is not known to be fresh: the feed {feed} {how}", how = if *state == State::Never { "was not read yet" } else { "is stale" })]
pub struct Stale {
    /// Its name.
    pub feed: String,
    /// `stale` or `never`.
    pub state: State,
}

impl Default for Feeds {
    fn default() -> Self {
        Self { feeds: Vec::new(), good_until: AtomicI64::new(i64::MAX) }
    }
}

impl Feeds {
    /// Announces a feed: what it reports to, and where it is asked to look now.
    pub fn add(&mut self, about: About) -> (Arc<Freshness>, mpsc::Receiver<Asked>) {
        let (ask, asked) = mpsc::channel(ASKED);
        if about.terms.required {
            self.good_until = AtomicI64::new(i64::MIN);
        }
        let freshness = Arc::new(Freshness { about, told: Mutex::default(), ask });
        self.feeds.push(Arc::clone(&freshness));
        (freshness, asked)
    }

    /// Whether a credential can be judged now. One comparison, as long as every required feed is fresh.
    #[inline]
    pub fn check(&self, credential: &Credential, now: Timestamp) -> Result<(), Stale> {
        if now.millis() < self.good_until.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.check_each(credential, now)
    }

    #[cold]
    fn check_each(&self, credential: &Credential, now: Timestamp) -> Result<(), Stale> {
        self.good_until.store(self.until(now), Ordering::Relaxed);
        let denies = |feed: &&Arc<Freshness>| feed.concerns(credential) && feed.denies(now);
        match self.feeds.iter().find(denies) {
            None => Ok(()),
            Some(feed) => Err(Stale { feed: feed.about.name.clone(), state: feed.state(now) }),
        }
    }

    /// Until when nothing is denied, as far as it can be told now; in the past if something is.
    fn until(&self, now: Timestamp) -> i64 {
        let until = self.feeds.iter().map(|feed| feed.denies_from(now).map_or(i64::MAX, Timestamp::millis));
        until.min().unwrap_or(i64::MAX)
    }

    /// Whether what must have been read has been.
    pub fn ready(&self, now: Timestamp) -> Result<(), String> {
        match self.feeds.iter().find(|feed| feed.denies(now)) {
            None => Ok(()),
            Some(feed) => Err(format!("the feed {} is {}", feed.about.name, feed.in_words(now))),
        }
    }

    /// What each says, in the order of the configuration.
    pub fn status(&self, now: Timestamp) -> Vec<FeedStatus> {
        self.feeds.iter().map(|feed| feed.status(now)).collect()
    }

    /// To be called every second or so: writes to the log what has become stale, or fresh again, and sees to it that a
    /// clock that was set back keeps nothing fresh.
    pub fn look(&self, now: Timestamp) {
        self.feeds.iter().for_each(|feed| feed.look(now));
        self.good_until.store(self.until(now), Ordering::Relaxed);
    }

    /// Asks a feed, or every feed, to look now, and waits for what comes of it: by name, in a few words. Empty if there
    /// is no feed of that name.
    pub async fn refresh(&self, name: Option<&str>) -> Vec<(String, Result<String, String>)> {
        let mut waiting = Vec::new();
        for feed in self.feeds.iter().filter(|feed| name.is_none_or(|name| name == feed.about.name)) {
            let (answer, answered) = oneshot::channel();
            let asked = feed.ask.try_send(Asked(answer));
            waiting.push((feed, asked.map(|()| answered).map_err(|_| "busy, or stopped")));
        }
        let (mut results, deadline) = (Vec::new(), tokio::time::Instant::now() + PATIENCE);
        for (feed, answered) in waiting {
            let result = match answered {
                Ok(answered) => match timeout_at(deadline, answered).await {
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) => Err("it stopped before it answered".to_owned()),
                    Err(_) => Err(format!("still looking after {} s; it goes on", PATIENCE.as_secs())),
                },
                Err(why) => Err(why.to_owned()),
            };
            results.push((feed.about.name.clone(), result));
        }
        results
    }
}

impl Freshness {
    /// What the feed is.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// It was read, now, and everything in it is in effect. `next_update`: when what it said is out of date.
    pub fn read(&self, now: Timestamp, next_update: Option<Timestamp>, entries: u64) {
        let mut told = self.told();
        let logged = told.logged;
        *told = Told {
            read: Some(now),
            read_at: Some(Instant::now()),
            next_update,
            entries: Some(entries),
            error: None,
            logged,
        };
        drop(told);
        self.look(now);
    }

    /// What it said last, before this process began, is in effect again.
    pub fn restored(&self, read: Timestamp, next_update: Option<Timestamp>, entries: u64) {
        let mut told = self.told();
        let read_at = Some(Instant::now());
        *told = Told { read: Some(read), read_at, next_update, entries: Some(entries), ..Told::default() };
    }

    /// It could not be read. What it said before stands, and gets older.
    pub fn failed(&self, now: Timestamp, error: impl Into<String>) {
        self.told().error = Some((now, error.into()));
    }

    /// How fresh it is.
    pub fn state(&self, now: Timestamp) -> State {
        match self.stale_from() {
            None => State::Never,
            Some(from) if now < from && !self.is_old() => State::Fresh,
            Some(_) => State::Stale,
        }
    }

    /// What somebody may know.
    pub fn status(&self, now: Timestamp) -> FeedStatus {
        let (state, stale_from) = (self.state(now), self.stale_from());
        let told = self.told().clone();
        let (last_error_at, last_error) = told.error.unzip();
        FeedStatus {
            name: self.about.name.clone(),
            kind: self.about.kind,
            state,
            // Of a clock that was set back: since now.
            stale_since: stale_from.filter(|_| state == State::Stale).map(|from| from.min(now)),
            read: told.read,
            age_seconds: told.read.map(|read| now.since(read).as_secs()),
            next_update: told.next_update,
            entries: told.entries,
            required: self.about.terms.required,
            max_age_seconds: self.about.terms.max_age.as_secs(),
            on_stale: self.about.terms.on_stale,
            last_error,
            last_error_at,
        }
    }

    /// When it is, or was, stale; `None` if it has never been read.
    fn stale_from(&self) -> Option<Timestamp> {
        let told = self.told();
        let aged = told.read?.plus(self.about.terms.max_age);
        Some(told.next_update.map_or(aged, |next| next.min(aged)))
    }

    /// Whether it is too old by the clock that nobody sets.
    fn is_old(&self) -> bool {
        self.told().read_at.is_some_and(|at| at.elapsed() > self.about.terms.max_age)
    }

    fn concerns(&self, credential: &Credential) -> bool {
        let has = |authority| credential.mass.contains(authority);
        self.about.scope.as_ref().is_none_or(|scope| scope.iter().any(has))
    }

    fn denies(&self, now: Timestamp) -> bool {
        self.denies_from(now).is_some_and(|from| from <= now)
    }

    /// From when it keeps requests out; `None` if it never does.
    fn denies_from(&self, now: Timestamp) -> Option<Timestamp> {
        let terms = self.about.terms;
        match (terms.required, self.stale_from(), terms.on_stale) {
            (false, ..) | (true, Some(_), OnStale::Allow) => None,
            (true, None, _) => Some(Timestamp::from_millis(i64::MIN)),
            (true, Some(from), OnStale::Deny) => Some(if self.is_old() { from.min(now) } else { from }),
        }
    }

    fn in_words(&self, now: Timestamp) -> String {
        let status = self.status(now);
        let mut text = match status.stale_since {
            Some(since) => format!("stale since {since}"),
            None if status.state == State::Never => "not read yet".to_owned(),
            None => status.state.name().to_owned(),
        };
        if let Some(error) = status.last_error {
            text = format!("{text}: {error}");
        }
        text
    }

    fn look(&self, now: Timestamp) {
        let state = self.state(now);
        let before = self.told().logged.replace(state);
        if before == Some(state) {
            return;
        }
        let (feed, required) = (&self.about.name, self.about.terms.required);
        match state {
            State::Fresh => tracing::info!(feed, "this feed is fresh"),
            State::Never => {
                tracing::info!(feed, required, "this feed has not been read yet");
            }
            State::Stale => {
                let denies = self.denies(now);
                let max_age = humantime::format_duration(self.about.terms.max_age);
                tracing::error!(feed, required, denies, %max_age, how = self.in_words(now), "revocation state is stale");
            }
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_AGE: Duration = Duration::from_secs(60);

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(1_792_000_000 + secs)
    }

    fn feed(required: bool, on_stale: OnStale, scope: Option<Vec<Fingerprint>>) -> (Feeds, Arc<Freshness>) {
        let mut feeds = Feeds::default();
        let terms = Terms { required, max_age: MAX_AGE, on_stale };
        let (freshness, _) = feeds.add(About { name: "crl".into(), kind: "crl", terms, scope });
        (feeds, freshness)
    }

    fn under(authority: u128) -> Credential {
        Credential { mass: vec![Fingerprint(authority)], ..Credential::default() }
    }

    #[test]
    fn what_was_never_read_lets_nothing_pass_that_depends_on_it() {
        for on_stale in [OnStale::Allow, OnStale::Deny] {
            let (feeds, freshness) = feed(true, on_stale, Some(vec![Fingerprint(1)]));
            let stale = feeds.check(&under(1), at(0)).unwrap_err();
            assert_eq!((stale.feed.as_str(), stale.state), ("crl", State::Never));
            assert_eq!(feeds.check(&under(2), at(0)), Ok(()));
            assert!(feeds.ready(at(0)).unwrap_err().contains("not read yet"));
            freshness.failed(at(0), "connection refused");
            assert!(feeds.ready(at(0)).unwrap_err().contains("connection refused"));
            freshness.read(at(1), None, 0);
            assert_eq!(feeds.check(&under(1), at(1)), Ok(()));
            assert_eq!(feeds.ready(at(1)), Ok(()));
        }
    }

    #[test]
    fn a_stale_feed_denies_where_it_is_told_to() {
        for (required, on_stale, denies) in
            [(true, OnStale::Deny, true), (true, OnStale::Allow, false), (false, OnStale::Allow, false)]
        {
            let (feeds, freshness) = feed(required, on_stale, None);
            freshness.read(at(0), None, 3);
            assert_eq!(feeds.check(&under(1), at(59)), Ok(()));
            assert_eq!(feeds.check(&under(1), at(60)).is_err(), denies);
            assert_eq!(feeds.ready(at(60)).is_err(), denies);
            // A failure makes nothing fresher, and what was said stays what it was.
            freshness.failed(at(61), "timed out");
            let status = freshness.status(at(61));
            assert_eq!((status.state, status.stale_since), (State::Stale, Some(at(60))));
            assert_eq!((status.entries, status.last_error.as_deref()), (Some(3), Some("timed out")));
            freshness.read(at(62), None, 3);
            feeds.look(at(62));
            assert_eq!(feeds.check(&under(1), at(62)), Ok(()));
            assert_eq!(freshness.status(at(62)).last_error, None);
        }
    }

    #[test]
    fn a_list_is_stale_when_its_next_update_has_passed() {
        let (feeds, freshness) = feed(true, OnStale::Deny, None);
        freshness.read(at(0), Some(at(10)), 0);
        assert_eq!(feeds.check(&under(1), at(9)), Ok(()));
        assert!(feeds.check(&under(1), at(10)).is_err());
        assert_eq!(freshness.status(at(30)).stale_since, Some(at(10)));
    }

    #[test]
    fn what_was_restored_is_as_old_as_it_was() {
        let (feeds, freshness) = feed(true, OnStale::Allow, None);
        freshness.restored(at(-3600), None, 7);
        assert_eq!(freshness.state(at(0)), State::Stale);
        // It says something, though: that is better than nothing, where it may be.
        assert_eq!(feeds.check(&under(1), at(0)), Ok(()));
        assert_eq!(feeds.ready(at(0)), Ok(()));
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_nothing_fresh() {
        let mut feeds = Feeds::default();
        let terms = Terms { required: true, max_age: Duration::ZERO, on_stale: OnStale::Deny };
        let (freshness, _) = feeds.add(About { name: "q".into(), kind: "sqs", terms, scope: None });
        freshness.read(at(86_400), None, 0);
        while freshness.told().read_at.unwrap().elapsed().is_zero() {}
        feeds.look(at(0));
        assert!(feeds.check(&under(1), at(0)).is_err());
        assert_eq!(freshness.status(at(0)).stale_since, Some(at(0)));
    }

    #[test]
    fn who_asks_is_answered() {
        let mut feeds = Feeds::default();
        let terms = Terms { required: false, max_age: MAX_AGE, on_stale: OnStale::Allow };
        let about = |name: &str| About { name: name.into(), kind: "crl", terms, scope: None };
        let (_, mut one) = feeds.add(about("one"));
        let (_, two) = feeds.add(about("two"));
        drop(two);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let answer = async { one.recv().await.unwrap().answer(Ok("unchanged".into())) };
        let (results, ()) = runtime.block_on(async { tokio::join!(feeds.refresh(None), answer) });
        assert_eq!(results[0], ("one".to_owned(), Ok("unchanged".to_owned())));
        assert!(results[1].1.is_err());
        assert!(runtime.block_on(feeds.refresh(Some("three"))).is_empty());
    }
}
