//! The queue: Amazon SQS, or what speaks its protocol.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;

use super::Link;
use super::check_terms;
use super::message::Reader;
use crate::revocation::FeedTerms;
use crate::revocation::OnStale;

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
}

impl Config {
    /// Makes relative paths relative to `base`.
    pub(super) fn rebase(&mut self, base: &Path) {
        self.keys.values_mut().chain(&mut self.sns.certificates).for_each(|file| *file = base.join(&*file));
    }

    /// What must hold of it.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.require_signed && self.keys.is_empty() {
            let reason = "nothing could be signed: there are no `keys`".to_owned();
            return Err(Error { key: "require_signed", reason });
        }
        if self.sns.verify && self.sns.topics.is_empty() {
            let reason = "SNS signs for everybody's topics: `topics` must say which are yours".to_owned();
            return Err(Error { key: "sns.verify", reason });
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
}

impl Sqs {
    /// A consumer, with its keys read. `state` is the process's state directory, for the quarantine. Touches neither the
    /// network nor `state`.
    pub fn new(config: Config, _state: &Path) -> Result<Self, Error> {
        let reader = Reader::new(&config)?;
        Ok(Self { config, reader })
    }

    /// How much depends on it.
    pub fn terms(&self) -> FeedTerms {
        self.config.terms()
    }

    /// Receives until `stop`, then finishes what is in hand.
    pub async fn run(self: Arc<Self>, link: Arc<Link>, mut stop: watch::Receiver<bool>) {
        let _ = (&self.config, &self.reader, &link);
        let _ = stop.wait_for(|stop| *stop).await;
    }
}

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
