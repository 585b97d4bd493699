//! The queue: Amazon SQS, or what speaks its protocol.
//!
//! A message is received, read, taken in, and deleted when every event of it is in effect and on disk; until then it is
//! kept hidden from others, and whatever goes wrong makes it come again. **Invariant:** nothing is deleted that was not
//! taken in, or put into quarantine.

mod api;
mod batch;
mod certificates;
mod consumer;
mod fault;
mod letter;
mod progress;
mod quarantine;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::Uri;
use serde::Deserialize;
use tokio::sync::watch;

use super::Link;
use super::check_terms;
use super::message::Reader;
use crate::revocation::FeedTerms;
use crate::revocation::OnStale;
use api::Api;
use certificates::Certificates;
use consumer::Consumer;
use quarantine::Quarantine;

/// `[feed.sqs]`: the queue of this gate.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The queue's URL.
    pub queue_url: String,
    /// The AWS region; by default what the environment says.
    pub region: Option<String>,
    /// Where the API is, if not where the region's is.
    pub endpoint: Option<String>,
    /// How many long polls are open at once.
    #[serde(default = "receivers")]
    pub receivers: usize,
    /// How long one long poll waits, 20 s at most.
    #[serde(default = "wait", with = "humantime_serde")]
    pub wait: Duration,
    /// How long a message that was received is hidden from others; extended while work on it lasts.
    #[serde(default = "visibility", with = "humantime_serde")]
    pub visibility: Duration,
    /// After how many receives a message that cannot be understood is put into quarantine, where the queue has no redrive
    /// policy.
    #[serde(default = "quarantine_after")]
    pub quarantine_after: u32,
    /// Only signed events act: nobody whose key is not in `keys` revokes anything.
    #[serde(default)]
    pub require_signed: bool,
    /// Keys of signed events, by key id: a PEM file with an Ed25519 or P-256 public key (JWS), or any other file with a
    /// secret of 32 bytes or more (HMAC).
    #[serde(default)]
    pub keys: BTreeMap<String, PathBuf>,
    /// What SNS notifications must be.
    #[serde(default)]
    pub sns: SnsConfig,
    /// Without it the gate is not ready.
    #[serde(default)]
    pub required: bool,
    /// How long after the last answer of the queue it counts as fresh.
    #[serde(default = "max_age", with = "humantime_serde")]
    pub max_age: Duration,
    /// What a required queue does to requests when it is stale.
    #[serde(default)]
    pub on_stale: OnStale,
    /// An access key and its secret instead of what the environment has, which the process of a test cannot set.
    #[doc(hidden)]
    #[serde(skip)]
    pub access_key: Option<(String, String)>,
}

/// `[feed.sqs.sns]`: what SNS notifications must be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnsConfig {
    /// Their signature must hold (SignatureVersion 2).
    pub verify: bool,
    /// They must be of one of these topics; any, if empty.
    pub topics: Vec<String>,
    /// The certificates that sign them, PEM; by default they are fetched from where each notification says, which must be
    /// an address of Amazon SNS.
    pub certificates: Vec<PathBuf>,
    /// Where they are fetched instead of from Amazon, for tests.
    #[doc(hidden)]
    #[serde(skip)]
    pub elsewhere: Option<String>,
}

impl Config {
    /// Makes relative paths relative to `base`.
    pub(super) fn rebase(&mut self, base: &Path) {
        self.keys.values_mut().chain(&mut self.sns.certificates).for_each(|file| *file = base.join(&*file));
    }

    /// What must hold of it.
    pub(super) fn check(&self) -> Result<(), Error> {
        let wrong = |key, reason: String| Err(Error { key, reason });
        if let Err(reason) = check_url(&self.queue_url) {
            return wrong("queue_url", reason);
        }
        if let Some(Err(reason)) = self.endpoint.as_deref().map(check_url) {
            return wrong("endpoint", reason);
        }
        let letters =
            |region: &str| region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if let Some(region) = self.region.as_deref().filter(|region| region.is_empty() || !letters(region)) {
            return wrong("region", format!("`{region}` is no region, such as `eu-central-1`"));
        }
        if !(1..=16).contains(&self.receivers) {
            return wrong("receivers", format!("{}: 1 to 16", self.receivers));
        }
        if !(LEAST..=MOST_WAIT).contains(&self.wait) {
            return wrong("wait", format!("{}: 1s to 20s, as the queue knows it", shown(self.wait)));
        }
        if !(LEAST..=MOST_VISIBILITY).contains(&self.visibility) {
            return wrong(
                "visibility",
                format!("{}: 1s to 12h, as the queue knows it", shown(self.visibility)),
            );
        }
        if self.quarantine_after == 0 {
            return wrong(
                "quarantine_after",
                "0: a message has been received once when it is first seen".to_owned(),
            );
        }
        if self.require_signed && self.keys.is_empty() {
            let reason = "nothing could be signed: there are no `keys`".to_owned();
            return Err(Error { key: "require_signed", reason });
        }
        if self.sns.verify && self.sns.topics.is_empty() {
            let reason = "SNS signs for everybody's topics: `topics` must say which are yours".to_owned();
            return Err(Error { key: "sns.verify", reason });
        }
        // An idle queue answers once in a poll.
        let least = self.wait + Duration::from_secs(5);
        if self.max_age < least {
            let reason = format!("{}: at least `wait` and 5s, {}", shown(self.max_age), shown(least));
            return Err(Error { key: "max_age", reason });
        }
        check_terms(self.terms()).map_err(|(key, reason)| Error { key, reason })
    }

    fn terms(&self) -> FeedTerms {
        FeedTerms { required: self.required, max_age: self.max_age, on_stale: self.on_stale }
    }
}

/// Why the queue cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct Error {
    /// The key in `[feed.sqs]`.
    pub key: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// The consumer of one queue.
#[derive(Debug)]
pub struct Sqs {
    config: Config,
    reader: Reader,
    certificates: Certificates,
    quarantine: Quarantine,
    /// How many events this process took in.
    taken: AtomicU64,
}

impl Sqs {
    /// A consumer, with its keys read. `state` is the process's state directory, for the quarantine. Touches neither the
    /// network nor `state`.
    pub fn new(config: Config, state: &Path) -> Result<Self, Error> {
        let (reader, certificates) = (Reader::new(&config)?, Certificates::new(&config.sns)?);
        let (quarantine, taken) = (Quarantine::new(state), AtomicU64::new(0));
        Ok(Self { config, reader, certificates, quarantine, taken })
    }

    /// How much depends on it.
    pub fn terms(&self) -> FeedTerms {
        self.config.terms()
    }

    /// Receives until `stop`, then finishes what is in hand.
    pub async fn run(self: Arc<Self>, link: Arc<Link>, mut stop: watch::Receiver<bool>) {
        let stopped = stop.clone();
        let api = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            api = Api::connect(&self.config) => api,
        };
        Consumer::new(&self, &link, api).run(stopped).await;
    }
}

/// What is asked of the URL of a queue, and of an endpoint.
fn check_url(url: &str) -> Result<(), String> {
    let Ok(uri) = url.parse::<Uri>() else {
        return Err(format!("`{url}` is no URL"));
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(format!("`{url}`: begins with neither https:// nor http://"));
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            Err("it holds a user or password, which belong in the environment".to_owned())
        }
        Some(authority) if !authority.host().is_empty() => Ok(()),
        _ => Err(format!("`{url}` names no host")),
    }
}

fn shown(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

const LEAST: Duration = Duration::from_secs(1);
const MOST_WAIT: Duration = Duration::from_secs(20);
const MOST_VISIBILITY: Duration = Duration::from_secs(12 * 60 * 60);

const fn receivers() -> usize {
    2
}

const fn wait() -> Duration {
    Duration::from_secs(20)
}

const fn visibility() -> Duration {
    Duration::from_secs(30)
}

const fn quarantine_after() -> u32 {
    5
}

const fn max_age() -> Duration {
    Duration::from_secs(120)
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://sqs.eu-central-1.amazonaws.com/123456789012/revocations";

    fn check(lines: &str) -> Result<(), Error> {
        let queue =
            if lines.contains("queue_url") { String::new() } else { format!("queue_url = \"{URL}\"\n") };
        toml::from_str::<Config>(&format!("{queue}{lines}")).unwrap().check()
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        for (lines, key) in [
            ("queue_url = \"\"", "queue_url"),
            ("queue_url = \"revocations\"", "queue_url"),
            ("queue_url = \"/123456789012/revocations\"", "queue_url"),
            ("queue_url = \"arn:aws:sqs:eu-central-1:123456789012:revocations\"", "queue_url"),
            ("queue_url = \"ftp://sqs.eu-central-1.amazonaws.com/1/q\"", "queue_url"),
            ("queue_url = \"https://me:secret@localhost/1/q\"", "queue_url"),
            ("endpoint = \"localhost:4566\"", "endpoint"),
            ("region = \"EU (Frankfurt)\"", "region"),
            ("region = \"\"", "region"),
            ("receivers = 0", "receivers"),
            ("receivers = 17", "receivers"),
            ("wait = \"500ms\"", "wait"),
            ("wait = \"21s\"", "wait"),
            ("visibility = \"0s\"", "visibility"),
            ("visibility = \"12h 1s\"", "visibility"),
            ("quarantine_after = 0", "quarantine_after"),
            ("max_age = \"0s\"", "max_age"),
            ("on_stale = \"deny\"", "on_stale"),
        ] {
            let error = check(lines).unwrap_err();
            assert_eq!(error.key, key, "{lines}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_can_be_is_accepted() {
        for lines in [
            "",
            "receivers = 16\nwait = \"1s\"\nvisibility = \"12h\"",
            "queue_url = \"http://127.0.0.1:4566/000000000000/q\"\nendpoint = \"http://127.0.0.1:4566\"",
            "region = \"us-gov-west-1\"\nrequired = true\non_stale = \"deny\"",
        ] {
            check(lines).unwrap();
        }
    }
}
