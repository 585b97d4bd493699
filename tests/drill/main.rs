//! `portcullis drill` tells the truth: on a stub that enforces a set time after the call and keeps its own clock, on
//! servers that enforce nowhere, here but not there, or not for good, and on a real gate.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod stub;

#[path = "../scenarios/pki.rs"]
#[expect(dead_code, reason = "a gate's scenarios need more of it")]
mod pki;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use portcullis::clock::Clock;
use portcullis::proxy::Endpoint;
use portcullis::proxy::RouteUpstream;
use portcullis::rig::findings::Check;
use portcullis::rig::findings::Drill;
use portcullis::rig::findings::Findings;
use portcullis::rig::findings::Found;
use portcullis::rig::findings::Kind;
use portcullis::rig::findings::Probe;
use portcullis::rig::findings::Verdict;
use portcullis::rig::findings::Who;
use portcullis::rig::stage::Stage;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::RwLock;

use crate::pki::Ca;
use crate::pki::Cert;
use crate::stub::Enforces;
use crate::stub::Stub;

/// Files of an authority and of two who ask, one of whom is about to be revoked.
struct Site {
    directory: TempDir,
    ca: Ca,
    victim: Cert,
}

/// How a run ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Site {
    fn new() -> Self {
        let (directory, ca) = (tempfile::tempdir().unwrap(), Ca::root("drill"));
        let victim = ca.agent("drill05-test-a");
        let site = Self { directory, ca, victim };
        fs::write(site.file("ca.pem"), site.ca.pem()).unwrap();
        site.write("victim", &site.victim);
        site.write("bystander", &site.ca.agent("b"));
        site
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, cert: &Cert) {
        fs::write(self.file(&format!("{name}.pem")), &cert.pem).unwrap();
        fs::write(self.file(&format!("{name}.key")), &cert.key_pem).unwrap();
    }

    async fn stub(&self, enforces: Enforces) -> Stub {
        Stub::start(&self.ca, &self.victim, enforces).await
    }

    /// A short drill on a server, but for how somebody is revoked.
    fn bare(&self, stub: &Stub) -> Command {
        let mut command = self.timeless(stub, &["victim", "bystander"]);
        command.args(["--before", "300ms", "--window", "1s"]);
        command
    }

    /// The same, but for how long.
    fn timeless(&self, stub: &Stub, who: &[&str]) -> Command {
        let mut command = self.rhythmless(stub, who);
        command.args(["--rate", "100"]);
        command
    }

    /// The same, but for how often.
    fn rhythmless(&self, stub: &Stub, who: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let url = format!("https://localhost:{}/x", stub.address.port());
        command.args(["drill", "--url", &url]);
        command.arg("--ca").arg(self.file("ca.pem"));
        for who in who {
            command.arg(format!("--{who}-cert")).arg(self.file(&format!("{who}.pem")));
            command.arg(format!("--{who}-key")).arg(self.file(&format!("{who}.key")));
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// A drill without a bystander: nobody else takes the processor.
    fn alone(&self, stub: &Stub) -> Command {
        let mut command = self.timeless(stub, &["victim"]);
        command.args(["--before", "300ms", "--window", "700ms"]);
        self.call(command, stub)
    }

    /// A drill on a server.
    fn drill(&self, stub: &Stub) -> Command {
        self.call(self.bare(stub), stub)
    }

    fn call(&self, mut command: Command, stub: &Stub) -> Command {
        let url = format!("https://localhost:{}/revoke", stub.address.port());
        command.args(["--revoke-url", &url, "--revoke-body", "serial={serial}"]);
        command.arg("--admin-cert").arg(self.file("bystander.pem"));
        command.arg("--admin-key").arg(self.file("bystander.key"));
        command
    }
}

/// Held by whoever runs a drill; by whoever needs the processor for one alone, to the exclusion of others.
static RUNNING: RwLock<()> = RwLock::const_new(());

async fn ended(command: Command) -> Ended {
    let _running = RUNNING.read().await;
    ended_among(command).await
}

async fn ended_among(mut command: Command) -> Ended {
    let output = tokio::time::timeout(Duration::from_secs(120), command.output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// What a drill found, and its exit code.
async fn found(command: Command) -> (Drill, Ended) {
    let _running = RUNNING.read().await;
    found_among(command).await
}

async fn found_among(mut command: Command) -> (Drill, Ended) {
    command.arg("--json");
    let ended = ended_among(command).await;
    let findings: Findings = serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
    let Found::Drill(drill) = findings.found else { panic!("{ended:?}") };
    (drill, ended)
}

fn victims(drill: &Drill) -> BTreeMap<Kind, &Probe> {
    let probes = drill.probes.iter().filter(|probe| probe.who == Who::Victim);
    probes.map(|probe| (probe.kind, probe)).collect()
}

fn verdicts(drill: &Drill) -> BTreeMap<Kind, Verdict> {
    victims(drill).into_iter().map(|(kind, probe)| (kind, probe.verdict)).collect()
}

/// What the report says differs from what the server did by less than this, microseconds.
const NEAR: i64 = 1000;
/// A scheduler that interferes only ever adds, and not each time; what is measured wrongly is wrong each time.
const ATTEMPTS: usize = 40;

/// Microseconds, negative if `at` was before.
fn since(call: Instant, at: Instant) -> i64 {
    let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap();
    micros(at.saturating_duration_since(call)) - micros(call.saturating_duration_since(at))
}

#[tokio::test]
async fn the_times_are_those_of_the_server() {
    let site = Site::new();
    for delay in [0, 5, 50, 500].map(Duration::from_millis) {
        for kind in Kind::ALL {
            // How far off the first refusal or the last request that was served was, whichever was farther; at best.
            let mut nearest = i64::MAX;
            for _ in 0..ATTEMPTS {
                let stub = site.stub(Enforces::After(delay)).await;
                let mut command = site.alone(&stub);
                command.args(["--kinds", serde_json::to_string(&kind).unwrap().trim_matches('"')]);
                let alone = RUNNING.write().await;
                let (drill, ended) = found_among(command).await;
                drop(alone);
                let probe = victims(&drill)[&kind];
                assert_eq!(probe.verdict, Verdict::Refused, "{kind} {delay:?} {}", ended.err);
                let (called, stamps) = stub.stamps();
                let was = stamps[&kind];
                // The server's clock begins when the call has come in: half of its way there and back after it was sent.
                let half = drill.call.answered_us.unwrap() / 2;
                let off = |said: Option<i64>, was: Option<Instant>| {
                    (said.unwrap() - half - since(called, was.unwrap())).abs()
                };
                let refused = off(probe.first_refusal_us, was.first_refused);
                nearest = nearest.min(refused.max(off(probe.last_served_us, was.last_served)));
                if nearest < NEAR {
                    break;
                }
            }
            assert!(nearest < NEAR, "{kind} {delay:?}: {nearest} us");
        }
    }
}

#[tokio::test]
async fn a_server_that_never_enforces() {
    let (site, mut all) = (Site::new(), BTreeMap::new());
    let stub = site.stub(Enforces::Never).await;
    let (drill, ended) = found(site.drill(&stub)).await;
    all.extend(Kind::ALL.map(|kind| (kind, Verdict::Served)));
    assert_eq!(verdicts(&drill), all);
    assert!(victims(&drill).values().all(|probe| probe.served_after_answer > 0), "{drill:?}");
    assert!(drill.call.succeeded && ended.code == Some(1), "{ended:?}");
    assert_eq!(drill.failures.len(), Kind::ALL.len(), "{:?}", drill.failures);
}

/// Open connections are served on; a report of new ones alone would call that enforced.
#[tokio::test]
async fn a_server_that_enforces_on_new_connections_only() {
    let site = Site::new();
    let stub = site.stub(Enforces::OnNewConnections).await;
    let (drill, ended) = found(site.drill(&stub)).await;
    let expected = Kind::ALL.map(|kind| match kind {
        Kind::Handshake | Kind::Resumption => (kind, Verdict::Refused),
        kind => (kind, Verdict::Served),
    });
    assert_eq!(verdicts(&drill), BTreeMap::from(expected));
    assert_eq!(ended.code, Some(1));
}

/// Seen failing with a verdict that is that of the last try.
#[tokio::test]
async fn a_server_that_serves_once_more_after_its_first_refusal() {
    let site = Site::new();
    let stub = site.stub(Enforces::Flapping).await;
    let mut command = site.drill(&stub);
    command.args(["--kinds", "http1"]);
    let (drill, ended) = found(command).await;
    let probe = victims(&drill)[&Kind::Http1];
    assert_eq!((probe.verdict, probe.served_after_answer), (Verdict::Flapped, 1));
    assert!(probe.last_served_us > probe.first_refusal_us, "{probe:?}");
    assert_eq!(ended.code, Some(1));
}

#[tokio::test]
async fn bystanders_are_counted() {
    let site = Site::new();
    let stub = site.stub(Enforces::WithLosses).await;
    let (drill, ended) = found(site.drill(&stub)).await;
    assert!(drill.failures.iter().any(|failure| failure.contains("the bystander lost")), "{drill:?}");
    assert!(drill.failures.iter().all(|failure| !failure.contains("victim")), "{:?}", drill.failures);
    assert_eq!(ended.code, Some(1));
    let stub = site.stub(Enforces::WithLosses).await;
    let mut command = site.drill(&stub);
    command.args(["--max-bystander-errors", "1000"]);
    assert_eq!(ended_well(command).await, "passed");
}

/// Whoever sends a request when a server ends the connection sends it again. Seen failing where that was a loss.
#[tokio::test]
async fn a_server_may_be_tired_of_a_connection() {
    let site = Site::new();
    let stub = site.stub(Enforces::Tired).await;
    assert_eq!(ended_well(site.drill(&stub)).await, "passed");
}

async fn ended_well(command: Command) -> &'static str {
    let ended = ended(command).await;
    assert!(ended.code == Some(0) && ended.out.contains("\npassed"), "{ended:?}");
    "passed"
}

#[tokio::test]
async fn what_is_late_is_not_passed() {
    let site = Site::new();
    let stub = site.stub(Enforces::After(Duration::from_millis(400))).await;
    let mut command = site.drill(&stub);
    command.args(["--max-last-served", "100ms", "--kinds", "http1,handshake"]);
    let (drill, ended) = found(command).await;
    assert_eq!((drill.failures.len(), ended.code), (2, Some(1)), "{:?}", drill.failures);
    let stub = site.stub(Enforces::After(Duration::from_millis(400))).await;
    let mut command = site.drill(&stub);
    command.args(["--max-last-served", "30s", "--kinds", "http1,handshake"]);
    assert_eq!(ended_well(command).await, "passed");
}

#[tokio::test]
async fn checks() {
    let site = Site::new();
    let stub = site.stub(Enforces::After(Duration::ZERO)).await;
    let audit = site.file("audit.log");
    fs::write(&audit, format!("an old line with {}\n", site.victim.serial)).unwrap();
    site.write("spare", &site.ca.agent("drill05-test-a"));
    site.write("other", &site.ca.agent("drill05-test-b"));
    let spare = site.file("spare").display().to_string();
    let mut command = site.drill(&stub);
    command.args(["--kinds", "http1", "--unknown-serial"]).arg("--audit-log").arg(&audit);
    command.args(["--recover-with", &format!("cp {spare}.pem $DRILL_CERT && cp {spare}.key $DRILL_KEY")]);
    let (drill, ended) = found(command).await;
    let passed: Vec<_> = drill.checks.iter().map(|check: &Check| check.passed).collect();
    // The stub writes no audit.
    assert_eq!(passed, [Some(true), Some(true), Some(true), Some(true), Some(false)], "{:?}", drill.checks);
    assert_eq!(ended.code, Some(1));
    // A credential that works is not enough: it must be the victim's, and another one.
    for (name, why) in [("other", "not for the victim"), ("victim", "the one that was revoked")] {
        let file = site.file(name).display().to_string();
        let mut command = site.drill(&site.stub(Enforces::Never).await);
        command.args(["--kinds", "http1", "--recover-with"]);
        command.arg(format!("cp {file}.pem $DRILL_CERT && cp {file}.key $DRILL_KEY"));
        let (drill, _) = found(command).await;
        assert!(drill.checks[3].passed == Some(false) && drill.checks[3].detail.contains(why), "{drill:?}");
    }
}

#[tokio::test]
async fn checks_fail_where_anybody_may_revoke_and_nobody_twice() {
    let site = Site::new();
    let mut command = site.drill(&site.stub(Enforces::Careless).await);
    command.args(["--kinds", "http1"]);
    let (drill, ended) = found(command).await;
    let told: Vec<_> = drill.checks.iter().take(2).map(|check| (check.passed, &*check.detail)).collect();
    assert_eq!((told[0].0, told[1].0, ended.code), (Some(false), Some(false), Some(1)), "{told:?}");
    assert!(told[0].1.contains("409") && told[1].1.contains("200"), "{told:?}");
    assert!(drill.failures.iter().all(|failure| !failure.contains("victim")), "{:?}", drill.failures);
    // Sent elsewhere is not refused: elsewhere may let in. Seen failing where anything below 500 was a refusal.
    let mut command = site.drill(&site.stub(Enforces::ByRedirect).await);
    command.args(["--kinds", "http1"]);
    let (drill, _) = found(command).await;
    assert!(drill.checks[1].passed == Some(false) && drill.checks[1].detail.contains("302"), "{drill:?}");
}

/// A command that revokes is timed from its start to its end.
#[tokio::test]
async fn by_a_command() {
    let site = Site::new();
    let stub = site.stub(Enforces::After(Duration::ZERO)).await;
    let seen = site.file("seen");
    let mut command = site.bare(&stub);
    command.args(["--kinds", "http1", "--revoke-with"]);
    command.arg(format!("sleep 0.2; echo $DRILL_SERIAL $DRILL_PRINCIPAL >> {}", seen.display()));
    let (drill, ended) = found(command).await;
    assert!(drill.call.succeeded && drill.call.answered_us > Some(200_000), "{drill:?}");
    assert_eq!(ended.code, Some(1), "nothing was revoked");
    let named = format!("{} spiffe://lab.test/agent/drill05-test-a\n", site.victim.serial);
    assert_eq!(
        fs::read_to_string(seen).unwrap(),
        named.repeat(2),
        "the check that it is idempotent is one more"
    );
    let mut command = site.bare(&stub);
    command.args(["--kinds", "http1", "--revoke-with", "echo broken >&2; exit 3"]);
    let (drill, ended) = found(command).await;
    assert!(!drill.call.succeeded && drill.call.told.ends_with(": 3"), "{:?}", drill.call);
    // What it said may be a secret: it is for the terminal alone.
    assert!(ended.err.contains("said: broken") && !ended.out.contains("broken"), "{ended:?}");
    assert!(ended.err.contains("may be revoked"), "{ended:?}");
}

/// What was not looked at is not passed, and what a header or a body says is nobody's business.
#[tokio::test]
async fn what_is_asked_for_must_be_offered() {
    let site = Site::new();
    let stub = site.stub(Enforces::Without(Kind::WebSocket)).await;
    let mut command = site.drill(&stub);
    command.args(["--kinds", "websocket", "--revoke-header", "authorization: s3cret"]);
    let (drill, ended) = found(command).await;
    assert_eq!((verdicts(&drill)[&Kind::WebSocket], ended.code), (Verdict::NotOffered, Some(1)));
    assert!(drill.failures.iter().any(|failure| failure.contains("not offered")), "{:?}", drill.failures);
    assert!(!ended.out.contains("s3cret"), "{}", ended.out);
    let stub = site.stub(Enforces::Without(Kind::WebSocket)).await;
    assert_eq!(ended_well(site.drill(&stub)).await, "passed");
}

#[tokio::test]
async fn nobody_else_is_revoked() {
    let site = Site::new();
    let stub = site.stub(Enforces::Never).await;
    let mut command = site.drill(&stub);
    command.args(["--allow-prefix", "drill06-"]);
    let ended_so = ended(command).await;
    assert!(
        ended_so.code == Some(2) && ended_so.err.contains("does not begin with `drill06-`"),
        "{ended_so:?}"
    );
    let mut command = site.bare(&stub);
    command.args(["--revoke-with", "true", "--revoke-url", "https://localhost/"]);
    assert_eq!(ended(command).await.code, Some(2));
    assert_eq!(ended(site.bare(&stub)).await.code, Some(2));
    // Nor is anybody where the victim is not served to begin with.
    let mut command = site.bare(&stub);
    let revoked = site.file("revoked");
    command.arg("--revoke-with").arg(format!("touch {}", revoked.display()));
    site.write("victim", &Ca::root("another").agent("drill05-test-a"));
    let ended_so = ended(command).await;
    assert!(ended_so.code == Some(3) && ended_so.err.contains("nothing was revoked"), "{ended_so:?}");
    assert!(!revoked.exists());
    // Nor where what comes of it could not be told: for a report that cannot be written, or too few tries.
    site.write("victim", &site.victim);
    for (option, value, why) in [
        ("--report", "/nowhere/x.html", "No such file"),
        ("--window", "40ms", "tell nothing"),
        ("--window", "1h", "are not kept"),
    ] {
        let mut command = site.timeless(&stub, &["victim", "bystander"]);
        command.arg("--revoke-with").arg(format!("touch {}", revoked.display())).args([option, value]);
        let ended_so = ended(command).await;
        assert!(ended_so.code == Some(2) && ended_so.err.contains(why), "{ended_so:?}");
    }
    assert!(!revoked.exists());
}

/// A server that falls over ends the victim's connections as well. Seen failing where every end was a refusal.
#[tokio::test]
async fn an_outage_is_no_revocation() {
    let site = Site::new();
    for who in [&["victim"][..], &["victim", "bystander"]] {
        let stub = site.stub(Enforces::ByAnOutage).await;
        let mut command = site.timeless(&stub, who);
        command.args(["--before", "300ms", "--window", "1s", "--skip-checks"]);
        command.args(["--max-bystander-errors", "100000"].iter().filter(|_| who.len() > 1));
        let (drill, ended) = found(site.call(command, &stub)).await;
        assert!(
            verdicts(&drill).values().all(|verdict| *verdict == Verdict::Unclear),
            "{:?}",
            drill.failures
        );
        let alone = drill.failures.iter().any(|failure| failure.contains("bystander is not served"));
        assert_eq!((alone, ended.code), (who.len() > 1, Some(1)));
    }
}

/// What was open is cut off, and whatever is begun anew goes on for half a second. Seen failing where the first end of a
/// stream was the last that it was served.
#[tokio::test]
async fn what_is_begun_anew_was_served() {
    let site = Site::new();
    let stub = site.stub(Enforces::Reopened(Duration::from_millis(500))).await;
    let mut command = site.drill(&stub);
    command.args(["--kinds", "stream,body,websocket"]);
    let (drill, ended) = found(command).await;
    for (kind, probe) in victims(&drill) {
        let last = probe.last_served_us.unwrap();
        assert!(probe.verdict == Verdict::Refused && last > 450_000, "{kind}: {probe:?}");
        assert!(probe.served_after_answer > 0 && probe.first_refusal_us >= Some(last), "{kind}: {probe:?}");
    }
    assert_eq!(ended.code, Some(0), "{:?}", drill.failures);
}

/// Seen failing where what a server sends by itself was nothing.
#[tokio::test]
async fn whoever_hears_a_server_is_served() {
    let site = Site::new();
    let stub = site.stub(Enforces::Chatty(Duration::from_millis(300))).await;
    let mut command = site.rhythmless(&stub, &["victim"]);
    command.args(["--before", "300ms", "--window", "1s", "--kinds", "websocket", "--rate", "5"]);
    let (drill, _) = found(site.call(command, &stub)).await;
    let probe = victims(&drill)[&Kind::WebSocket];
    let (called, stamps) = stub.stamps();
    let last = since(called, stamps[&Kind::WebSocket].last_served.unwrap());
    // Between two pings there are 200 ms.
    assert!((last - probe.last_served_us.unwrap()).abs() < 100_000, "{last} us, {probe:?}");
    assert_eq!(probe.verdict, Verdict::Refused, "{probe:?}");
}

/// To be sent to where one can log in is not to be served.
#[tokio::test]
async fn a_redirect_is_no_service() {
    let site = Site::new();
    let stub = site.stub(Enforces::ByRedirect).await;
    let mut command = site.drill(&stub);
    command.args(["--kinds", "http1,handshake"]);
    let (drill, ended) = found(command).await;
    for probe in victims(&drill).values() {
        assert_eq!((probe.verdict, probe.refusal.as_deref()), (Verdict::Unclear, Some("no refusal: 302")));
    }
    assert_eq!(ended.code, Some(1));
}

/// A service that the command has started holds its output, and is left running; what it leaves behind at Ctrl-C is not.
#[tokio::test]
async fn a_command_is_over_when_it_has_ended() {
    let site = Site::new();
    let stub = site.stub(Enforces::After(Duration::ZERO)).await;
    let mut command = site.bare(&stub);
    command.args(["--kinds", "http1", "--skip-checks", "--revoke-with", "sleep 5 & echo begun"]);
    let (drill, _) = found(command).await;
    assert!(drill.call.succeeded && drill.call.answered_us < Some(4_000_000), "{:?}", drill.call);
    assert!(drill.checks.iter().all(|check| check.passed.is_none()), "{:?}", drill.checks);
    let (begun, ended_well) = (site.file("begun"), site.file("ended"));
    let mut command = site.timeless(&stub, &["victim"]);
    command.args(["--before", "100ms", "--window", "50s", "--revoke-with"]);
    command.arg(format!("touch {}; sleep 1; touch {}", begun.display(), ended_well.display()));
    command.stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    while !begun.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    kill(Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(4));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!ended_well.exists());
}

/// What was seen is told, although there was no time for checks.
#[tokio::test]
async fn interrupted_in_its_checks_it_tells_what_it_saw() {
    let site = Site::new();
    let stub = site.stub(Enforces::Never).await;
    let revoked = site.file("revoked");
    let mut command = site.bare(&stub);
    command.args(["--kinds", "http1", "--json", "--revoke-with"]);
    let file = revoked.display();
    command.arg(format!("test -e {file} && touch {file}-again && sleep 60; touch {file}"));
    command.stderr(Stdio::piped()).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    while !site.file("revoked-again").exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    kill(pid, Signal::SIGINT).unwrap();
    let output = child.wait_with_output().await.unwrap();
    let findings: Findings = serde_json::from_slice(&output.stdout).unwrap();
    let Found::Drill(drill) = findings.found else { panic!("{output:?}") };
    assert_eq!((verdicts(&drill)[&Kind::Http1], output.status.code()), (Verdict::Served, Some(4)));
    assert!(drill.failures.iter().any(|failure| failure.contains("interrupted")), "{:?}", drill.failures);
}

#[tokio::test]
async fn interrupted_it_says_what_stays_revoked() {
    let site = Site::new();
    let revoked = site.file("revoked");
    for wait_for_it in [false, true] {
        let stub = site.stub(Enforces::After(Duration::ZERO)).await;
        let mut command = site.timeless(&stub, &["victim", "bystander"]);
        let before = if wait_for_it { "100ms" } else { "50s" };
        command.args(["--before", before, "--window", "50s", "--revoke-with"]);
        command.arg(format!("touch {}", revoked.display()));
        command.stderr(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
        tokio::time::sleep(Duration::from_millis(500)).await;
        while wait_for_it && !revoked.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        kill(pid, Signal::SIGINT).unwrap();
        let output = child.wait_with_output().await.unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        let told = if wait_for_it { "stays revoked" } else { "nothing was revoked" };
        assert!(output.status.code() == Some(4) && err.contains(told), "{err}");
        assert_eq!(revoked.exists(), wait_for_it);
    }
}

/// On a gate of ours everything is offered, and everything ends, for the service behind it as well. Seen failing with upstream
/// connections that are closed instead of reset: the upload came whole to the service after the answer.
#[tokio::test]
async fn a_gate() {
    let clock = Clock::system();
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let behind = Endpoint::parse(&format!("http://{upstream}")).unwrap();
    let stage = Stage::set_with(&clock, &["drill05-test-a", "b"], &|config| {
        config.route[0].upstream = RouteUpstream::Outright(vec![behind.clone()]);
    });
    let stage = stage.unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["drill", "--rate", "100", "--before", "300ms", "--window", "1s", "--label", "ours"]);
    command.args(["--upstream", &upstream.to_string()]);
    command.args([
        "--url",
        &format!("https://{}/x", stage.gate()),
        "--admin",
        &format!("https://{}", stage.admin()),
    ]);
    command.arg("--ca").arg(stage.ca());
    for (who, files, id) in [
        ("victim", stage.agent_files("drill05-test-a"), Some("drill05-test-a")),
        ("bystander", stage.agent_files("b"), Some("b")),
        ("admin", stage.admin_files().clone(), None),
    ] {
        command.arg(format!("--{who}-cert")).arg(files.certificate);
        command.arg(format!("--{who}-key")).arg(files.key);
        if let Some(id) = id {
            command.arg(format!("--{who}-header")).arg(format!("x-agent-id: {id}"));
        }
    }
    command.arg("--audit-log").arg(stage.directory().join("state/audit.jsonl"));
    let report = stage.directory().join("drill.html");
    command.arg("--report").arg(&report).stdin(Stdio::null());
    let (drill, ended) = found(command).await;
    let all = Kind::ALL.map(|kind| (kind, Verdict::Refused));
    assert_eq!(verdicts(&drill), BTreeMap::from(all), "{ended:?}");
    let late: u64 =
        drill.probes.iter().filter(|probe| probe.who == Who::Victim).map(|p| p.served_after_answer).sum();
    assert_eq!((late, &drill.failures), (0, &Vec::new()));
    let passed: Vec<_> = drill.checks.iter().map(|check| check.passed).collect();
    let expected = [Some(true), Some(true), Some(true), None, Some(true), Some(true)];
    assert_eq!(passed, expected, "{:?}", drill.checks);
    assert!(drill.checks[5].detail.contains("then a reset"), "{:?}", drill.checks[5]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_eq!(ended.err.matches("stays revoked; portcullis reinstate").count(), 2, "{}", ended.err);
    assert!(fs::read_to_string(report).unwrap().contains("ours"));
    tokio::task::spawn_blocking(|| stage.strike()).await.unwrap().unwrap();
}
