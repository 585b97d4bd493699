//! What requests and handshakes cost proxies that run already, beside each other: processor time, told by `/proc`.
//!
//! The load comes from this machine and takes part of it, so that requests a second say as much about the load as about
//! the proxy; the processor time of a request does not. All proxies are measured in one run, in turn, round by round:
//! what else the machine does meets each of them alike.

mod line;
mod load;
pub mod usage;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::Uri;
use rustls::HandshakeKind;
use tokio::net::lookup_host;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::sleep_until;
use tokio::time::timeout;

use self::line::Failure;
use self::line::Line;
use self::line::Peer;
use self::line::once;
use self::load::Counts;
use self::load::Load;
use self::usage::Usage;
use self::usage::UsageError;
use crate::rig::client::ClientError;
use crate::rig::findings::Cost;
use crate::rig::findings::Kind;
use crate::rig::findings::Proxies;

/// The load is on for so long before anything counts.
const WARM: Duration = Duration::from_millis(300);
/// How long a first answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked at what a proxy uses, so that few of its threads come and go unseen.
const LOOK: Duration = Duration::from_millis(100);
/// How many connections a proxy has to resume a session.
const TRIES: usize = 3;

/// The kinds of work that there are.
pub const WORKS: [Kind; 4] = [Kind::Http1, Kind::Http2, Kind::Handshake, Kind::Resumption];

/// Who is measured, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The proxies, in order; ratios are to the first.
    pub targets: Vec<Target>,
    /// Who vouches for the proxies' certificates (PEM).
    pub ca: PathBuf,
    /// The client's certificate chain (PEM).
    pub cert: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// What each request carries besides.
    pub headers: HeaderMap,
    /// What is done, in order; of [`WORKS`].
    pub works: Vec<Kind>,
    /// How often each is measured.
    pub rounds: usize,
    /// How long each time.
    pub window: Duration,
    /// HTTP/1.1 connections.
    pub connections: usize,
    /// Threads that put on the load.
    pub threads: usize,
}

/// One proxy.
#[derive(Clone, Debug)]
pub struct Target {
    /// What it is called.
    pub name: String,
    /// What is asked for.
    pub url: Uri,
    /// Its process.
    pub pid: u32,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The figures.
    pub proxies: Proxies,
    /// What should be known beside them, such as which proxy does not offer what.
    pub notes: Vec<String>,
}

/// Why a proxy cannot be measured; the first word is its name.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A file of the client's.
    #[error(transparent)]
    File(ClientError),
    /// Nobody listens there.
    #[error("{0}: {1}")]
    Unreachable(String, String),
    /// It answers nothing, or no request with success.
    #[error("{name}, {work}: {reason}")]
    Unserved {
        /// The proxy's name.
        name: String,
        /// What was asked of it.
        work: Kind,
        /// What came of it.
        reason: String,
    },
    /// Its process.
    #[error("{0}: {1}")]
    Usage(String, #[source] UsageError),
    /// It served, and its process did not work for it.
    #[error("{0}: process {1} did nothing for what it served; is it the proxy's?")]
    Idle(String, u32),
    /// The load could not be put on.
    #[error("cannot put on the load: {0}")]
    System(#[from] io::Error),
}

/// A proxy that answers.
struct Proxy<'a> {
    target: &'a Target,
    peer: Peer,
    works: Vec<Kind>,
}

/// One window of one work on one proxy.
struct Sample {
    cpu_us: f64,
    per_second: f64,
    memory: u64,
    counts: Counts,
    first_failure: Option<String>,
}

impl Plan {
    /// How often is measured in all, if every proxy offers everything.
    pub fn windows(&self) -> u64 {
        (self.rounds * self.works.len() * self.targets.len()) as u64
    }

    /// Measures; `tell` hears after each window how many there were.
    pub async fn run(&self, tell: &dyn Fn(u64)) -> Result<Outcome, ProxyError> {
        let mut notes = Vec::new();
        let proxies = self.greet(&mut notes).await?;
        let turns = self.turns(&proxies);
        let mut samples: Vec<Vec<Sample>> = turns.iter().map(|_| Vec::new()).collect();
        let mut done = 0;
        for _ in 0..self.rounds {
            for (&(work, proxy), samples) in turns.iter().zip(&mut samples) {
                samples.push(self.measure(proxy, work).await?);
                done += 1;
                tell(done);
            }
        }
        let mut costs = Vec::new();
        for ((work, proxy), samples) in turns.iter().zip(&samples) {
            costs.push(cost(&proxy.target.name, *work, samples, &costs));
            notes.extend(errors(&proxy.target.name, *work, samples));
            notes.extend(full(&proxy.target.name, samples));
        }
        let proxies = Proxies { rounds: self.rounds, seconds: self.window.as_secs_f64(), costs };
        Ok(Outcome { proxies, notes })
    }

    /// One round: each work in turn, and of each work each proxy that offers it.
    fn turns<'a>(&self, proxies: &'a [Proxy<'a>]) -> Vec<(Kind, &'a Proxy<'a>)> {
        let of = |work: Kind| proxies.iter().filter(move |proxy| proxy.works.contains(&work));
        self.works.iter().flat_map(|work| of(*work).map(|proxy| (*work, proxy))).collect()
    }

    /// Asks each proxy once for each kind of work, before much time is spent.
    async fn greet(&self, notes: &mut Vec<String>) -> Result<Vec<Proxy<'_>>, ProxyError> {
        let tls = line::config(&self.ca, (&self.cert, &self.key)).map_err(ProxyError::File)?;
        let tls = Arc::new(tls);
        let mut proxies = Vec::new();
        for target in &self.targets {
            Usage::open(target.pid).map_err(|error| target.usage(error))?;
            let peer = target.find(&self.headers, &tls).await?;
            let mut works = Vec::new();
            for work in &self.works {
                match timeout(PATIENCE, offers(&peer, *work)).await {
                    Ok(Ok(None)) => works.push(*work),
                    Ok(Ok(Some(lacking))) => notes.push(format!("{} {lacking}", target.name)),
                    Ok(Err(failure)) => return Err(target.unserved(*work, &failure.to_string())),
                    Err(_) => return Err(target.unserved(*work, "no answer")),
                }
            }
            proxies.push(Proxy { target, peer, works });
        }
        Ok(proxies)
    }

    async fn measure(&self, proxy: &Proxy<'_>, work: Kind) -> Result<Sample, ProxyError> {
        let target = proxy.target;
        // It was there when it was greeted.
        let lost = |error| match error {
            UsageError::Unknown(pid) => target.usage(UsageError::Ended(pid)),
            error => target.usage(error),
        };
        let load = Load::start(&proxy.peer, work, self.connections, self.threads)?;
        sleep(WARM).await;
        // With a long list in its way, a proxy takes a while over the handshakes alone, which count for nothing here.
        let warming = Instant::now();
        while !load.has_begun() && warming.elapsed() < PATIENCE {
            sleep(LOOK).await;
        }
        let mut usage = Usage::open(target.pid).map_err(lost)?;
        let (before, begun) = (load.counts(), Instant::now());
        while begun.elapsed() < self.window {
            sleep_until((begun + self.window).min(Instant::now() + LOOK)).await;
            usage.look().map_err(lost)?;
        }
        let (counts, took) = (load.counts().since(before), begun.elapsed());
        if counts.served == 0 {
            let reason = load.first_failure().unwrap_or("no answer");
            let failed = counts.failed;
            return Err(target.unserved(work, &format!("none of {failed} requests was served: {reason}")));
        }
        let first_failure = load.first_failure().map(str::to_owned);
        drop(load);
        let cpu = usage.cpu();
        if cpu.is_zero() {
            return Err(ProxyError::Idle(target.name.clone(), target.pid));
        }
        Ok(Sample {
            cpu_us: cpu.as_secs_f64() * 1e6 / counts.served as f64,
            per_second: counts.served as f64 / took.as_secs_f64(),
            memory: usage.memory().map_err(lost)?,
            counts,
            first_failure,
        })
    }
}

impl Target {
    /// Finds an address of its host at which somebody listens.
    async fn find(&self, headers: &HeaderMap, tls: &Arc<rustls::ClientConfig>) -> Result<Peer, ProxyError> {
        let unreachable = |reason: String| ProxyError::Unreachable(self.name.clone(), reason);
        let host = self.url.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.url.port_u16().unwrap_or(443);
        let found =
            lookup_host((bare, port)).await.map_err(|error| unreachable(format!("{host}: {error}")))?;
        let mut last = unreachable(format!("{host} has no address"));
        for address in found {
            let peer = Peer::new(address, &self.url, headers, tls);
            let peer = peer.map_err(|failure| self.unserved(Kind::Http1, &failure.to_string()))?;
            match Line::open(&peer.speaking(Kind::Http1)).await {
                Ok(_) => return Ok(peer),
                Err(Failure::Client(error @ (ClientError::Unreachable(..) | ClientError::Dropped(..)))) => {
                    last = unreachable(error.to_string())
                }
                Err(failure) => last = self.unserved(Kind::Handshake, &failure.to_string()),
            }
        }
        Err(last)
    }

    fn usage(&self, error: UsageError) -> ProxyError {
        ProxyError::Usage(self.name.clone(), error)
    }

    fn unserved(&self, work: Kind, reason: &str) -> ProxyError {
        ProxyError::Unserved { name: self.name.clone(), work, reason: reason.to_owned() }
    }
}

/// What a proxy lacks of one kind of work; `None` if nothing.
async fn offers(peer: &Peer, work: Kind) -> Result<Option<&'static str>, Failure> {
    let peer = peer.speaking(work);
    if work == Kind::Resumption {
        for _ in 0..=TRIES {
            if once(&peer).await? == HandshakeKind::Resumed {
                return Ok(None);
            }
        }
        return Ok(Some("does not resume TLS sessions"));
    }
    match once(&peer).await {
        Ok(_) => Ok(None),
        Err(Failure::NoHttp2) => Ok(Some("does not offer HTTP/2")),
        Err(failure) => Err(failure),
    }
}

/// The medians of one kind of work on one proxy; `before` has those of the first.
fn cost(proxy: &str, work: Kind, samples: &[Sample], before: &[Cost]) -> Cost {
    let cpu_us = median(samples.iter().map(|sample| sample.cpu_us));
    let base = before.iter().find(|cost| cost.work == work).map_or(cpu_us, |first| first.cpu_us);
    Cost {
        proxy: proxy.to_owned(),
        work,
        cpu_us,
        ratio: cpu_us / base,
        per_second: median(samples.iter().map(|sample| sample.per_second)),
        errors: samples.iter().map(|sample| sample.counts.failed).sum(),
        memory: median(samples.iter().map(|sample| sample.memory as f64)) as u64,
    }
}

/// What went wrong.
fn errors(proxy: &str, work: Kind, samples: &[Sample]) -> Option<String> {
    let failed: u64 = samples.iter().map(|sample| sample.counts.failed).sum();
    let first = samples.iter().find_map(|sample| sample.first_failure.as_deref()).unwrap_or("unknown");
    (failed > 0).then(|| format!("{proxy}, {work}: {failed} requests were not served; the first: {first}"))
}

/// Sessions that were not resumed. There is nothing to resume yet in the first handshake of all, but that is before
/// anything counts.
fn full(proxy: &str, samples: &[Sample]) -> Option<String> {
    let sum = |count: fn(&Counts) -> u64| samples.iter().map(|sample| count(&sample.counts)).sum::<u64>();
    let (full, all) = (sum(|counts| counts.full), sum(|counts| counts.served));
    (full > 0).then(|| format!("{proxy} did not resume {full} of {all} TLS sessions; they are in the figure"))
}

/// The one in the middle, or between the two in the middle; not a number if there is none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    let half = values.len() / 2;
    match values.len().is_multiple_of(2) {
        true => f64::midpoint(at(half.wrapping_sub(1)), at(half)),
        false => at(half),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cpu_us: f64, failed: u64) -> Sample {
        let counts = Counts { served: 1000, failed, full: 0 };
        Sample { cpu_us, per_second: 1e6 / cpu_us, memory: cpu_us as u64, counts, first_failure: None }
    }

    #[test]
    fn a_cost_is_the_median_of_its_rounds_and_its_ratio_that_to_the_first() {
        let first = cost("a", Kind::Http1, &[sample(20.0, 1), sample(90.0, 0), sample(10.0, 2)], &[]);
        assert_eq!((first.cpu_us, first.ratio, first.errors, first.memory), (20.0, 1.0, 3, 20));
        let before = [Cost { work: Kind::Http2, ..first.clone() }, first];
        let second = cost("b", Kind::Http1, &[sample(10.0, 0), sample(20.0, 0)], &before);
        assert_eq!((second.cpu_us, second.ratio), (15.0, 0.75));
    }
}
