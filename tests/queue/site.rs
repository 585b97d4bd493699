//! A site: an engine on a state directory, with the feed of one queue, as a process has them.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use portcullis::feed;
use portcullis::feed::Intake;
use portcullis::feed::sqs;
use portcullis::revocation::Action;
use portcullis::revocation::Config;
use portcullis::revocation::Engine;
use portcullis::revocation::FeedStatus;
use portcullis::revocation::Feeds;
use portcullis::revocation::Level;
use portcullis::revocation::Registry;
use portcullis::revocation::Sightings;
use portcullis::revocation::Target;
use portcullis::revocation::Timelines;
use portcullis::rig::queue::Queue;
use portcullis::session::Credential;
use portcullis::telemetry::Metrics;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio::runtime::LocalOptions;
use tokio::sync::watch;

/// Nothing that a test waits for takes longer, on a busy machine either.
const PATIENCE: Duration = Duration::from_secs(60);

const LOG: &str = "log.txt";

/// The feed of a queue: polls are short, and messages come again soon.
pub(crate) fn config(queue: &Queue) -> sqs::Config {
    let text = format!(
        "queue_url = \"{}\"\nregion = \"us-east-1\"\nwait = \"1s\"\nvisibility = \"1s\"",
        queue.url()
    );
    let config: sqs::Config = toml::from_str(&text).unwrap();
    sqs::Config { access_key: Some(("test".into(), "test".into())), ..config }
}

/// A running engine with the feed of one queue.
pub(crate) struct Site {
    pub(crate) engine: Arc<Engine>,
    pub(crate) feeds: Arc<Feeds>,
    pub(crate) timelines: Arc<Timelines>,
    metrics: Metrics,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    state: Arc<TempDir>,
}

impl Site {
    /// With everything as usual.
    pub(crate) fn start(queue: &Queue) -> Self {
        Self::with(config(queue))
    }

    pub(crate) fn with(config: sqs::Config) -> Self {
        Self::at(Clock::system(), config)
    }

    /// By another clock than the queue's.
    pub(crate) fn at(clock: Clock, config: sqs::Config) -> Self {
        let state = Arc::new(tempfile::tempdir().unwrap());
        let engine = Engine::open(state.path(), &Config::default(), clock.clone()).unwrap();
        Self::on(engine, clock, config, state)
    }

    /// On any engine.
    pub(crate) fn on(engine: Engine, clock: Clock, config: sqs::Config, state: Arc<TempDir>) -> Self {
        let (engine, timelines) = (Arc::new(engine), Arc::<Timelines>::default());
        let metrics = Metrics::new().unwrap();
        let registry = Arc::new(Registry::in_memory(clock.clone()));
        let sightings = Sightings::new(Arc::clone(&engine), registry, &[]);
        let intake = Intake::new(Arc::clone(&engine), Arc::clone(&timelines), clock, metrics.clone());
        let intake = intake.sighting(sightings);
        let config = feed::Config { sqs: Some(config), ..feed::Config::default() };
        config.check().unwrap();
        let plan = feed::Plan::new(&config, &[], state.path(), *engine.fingerprinter()).unwrap();
        let mut feeds = Feeds::default();
        let running = plan.begin(&mut feeds, &intake);
        let (stop, stopped) = watch::channel(false);
        let log = std::fs::File::create(state.path().join(LOG)).unwrap();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(std::sync::Mutex::new(log)).finish();
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            tracing::subscriber::with_default(log, || runtime.unwrap().block_on(running.run(stopped)));
        });
        Self { engine, feeds: Arc::new(feeds), timelines, metrics, stop, thread: Some(thread), state }
    }

    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    /// Whether an agent is denied.
    pub(crate) fn denies(&self, agent: &str) -> bool {
        denies(&self.engine, agent)
    }

    /// What the feed says of itself.
    pub(crate) fn status(&self) -> FeedStatus {
        let now = Clock::system().now();
        self.feeds.status(now).remove(0)
    }

    /// What the feed says went wrong last; empty if nothing did.
    pub(crate) fn error(&self) -> String {
        self.status().last_error.unwrap_or_default()
    }

    /// What the feed has written to the log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.state().join(LOG)).unwrap()
    }

    /// How many messages came to this end.
    pub(crate) fn counted(&self, result: &str) -> usize {
        self.sum("portcullis_feed_messages_total", result)
    }

    /// How many polls were answered.
    pub(crate) fn polled(&self) -> usize {
        self.sum("portcullis_feed_polls_total", "ok")
    }

    fn sum(&self, metric: &str, result: &str) -> usize {
        let text = String::from_utf8(self.metrics.render()).unwrap();
        let result = format!("result=\"{result}\"");
        let lines = text.lines().filter(|line| line.starts_with(metric) && line.contains(&result));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
    }

    /// How many revocations of the queue a later event outranked.
    pub(crate) fn overtaken(&self) -> usize {
        let text = String::from_utf8(self.metrics.render()).unwrap();
        let series = "portcullis_revocation_events_overtaken_total{action=\"revoke\",feed=\"sqs\"} ";
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0, |count| count.parse().unwrap())
    }

    /// How many parts of messages were not understood for this reason.
    pub(crate) fn poison(&self, kind: &str) -> usize {
        let text = String::from_utf8(self.metrics.render()).unwrap();
        let series = format!("portcullis_feed_poison_total{{feed=\"sqs\",kind=\"{kind}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.map_or(0, |count| count.parse().unwrap())
    }

    /// How many events were of targets of this level that the gate had never seen.
    pub(crate) fn unknown(&self, level: &str) -> usize {
        let text = String::from_utf8(self.metrics.render()).unwrap();
        let series =
            format!("portcullis_revocation_unknown_targets_total{{feed=\"sqs\",level=\"{level}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.map_or(0, |count| count.parse().unwrap())
    }

    /// How many events were measured up to this stage.
    pub(crate) fn measured(&self, stage: &str) -> usize {
        let text = String::from_utf8(self.metrics.render()).unwrap();
        let series =
            format!("portcullis_revocation_enforced_seconds_count{{feed=\"sqs\",stage=\"{stage}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.map_or(0, |count| count.parse().unwrap())
    }

    /// Tells the feed to stop.
    pub(crate) fn tell_to_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until it has stopped.
    pub(crate) async fn ended(&self) {
        until(|| self.thread.as_ref().unwrap().is_finished()).await;
    }

    /// Stops it; the engine is closed when this returns.
    pub(crate) async fn stop(mut self) {
        self.tell_to_stop();
        self.ended().await;
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.tell_to_stop();
    }
}

/// Whether an engine denies an agent.
pub(crate) fn denies(engine: &Engine, agent: &str) -> bool {
    let target = Target::parse(Level::Principal, agent, None).unwrap();
    let own = vec![engine.fingerprinter().target(&target)];
    engine.judge(&Credential { own, ..Credential::default() }).is_err()
}

/// A message about an agent: an event of our own, decided so many seconds after 2026-10-14 17:46:40.
pub(crate) fn event(action: Action, agent: &str, secs: i64) -> Value {
    json!({
        "version": 1, "id": format!("{}-{agent}-{secs}", action.name()), "action": action, "level": "principal",
        "target": agent, "at": Timestamp::from_secs(1_792_000_000 + secs),
    })
}

/// The same as text.
pub(crate) fn message(action: Action, agent: &str, secs: i64) -> String {
    event(action, agent, secs).to_string()
}

/// Revokes an agent.
pub(crate) fn revocation(agent: &str) -> String {
    message(Action::Revoke, agent, 0)
}

/// Waits for what must come.
#[track_caller]
pub(crate) fn until(done: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < PATIENCE, "waited in vain at {caller}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
