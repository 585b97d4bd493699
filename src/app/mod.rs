//! From a configuration to bound listeners, running threads, and their end. The only room that knows every other.
//!
//! The gate runs one single-threaded runtime a core, each with its own listener, connections and upstream
//! connections. The admin listener, the plain listener and all housekeeping run on a runtime of their own, so that no
//! load on the gate delays a revocation, nor the reverse. Shared between them: the engine, the metrics, the peers.

mod descriptors;
mod inherited;
mod operations;
mod running;
mod state;
mod supervisor;
mod threads;
mod witness;

use std::io;
use std::net::SocketAddr;
use std::net::TcpListener as StdListener;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rustix::io::Errno;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use descriptors::descriptors;
use operations::Operations;
use operations::load_secrets;
pub use running::Running;
pub use state::StateError;
pub use state::find as find_state;
pub use state::init as init_state;
use supervisor::Notices;
pub use supervisor::Supervisor;
use threads::Thread;

use crate::authority;
use crate::authority::Audit;
use crate::authority::Role;
use crate::clock::Clock;
use crate::config;
use crate::config::Config;
use crate::config::ConfigError;
use crate::feed;
use crate::feed::Intake;
use crate::identity::Binding;
use crate::identity::ClaimSource;
use crate::identity::DnsName;
use crate::identity::Trust;
use crate::problem::Disclose;
use crate::proxy;
use crate::proxy::Bounds;
use crate::proxy::Clusters;
use crate::proxy::Context;
use crate::proxy::Demand;
use crate::proxy::Exchanges;
use crate::proxy::Gate;
use crate::proxy::LimitSettings;
use crate::proxy::Limits;
use crate::proxy::ListenerLimits;
use crate::proxy::Modes;
use crate::proxy::Peers;
use crate::proxy::RejectAt;
use crate::proxy::RouteConfig;
use crate::proxy::RouteUpstream;
use crate::proxy::Strangers;
use crate::proxy::Telling;
use crate::proxy::TlsConfig;
use crate::proxy::TlsError;
use crate::revocation;
use crate::revocation::Engine;
use crate::revocation::Feeds;
use crate::revocation::Registry;
use crate::revocation::Sightings;
use crate::revocation::Timelines;
use crate::session::Heeds;
use crate::telemetry::AccessConfig;
use crate::telemetry::AccessLog;
use crate::telemetry::AccessLogWriter;
use crate::telemetry::LineLimiter;
use crate::telemetry::LostLines;
use crate::telemetry::Metrics;
use crate::telemetry::Span;
use crate::telemetry::Tracer;

/// The clients that a listener accepts.
struct Clients {
    strangers: Strangers,
    /// Of each client; `None` where the handler has its own.
    limits: Option<Limits>,
    heeds: Heeds,
}

/// The clients of the admin listener: it lets every handshake finish, because a token counts beside any certificate; it has
/// limits of its own; and it heeds no unsigned message.
const ADMINISTRATORS: Clients = Clients { strangers: Strangers::LetIn, limits: None, heeds: Heeds::Signed };
/// Of connections of one thread that have sent no ClientHello or wait.
const LEAST_ROOM: usize = 4;
/// The same.
const MOST_ROOM: usize = 1024;
/// Why the process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration, or a file that it names.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The journal.
    #[error(transparent)]
    Revocation(#[from] revocation::Error),
    /// The audit.
    #[error(transparent)]
    Audit(#[from] authority::AuditError),
    /// An address.
    #[error("cannot listen on {address} ({key}): {error}{}", advice(.error))]
    Listen {
        /// The configuration key that names it.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What is wrong with it.
        #[source]
        error: io::Error,
    },
    /// A socket that the process was started with.
    #[error("inherited socket {descriptor} (`{name}`): {reason}")]
    Inherited {
        /// Its number.
        descriptor: usize,
        /// What `FileDescriptorName=` calls it.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A thread, or its runtime.
    #[error("cannot start the thread {thread}: {error}{}", advice(.error))]
    Thread {
        /// Its name.
        thread: String,
        /// Why it cannot be started.
        #[source]
        error: io::Error,
    },
    /// A thread that should run for as long as the process.
    #[error("the thread {0} has ended; a restart starts it anew")]
    ThreadEnded(String),
    /// Anything else that the system refuses.
    #[error("cannot start: {error}{}", advice(.error))]
    System {
        /// Why.
        #[from]
        error: io::Error,
    },
    /// The metrics; a mistake in the program.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// What every thread needs a copy of.
#[derive(Clone)]
struct Shared {
    config: Arc<Config>,
    clock: Clock,
    metrics: Metrics,
    engine: Arc<Engine>,
    registry: Arc<Registry>,
    feeds: Arc<Feeds>,
    timelines: Arc<Timelines>,
    telling: Telling,
    clusters: Arc<Clusters>,
    /// The lines of the log that clients cause.
    lines: Arc<LineLimiter>,
    /// Those of the gate, as operators see them reached.
    limits: Arc<ListenerLimits>,
}

/// What the service manager is told, and the threads whose signs of life it wants.
type Told = (Arc<Notices>, Pulses);
/// The signs of life of all of the gate's threads.
type Pulses = Vec<Weak<AtomicU64>>;

/// TLS and the peers of one listener.
#[derive(Clone)]
struct Secured {
    tls: Arc<ServerConfig>,
    peers: Arc<Peers>,
}

/// What becomes of refusals at one listener.
struct Rules {
    modes: Modes,
    disclose: Disclose,
    /// Whether what is not known to be fresh keeps requests out.
    feeds: Option<Arc<Feeds>>,
    limits: Arc<ListenerLimits>,
}

/// Checks all that can be checked without taking anything: the files that the configuration names.
pub fn check(config: &Config) -> Result<(), Error> {
    // Everything is read the way it will be, on an engine that is gone afterwards.
    let engine = Engine::in_memory(&config.revocation, Clock::system())?;
    let registry = Registry::in_memory(Clock::system());
    let shared = Shared::new(config.clone(), Clock::system(), engine, registry, Metrics::new()?)?;
    warn(config);
    gate_bounds(&config.gate, threads(config));
    if let Some(access) = &config.log.access {
        access.check().map_err(|e| shared.no_access_log(access, &e))?;
    }
    shared.secure_gate()?;
    shared.plan_feeds()?;
    config.admin.as_ref().map_or(Ok(vec![]), |admin| load_secrets(config, admin))?;
    let admin_tls = config.admin.as_ref().and_then(|admin| admin.tls.as_ref());
    admin_tls.map_or(Ok(()), |tls| shared.secure(tls, "admin.tls", &[], ADMINISTRATORS).map(drop))
}

/// Starts everything that a configuration names, on the state that [`init_state`] made. When this returns, everything in
/// the journal is refused and every listener is bound.
pub fn start(config: Config, clock: Clock) -> Result<Running, Error> {
    start_under(Supervisor::none(), &LostLines::new()?, config, clock)
}

/// The same, on the sockets of a service manager, which is told how things are, and beside a log that counts its lost
/// lines.
pub fn start_under(
    supervisor: Supervisor,
    lost: &LostLines,
    config: Config,
    clock: Clock,
) -> Result<Running, Error> {
    let Supervisor { sockets, notices, fault } = supervisor;
    warn_of_fault(fault);
    warn(&config);
    let notices = Arc::new(notices);
    let mut sockets = sockets.assign(&config)?;
    let state = config.state.dir.clone();
    let engine = state::open(&config, &clock)?;
    // After the journal, which refuses a directory that another process uses.
    let registry = Registry::open(&state, clock.clone());
    engine.recall(&registry.authorities());
    let mut shared = Shared::new(config, clock, engine, registry, Metrics::beside(lost)?)?;
    let config = Arc::clone(&shared.config);
    let (access_log, spans) = shared.tell()?;
    let audit = shared.open_audit()?;
    // Before anybody is served: what feeds said before is in effect again.
    let feeds = shared.begin_feeds(audit.clone())?;
    let gate = shared.secure_gate()?;
    let threads = threads(&config);
    let bounds = gate_bounds(&config.gate, threads);
    shared.bound_upstreams();
    let listeners = bind(sockets.gate.take(), "gate.listen", config.gate.listen, threads)?;
    let gate_address = address(&listeners)?;
    let (drain_gate, gate_drains) = watch::channel(false);
    let (drain_operations, operations_drain) = watch::channel(false);
    let mut operations = Operations::bind(&shared, sockets, &gate.peers, gate_drains.clone(), audit.clone())?;
    operations.spans = spans;
    let (admin_address, metrics_address) = operations.addresses()?;
    let feeds = run_feeds(feeds, operations_drain.clone())?;
    let (gates, pulses) = shared.spawn_gates(&gate, listeners, bounds, (&gate_drains, notices.pulse()))?;
    let told = (Arc::clone(&notices), pulses);
    let operations = Thread::start("operations", move || operations.begin(operations_drain, told))?;
    shared.tell_start(gate_address, admin_address, metrics_address);
    notices.ready();
    Ok(Running {
        gate: gate_address,
        admin: admin_address,
        metrics: metrics_address,
        engine: shared.engine,
        registry: shared.registry,
        drain_gate,
        drain_operations,
        gates,
        operations,
        feeds,
        audit,
        notices,
        drain: config.gate.drain,
        access_log,
    })
}

/// Warns of a service manager that cannot be reached.
fn warn_of_fault(fault: Option<io::Error>) {
    if let Some(error) = fault {
        tracing::warn!(%error, "NOTIFY_SOCKET: the service manager cannot be told anything");
    }
}

/// Starts the thread of the feeds.
fn run_feeds(feeds: feed::Running, mut drain: watch::Receiver<bool>) -> Result<Thread<()>, Error> {
    Thread::start("feeds", move || {
        Ok(async move {
            feeds.run(drain.clone()).await;
            // Where there are no feeds, too. The sender lives until the gate has drained; losing it means the same.
            let _ = drain.wait_for(|drain| *drain).await;
            Ok(())
        })
    })
}

impl Shared {
    fn new(
        config: Config,
        clock: Clock,
        engine: Engine,
        registry: Registry,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        metrics.started.set(clock.now().secs());
        let (feeds, timelines, lines) = (Arc::default(), Arc::default(), Arc::<LineLimiter>::default());
        let engine = Arc::new(engine.limiting_lines(Arc::clone(&lines)));
        let registry = Arc::new(registry);
        let clusters = Clusters::load(&config.upstream, &config.route, &config.gate.timeouts, &metrics);
        let clusters = clusters.map_err(|(key, e)| config.error(&key, e.to_string()))?;
        let (config, clusters) = (Arc::new(config), Arc::new(clusters));
        let telling = Telling { metrics: metrics.clone(), log: None, tracer: None };
        let limits = gate_limits(&config, &clock, &metrics).limiting_lines(Arc::clone(&lines));
        let limits = Arc::new(limits);
        Ok(Self {
            config,
            clock,
            metrics,
            engine,
            registry,
            feeds,
            timelines,
            telling,
            clusters,
            lines,
            limits,
        })
    }

    /// Bounds the connections to upstreams. Each connection takes two descriptors, of clients and to upstreams; what is left is
    /// for feeds and administrators.
    fn bound_upstreams(&self) {
        self.clusters.bound(descriptors() / 16 * 3);
    }

    /// Logs that every listener is bound, and where.
    fn tell_start(&self, gate: SocketAddr, admin: Option<SocketAddr>, metrics: Option<SocketAddr>) {
        let (mode, state) = (Modes::of(&self.config.route).name(), self.config.state.dir.display());
        tracing::info!(
            %gate, admin = shown(admin), metrics = shown(metrics), mode,
            entries = self.engine.entries(), %state, "portcullis is up"
        );
    }

    fn no_access_log(&self, access: &AccessConfig, error: &io::Error) -> ConfigError {
        self.config.error("log.access.file", format!("{}: {error}", access.file.display()))
    }

    /// Opens the access log, and the way to the exporter of spans, where they are configured.
    fn tell(&mut self) -> Result<(Option<AccessLogWriter>, Option<mpsc::Receiver<Span>>), ConfigError> {
        let (mut writer, mut spans) = (None, None);
        if let Some(access) = &self.config.log.access {
            let opened = AccessLog::open(access, self.metrics.traffic.access_log_lost.clone());
            let failed = |e| self.no_access_log(access, &e);
            let (log, its_writer) = opened.map_err(failed)?;
            (self.telling.log, writer) = (Some(log), Some(its_writer));
        }
        if let Some(trace) = &self.config.trace {
            let (tracer, to_export) = Tracer::new(trace, self.metrics.traffic.spans_lost.clone());
            (self.telling.tracer, spans) = (Some(tracer), Some(to_export));
        }
        Ok((writer, spans))
    }

    /// The feeds, with what their configuration names read.
    fn plan_feeds(&self) -> Result<feed::Plan, ConfigError> {
        let config = &self.config;
        let admin = config.admin.as_ref().and_then(|admin| admin.tls.as_ref());
        let mut anchors = Vec::new();
        for (key, tls) in [("gate.tls", Some(&config.gate.tls)), ("admin.tls", admin)] {
            let Some(tls) = tls else { continue };
            let (_, authorities) = proxy::load_trust(tls).map_err(|e| at_key(config, key, &e))?;
            anchors.extend(authorities.into_iter().map(|ca| ca.certificate.der));
        }
        let fingerprinter = *self.engine.fingerprinter();
        let plan = feed::Plan::new(&config.feed, &anchors, &config.state.dir, fingerprinter);
        plan.map_err(|e| config.error(&format!("feed.{}", e.key), e.reason))
    }

    /// The audit, where anything can change what is denied.
    fn open_audit(&self) -> Result<Option<Audit>, Error> {
        let config = &self.config;
        if config.admin.is_none() && config.feed.is_empty() {
            return Ok(None);
        }
        let audit = state::open_audit(&config.state.dir, &config.audit, self.clock.clone())?;
        Ok(Some(audit.limiting_lines(Arc::clone(&self.lines))))
    }

    fn begin_feeds(&mut self, audit: Option<Audit>) -> Result<feed::Running, ConfigError> {
        let plan = self.plan_feeds()?;
        let (engine, timelines) = (Arc::clone(&self.engine), Arc::clone(&self.timelines));
        let sightings = Sightings::new(
            Arc::clone(&engine),
            Arc::clone(&self.registry),
            &self.config.identity.trust_domains,
        );
        let names = self.config.admin.iter().flat_map(config::Admin::names);
        let sightings = sightings.administrators(names);
        let intake = Intake::new(engine, timelines, self.clock.clone(), self.metrics.clone());
        let mut intake = intake.sighting(sightings);
        if let Some(audit) = audit {
            let (registry, engine) = (Arc::clone(&self.registry), Arc::clone(&self.engine));
            intake = intake.witnessed(witness::on_record(audit, registry, engine));
        }
        let mut feeds = Feeds::default();
        let running = plan.begin(&mut feeds, &intake);
        feeds.look(self.clock.now());
        self.feeds = Arc::new(feeds);
        Ok(running)
    }

    /// The TLS side of the gate.
    fn secure_gate(&self) -> Result<Secured, Error> {
        let strangers = match Modes::of(&self.config.route) {
            Modes::Strict => Strangers::Tolerated,
            Modes::Advisory | Modes::Mixed => Strangers::LetIn,
        };
        let clients = Clients { strangers, limits: Some(self.config.gate.limits), heeds: Heeds::All };
        self.secure(&self.config.gate.tls, "gate.tls", &[], clients)
    }

    /// The TLS side of one listener; `names` are DNS names that it accepts beside those that fit a template.
    fn secure(
        &self,
        tls: &TlsConfig,
        key: &'static str,
        names: &[DnsName],
        clients: Clients,
    ) -> Result<Secured, Error> {
        let Clients { strangers, limits, heeds } = clients;
        let trust = Arc::new(load_trust(&self.config, tls, key)?);
        let binding = Binding::new(&self.config.identity).admitting(names);
        let peers =
            Peers::new(trust, binding, Arc::clone(&self.engine), self.clock.clone(), self.metrics.clone());
        let reject_at = match strangers {
            Strangers::Tolerated => self.config.gate.reject_at,
            // Advisory mode refuses nobody, in the handshake neither; and a token counts beside a revoked certificate.
            Strangers::LetIn => RejectAt::Request,
        };
        let peers = peers.reject_at(reject_at).strangers(strangers);
        let peers = match limits {
            Some(limits) => peers.within(limits),
            None => peers,
        };
        let peers = peers.limiting_failures().heeding(heeds).noting_in(Arc::clone(&self.registry));
        let peers = Arc::new(peers.limiting_lines(Arc::clone(&self.lines)));
        let tls = proxy::server_config(tls, Arc::clone(&peers), self.clock.clone())
            .map_err(|e| at_key(&self.config, key, &e))?;
        Ok(Secured { tls: Arc::new(tls), peers })
    }

    fn context<H>(
        &self,
        listener: &'static str,
        secured: Secured,
        rules: Rules,
        handler: H,
    ) -> Rc<Context<H>> {
        let Rules { modes, disclose, feeds, limits } = rules;
        Rc::new(Context {
            listener,
            acceptor: TlsAcceptor::from(secured.tls),
            peers: secured.peers,
            engine: Arc::clone(&self.engine),
            feeds,
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            modes,
            disclose,
            timeouts: self.config.gate.timeouts,
            limits: self.config.gate.limits,
            reached: limits,
            exchanges: Exchanges::new(listener, self.clock.clone(), self.telling.clone()),
            handler,
        })
    }

    /// The gate's threads, and their signs of life.
    fn spawn_gates(
        &self,
        secured: &Secured,
        listeners: Vec<StdListener>,
        bounds: Bounds,
        (drain, every): (&watch::Receiver<bool>, Option<Duration>),
    ) -> Result<(Vec<Thread<usize>>, Pulses), Error> {
        let gates = listeners.into_iter().enumerate().map(|(i, listener)| {
            let (shared, secured, drain) = (self.clone(), secured.clone(), drain.clone());
            let pulse = Arc::new(AtomicU64::new(0));
            let watched = Arc::downgrade(&pulse);
            let pulse = every.map(|every| (pulse, every));
            let run = async move |listener| {
                if let Some((pulse, every)) = pulse {
                    spawn_local(supervisor::beat(pulse, every));
                }
                Ok(shared.run_gate(secured, listener, bounds, drain).await)
            };
            let begin = move || Ok(run(TcpListener::from_std(listener)?));
            Ok((Thread::start(&format!("gate-{i}"), begin)?, watched))
        });
        gates.collect()
    }

    async fn run_gate(
        self,
        secured: Secured,
        listener: TcpListener,
        bounds: Bounds,
        drain: watch::Receiver<bool>,
    ) -> usize {
        let gate = &self.config.gate;
        let served = (&*self.clusters, bounds.threads);
        let handler = Gate::new(&self.config.route, secured.peers.binding(), served, gate.limits);
        let feeds = Some(Arc::clone(&self.feeds));
        let (modes, limits) = (Modes::of(&self.config.route), Arc::clone(&self.limits));
        let rules = Rules { modes, disclose: gate.disclose, feeds, limits };
        let context = self.context("gate", secured, rules, handler);
        proxy::accept(listener, context, drain, bounds).await
    }
}

/// What each of the gate's threads may have open.
fn gate_bounds(gate: &proxy::Config, threads: usize) -> Bounds {
    let most = descriptors() / 4;
    if let Some(wanted) = gate.limits.connections.filter(|wanted| *wanted > most) {
        tracing::warn!(
            wanted,
            most,
            "gate.limits.connections: the process may not have enough file descriptors"
        );
    }
    let [connections, handshakes] = gate_totals(gate).map(|total| (total / threads).max(1));
    Bounds { connections, room: room(threads), threads, evicts: false, handshakes, drain: gate.drain }
}

/// The connections and handshakes that all of the gate's threads may have at once.
fn gate_totals(gate: &proxy::Config) -> [usize; 2] {
    let most = descriptors() / 4;
    let connections = gate.limits.connections.unwrap_or(most).min(most).max(1);
    // However many do not finish theirs, there is room beside them.
    [connections, gate.limits.handshakes.min(connections / 2).max(1)]
}

/// A limit in words: the setting, and what bounds it if that is less.
fn bounded(setting: &str, wanted: Option<usize>, total: usize, by: &str) -> String {
    match wanted {
        None => format!("{setting} = {total}, by default: {by}"),
        Some(wanted) if wanted != total => format!("{setting} = {wanted}, bounded to {total} by {by}"),
        Some(_) => format!("{setting} = {total}"),
    }
}

/// How many connections each of so many threads may have beside these, which have sent no ClientHello or wait.
fn room(threads: usize) -> usize {
    (descriptors() / 64 / threads).clamp(LEAST_ROOM, MOST_ROOM)
}

/// The limits of the gate, named by their settings.
fn gate_limits(config: &Config, clock: &Clock, metrics: &Metrics) -> ListenerLimits {
    let limits = config.gate.limits;
    let [connections, handshakes] = gate_totals(&config.gate);
    let by = "a quarter of the file descriptors (LimitNOFILE=)";
    let connections = bounded("gate.limits.connections", limits.connections, connections, by);
    let by = "half of gate.limits.connections";
    let settings = LimitSettings {
        connections,
        beyond_connections: "new clients wait until a connection ends",
        handshakes: Some(bounded("gate.limits.handshakes", Some(limits.handshakes), handshakes, by)),
        of_clients: Some(limits),
    };
    ListenerLimits::new("gate", &settings, clock.clone(), metrics)
}

/// Warns of what can work, and is perhaps not meant.
fn warn(config: &Config) {
    warn_of_routes(config);
    warn_of_scopes(config);
    warn_of_lock_out(config);
    state::warn(config);
}

/// Warns of administrators who cannot come back once their certificates are revoked, or their authority has expired.
fn warn_of_lock_out(config: &Config) {
    let Some(admin) = &config.admin else { return };
    if admin.secret.iter().all(|secret| secret.role != Role::Admin) {
        tracing::warn!(
            "no [[admin.secret]] has role \"admin\": administrators whose certificates are revoked, or whose authority has expired, \
             are locked out: add [[admin.secret]] with role = \"admin\" (docs/admin.md, \"Locked out\")"
        );
    }
}

/// Says what is allowed, and may not be meant.
fn warn_of_routes(config: &Config) {
    for route in config.route.iter().filter(|route| route.demand == Demand::None) {
        tracing::warn!(route = route.name(), "this route demands no client certificate");
    }
    let leads_to =
        |route: &RouteConfig, name: &str| matches!(&route.upstream, RouteUpstream::Named(to) if to == name);
    for name in config.upstream.keys().filter(|name| !config.route.iter().any(|route| leads_to(route, name)))
    {
        tracing::warn!(upstream = name, "no route leads to this upstream");
    }
}

/// Warns of the templates under which a claim must be the whole name of the principal.
fn warn_of_scopes(config: &Config) {
    let mut claims =
        config.route.iter().filter_map(|route| route.claim.as_ref()).chain([&config.identity.claim]);
    if claims.all(|claim| matches!(claim, ClaimSource::None)) {
        return;
    }
    for template in config.identity.scoped_templates() {
        let variable = template.scope().unwrap_or_default();
        tracing::warn!(
            %template,
            variable,
            "two agents under this template may have the same agent id, so that a claim of the agent id alone is refused: \
             claim the SPIFFE ID or DNS name, or vouch with identity.claim_scope = \"agent\" that no two do"
        );
    }
}

/// How many threads serve the gate.
fn threads(config: &Config) -> usize {
    let cores = || std::thread::available_parallelism().ok().map(NonZeroUsize::get);
    config.gate.threads.or_else(cores).unwrap_or(1).max(1)
}

fn load_trust(config: &Config, tls: &TlsConfig, key: &str) -> Result<Trust, ConfigError> {
    let (trust, authorities) = proxy::load_trust(tls).map_err(|e| at_key(config, key, &e))?;
    for ca in &authorities {
        let (file, subject) = (ca.file.display(), &ca.certificate.subject_dn);
        if ca.certificate.constrains_uris {
            tracing::warn!(%file, subject, "this authority constrains URI names: path validation refuses every SPIFFE ID under it");
        }
    }
    let domains = config.identity.trust_domains.len();
    if domains > 1 && tls.client_ca.iter().any(|ca| matches!(ca, proxy::ClientCaConfig::File(_))) {
        tracing::warn!(
            domains,
            "an authority without `trust_domains` may vouch for every trust domain: write {{ file, trust_domains }}"
        );
    }
    Ok(trust)
}

fn at_key(config: &Config, section: &str, error: &TlsError) -> ConfigError {
    config.error(&format!("{section}.{}", error.key), error.to_string())
}

/// A listener's sockets, one for each thread; an inherited one is shared.
fn bind(
    inherited: Option<StdListener>,
    key: &'static str,
    address: SocketAddr,
    count: usize,
) -> Result<Vec<StdListener>, Error> {
    match inherited {
        Some(socket) => proxy::share(&socket, count),
        None => proxy::bind(address, count),
    }
    .map_err(|error| Error::Listen { key, address, error })
}

fn address(listeners: &[StdListener]) -> io::Result<SocketAddr> {
    listeners.first().ok_or(io::ErrorKind::NotFound)?.local_addr()
}

fn shown(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "none".to_owned(), |address| address.to_string())
}

/// What helps where the system has no more of something.
fn advice(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE) => {
            "; each of gate.threads takes five file descriptors: lower it, or raise LimitNOFILE= (ulimit -n)"
        }
        Some(Errno::AGAIN | Errno::NOMEM) => {
            "; lower gate.threads, or raise TasksMax= (ulimit -u) or the memory of the process"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen failing with the number alone, as if an operator had set it.
    #[test]
    fn a_limit_names_what_bounds_it() {
        let words = |wanted, total| bounded("gate.limits.handshakes", wanted, total, "half of it");
        assert_eq!(words(Some(4), 4), "gate.limits.handshakes = 4");
        assert_eq!(words(Some(1024), 4), "gate.limits.handshakes = 1024, bounded to 4 by half of it");
        assert_eq!(words(None, 4), "gate.limits.handshakes = 4, by default: half of it");
    }
}
