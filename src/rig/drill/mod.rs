//! One revocation on a running deployment, seen from outside.
//!
//! Probes ask as the victim and as a bystander, over every kind of connection, in a steady rhythm; then the victim is
//! revoked, and they go on asking. The last request that was still served is the truth; a refusal says less, because it
//! may come from one way in while another is open.

mod checks;
mod hoard;
mod judge;
mod means;
mod party;
mod probe;
mod shell;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http::Method;
use http::Response;
use http_body_util::Full;
use tokio::time::sleep;

pub use means::Api;
pub use means::Means;
pub use means::Told;
pub use party::Files;
pub use party::Visitor;
pub use party::may_be_revoked;
pub use probe::Place;

use super::client;
use super::client::ClientError;
use super::client::Conversation;
use super::findings;
use super::findings::Call;
use super::findings::Check;
use super::findings::Drill;
use super::findings::Kind;
use super::findings::Outcome;
use super::findings::Verdict;
use super::findings::Who;
use super::setup::shown_url;
use super::upload::Upload;
use super::upstream::Upstream;
use judge::Asked;
use probe::Log;
use probe::Probe;
use probe::Task;

/// How long a call or command may take beyond the window.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long everybody goes on after the call was answered, at least.
const AFTERMATH: Duration = Duration::from_secs(1);
/// How long it may take until every probe is served.
const BUSY_WITHIN: Duration = Duration::from_secs(20);
/// What a probe is served before anything is revoked, at least.
const BUSY: u64 = 3;
/// What the body of a request has in all, at most: many servers take no more than 1 MiB.
const BODY: usize = 512 * 1024;

/// How a drill goes.
pub struct Plan {
    /// Where requests go.
    pub place: Place,
    /// The file of the authority that vouches for the server.
    pub ca: PathBuf,
    /// Who is revoked.
    pub victim: Visitor,
    /// Who is not.
    pub bystander: Option<Visitor>,
    /// How.
    pub means: Means,
    /// Over what is asked.
    pub kinds: Vec<Kind>,
    /// Which of these must be offered.
    pub demanded: Vec<Kind>,
    /// How many probes of each kind.
    pub connections: usize,
    /// Tries a second, of each probe.
    pub rate: f64,
    /// How long before the call.
    pub before: Duration,
    /// How long after it.
    pub window: Duration,
    /// A command that writes a fresh certificate for the victim to `DRILL_CERT`, and its key to `DRILL_KEY`.
    pub recover_with: Option<String>,
    /// A file to which lines about the revocation should be added.
    pub audit_log: Option<PathBuf>,
    /// Whether anything is checked besides, which revokes once more.
    pub checks: bool,
    /// Whether a URL is also told of a serial that nobody has.
    pub unknown_serial: bool,
    /// When the last request of the victim may have been served, at the latest, after the call was sent.
    pub max_last_served: Option<Duration>,
    /// How many requests of bystanders may be lost.
    pub max_bystander_errors: usize,
    /// The service behind the server, if it is the drill's own: what it reads of an upload is looked at as well.
    pub upstream: Option<Upstream>,
}

/// Why there is nothing to be seen.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// Somebody cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Somebody is not served although nothing is revoked yet.
    #[error(
        "the {0} is not served over a {1}, before anything is revoked: {2} (--kinds asks over others alone)"
    )]
    Idle(&'static str, String, String),
    /// The system.
    #[error("{0}: {1}")]
    System(&'static str, #[source] io::Error),
    /// The drill's own service is not the one behind the server.
    #[error("--upstream {0}: no upload gets there: does the server lead to it?")]
    NoUpload(SocketAddr),
    /// The audit log.
    #[error("--audit-log {path}: {1}", path = .0.display())]
    AuditLog(PathBuf, #[source] io::Error),
}

/// What was seen of a revocation; the checks are yet to come.
pub struct Seen {
    drill: Drill,
    audited: Check,
    uploaded: Option<Check>,
}

/// Revokes, and sees what comes of it. `revoking` is called when the victim is about to be.
///
/// # Errors
/// If somebody is not served before anything is revoked. What happens afterwards is a finding, never an error.
pub async fn watch(plan: &Plan, revoking: &dyn Fn()) -> Result<Seen, DrillError> {
    let audited_to = || plan.audit_log.as_deref().map(checks::end_of).transpose();
    audited_to()?;
    for (who, visitor) in plan.visitors() {
        let (outcome, words) = visit(&plan.place, visitor).await?;
        if outcome != Outcome::Served {
            return Err(DrillError::Idle(name(who), "new connection".into(), words));
        }
    }
    drop(plan.means.ready().await?);
    let probes = plan.probes()?;
    let probes = busy(probes, plan.before).await?;
    // Anew: a server may be tired of a connection on which nothing is asked.
    let ready = plan.means.ready().await?;
    let audited_to = audited_to()?;
    let upload = plan.upload().await?;
    probes.iter().for_each(Probe::call);
    revoking();
    let told = plan.means.revoke(ready, &plan.victim.party, plan.window + PATIENCE).await;
    let uploaded = match upload {
        Some(upload) => Some(checks::uploaded(&upload.read_on().await)),
        None => None,
    };
    let until = told.answered.unwrap_or_else(Instant::now) + AFTERMATH;
    sleep((told.sent + plan.window).max(until).saturating_duration_since(Instant::now())).await;
    let looked = told.sent.elapsed();
    let logs = finish(probes).await;
    let audited = checks::audited(plan, audited_to);
    Ok(Seen { drill: plan.found(logs, told, looked), audited, uploaded })
}

impl Seen {
    /// Checks what an incident relies on besides, unless it is interrupted: whether it was.
    pub async fn checked(mut self, plan: &Plan, interrupted: impl Future<Output = ()>) -> (Drill, bool) {
        if !plan.checks {
            return (self.with(checks::none("not asked for (--skip-checks)")), false);
        }
        let mut said = Vec::new();
        let checks = tokio::select! {
            biased;
            () = interrupted => None,
            checks = checks::all(plan, &mut said) => Some(checks),
        };
        self.drill.said.append(&mut said);
        match checks {
            Some(checks) => (self.with(checks), false),
            None => {
                let mut drill = self.with(checks::none("interrupted"));
                drill.failures.push("interrupted before everything was checked".to_owned());
                (drill, true)
            }
        }
    }

    fn with(self, mut checks: Vec<Check>) -> Drill {
        let mut drill = self.drill;
        checks.push(self.audited);
        checks.extend(self.uploaded);
        let failed = checks.iter().filter(|check| check.passed == Some(false));
        drill.failures.extend(failed.map(|check| format!("not so: {}: {}", check.name, check.detail)));
        drill.checks = checks;
        drill
    }
}

impl Plan {
    fn visitors(&self) -> impl Iterator<Item = (Who, &Visitor)> {
        let bystander = self.bystander.iter().map(|visitor| (Who::Bystander, visitor));
        bystander.chain([(Who::Victim, &self.victim)])
    }

    fn probes(&self) -> Result<Vec<Probe>, DrillError> {
        let every = Duration::from_secs_f64(1.0 / self.rate);
        let most = (self.before + self.window + BUSY_WITHIN).as_secs_f64() * self.rate;
        let piece = (BODY as f64 / most).clamp(1.0, 1024.0) as usize;
        let tries = ((self.window.as_secs_f64() * self.rate).ceil() as usize).min(hoard::MOST);
        let mut probes = Vec::new();
        for (who, visitor) in self.visitors() {
            for &kind in &self.kinds {
                for number in 0..self.connections {
                    let task = Task { who, kind, number, every, piece, tries };
                    let started = Probe::start(task, &self.place, visitor);
                    probes.push(started.map_err(|e| DrillError::System("cannot start a probe", e))?);
                }
            }
        }
        Ok(probes)
    }

    /// An upload of the victim, of which the drill's own service has read the header alone.
    async fn upload(&self) -> Result<Option<Upload>, DrillError> {
        let Some(upstream) = &self.upstream else { return Ok(None) };
        let mut tls = self.victim.tls.clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = client::connect(&tls.into(), self.place.address, &self.place.server).await?;
        let request = probe::request(&self.place, &self.victim.headers, false).method(Method::POST);
        let begun = Upload::begin(upstream.uploads(), Conversation::begin(stream).await?, request).await;
        begun.map(Some).ok_or_else(|| DrillError::NoUpload(upstream.address()))
    }

    /// What the logs say, and what is wrong with it.
    fn found(&self, logs: Vec<Log>, told: Told, looked: Duration) -> Drill {
        let asked = Asked { sent: told.sent, answered: told.answered, ended: told.sent + looked };
        let mut failures = self.failures(&logs, &told, &asked);
        let vouched: Vec<Kind> = logs.iter().filter_map(|log| vouches(log, &asked)).collect();
        let judged = |log: Log| {
            let vouched = vouched.contains(&log.task.kind);
            judge::judge(log, &asked, vouched)
        };
        let probes: Vec<_> = logs.into_iter().map(judged).collect();
        let said = told.said().into_iter().collect();
        let victims = || probes.iter().filter(|probe| probe.who == Who::Victim);
        for probe in victims() {
            failures.extend(fault(probe, self.max_last_served));
            if probe.verdict == Verdict::NotOffered && self.demanded.contains(&probe.kind) {
                failures.push(format!("a {} was asked for and is not offered", probe.kind));
            }
        }
        failures.extend(self.kinds.iter().filter_map(|&kind| offered_to_some(&probes, kind)));
        if victims().all(|probe| probe.verdict == Verdict::NotOffered) {
            failures.push("the server offers nothing of what is asked".to_owned());
        }
        Drill {
            url: shown_url(&self.place.url.to_string()),
            address: self.place.address.to_string(),
            victim: self.victim.party.clone(),
            bystander: self.bystander.as_ref().map(|bystander| bystander.party.clone()),
            how: self.means.words(),
            call: Call {
                answered_us: told.answered.map(|at| judge::since(told.sent, at)),
                succeeded: told.succeeded,
                told: told.words,
            },
            window_us: u64::try_from(looked.as_micros()).unwrap_or(u64::MAX),
            before_us: u64::try_from(self.before.as_micros()).unwrap_or(u64::MAX),
            rate: self.rate,
            probes,
            checks: Vec::new(),
            failures,
            said,
        }
    }

    /// What is wrong with the call, and with what bystanders saw.
    fn failures(&self, logs: &[Log], told: &Told, asked: &Asked) -> Vec<String> {
        let mut failures = Vec::new();
        if !told.succeeded {
            failures.push(format!("the revocation failed: {}", told.words));
        }
        let all = self.visitors().count() * self.kinds.len() * self.connections;
        if logs.len() != all {
            failures.push(format!("{} of {all} probes came back", logs.len()));
        }
        for log in logs {
            if let Some(words) = refused_before(log, asked.sent) {
                let (who, kind) = (name(log.task.who), log.task.kind);
                failures.push(format!(
                    "the {who} was refused over a {kind} before anything was revoked: {words}"
                ));
            }
        }
        let bystanders = || logs.iter().filter(|log| log.task.who == Who::Bystander);
        for log in bystanders() {
            if let Some(words) = judge::at_the_end(log, asked) {
                failures.push(format!(
                    "the bystander is not served over a {} at the end: {words}",
                    log.task.kind
                ));
            }
        }
        let losses =
            || bystanders().flat_map(|log| judge::losses(log, asked).map(move |lost| (log.task.kind, lost)));
        let lost = losses().count();
        if let Some((kind, first)) = losses().next().filter(|_| lost > self.max_bystander_errors) {
            failures
                .push(format!("the bystander lost {lost} tries, the first over a {kind}: {}", first.words));
        }
        failures
    }
}

/// The kind of connection over which a bystander was served to the end.
fn vouches(log: &Log, asked: &Asked) -> Option<Kind> {
    let served = log.not_offered.is_none() && judge::at_the_end(log, asked).is_none();
    (log.task.who == Who::Bystander && served).then_some(log.task.kind)
}

/// What is wrong with a kind that is offered to one probe and not to another.
fn offered_to_some(probes: &[findings::Probe], kind: Kind) -> Option<String> {
    let of_kind = || probes.iter().filter(|probe| probe.kind == kind);
    let not = of_kind().find(|probe| probe.verdict == Verdict::NotOffered)?;
    let some = of_kind().any(|probe| probe.verdict != Verdict::NotOffered);
    let words = not.refusal.as_deref().unwrap_or_default();
    some.then(|| format!("a {kind} is not offered to one {}, and to another it is: {words}", name(not.who)))
}

/// Whose it is, in messages.
fn name(who: Who) -> &'static str {
    match who {
        Who::Victim => "victim",
        Who::Bystander => "bystander",
    }
}

/// Waits until every probe was served for a while, but for those whose kind is not offered.
async fn busy(probes: Vec<Probe>, before: Duration) -> Result<Vec<Probe>, DrillError> {
    let begun = Instant::now();
    let waits = |probe: &Probe| !probe.is_done() && probe.served() < BUSY;
    while begun.elapsed() < before || probes.iter().any(waits) {
        if begun.elapsed() > before + BUSY_WITHIN {
            let mut logs = finish(probes).await.into_iter();
            let lazy = logs.find(|log| log.not_offered.is_none() && served(log) < BUSY);
            let told = lazy.map(|log| {
                let last = log.sights.last().map_or("nothing came", |sight| sight.words.as_str());
                DrillError::Idle(name(log.task.who), log.task.kind.to_string(), last.to_owned())
            });
            return Err(told.unwrap_or_else(|| {
                DrillError::System("a probe", io::Error::other("has ended before it began"))
            }));
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(probes)
}

fn served(log: &Log) -> u64 {
    log.sights.iter().filter(|sight| sight.outcome == Outcome::Served).count() as u64
}

/// Stops all of them, and only then waits for each.
async fn finish(probes: Vec<Probe>) -> Vec<Log> {
    probes.iter().for_each(Probe::stop);
    let wait = || probes.into_iter().map(Probe::finish).collect();
    tokio::task::spawn_blocking(wait).await.unwrap_or_default()
}

/// One request on a connection of its own.
async fn visit(place: &Place, visitor: &Visitor) -> Result<(Outcome, String), ClientError> {
    let mut tls = visitor.tls.clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let request = probe::request(place, &visitor.headers, false).body(Full::default());
    let request = request.map_err(|e| ClientError::Broken(place.url.to_string(), e.to_string()))?;
    let answer: Response<Bytes> = probe::in_time(async {
        let stream = client::connect(&tls.into(), place.address, &place.server).await?;
        Conversation::begin(stream).await?.send(request).await
    })
    .await?;
    Ok((probe::judge(&answer), probe::words(&answer)))
}

/// The first refusal of somebody who was not revoked yet.
fn refused_before(log: &Log, call: Instant) -> Option<&str> {
    let refusal = log.sights.iter().find(|sight| sight.outcome == Outcome::Refused && sight.at < call)?;
    log.not_offered.is_none().then_some(refusal.words.as_str())
}

/// What is wrong with what the victim saw over one kind of connection.
fn fault(probe: &findings::Probe, most: Option<Duration>) -> Option<String> {
    let kind = probe.kind;
    let is_late = |at: i64| most.is_some_and(|most| i128::from(at) > most.as_micros() as i128);
    let why = probe.refusal.as_deref().unwrap_or_default();
    match (probe.verdict, probe.last_served_us, probe.refused_from_us) {
        (Verdict::NotOffered, ..) => None,
        (Verdict::Served, ..) => Some(format!("the victim is still served over a {kind} at the end")),
        (Verdict::Flapped, ..) => {
            Some(format!("the victim was refused over a {kind}, and then served again"))
        }
        (Verdict::Unclear, ..) => Some(format!("what becomes of the victim over a {kind} is unclear: {why}")),
        (Verdict::Refused, Some(at), _) if is_late(at) => {
            Some(format!("the victim was served over a {kind} until {} ms after the call", at / 1000))
        }
        (Verdict::Refused, _, Some(from)) if is_late(from) => Some(format!(
            "the victim was refused over a {kind} only from {} ms after the call on",
            from / 1000
        )),
        (Verdict::Refused, ..) => None,
    }
}
