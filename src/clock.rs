//! Wall time, and the time that has passed. **Invariant:** nothing else in the crate reads the wall clock.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A point in wall time: milliseconds since the Unix epoch, UTC.
///
/// Its text form is RFC 3339 with milliseconds; where text is read, whole Unix seconds are accepted too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The beginning of time: earlier than every other timestamp.
    pub const MIN: Self = Self(i64::MIN);
    /// The end of time: later than every other timestamp.
    pub const MAX: Self = Self(i64::MAX);

    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the Unix epoch; saturates.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This point plus `duration`; saturates.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The time from `earlier` to `self`; zero if `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Reads RFC 3339, or whole Unix seconds; years 0 to 9999. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(secs) = text.parse::<i64>() {
            return Self::read_secs(secs);
        }
        let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000))
            .ok()
            .map(Self)
            .filter(Self::is_writable)
    }

    fn read_secs(secs: i64) -> Option<Self> {
        Some(Self::from_secs(secs)).filter(Self::is_writable)
    }

    /// Whether RFC 3339 can express it: what is read in must be readable again.
    fn is_writable(&self) -> bool {
        OffsetDateTime::from_unix_timestamp(self.secs()).is_ok_and(|at| (0..=9999).contains(&at.year()))
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000);
        match at {
            Ok(at) => write!(
                f,
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
                at.year(),
                u8::from(at.month()),
                at.day(),
                at.hour(),
                at.minute(),
                at.second(),
                at.millisecond()
            ),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Secs(i64),
            Text(String),
        }
        match Form::deserialize(deserializer) {
            Ok(Form::Secs(secs)) => Self::read_secs(secs)
                .ok_or_else(|| D::Error::custom(format!("{secs} are no Unix seconds of this age"))),
            Ok(Form::Text(text)) => Self::parse(&text)
                .ok_or_else(|| D::Error::custom(format!("`{text}` is not an RFC 3339 time"))),
            Err(_) => Err(D::Error::custom("expected an RFC 3339 time or whole Unix seconds")),
        }
    }
}

/// The system's clock, or one that a test moves.
#[derive(Clone, Debug)]
pub struct Clock(TimeSource);

#[derive(Clone, Debug)]
enum TimeSource {
    /// Since when this clock counts the time that passes.
    System(Instant),
    Manual(Arc<ClockHands>),
}

/// Both readings of a manual clock, milliseconds.
#[derive(Debug)]
struct ClockHands {
    wall: AtomicI64,
    elapsed: AtomicU64,
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        Self(TimeSource::System(Instant::now()))
    }

    /// A clock that stands at `start` until [`Clock::advance`] or [`Clock::set`] moves it. For tests.
    pub fn manual(start: Timestamp) -> Self {
        let hands = ClockHands { wall: AtomicI64::new(start.millis()), elapsed: AtomicU64::new(0) };
        Self(TimeSource::Manual(Arc::new(hands)))
    }

    /// Lets time pass on a manual clock, by both readings; does nothing to the system's.
    pub fn advance(&self, by: Duration) {
        if let TimeSource::Manual(hands) = &self.0 {
            hands.wall.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
            hands.elapsed.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
    }

    /// Sets the wall time of a manual clock, as an administrator or NTP does: no time passes. Does nothing to the system's.
    pub fn set(&self, now: Timestamp) {
        if let TimeSource::Manual(hands) = &self.0 {
            hands.wall.store(now.millis(), Ordering::SeqCst);
        }
    }

    /// The present.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            TimeSource::Manual(hands) => Timestamp(hands.wall.load(Ordering::SeqCst)),
            TimeSource::System(_) => system_now(),
        }
    }

    /// The time that has passed since the clock was made, by the monotonic clock: setting the wall clock does not move it.
    pub fn elapsed(&self) -> Duration {
        match &self.0 {
            TimeSource::Manual(hands) => Duration::from_millis(hands.elapsed.load(Ordering::SeqCst)),
            TimeSource::System(since) => since.elapsed(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn system_now() -> Timestamp {
    // A clock before 1970 reads as 1970: everything is then "not yet valid", which refuses.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_both_forms_are_read() {
        let at = Timestamp::from_millis(1_792_000_000_123);
        assert_eq!(at.to_string(), "2026-10-14T17:46:40.123Z");
        assert_eq!(Timestamp::parse(&at.to_string()), Some(at));
        assert_eq!(Timestamp::parse("1792000000"), Some(Timestamp::from_secs(1_792_000_000)));
        assert_eq!(Timestamp::parse("2026-10-14T19:46:40.123+02:00"), Some(at));
        for nonsense in ["yesterday", "1795000000000000", "-1795000000000", "99999-01-01T00:00:00Z"] {
            assert_eq!(Timestamp::parse(nonsense), None, "{nonsense}");
        }
        assert!(serde_json::from_str::<Timestamp>("1795000000000000").is_err());
    }

    #[test]
    fn a_manual_clock_stands_still() {
        let clock = Clock::manual(Timestamp::from_secs(10));
        assert_eq!(clock.now(), Timestamp::from_secs(10));
        clock.advance(Duration::from_secs(5));
        assert_eq!((clock.now(), clock.elapsed()), (Timestamp::from_secs(15), Duration::from_secs(5)));
        clock.set(Timestamp::from_secs(3));
        assert_eq!((clock.now(), clock.elapsed()), (Timestamp::from_secs(3), Duration::from_secs(5)));
    }
}
