//! How many lines of the log each client gets: a few of each kind at once, then one now and then that counts the others.
//!
//! **Invariant:** each line that was asked for is said, or counted; and each count is told, by the next line of its kind
//! and source or by a line that only counts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher as _;
use std::hash::RandomState;
use std::mem::take;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tracing::Level;

use super::log::LONGEST_NAME;
use super::log::cut;
use super::network::network;

/// Lines of one kind that one source gets: five at once, then one in ten seconds.
const OWN: Rate = Rate { every: Duration::from_secs(10), burst: 5 };
/// Lines of all principals together. Only holders of many certificates reach it.
const PRINCIPALS: Rate = Rate { every: Duration::from_millis(20), burst: 2000 };
/// Lines of all clients without a principal together: strangers have any number of addresses.
const STRANGERS: Rate = Rate { every: Duration::from_millis(100), burst: 100 };
/// Lines about the gate itself, together: of as many kinds as there are messages and codes in the program.
const OWN_AFFAIRS: Rate = Rate { every: Duration::from_millis(100), burst: 100 };
/// How long a source is quiet before a line counts what was left out.
const QUIET: Duration = OWN.every;
/// Sources that are kept apart, of each class: this many times [`SHARDS`].
const SOURCES_A_SHARD: usize = 256;
const SHARDS: usize = 16;

/// What a line says, apart from who caused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LineKind {
    level: Level,
    /// The line's message.
    message: &'static str,
    /// Its code: of bounded variety.
    code: &'static str,
}

impl LineKind {
    /// An error.
    pub const fn error(message: &'static str, code: &'static str) -> Self {
        Self { level: Level::ERROR, message, code }
    }

    /// A warning.
    pub const fn warning(message: &'static str, code: &'static str) -> Self {
        Self { level: Level::WARN, message, code }
    }

    /// A line of level `info`.
    pub const fn info(message: &'static str, code: &'static str) -> Self {
        Self { level: Level::INFO, message, code }
    }

    /// The message of the line.
    pub const fn message(self) -> &'static str {
        self.message
    }
}

/// Who caused a line.
#[derive(Clone, Copy, Debug)]
pub enum LineSource<'a> {
    /// A verified principal.
    Principal(&'a str),
    /// A client without a principal: its address, or its IPv6 network of 64 bits.
    Address(IpAddr),
    /// A client of which nothing is known, or the gate itself.
    Unknown,
}

impl<'a> LineSource<'a> {
    /// The principal, or the address where that is empty.
    pub fn of(principal: &'a str, address: IpAddr) -> Self {
        if principal.is_empty() { Self::Address(address) } else { Self::Principal(principal) }
    }

    fn network(self) -> Self {
        let Self::Address(address) = self else { return self };
        Self::Address(network(address))
    }
}

/// Lines that were left out of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    kind: LineKind,
    /// The principal; empty where there is an address, or where several sources are summed up.
    pub principal: String,
    /// The address, or the IPv6 network.
    pub address: Option<IpAddr>,
    /// How many.
    pub unsaid: u64,
}

impl LeftOut {
    /// The code of the lines.
    pub fn code(&self) -> &'static str {
        self.kind.code
    }

    /// Logs the count, at the level of the lines.
    pub fn log(&self) {
        let LineKind { level, message: line, code } = self.kind;
        let address = self.address.map(tracing::field::display);
        let principal_id = Some(self.principal.as_str()).filter(|principal| !principal.is_empty());
        let unsaid = self.unsaid;
        match level {
            Level::ERROR => tracing::error!(line, code, principal_id, address, unsaid, "lines were left out"),
            Level::WARN => tracing::warn!(line, code, principal_id, address, unsaid, "lines were left out"),
            _ => tracing::info!(line, code, principal_id, address, unsaid, "lines were left out"),
        }
    }
}

/// Admits the lines that clients cause, for all threads of a process. `now` is a time that only passes: that of a
/// monotonic clock since any moment.
///
/// Principals, strangers and the gate itself have budgets of their own, so that no stranger hides what a principal meets or
/// what the gate says of itself. The first line of
/// a source may use the whole budget of all sources, further ones half of it.
#[derive(Debug)]
pub struct LineLimiter {
    hasher: RandomState,
    principals: Class,
    strangers: Class,
    own_affairs: Class,
}

impl Default for LineLimiter {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            principals: Class::new(PRINCIPALS),
            strangers: Class::new(STRANGERS),
            own_affairs: Class::new(OWN_AFFAIRS),
        }
    }
}

impl LineLimiter {
    /// Asks for a line. `Some`: it is to be said, with the number of lines like it that were left out before
    /// (`unsaid`). `None`: it is left out, and counted.
    pub fn admit(&self, kind: LineKind, source: LineSource<'_>, now: Duration) -> Option<u64> {
        let source = source.network();
        let (class, key) = match source {
            LineSource::Principal(name) => (&self.principals, self.hasher.hash_one((kind, name))),
            LineSource::Address(address) => (&self.strangers, self.hasher.hash_one((kind, address))),
            LineSource::Unknown => (&self.own_affairs, self.hasher.hash_one(kind)),
        };
        class.admit(key, kind, source, now)
    }

    /// Takes the counts of the sources that have gone quiet. Call it once a second or so, and log what it returns.
    #[must_use]
    pub fn quiet(&self, now: Duration) -> Vec<LeftOut> {
        self.settle(now, QUIET)
    }

    /// Takes all counts, at the end of the process.
    #[must_use]
    pub fn rest(&self, now: Duration) -> Vec<LeftOut> {
        self.settle(now, Duration::ZERO)
    }

    fn settle(&self, now: Duration, quiet: Duration) -> Vec<LeftOut> {
        let classes = [&self.principals, &self.strangers, &self.own_affairs];
        classes.into_iter().flat_map(|class| class.settle(now, quiet)).collect()
    }
}

/// So many at once, and one each time that `every` has passed (a generic cell rate algorithm).
#[derive(Clone, Copy, Debug)]
struct Rate {
    every: Duration,
    burst: u32,
}

impl Rate {
    /// Takes one of what is whole again at `whole_at`. Returns when it is whole then; `None` if nothing is left.
    fn take(self, whole_at: Duration, now: Duration) -> Option<Duration> {
        let next = whole_at.max(now).saturating_add(self.every);
        (next.saturating_sub(now) <= self.every.saturating_mul(self.burst)).then_some(next)
    }

    const fn half(self) -> Self {
        Self { every: self.every, burst: self.burst / 2 }
    }
}

/// Principals, strangers, or the gate itself.
#[derive(Debug)]
struct Class {
    rate: Rate,
    /// Locked before `common`.
    shards: [Mutex<HashMap<u64, Tally>>; SHARDS],
    common: Mutex<Common>,
}

/// What the sources of a class share. Reached only by a line that its source's own budget admits.
#[derive(Debug, Default)]
struct Common {
    whole_at: Duration,
    /// Counts of no one source: there were too many.
    unsaid: HashMap<LineKind, u64>,
    told_at: Duration,
}

impl Common {
    fn take(&mut self, rate: Rate, now: Duration) -> bool {
        rate.take(self.whole_at, now).map(|whole_at| self.whole_at = whole_at).is_some()
    }
}

/// The lines of one kind and source.
#[derive(Debug)]
struct Tally {
    kind: LineKind,
    principal: String,
    address: Option<IpAddr>,
    whole_at: Duration,
    asked_at: Duration,
    unsaid: u64,
}

impl Tally {
    fn new(kind: LineKind, source: LineSource<'_>) -> Self {
        let (principal, address) = match source {
            LineSource::Principal(name) => (cut(name, LONGEST_NAME).into_owned(), None),
            LineSource::Address(address) => (String::new(), Some(address)),
            LineSource::Unknown => (String::new(), None),
        };
        let (whole_at, asked_at) = (Duration::ZERO, Duration::ZERO);
        Self { kind, principal, address, whole_at, asked_at, unsaid: 0 }
    }

    fn take(&mut self) -> LeftOut {
        LeftOut {
            kind: self.kind,
            principal: self.principal.clone(),
            address: self.address,
            unsaid: take(&mut self.unsaid),
        }
    }
}

impl Class {
    fn new(rate: Rate) -> Self {
        Self { rate, shards: Default::default(), common: Mutex::default() }
    }

    fn admit(&self, key: u64, kind: LineKind, source: LineSource<'_>, now: Duration) -> Option<u64> {
        let shard = usize::try_from(key % SHARDS as u64).unwrap_or_default();
        let mut tallies = lock(self.shards.get(shard)?);
        let is_full = tallies.len() >= SOURCES_A_SHARD;
        let tally = match tallies.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if is_full => {
                drop(tallies);
                return self.admit_nameless(kind, now);
            }
            Entry::Vacant(new) => new.insert(Tally::new(kind, source)),
        };
        tally.asked_at = now;
        let rate = if tally.whole_at <= now { self.rate } else { self.rate.half() };
        let own = OWN.take(tally.whole_at, now);
        match own.filter(|_| lock(&self.common).take(rate, now)) {
            Some(whole_at) => {
                tally.whole_at = whole_at;
                Some(take(&mut tally.unsaid))
            }
            None => {
                tally.unsaid += 1;
                None
            }
        }
    }

    /// Admits a line of a source that there is no room to keep apart.
    fn admit_nameless(&self, kind: LineKind, now: Duration) -> Option<u64> {
        let mut common = lock(&self.common);
        if common.take(self.rate.half(), now) {
            return Some(common.unsaid.remove(&kind).unwrap_or_default());
        }
        *common.unsaid.entry(kind).or_default() += 1;
        None
    }

    /// Takes the counts of sources that were quiet for so long, and forgets those that owe nothing.
    fn settle(&self, now: Duration, quiet: Duration) -> Vec<LeftOut> {
        let mut left_out = Vec::new();
        for shard in &self.shards {
            let mut tallies = lock(shard);
            let counted =
                |tally: &&mut Tally| tally.unsaid > 0 && now.saturating_sub(tally.asked_at) >= quiet;
            for tally in tallies.values_mut().filter(counted) {
                let mut common = lock(&self.common);
                if common.take(self.rate.half(), now) {
                    left_out.push(tally.take());
                } else {
                    *common.unsaid.entry(tally.kind).or_default() += take(&mut tally.unsaid);
                }
            }
            tallies.retain(|_, tally| tally.unsaid > 0 || tally.whole_at > now);
        }
        let mut common = lock(&self.common);
        if now.saturating_sub(common.told_at) >= quiet {
            common.told_at = now;
            let summed = |(kind, unsaid)| LeftOut { kind, principal: String::new(), address: None, unsaid };
            left_out.extend(common.unsaid.drain().map(summed));
        }
        left_out
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    const REFUSED: LineKind = LineKind::warning("request refused", "too_many_requests");
    const FAILED: LineKind = LineKind::info("handshake failed", "handshake_failed");

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn unsaid(left_out: &[LeftOut]) -> u64 {
        left_out.iter().map(|left_out| left_out.unsaid).sum()
    }

    #[test]
    fn a_flood_has_a_few_lines_and_is_counted() {
        let limiter = LineLimiter::default();
        let ask = |now| limiter.admit(REFUSED, LineSource::Principal("a"), now);
        let said = (0..100).filter_map(|_| ask(secs(1))).collect::<Vec<_>>();
        assert_eq!(said, [0; 5]);
        // It goes on: one line in ten seconds, with the count.
        assert_eq!((ask(secs(10)), ask(secs(11)), ask(secs(12))), (None, Some(96), None));
        // It is over.
        assert_eq!(limiter.quiet(secs(21)), []);
        let rest = limiter.quiet(secs(22));
        assert_eq!(
            (rest.len(), rest[0].principal.as_str(), rest[0].kind, rest[0].unsaid),
            (1, "a", REFUSED, 1)
        );
        assert_eq!(limiter.rest(secs(23)), []);
    }

    /// Seen failing with one budget for all sources of a kind; and, for what the gate says of itself, with that of strangers.
    #[test]
    fn nobody_hides_another() {
        let limiter = LineLimiter::default();
        let strangers =
            || (0..5000_u32).map(|i| LineSource::Address(IpAddr::from((i | 0x0a00_0000).to_be_bytes())));
        for source in strangers().chain(strangers()).chain([LineSource::Principal("noisy"); 1000]) {
            limiter.admit(REFUSED, source, secs(1));
        }
        assert_eq!(limiter.admit(REFUSED, LineSource::Principal("quiet"), secs(1)), Some(0));
        assert_eq!(limiter.admit(FAILED, LineSource::Principal("noisy"), secs(1)), Some(0));
        assert_eq!(limiter.admit(FAILED, LineSource::Unknown, secs(1)), Some(0));
    }

    /// Seen failing with errors that were registered, and counted, as warnings.
    #[test]
    fn a_count_has_the_level_of_its_lines() {
        let limiter = LineLimiter::default();
        for kind in [LineKind::error("e", "c"), LineKind::warning("w", "c"), LineKind::info("i", "c")] {
            for _ in 0..6 {
                limiter.admit(kind, LineSource::Unknown, secs(1));
            }
        }
        let (mut log, writer) = std::io::pipe().unwrap();
        let written_to = tracing_subscriber::fmt().with_ansi(false).with_writer(Mutex::new(writer)).finish();
        tracing::subscriber::with_default(written_to, || limiter.rest(secs(2)).iter().for_each(LeftOut::log));
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        for (level, line) in [("ERROR", "line=\"e\""), ("WARN", "line=\"w\""), ("INFO", "line=\"i\"")] {
            assert!(text.lines().any(|text| text.contains(level) && text.contains(line)), "{level}: {text}");
        }
    }

    /// One network of IPv6 is one client.
    #[test]
    fn an_address_is_a_network() {
        let limiter = LineLimiter::default();
        let ask = |text: &str| limiter.admit(FAILED, LineSource::Address(text.parse().unwrap()), secs(1));
        let said = (0..10).filter(|i| ask(&format!("2001:db8::{i}")).is_some()).count();
        assert_eq!((said, ask("2001:db8:0:1::1"), ask("10.0.0.1")), (5, Some(0), Some(0)));
        assert_eq!(unsaid(&limiter.rest(secs(1))), 5);
    }

    /// Many sources at once: memory and lines are bounded, and the counts are whole. Seen failing with a count that is
    /// dropped where there is no room for its source.
    #[test]
    fn many_sources_are_summed_up() {
        let limiter = LineLimiter::default();
        let asked = 50_000_u64;
        let names: Vec<String> = (0..asked).map(|i| format!("agent/{i}")).collect();
        let ask = |name: &String| limiter.admit(REFUSED, LineSource::Principal(name), secs(1)).is_some();
        let said = names.iter().filter(|name| ask(name)).count() as u64;
        assert_eq!(said, u64::from(PRINCIPALS.burst));
        let kept = limiter.principals.shards.iter().map(|shard| lock(shard).len()).sum::<usize>();
        assert!(kept <= SHARDS * SOURCES_A_SHARD, "{kept}");
        let rest = limiter.rest(secs(2));
        assert!(rest.len() <= 1 + PRINCIPALS.burst as usize, "{}", rest.len());
        assert_eq!(said + unsaid(&rest), asked);
        // What has had its time is forgotten.
        let _ = limiter.quiet(secs(100));
        assert!(limiter.principals.shards.iter().all(|shard| lock(shard).is_empty()));
    }

    proptest! {
        /// Whoever asks, and whenever: said and unsaid are all.
        #[test]
        fn nothing_is_lost(asked in proptest::collection::vec((0_u8..40, any::<bool>(), 0_u64..3000), 1..400)) {
            let limiter = LineLimiter::default();
            let (mut now, mut said, mut counted) = (Duration::ZERO, 0, 0);
            for (who, is_refused, pause) in &asked {
                now += Duration::from_millis(*pause);
                counted += unsaid(&limiter.quiet(now));
                let name = who.to_string();
                let source = match who % 3 {
                    0 => LineSource::Unknown,
                    1 => LineSource::Principal(&name),
                    _ => LineSource::Address([10, 0, 0, *who].into()),
                };
                let kind = if *is_refused { REFUSED } else { FAILED };
                if let Some(unsaid) = limiter.admit(kind, source, now) {
                    said += 1;
                    counted += unsaid;
                }
            }
            counted += unsaid(&limiter.rest(now));
            prop_assert_eq!(said + counted, asked.len() as u64);
        }
    }
}
