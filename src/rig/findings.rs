//! What a drill or a benchmark found, as JSON: what `--json` prints, and what the report is made from.
//!
//! Times are whole microseconds since the revocation was asked for (since its call or message was sent, its command
//! started), negative before, unless a field says otherwise. Unknown fields are refused: a file of a later format is
//! not half understood.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Deserialize;
use serde::Serialize;

use crate::clock::Timestamp;

/// The version of this format.
pub const FORMAT: u32 = 1;

/// One run: where and how, and what it found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Findings {
    /// [`FORMAT`].
    pub format: u32,
    /// What it is called beside others: `--label`, or the target.
    pub label: String,
    /// When it began.
    pub at: Timestamp,
    /// Where and how it ran.
    pub setup: Setup,
    /// What was found.
    pub found: Found,
}

/// Where and how it ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// The version of the program that measured.
    pub portcullis: String,
    /// The command line, as words.
    pub command: Vec<String>,
    /// The operating system and its version.
    pub system: String,
    /// The processor.
    pub processor: String,
    /// How many threads it runs at once.
    pub cores: usize,
    /// Bytes.
    pub memory: u64,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "there is one of them, or a few")]
pub enum Found {
    /// One revocation on a running deployment.
    Drill(Drill),
    /// Many, on gates that were started for it.
    Revocations(Revocations),
    /// What requests and handshakes cost.
    Proxies(Proxies),
}

/// One revocation on a running deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drill {
    /// Where the requests went.
    pub url: String,
    /// Of the addresses of that name, which.
    #[serde(default)]
    pub address: String,
    /// Who was revoked.
    pub victim: Party,
    /// Who must not notice; absent if nobody was given.
    pub bystander: Option<Party>,
    /// How it was revoked: the call or the command.
    pub how: String,
    /// What became of the call.
    pub call: Call,
    /// How long was looked at what happens after the call was sent.
    pub window_us: u64,
    /// How long before it.
    pub before_us: u64,
    /// Tries a second, of each probe.
    pub rate: f64,
    /// What each probe saw.
    pub probes: Vec<Probe>,
    /// What was checked besides.
    pub checks: Vec<Check>,
    /// What is wrong, one line each; nothing, if the drill was passed.
    pub failures: Vec<String>,
    /// What commands and servers said besides, for a terminal alone: it may hold credentials.
    #[serde(skip)]
    pub said: Vec<String>,
}

/// Whose certificate it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Party {
    /// The principal: its SPIFFE ID, DNS name or common name.
    pub name: String,
    /// The serial, as `openssl x509 -serial` prints it, in lower case.
    pub serial: String,
}

/// What became of the revoke call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Until it was answered, or the command had ended.
    pub answered_us: Option<i64>,
    /// Whether that was a success.
    pub succeeded: bool,
    /// The status, the exit code, the error.
    pub told: String,
}

/// Whose probe it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// Who is revoked.
    Victim,
    /// Who is not.
    Bystander,
}

/// Over what a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Requests on one HTTP/1.1 connection.
    Http1,
    /// Requests on one HTTP/2 connection.
    Http2,
    /// One HTTP/2 stream that stays open: a request whose body goes on.
    Stream,
    /// One HTTP/1.1 request in the middle of its body.
    Body,
    /// A WebSocket; each try is a ping that is answered.
    #[serde(rename = "websocket")]
    WebSocket,
    /// New connections, each with a full handshake and one request.
    Handshake,
    /// New connections, each with a TLS session from before and one request.
    Resumption,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Http1,
        Self::Http2,
        Self::Stream,
        Self::Body,
        Self::WebSocket,
        Self::Handshake,
        Self::Resumption,
    ];

    /// Whether it is one long request: there is no answer until it ends.
    pub const fn goes_on(self) -> bool {
        matches!(self, Self::Stream | Self::Body)
    }

    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1 connection",
            Self::Http2 => "HTTP/2 connection",
            Self::Stream => "HTTP/2 stream",
            Self::Body => "request body",
            Self::WebSocket => "WebSocket",
            Self::Handshake => "new connection",
            Self::Resumption => "resumed session",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What one probe saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Whose.
    pub who: Who,
    /// Over what.
    pub kind: Kind,
    /// Which of several of the same.
    pub number: usize,
    /// What came of it.
    pub verdict: Verdict,
    /// When the first refusal after the call was there: an answer that refuses, or the end of the connection.
    pub first_refusal_us: Option<i64>,
    /// That refusal, in words; or why nothing was to be seen, or nothing is clear.
    pub refusal: Option<String>,
    /// When the last answer that served was there; for a stream, a body or an idle tunnel, until when it was still open.
    pub last_served_us: Option<i64>,
    /// When the first try after that which was refused had been sent, if it came to that: between the two nobody asked.
    #[serde(default)]
    pub refused_from_us: Option<i64>,
    /// How many tries since the call were lost: not served, but for ends of connections on which nothing was asked.
    #[serde(default)]
    pub lost: u64,
    /// How many tries that were begun after the call had been answered were served. What goes on is one try, and one more
    /// if it went on to the end.
    pub served_after_answer: u64,
    /// Each try: when it was sent, when its outcome was there, and that outcome.
    pub tries: Vec<Try>,
}

/// What came of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Refused, and nothing was served any more. Of a bystander: something was refused, which is a fault.
    Refused,
    /// Served to the end of the window. Of a bystander: as it should be.
    Served,
    /// Refused, and then served again.
    Flapped,
    /// There was nothing to be seen: the server does not offer it.
    NotOffered,
    /// Neither served nor refused towards the end: errors, or nothing at all.
    Unclear,
}

/// One try: `[sent, at, outcome]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try(pub i64, pub i64, pub Outcome);

/// What came of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// An answer below 400, a pong, a piece of a body that was taken.
    Served,
    /// A status of 400 to 499, or the 503 of a gate whose feeds are stale; a handshake that was refused.
    Refused,
    /// The connection or stream ended.
    Cut,
    /// Another status of 500 and above, or no answer.
    Failed,
}

/// What was checked besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What should be so.
    pub name: String,
    /// Whether it is; absent if it was not asked for or cannot be found out.
    pub passed: Option<bool>,
    /// What was seen.
    pub detail: String,
}

/// Revocations on gates that were started for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocations {
    /// `admin`, `sqs` or `crl`.
    pub feed: String,
    /// How many entries each gate held before.
    pub entries: u64,
    /// Live connections of others, to all gates together.
    pub connections: u64,
    /// Revocations a second, as they were meant to come.
    pub rate: f64,
    /// One for each number of gates.
    pub fleets: Vec<Fleet>,
}

/// So many gates, and the same revocations on all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// How long it took, seconds.
    pub seconds: f64,
    /// From when a call or message was due until the last answer that served, on the last gate of each revocation.
    pub last_gate: Distribution,
    /// The same from when it was sent, which is later where whoever sends is held up.
    #[serde(default)]
    pub since_sent: Distribution,
    /// The same on each gate by itself.
    pub gates: Vec<Distribution>,
    /// The same by kind of connection, all gates together.
    pub kinds: Vec<(Kind, Distribution)>,
    /// Until the call was answered by every gate, or the message deleted from every queue.
    pub answered: Distribution,
    /// What the journals took for their commits, as the gates say.
    pub durable: Distribution,
    /// How many requests that were sent after the answer were served.
    pub served_after_answer: u64,
    /// How many were tried.
    pub tried_after_answer: u64,
    /// Requests of others that were served, a second.
    pub requests_per_second: f64,
    /// Requests of others that were not.
    pub bystander_errors: u64,
    /// What all gates together used of the processor, seconds.
    pub cpu_seconds: f64,
    /// The largest resident set of a gate, bytes.
    pub memory: u64,
}

/// How long something took, many times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// How often it was seen.
    pub count: u64,
    /// How often it did not come to an end in time; not among the others.
    pub never: u64,
    /// The median.
    pub p50_us: f64,
    /// 90 of 100 took at most so long.
    pub p90_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1000.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// The cumulative distribution: so many microseconds, and the part of all (`never` among them) that took at most so
    /// long. Rising; at most some hundreds of points.
    pub ecdf: Vec<(f64, f64)>,
}

impl Distribution {
    /// Of a histogram of nanoseconds.
    pub fn of(histogram: &Histogram<u64>, never: u64) -> Self {
        let us = |nanos: u64| nanos as f64 / 1000.0;
        let at = |quantile| us(histogram.value_at_quantile(quantile));
        let all = histogram.len() + never;
        let mut seen = 0;
        let ecdf = histogram
            .iter_recorded()
            .map(|step| {
                seen += step.count_since_last_iteration();
                (us(step.value_iterated_to()), seen as f64 / all as f64)
            })
            .collect();
        Self {
            count: histogram.len(),
            never,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: us(histogram.max()),
            ecdf: thinned(ecdf),
        }
    }
}

/// The most points of a curve.
const POINTS: usize = 400;

/// Not all points of a curve, but the first and the last.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let Some(last) = points.len().checked_sub(1) else { return points };
    let step = points.len().div_ceil(POINTS).max(1);
    let wanted = |(at, _): &(usize, _)| at.is_multiple_of(step) || *at == last;
    points.into_iter().enumerate().filter(wanted).map(|(_, point)| point).collect()
}

/// What requests and handshakes cost, proxy beside proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxies {
    /// How often each was measured, in turn.
    pub rounds: usize,
    /// How long each time, seconds.
    pub seconds: f64,
    /// One for each proxy and work.
    pub costs: Vec<Cost>,
}

/// What one kind of work costs on one proxy: medians of the rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// The proxy's name.
    pub proxy: String,
    /// `http1`, `http2`, `handshake` or `resumption`.
    pub work: Kind,
    /// Processor time a request, microseconds, of the process that was named and all below it.
    pub cpu_us: f64,
    /// To that of the first proxy.
    pub ratio: f64,
    /// Requests a second.
    pub per_second: f64,
    /// Requests that were not answered with success.
    pub errors: u64,
    /// Resident memory after it, bytes, likewise.
    pub memory: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_ends_where_all_that_came_to_an_end_are_counted() {
        let mut histogram = Histogram::new(3).unwrap();
        (1..=10_000).for_each(|nanos| histogram.record(nanos * 1000).unwrap());
        let found = Distribution::of(&histogram, 2500);
        assert!(found.ecdf.len() <= POINTS + 1 && found.ecdf.is_sorted());
        assert!((found.ecdf.last().unwrap().1 - 0.8).abs() < 1e-9);
        assert!((found.p50_us - 5000.0).abs() < 5.0 && (found.max_us - 10_000.0).abs() < 10.0);
        assert_eq!(Distribution::of(&Histogram::new(3).unwrap(), 0).ecdf, []);
    }
}
