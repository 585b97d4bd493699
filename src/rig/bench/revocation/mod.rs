//! Many revocations on gates that are started for it, each seen from outside.
//!
//! A fleet is so many gates, each a process of its own on loopback, before one sample upstream. Every revocation has an
//! agent with a certificate of its own and, before it is due, a live connection to every gate, of one kind in turn.
//! Revocations are due at fixed times, however long those before them take, and are measured from then on.

mod bystander;
mod feed;
mod files;
mod fleet;
mod gate;
mod line;
mod schedule;
mod tally;
mod victim;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::app;
use crate::rig::client::ClientError;
use crate::rig::findings;
use crate::rig::findings::Revocations;
use crate::rig::pki::PkiError;
use crate::rig::queue::Queue;
use crate::rig::queue::Settings;
use bystander::Bystanders;
use feed::Feed;
use fleet::Fleet;
use fleet::Site;
use fleet::Source;
use schedule::LEAD;
use schedule::Schedule;
use tally::Beside;
use tally::Tally;
use victim::Scene;
use victim::Victim;

/// Between the answers of a connection and its next request, where revocations take seconds.
const SLOW_PACE: Duration = Duration::from_millis(5);
/// Between the last preparation and the first agent.
const SETTLED: Duration = Duration::from_millis(200);
/// Credentials for a queue that checks none.
const PRETENDED: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "bench"), ("AWS_SECRET_ACCESS_KEY", "bench"), ("AWS_REGION", "us-east-1")];

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program whose gates are started.
    pub portcullis: PathBuf,
    /// How many gates each fleet has, one fleet after the other; each at least 1.
    pub gates: Vec<usize>,
    /// How revocations come to them.
    pub feed: FeedOptions,
    /// How many entries each gate holds before.
    pub entries: u64,
    /// Live connections of others, to all gates together.
    pub connections: usize,
    /// Revocations a second; above 0.
    pub rate: f64,
    /// How many revocations.
    pub revocations: usize,
    /// How long after it is due an agent that is not refused is watched.
    pub window: Duration,
    /// How long an agent that is about to be revoked rests between an answer and its next request; zero: it asks as
    /// fast as it is answered. With many gates on few processors the asking itself is what takes time.
    pub pace: Duration,
    /// What the gates do with those who are revoked.
    pub mode: Mode,
}

/// How revocations come to the gates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedOptions {
    /// By a call to each.
    Admin,
    /// By a queue for each, in this process.
    Sqs,
    /// By queues elsewhere, one for each gate.
    RemoteSqs {
        /// Their URLs.
        urls: Vec<String>,
        /// Where the API is, if not at the region's address.
        endpoint: Option<String>,
    },
    /// By a list that every gate looks at so often.
    Crl {
        /// At least a second.
        interval: Duration,
    },
}

/// What the gates do with those who are revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They refuse them.
    #[default]
    Strict,
    /// They let them be: what is measured must then be "never".
    Advisory,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system.
    #[error("{0}: {1}")]
    System(&'static str, #[source] io::Error),
    /// Too few open files are allowed.
    #[error("{wanted} open files are needed and {allowed} are allowed: raise `ulimit -n`, or ask for less")]
    Files {
        /// How many are needed.
        wanted: u64,
        /// How many this process may have.
        allowed: u64,
    },
    /// The program cannot be started.
    #[error("{path}: cannot be started: {1}", path = .0.display())]
    Start(PathBuf, #[source] io::Error),
    /// A gate does not do as it should: its number, and what is wrong.
    #[error("gate {0} {1}")]
    Gate(usize, String),
    /// The PKI.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The state of a gate.
    #[error(transparent)]
    App(#[from] app::Error),
    /// TLS of the clients.
    #[error("TLS: {0}")]
    Tls(#[source] rustls::Error),
    /// A call to a gate.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Not all bystanders could connect: so many did.
    #[error("only {0} connections of bystanders were served in time")]
    Bystanders(u64),
    /// An agent could not work before it was revoked.
    #[error("{0}: {1}")]
    Victim(String, String),
    /// An agent was not connected when its revocation was due.
    #[error("revocation {0} was due before its agent was connected: the machine is too slow for this rate")]
    Late(usize),
    /// No memory for a histogram.
    #[error("histogram: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
    /// It was told to end.
    #[error("interrupted")]
    Interrupted,
}

impl Mode {
    /// As the configuration says it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Advisory => "advisory",
        }
    }
}

impl FeedOptions {
    /// `admin`, `sqs` or `crl`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Sqs | Self::RemoteSqs { .. } => "sqs",
            Self::Crl { .. } => "crl",
        }
    }
}

/// Starts the fleets one after the other, and measures. `told` is called after each revocation. Ends as soon as
/// `interrupted` does; whatever happens, every process and file is gone when this returns.
pub async fn run(
    options: &Options,
    told: &dyn Fn(),
    interrupted: impl Future<Output = ()>,
) -> Result<Revocations, Error> {
    files::raise(options)?;
    let mut interrupted = std::pin::pin!(interrupted);
    let mut fleets = Vec::new();
    for (number, gates) in options.gates.iter().enumerate() {
        // Each fleet begins with files of its own.
        let site = Arc::new(Site::create(options.entries)?);
        let mut stage = Stage { options, site, number, fleet: None };
        let found = tokio::select! {
            biased;
            () = &mut interrupted => Err(Error::Interrupted),
            found = stage.measure(*gates, told) => found,
        };
        stage.strike().await;
        fleets.push(found?);
    }
    Ok(Revocations {
        feed: options.feed.name().to_owned(),
        entries: options.entries,
        connections: options.connections as u64,
        rate: options.rate,
        fleets,
    })
}

/// One fleet, and what it is measured with.
struct Stage<'a> {
    options: &'a Options,
    site: Arc<Site>,
    /// Which fleet.
    number: usize,
    fleet: Option<Fleet>,
}

impl Stage<'_> {
    async fn measure(&mut self, gates: usize, told: &dyn Fn()) -> Result<findings::Fleet, Error> {
        let (feed, addresses) = self.start(gates).await?;
        let victims =
            (0..self.options.revocations).map(|number| Victim::new(&self.site, self.number, number));
        let victims = victims.collect::<Result<Vec<_>, _>>()?;
        let bystanders = Bystanders::start(&self.site, &addresses, self.options.connections).await?;
        let mut tally = Tally::new(gates)?;
        let fleet = self.fleet.as_mut().ok_or(Error::Interrupted)?;
        let (before, processor, begun) = (bystanders.counts(), fleet.processor(), Instant::now());
        let (window, pace) = self.options.watch();
        let origin = Instant::now();
        let scene = Scene { site: &self.site, feed: &feed, gates: &addresses, window, pace, origin };
        let schedule = Schedule::new(begun + LEAD * 2 + SETTLED, self.options.rate);
        let mut living: FuturesUnordered<_> =
            victims.into_iter().map(|victim| victim.live(&scene, schedule)).collect();
        while let Some(sighting) = living.next().await {
            let sighting = match sighting {
                Ok(sighting) => sighting,
                // If a gate has died, that is why.
                Err(error) => return Err(fleet.check().err().unwrap_or(error)),
            };
            tally.add(&sighting);
            told();
        }
        let (seconds, after) = (begun.elapsed().as_secs_f64(), bystanders.counts());
        let cpu_seconds = fleet.processor() - processor;
        fleet.check()?;
        fleet.commits().into_iter().for_each(|took| tally.add_commit(took));
        Ok(tally.found(Beside {
            seconds,
            requests: after.0 - before.0,
            errors: after.1 - before.1,
            cpu_seconds,
            memory: fleet.memory(),
        }))
    }

    /// Starts the gates and connects to what feeds them.
    async fn start(&mut self, gates: usize) -> Result<(Feed, Vec<SocketAddr>), Error> {
        let queues = match self.options.feed {
            FeedOptions::Sqs => (0..gates).map(|_| Queue::start(Settings::default())).collect(),
            _ => Ok(Vec::new()),
        };
        let queues = queues.map_err(|e| Error::System("cannot start a queue", e))?;
        let own: Vec<(String, String)> =
            queues.iter().map(|queue| (queue.url(), format!("http://{}", queue.address()))).collect();
        let source = |gate: usize| match &self.options.feed {
            FeedOptions::Admin => Source::Calls,
            FeedOptions::Crl { interval } => Source::List(*interval),
            FeedOptions::Sqs => own.get(gate).map_or(Source::Calls, |(url, at)| Source::Queue(url, Some(at))),
            FeedOptions::RemoteSqs { urls, endpoint } => {
                urls.get(gate).map_or(Source::Calls, |url| Source::Queue(url, endpoint.as_deref()))
            }
        };
        let sources: Vec<_> = (0..gates).map(source).collect();
        let environment: &[_] = if queues.is_empty() { &[] } else { &PRETENDED };
        let fleet = Fleet::start(&self.site, self.options, &sources, environment).await?;
        let fleet = self.fleet.insert(fleet);
        let tls = self.site.administrator()?;
        let feed = match &self.options.feed {
            FeedOptions::Admin => Feed::calls(fleet, &tls).await?,
            FeedOptions::Sqs => Feed::Queues(queues),
            FeedOptions::RemoteSqs { urls, endpoint } => {
                Feed::remote(fleet, &tls, urls.clone(), endpoint.as_deref()).await?
            }
            FeedOptions::Crl { .. } => Feed::list(fleet, &tls, &self.site).await?,
        };
        let addresses = fleet.gates.iter().map(|gate| gate.address).collect();
        Ok((feed, addresses))
    }

    /// Ends all that runs. The directory goes with the last that knows of it.
    async fn strike(self) {
        if let Some(fleet) = self.fleet {
            fleet.end().await;
        }
    }
}

impl Options {
    /// How long an agent is watched after its revocation is due, and how long it rests between its requests.
    fn watch(&self) -> (Duration, Duration) {
        match self.feed {
            FeedOptions::Crl { interval } => (self.window + interval, self.pace.max(SLOW_PACE)),
            _ => (self.window, self.pace),
        }
    }
}
