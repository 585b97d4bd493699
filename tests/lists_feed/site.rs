//! Feeds as a gate runs them, on an engine, with a clock that stands still.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use portcullis::clock::Clock;
use portcullis::feed;
use portcullis::feed::Intake;
use portcullis::identity::Certificate;
use portcullis::revocation;
use portcullis::revocation::Engine;
use portcullis::revocation::FeedStatus;
use portcullis::revocation::Feeds;
use portcullis::revocation::Level;
use portcullis::revocation::Target;
use portcullis::session::Credential;
use portcullis::session::Guard;
use portcullis::session::Origin;
use portcullis::telemetry::Metrics;
use rustls::pki_types::CertificateDer;
use tokio::runtime::Builder;
use tokio::runtime::LocalOptions;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::forge;
use crate::forge::Ca;

/// Nothing that a test waits for takes longer, on a busy machine either.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Site {
    pub(crate) engine: Arc<Engine>,
    pub(crate) feeds: Arc<Feeds>,
    pub(crate) clock: Clock,
    metrics: Metrics,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    /// Feeds that were begun and do not run yet.
    idle: Option<feed::Running>,
}

impl Site {
    /// Feeds of this configuration (below `[feed]`), which believe these authorities and look at once.
    pub(crate) fn start(config: &str, anchors: &[&Ca], state: &Path) -> Self {
        let mut site = Self::restored(config, anchors, state, &Clock::manual(forge::now()));
        site.run();
        site
    }

    /// Feeds that have taken in again what they knew, and look at nothing yet.
    pub(crate) fn restored(config: &str, anchors: &[&Ca], state: &Path, clock: &Clock) -> Self {
        let engine = Engine::in_memory(&revocation::Config::default(), clock.clone()).unwrap();
        let (engine, metrics) = (Arc::new(engine), Metrics::new().unwrap());
        let intake = Intake::new(Arc::clone(&engine), Arc::default(), clock.clone(), metrics.clone());
        let mut feeds = Feeds::default();
        let idle = plan(config, anchors, state, &engine).unwrap().begin(&mut feeds, &intake);
        let (stop, _) = watch::channel(false);
        let feeds = Arc::new(feeds);
        Self { engine, feeds, clock: clock.clone(), metrics, stop, thread: None, idle: Some(idle) }
    }

    /// Lets them look.
    pub(crate) fn run(&mut self) {
        let (idle, stopped) = (self.idle.take().unwrap(), self.stop.subscribe());
        let run = move || {
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            runtime.unwrap().block_on(idle.run(stopped));
        };
        self.thread = Some(std::thread::spawn(run));
    }

    /// Has a feed look, and returns what came of it.
    #[track_caller]
    pub(crate) fn look(&self, name: &str) -> Result<String, String> {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let results =
            runtime.block_on(async { timeout(PATIENCE, self.feeds.refresh(Some(name))).await }).unwrap();
        let [(_, result)] = <[_; 1]>::try_from(results).unwrap();
        result
    }

    pub(crate) fn status(&self, name: &str) -> FeedStatus {
        let status = self.feeds.status(self.clock.now());
        status.into_iter().find(|status| status.name == name).unwrap()
    }

    /// The state of a feed, in a word.
    pub(crate) fn state(&self, name: &str) -> &'static str {
        self.status(name).state.name()
    }

    pub(crate) fn credential(&self, ca: &Ca, serial: u32) -> Arc<Credential> {
        credential(&self.engine, ca, serial)
    }

    pub(crate) fn denies(&self, ca: &Ca, serial: u32) -> bool {
        self.engine.judge(&self.credential(ca, serial)).is_err()
    }

    /// A live session of a certificate.
    pub(crate) fn session(&self, ca: &Ca, serial: u32) -> Guard {
        let origin = Origin { peer: ([127, 0, 0, 1], 1).into(), listener: "gate", protocol: "http/2" };
        self.engine.admit(self.credential(ca, serial), origin).unwrap()
    }

    /// How many looks of a feed ended like this.
    pub(crate) fn polls(&self, name: &str, result: &str) -> u64 {
        self.metrics.feeds.polls.with_label_values(&[name, result]).get()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let ended = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        assert!(ended || std::thread::panicking(), "the feeds' thread failed");
    }
}

/// What a start makes of a configuration.
pub(crate) fn plan(
    config: &str,
    anchors: &[&Ca],
    state: &Path,
    engine: &Engine,
) -> Result<feed::Plan, String> {
    let config: feed::Config = toml::from_str(config).map_err(|e| e.to_string())?;
    config.check().map_err(|e| e.to_string())?;
    let anchors: Vec<CertificateDer<'static>> = anchors.iter().map(|ca| ca.der.clone()).collect();
    feed::Plan::new(&config, &anchors, state, *engine.fingerprinter()).map_err(|e| e.to_string())
}

/// Why a configuration is refused.
pub(crate) fn refusal(config: &str, anchors: &[&Ca]) -> String {
    let engine = Engine::in_memory(&revocation::Config::default(), Clock::manual(forge::now())).unwrap();
    plan(config, anchors, Path::new("/nowhere"), &engine).map(drop).unwrap_err()
}

/// `[[crl]]` with this URL, and more lines.
pub(crate) fn crl(url: &str, lines: &str) -> String {
    format!("[[crl]]\nurl = \"{url}\"\n{lines}\n")
}

fn credential(engine: &Engine, ca: &Ca, serial: u32) -> Arc<Credential> {
    let parsed = Certificate::parse(&ca.der).unwrap();
    let issuer = Some(parsed.key.as_str());
    let target = Target::parse(Level::Certificate, &format!("{serial:08x}"), issuer).unwrap();
    let authority = Target::parse(Level::Issuer, parsed.key.as_str(), None).unwrap();
    let print = |target: &Target| engine.fingerprinter().target(target);
    Arc::new(Credential { own: vec![print(&target)], mass: vec![print(&authority)], ..Credential::default() })
}
