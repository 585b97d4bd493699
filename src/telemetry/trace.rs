//! Traces: the context that requests carry (W3C Trace Context), and spans on their way to a collector.

use std::fmt;

use http::Uri;
use prometheus::IntCounter;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::access_log::share;

/// Spans that may wait for the collector.
const WAITING: usize = 4096;

/// `[trace]`: spans of requests, exported by OTLP over HTTP.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceConfig {
    /// Where the collector takes spans, as `http://127.0.0.1:4318/v1/traces`.
    pub endpoint: String,
    /// The share of traces that begin here that are exported, 0 to 1. A client's own decision comes first.
    #[serde(default = "some", deserialize_with = "share")]
    pub sample: f64,
}

const fn some() -> f64 {
    0.1
}

impl TraceConfig {
    /// Whether spans can be sent there; if not, why.
    pub fn check(&self) -> Result<(), String> {
        let said = |what: &str| format!("`{}`: {what}", self.endpoint);
        let uri: Uri = self.endpoint.parse().map_err(|error| said(&format!("{error}")))?;
        match (uri.scheme_str(), uri.authority()) {
            (Some("http"), Some(authority)) if !authority.as_str().contains('@') => Ok(()),
            _ => Err(said(
                "an endpoint is `http://HOST:PORT/PATH`, of a collector on this host or in its network",
            )),
        }
    }
}

/// Which trace a request belongs to, and the span above (W3C Trace Context, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Never 0.
    pub trace: u128,
    /// The span; never 0.
    pub span: u64,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`; of a version that is not known yet, what version 00 has (section 3.2.4).
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(55)?;
        let [v1, v2, b'-', known @ ..] = known else { return None };
        let version = hex(&[*v1, *v2])?;
        if version == 0xff || (version == 0 && !rest.is_empty()) || rest.first().is_some_and(|b| *b != b'-') {
            return None;
        }
        let (trace, known) = known.split_at_checked(32)?;
        let (span, flags) = known.strip_prefix(b"-")?.split_at_checked(16)?;
        let (trace, span) = (hex(trace)?, u64::try_from(hex(span)?).ok()?);
        let flags = hex(flags.strip_prefix(b"-")?)?;
        (trace != 0 && span != 0).then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }

    /// Whether the members of a `tracestate` are what section 3.3 allows: 32 at most, each a key and a value.
    pub fn is_state(text: &[u8]) -> bool {
        let members = text.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        let mut members = members.filter(|member| !member.is_empty());
        members.clone().count() <= 32 && members.all(is_member)
    }

    /// A span below it.
    pub fn child(self, span: u64) -> Self {
        Self { span, ..self }
    }
}

/// As a `traceparent` of version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// Lower case only, as the specification has it.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

fn is_member(member: &[u8]) -> bool {
    let Some(at) = member.iter().position(|byte| *byte == b'=') else { return false };
    let (key, value) = member.split_at(at);
    let starts = key.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let is_key = |byte: &u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@')
    };
    let value = value.get(1..).unwrap_or_default();
    let is_value = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
    starts
        && key.len() <= 256
        && key.iter().all(is_key)
        && (1..=256).contains(&value.len())
        && value.iter().all(is_value)
}

/// One request, for whoever looks at its trace.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its trace and itself.
    pub context: TraceContext,
    /// The span above it; 0 if the trace begins here.
    pub parent: u64,
    /// When it began, milliseconds since the Unix epoch.
    pub began: i64,
    /// How long it took, nanoseconds.
    pub nanos: u64,
    /// The route, or nothing: its name is this and the method.
    pub route: String,
    /// The method.
    pub method: String,
    /// The status; 0 if there was no answer.
    pub status: u16,
    /// What else is known, by OpenTelemetry's names.
    pub attributes: Vec<(&'static str, String)>,
    /// Numbers that are known, likewise.
    pub numbers: Vec<(&'static str, u64)>,
}

/// The way to the exporter, for every thread.
#[derive(Clone)]
pub struct Tracer {
    sender: mpsc::Sender<Span>,
    sample: f64,
    lost: IntCounter,
}

impl Tracer {
    /// With the end that the exporter reads; `lost` counts spans that did not get there.
    pub fn new(config: &TraceConfig, lost: IntCounter) -> (Self, mpsc::Receiver<Span>) {
        let (sender, spans) = mpsc::channel(WAITING);
        (Self { sender, sample: config.sample, lost }, spans)
    }

    /// The share of traces that begin here that are exported.
    pub fn sample(&self) -> f64 {
        self.sample
    }

    /// Hands a span over. Nobody waits for the collector: with too many in hand, this one is lost and counted.
    pub fn end(&self, span: Span) {
        if self.sender.try_send(span).is_err() {
            self.lost.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_is_read_to_the_letter() {
        let good = TraceContext::parse(GOOD.as_bytes()).unwrap();
        assert_eq!((good.to_string().as_str(), good.sampled), (GOOD, true));
        let later = TraceContext::parse(format!("cc{}-what-will-be", &GOOD[2..]).as_bytes()).unwrap();
        assert_eq!(later, good);
        let plain = TraceContext::parse(format!("{}02", &GOOD[..53]).as_bytes()).unwrap();
        assert!(!plain.sampled);
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}x"),
            &format!("cc{}x", &GOOD[2..]),
            &format!("ff{}", &GOOD[2..]),
            &GOOD.to_uppercase(),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace("-b", "_b"),
            &GOOD.replace("-01", "-0g"),
            &GOOD.replace("-01", "-+1"),
        ] {
            assert_eq!(TraceContext::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1_u128.., span in 1_u64.., sampled: bool) {
            let context = TraceContext { trace, span, sampled };
            prop_assert_eq!(TraceContext::parse(context.to_string().as_bytes()), Some(context));
        }

        #[test]
        fn nothing_else_panics(text in proptest::collection::vec(any::<u8>(), 0..80)) {
            TraceContext::parse(&text);
            TraceContext::is_state(&text);
        }
    }

    #[test]
    fn a_state_is_read_to_the_letter() {
        for good in ["", "a=1", "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE", "a@b=x y", "a=1,,b=2", "0a=!"] {
            assert!(TraceContext::is_state(good.as_bytes()), "{good}");
        }
        let many = vec!["a=1"; 33].join(",");
        for bad in ["a", "=1", "a=", "A=1", "a=1=2", "a=\u{e9}", "-a=1", "a =1", many.as_str()] {
            assert!(!TraceContext::is_state(bad.as_bytes()), "{bad}");
        }
    }
}
