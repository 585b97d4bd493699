//! What runs beside the gate: the admin listener, the plain listener, housekeeping.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::net::TcpListener as StdListener;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prometheus::GaugeVec;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::task::JoinSet;
use tokio::task::spawn_local;
use tokio::time::MissedTickBehavior;
use tokio::time::timeout;
use tower_service::Service as _;

use super::ADMINISTRATORS;
use super::Error;
use super::Rules;
use super::Secured;
use super::Shared;
use super::Told;
use super::bind;
use super::descriptors;
use super::inherited::Assigned;
use super::room;
use crate::authority;
use crate::authority::Access;
use crate::authority::Api;
use crate::authority::Audit;
use crate::authority::Caller;
use crate::authority::Load;
use crate::authority::Recognised;
use crate::authority::Secret;
use crate::authority::Tokens;
use crate::clock::Clock;
use crate::clock::Timestamp;
use crate::config;
use crate::config::Config;
use crate::config::ConfigError;
use crate::identity::Binding;
use crate::identity::DnsName;
use crate::identity::Trust;
use crate::problem::Disclose;
use crate::proxy;
use crate::proxy::Body;
use crate::proxy::Bounds;
use crate::proxy::Clusters;
use crate::proxy::Connection;
use crate::proxy::Exchange;
use crate::proxy::Handler;
use crate::proxy::LimitSettings;
use crate::proxy::ListenerLimits;
use crate::proxy::Modes;
use crate::proxy::Peers;
use crate::proxy::Refusal;
use crate::proxy::RequestId;
use crate::revocation::Engine;
use crate::revocation::FeedState;
use crate::revocation::FeedStatus;
use crate::revocation::Feeds;
use crate::revocation::JournalError;
use crate::revocation::Registry;
use crate::revocation::Sightings;
use crate::telemetry;
use crate::telemetry::FeedMetrics;
use crate::telemetry::Health;
use crate::telemetry::LeftOut;
use crate::telemetry::LineKind;
use crate::telemetry::LineLimiter;
use crate::telemetry::LineSource;
use crate::telemetry::Metrics;
use crate::telemetry::Span;

/// The admin listener's bounds.
const ADMIN: Bounds = Bounds {
    connections: 512,
    room: 0,
    threads: 1,
    evicts: true,
    handshakes: 512,
    drain: Duration::from_secs(5),
};
/// How often refusals that were not audited one by one are summed up.
const SUM_UP: Duration = Duration::from_secs(10);
/// How often the certificates that were seen are written.
const FLUSH: Duration = Duration::from_secs(1);
/// How often feeds are looked at, and the lines that were left out.
const LOOK: Duration = Duration::from_secs(1);
/// How often a limit that lasts is logged.
const STILL: Duration = Duration::from_secs(10);
const UNACCEPTED: LineKind = LineKind::warning("metrics: cannot accept connections", "accept_failed");
/// How long the end of the process waits for the last spans to be exported.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// How often lapsed entries are looked for.
const EXPIRY: Duration = Duration::from_secs(60);

/// What runs beside the gate: the admin listener, the plain listener, housekeeping.
pub(super) struct Operations {
    shared: Shared,
    admin: Option<(StdListener, Secured, Arc<Api>)>,
    metrics: Option<StdListener>,
    condition: Condition,
    bounds: Bounds,
    /// Those of the admin listener.
    limits: Arc<ListenerLimits>,
    /// To be exported.
    pub(super) spans: Option<mpsc::Receiver<Span>>,
}

impl Operations {
    pub(super) fn bind(
        shared: &Shared,
        sockets: Assigned,
        gate: &Peers,
        gate_drains: watch::Receiver<bool>,
        audit: Option<Audit>,
    ) -> Result<Self, Error> {
        let config = &shared.config;
        let (engine, clock) = (Arc::clone(&shared.engine), shared.clock.clone());
        let feeds = Arc::clone(&shared.feeds);
        let clusters = Arc::clone(&shared.clusters);
        let few = (descriptors() / 32).clamp(4, ADMIN.connections);
        let bounds = Bounds { connections: few, room: room(1), handshakes: few, ..ADMIN };
        let limits = Arc::new(admin_limits(shared, few));
        let of_admin = config.admin.is_some().then(|| Arc::clone(&limits));
        let condition = Condition {
            engine,
            clock,
            gate_drains,
            feeds,
            clusters,
            limits: [Arc::clone(&shared.limits)].into_iter().chain(of_admin).collect(),
            lines: Arc::clone(&shared.lines),
            audit: audit.clone(),
            journal: config.state.dir.join(Engine::JOURNAL),
        };
        let mut admin = None;
        if let (Some(section), Some(audit)) = (&config.admin, audit) {
            let names = section.roles().into_iter().flat_map(|(.., names)| names);
            let names: Vec<DnsName> = names.filter_map(|name| DnsName::parse(name)).collect();
            let secured = match &section.tls {
                Some(tls) => shared.secure(tls, "admin.tls", &names, ADMINISTRATORS)?,
                None => shared.secure(&config.gate.tls, "gate.tls", &names, ADMINISTRATORS)?,
            };
            let trusted = [Arc::clone(gate.trust()), Arc::clone(secured.peers.trust())];
            let api = shared.api(section, gate.binding(), trusted, (audit, condition.clone()))?;
            let listener = bind(sockets.admin, "admin.listen", section.listen, 1)?;
            admin = listener.into_iter().next().map(|bound| (bound, secured, api));
        }
        let metrics = match &config.metrics {
            Some(section) => bind(sockets.metrics, "metrics.listen", section.listen, 1)?.into_iter().next(),
            None => None,
        };
        Ok(Self { shared: shared.clone(), admin, metrics, condition, bounds, limits, spans: None })
    }

    pub(super) fn addresses(&self) -> io::Result<(Option<SocketAddr>, Option<SocketAddr>)> {
        let admin = self.admin.as_ref().map(|(listener, ..)| listener.local_addr()).transpose()?;
        Ok((admin, self.metrics.as_ref().map(StdListener::local_addr).transpose()?))
    }

    /// Takes the listeners into the runtime at hand; what is returned runs until it is told to drain, or one of its tasks
    /// fails.
    pub(super) fn begin(
        mut self,
        drain: watch::Receiver<bool>,
        (notices, threads): Told,
    ) -> io::Result<impl Future<Output = io::Result<()>>> {
        let metrics = self.metrics.take().map(TcpListener::from_std).transpose()?;
        let admin = self.admin.take().map(|(listener, secured, api)| {
            Ok::<_, io::Error>((TcpListener::from_std(listener)?, secured, api))
        });
        let admin = admin.transpose()?;
        Ok(async move {
            let (mut tasks, shared) = (JoinSet::new(), self.shared.clone());
            let (told, gate_drains) = (self.condition.clone(), self.condition.gate_drains.clone());
            tasks.spawn_local(async move { notices.watch(|| told.in_words(), threads, gate_drains).await });
            if let Some(listener) = metrics {
                let health = Rc::new(self.condition.clone());
                tasks.spawn_local(telemetry::serve(listener, shared.metrics.clone(), health));
            }
            tasks.spawn_local(keep_house(Arc::clone(&shared.engine)));
            tasks.spawn_local(tell_left_out(Arc::clone(&shared.lines), shared.clock.clone()));
            tasks.spawn_local(tell_lasting_limits(Arc::clone(&self.condition.limits)));
            tasks.spawn_local(watch_feeds(Arc::clone(&shared.feeds), shared.clock.clone()));
            tasks.spawn_local(keep_registry(Arc::clone(&shared.registry), Arc::clone(&shared.engine)));
            tasks.spawn_local(proxy::watch_upstreams(shared.clusters.all().to_vec()));
            if let Some((_, _, api)) = &admin {
                tasks.spawn_local(sum_up(Arc::clone(api)));
                let watching = Arc::clone(api);
                tasks.spawn_local(async move { watching.watch_advisory().await });
            }
            tokio::select! {
                () = self.serve(admin, drain) => Ok(()),
                failure = first_failure(tasks) => Err(io::Error::other(failure)),
            }
        })
    }

    /// Serves the admin listener, if there is one, until the drain; then lets the last spans go.
    async fn serve(self, admin: Option<(TcpListener, Secured, Arc<Api>)>, mut drain: watch::Receiver<bool>) {
        let Self { shared, bounds, limits, spans, .. } = self;
        let exporter = spans.map(|spans| spawn_local(shared.export(spans, drain.clone())));
        match admin {
            None => {
                // The sender lives until the gate has drained; losing it means the same.
                let _ = drain.wait_for(|drain| *drain).await;
            }
            Some((listener, secured, api)) => {
                let router = authority::router(Arc::clone(&api));
                // Strict, whatever the gate's mode: nobody without a credential that stands changes anything.
                // Whatever feeds say: who revokes by hand, or looks why a feed is stale, is let in.
                let (modes, disclose) = (Modes::Strict, Disclose::Reason);
                let rules = Rules { modes, disclose, feeds: None, limits };
                let context =
                    shared.context("admin", secured, rules, Admin { router, api: Arc::clone(&api) });
                proxy::accept(listener, context, drain, bounds).await;
                api.sum_up_all().await;
                api.end_advisory_with_process().await;
            }
        }
        if let Some(exporter) = exporter {
            let _ = timeout(LAST_SPANS, exporter).await;
        }
        // The gate's threads have ended before this one.
        shared.lines.rest(shared.clock.elapsed()).iter().for_each(LeftOut::log);
    }
}

/// The limits of the admin listener, which has so many connections.
fn admin_limits(shared: &Shared, connections: usize) -> ListenerLimits {
    let settings = LimitSettings {
        connections: format!(
            "{connections} connections of callers without a role: a 32nd of the file descriptors (LimitNOFILE=)"
        ),
        beyond_connections: "the oldest connection of a caller without a role is closed for a new client",
        handshakes: None,
        of_clients: None,
    };
    let limits = ListenerLimits::new("admin", &settings, shared.clock.clone(), &shared.metrics);
    limits.limiting_lines(Arc::clone(&shared.lines))
}

/// Waits until a task has failed; those that are through are not missed.
async fn first_failure(mut tasks: JoinSet<()>) -> JoinError {
    loop {
        match tasks.join_next().await {
            Some(Ok(())) => {}
            Some(Err(failure)) => return failure,
            None => std::future::pending().await,
        }
    }
}

/// The handler of the admin listener.
struct Admin {
    router: Router,
    api: Arc<Api>,
}

impl Handler for Admin {
    type Route = ();

    const TAKES_TOKENS: bool = true;

    fn authenticates_itself(&self, request: &Request<Incoming>) -> bool {
        authority::authenticates_itself(request)
    }

    fn route(&self, _: &Request<Incoming>) -> Result<(), Refusal> {
        Ok(())
    }

    fn judge(&self, _: &Request<Incoming>, _: &Connection, (): &()) -> Result<(), Refusal> {
        // The API judges its callers itself: what they may do depends on what they ask.
        Ok(())
    }

    /// A revoked administrator gets no further than to her connection; that she tried is on record all the same.
    async fn refused(&self, refusal: &Refusal, connection: &Connection, id: RequestId) {
        let (principal, address) = (connection.peer().map(|peer| peer.principal()), connection.address());
        let (_, code) = refusal.status();
        self.api.record_denial(principal.unwrap_or_default(), code, address, &id.to_string()).await;
    }

    async fn serve(
        &self,
        mut request: Request<Incoming>,
        exchange: &Exchange,
        connection: &Rc<Connection>,
        (): (),
    ) -> Result<Response<Body>, Refusal> {
        // Beside a token the certificate has no say: it was not checked.
        let peer = connection.peer().filter(|_| !self.authenticates_itself(&request));
        let identity = peer.map(|peer| &peer.identity);
        let recognised = Recognised::default();
        request.extensions_mut().insert(Caller {
            principal: identity.and_then(|known| known.as_ref().ok()).map(|known| known.principal.clone()),
            refused: identity.and_then(|known| known.as_ref().err()).map(ToString::to_string),
            address: connection.address(),
            request_id: exchange.id().to_string(),
            guard: connection.guard(),
            tokens: connection.extensions().borrow_mut().get_or_insert_default::<Tokens>().clone(),
            recognised: recognised.clone(),
        });
        let counter = exchange.counter();
        let request = request.map(|body| {
            axum::body::Body::new(body.map_frame(move |frame| {
                counter.iter().for_each(|counter| counter.count(&frame));
                frame
            }))
        });
        let mut router = self.router.clone();
        let mut call = pin!(router.call(request));
        // As soon as the caller is known, not with the answer: else strangers who fill the listener end the connection of a
        // call that waits for the disk.
        let answered = poll_fn(|cx| {
            let polled = call.as_mut().poll(cx);
            if recognised.is_noted() {
                connection.vouch();
            }
            polled
        });
        let Ok(response) = answered.await;
        Ok(response.map(|body| Body::Other(body.map_err(Into::into).boxed_unsync())))
    }
}

/// How the process is.
#[derive(Clone)]
struct Condition {
    engine: Arc<Engine>,
    clock: Clock,
    gate_drains: watch::Receiver<bool>,
    feeds: Arc<Feeds>,
    clusters: Arc<Clusters>,
    /// Those of the gate, and of the admin listener if there is one.
    limits: Arc<[Arc<ListenerLimits>]>,
    lines: Arc<LineLimiter>,
    audit: Option<Audit>,
    /// The file that holds what is revoked.
    journal: PathBuf,
}

/// What helps where the journal cannot be written; nothing where the fault says so itself.
fn remedy(fault: &JournalError) -> &'static str {
    if matches!(fault, JournalError::Write(_)) { ": make room on the disk, or mend it" } else { "" }
}

impl Condition {
    /// The lines and changes that wait in memory because the disk does not take them, in words.
    fn disk_fault(&self) -> Option<String> {
        let journal = self.engine.journal_fault().map(|fault| {
            format!(
                "the journal {} cannot be written ({fault}){}; revocations are in effect, but in memory only",
                self.journal.display(),
                remedy(&fault)
            )
        });
        let audit = self.audit.as_ref().filter(|audit| !audit.is_durable()).map(|audit| {
            let waiting = audit.waiting();
            let lines =
                if waiting == 1 { "1 line waits".to_owned() } else { format!("{waiting} lines wait") };
            format!("the audit cannot be written; {lines} in memory")
        });
        let faults: Vec<String> = journal.into_iter().chain(audit).collect();
        (!faults.is_empty()).then(|| faults.join("; "))
    }

    /// For the service manager's status line.
    fn in_words(&self) -> String {
        match self.ready() {
            Ok(()) => {
                let warnings: String =
                    self.warnings().into_iter().map(|warning| format!("; {warning}")).collect();
                format!("serving, {} revoked or suspended{warnings}", self.engine.entries())
            }
            Err(why) => format!("serving, but not ready: {why}"),
        }
    }
}

impl Health for Condition {
    fn refresh(&self, metrics: &Metrics) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.expiries.refresh(self.clock.now().secs());
        metrics.sessions.set(number(self.engine.sessions().len()));
        metrics.entries.set(number(self.engine.entries()));
        metrics.generation.set(i64::try_from(self.engine.generation()).unwrap_or(i64::MAX));
        self.clusters.all().iter().for_each(|cluster| cluster.show());
        let durable = self.engine.is_durable() && self.audit.as_ref().is_none_or(Audit::is_durable);
        metrics.durable.set(i64::from(durable));
        metrics.audit_damages.set(number(self.audit.as_ref().map_or(0, Audit::damages)));
        let lasting = self.engine.break_glass().lasting();
        metrics.advisory.set(i64::from(lasting.is_some()));
        let remaining = lasting.map_or(0, |declared| declared.remaining().as_secs());
        metrics.advisory_remaining.set(i64::try_from(remaining).unwrap_or(i64::MAX));
        let now = self.clock.now();
        self.feeds.status(now).iter().for_each(|feed| show(feed, now, &metrics.feeds));
        self.limits.iter().for_each(|limits| limits.show());
    }

    /// A gate at its limits is ready: without it, its clients would bring the next one to its limits.
    fn warnings(&self) -> Vec<String> {
        self.limits.iter().flat_map(|limits| limits.warnings()).collect()
    }

    fn cannot_accept(&self, error: &io::Error) {
        if let Some(unsaid) = self.lines.admit(UNACCEPTED, LineSource::Unknown, self.clock.elapsed()) {
            tracing::warn!(%error, unsaid, "{}", UNACCEPTED.message());
        }
    }

    fn ready(&self) -> Result<(), String> {
        if *self.gate_drains.borrow() {
            return Err("draining".into());
        }
        match self.disk_fault() {
            Some(fault) => Err(fault),
            // Whoever depends on a stale feed is served all the same.
            None if self.engine.break_glass().is_on() => Ok(()),
            None => self.feeds.ready(self.clock.now()),
        }
    }
}

/// Brings the gauges of one feed up to date.
fn show(feed: &FeedStatus, now: Timestamp, metrics: &FeedMetrics) {
    let secs = |at: Timestamp| Duration::as_secs_f64(&now.since(at));
    let set = |gauges: &GaugeVec, value: f64| gauges.with_label_values(&[&feed.name]).set(value);
    set(&metrics.age, feed.read.map_or(f64::INFINITY, secs));
    set(&metrics.fresh, f64::from(u8::from(feed.state == FeedState::Fresh)));
    set(&metrics.entries, feed.entries.unwrap_or(0) as f64);
    // What is not so any more is gone; it may not have been there.
    match feed.next_update {
        Some(next) => set(&metrics.next_update, next.since(now).as_secs_f64() - secs(next)),
        None => drop(metrics.next_update.remove_label_values(&[&feed.name])),
    }
    match feed.last_error_at {
        Some(at) => set(&metrics.last_error, secs(at)),
        None => drop(metrics.last_error.remove_label_values(&[&feed.name])),
    }
}

/// Sees feeds become stale, on time and by every clock.
async fn watch_feeds(feeds: Arc<Feeds>, clock: Clock) {
    let mut turns = tokio::time::interval(LOOK);
    loop {
        turns.tick().await;
        feeds.look(clock.now());
    }
}

/// Logs how many lines were left out of clients that have gone quiet.
async fn tell_left_out(lines: Arc<LineLimiter>, clock: Clock) {
    let mut turns = tokio::time::interval(LOOK);
    loop {
        turns.tick().await;
        lines.quiet(clock.elapsed()).iter().for_each(LeftOut::log);
    }
}

/// Logs the limits that keep clients waiting, for as long as they do.
async fn tell_lasting_limits(limits: Arc<[Arc<ListenerLimits>]>) {
    let mut turns = tokio::time::interval(STILL);
    loop {
        turns.tick().await;
        limits.iter().for_each(|limits| limits.tell_lasting());
    }
}

async fn keep_house(engine: Arc<Engine>) {
    let mut turns = tokio::time::interval(EXPIRY);
    loop {
        turns.tick().await;
        let mut lapsed = 0;
        engine.note_uptime();
        for part in engine.due() {
            lapsed += engine.expire_part(part);
            // Millions may lapse at once, and this thread also takes revocations in.
            tokio::task::yield_now().await;
        }
        if lapsed > 0 {
            tracing::info!(lapsed, "revocations lapsed with the credentials that they hit");
        }
    }
}

async fn sum_up(api: Arc<Api>) {
    let mut turns = tokio::time::interval(SUM_UP);
    loop {
        turns.tick().await;
        api.sum_up().await;
    }
}

async fn keep_registry(registry: Arc<Registry>, engine: Arc<Engine>) {
    let mut turns = tokio::time::interval(FLUSH);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let (registry, engine) = (Arc::clone(&registry), Arc::clone(&engine));
        // It waits for the disk, which nothing else of this runtime may.
        let keep = move || {
            registry.flush();
            registry.keep_authorities(engine.authorities());
        };
        if let Err(error) = tokio::task::spawn_blocking(keep).await {
            tracing::error!(%error, "the registry's housekeeping failed");
        }
    }
}

impl Shared {
    /// Exports spans until the end of the process.
    #[cfg(feature = "otel")]
    fn export(
        &self,
        spans: mpsc::Receiver<Span>,
        drain: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + 'static {
        let endpoint = self.config.trace.as_ref().map(|trace| trace.endpoint.clone()).unwrap_or_default();
        telemetry::export(spans, endpoint, self.metrics.traffic.spans_lost.clone(), drain)
    }

    /// No span comes: a configuration that asks for them was refused.
    #[cfg(not(feature = "otel"))]
    fn export(
        &self,
        _: mpsc::Receiver<Span>,
        _: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + 'static {
        std::future::ready(())
    }

    /// What the admin API acts on.
    fn api(
        &self,
        section: &config::Admin,
        binding: &Binding,
        [trust, admins]: [Arc<Trust>; 2],
        (audit, condition): (Audit, Condition),
    ) -> Result<Arc<Api>, Error> {
        let names =
            section.roles().into_iter().flat_map(|(role, _, names)| names.iter().map(move |n| (n, role)));
        let roles = names.map(|(name, role)| (name.clone(), role)).collect();
        let (engine, registry) = (Arc::clone(&self.engine), Arc::clone(&self.registry));
        Ok(Arc::new(Api {
            sightings: Sightings::new(engine, registry, binding.trust_domains())
                .administrators(section.names()),
            engine: Arc::clone(&self.engine),
            registry: Arc::clone(&self.registry),
            feeds: Arc::clone(&self.feeds),
            timelines: Arc::clone(&self.timelines),
            audit,
            access: Access::new(roles, load_secrets(&self.config, section)?, section.limits),
            trust,
            admins,
            binding: binding.clone(),
            modes: Modes::of(&self.config.route).name(),
            advisory_max: section.advisory_max,
            ready: Box::new(move || condition.ready()),
            patience: self.config.gate.timeouts.body_idle,
            clock: self.clock.clone(),
            started: self.clock.now(),
            metrics: self.metrics.clone(),
            load: Load::default(),
            lines: Arc::clone(&self.lines),
        }))
    }
}

/// Reads the secrets that a configuration names.
pub(super) fn load_secrets(config: &Config, section: &config::Admin) -> Result<Vec<Secret>, ConfigError> {
    let read = |(i, secret)| {
        Secret::read(secret).map_err(|e| config.error(&format!("admin.secret[{i}].file"), e.to_string()))
    };
    section.secret.iter().enumerate().map(read).collect()
}
