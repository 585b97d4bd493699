//! Findings as drills and benchmarks could make them, for pages to be made of.

use fastrand::Rng;
use hdrhistogram::Histogram;
use portcullis::clock::Timestamp;
use portcullis::rig::findings::Call;
use portcullis::rig::findings::Check;
use portcullis::rig::findings::Cost;
use portcullis::rig::findings::Distribution;
use portcullis::rig::findings::Drill;
use portcullis::rig::findings::FORMAT;
use portcullis::rig::findings::Findings;
use portcullis::rig::findings::Fleet;
use portcullis::rig::findings::Found;
use portcullis::rig::findings::Kind;
use portcullis::rig::findings::Outcome;
use portcullis::rig::findings::Party;
use portcullis::rig::findings::Probe;
use portcullis::rig::findings::Proxies;
use portcullis::rig::findings::Revocations;
use portcullis::rig::findings::Setup;
use portcullis::rig::findings::Try;
use portcullis::rig::findings::Verdict;
use portcullis::rig::findings::Who;

const WINDOW_US: i64 = 10_000_000;
const BEFORE_US: i64 = 2_000_000;
const STEP_US: i64 = 5_000;

/// Three drills beside each other, with every verdict among them.
pub(crate) fn drills() -> Vec<Findings> {
    vec![ours(), theirs(), flapping()]
}

/// All that a page can be made of.
pub(crate) fn all() -> Vec<Findings> {
    let mut all = drills();
    all.extend([fleets(), proxies()]);
    all
}

pub(crate) fn findings(label: &str, found: Found) -> Findings {
    let command = [
        "portcullis",
        "drill",
        "--url",
        "https://gate.lab.test:8443/",
        "--revoke-with",
        "systemctl reload nginx",
        "--json",
    ];
    let setup = Setup {
        portcullis: "0.1.0".into(),
        command: command.map(str::to_owned).into(),
        system: "Debian GNU/Linux 12 (bookworm), kernel 6.1.0-28-amd64".into(),
        processor: "AMD EPYC 7B13".into(),
        cores: 2,
        memory: 8 << 30,
    };
    Findings { format: FORMAT, label: label.into(), at: Timestamp::from_secs(1_790_000_000), setup, found }
}

/// What becomes of a probe.
#[derive(Clone, Copy)]
enum Fate {
    Ends(i64, Outcome),
    Never,
    Flaps(i64),
    NotOffered,
    Unclear(i64),
}

fn probe(rng: &mut Rng, (who, kind, number): (Who, Kind, usize), fate: Fate, answered: i64) -> Probe {
    let mut tries = Vec::new();
    let mut sent = -BEFORE_US + rng.i64(0..STEP_US);
    while sent < WINDOW_US && !matches!(fate, Fate::NotOffered) {
        // Near the call they follow each other closely.
        let step = if (-4_000..8_000).contains(&sent) { rng.i64(90..240) } else { STEP_US };
        let at = sent + rng.i64(80..400);
        let outcome = match fate {
            Fate::Ends(end, how) if at > end => how,
            Fate::Flaps(end) if at > end && at < end * 3 || at > end * 4 => Outcome::Refused,
            Fate::Unclear(end) if at > end => Outcome::Failed,
            _ => Outcome::Served,
        };
        tries.push(Try(sent, at, outcome));
        if matches!(outcome, Outcome::Cut) {
            break;
        }
        sent += step;
    }
    let served = |one: &&Try| one.2 == Outcome::Served;
    let verdict = match fate {
        Fate::Ends(..) => Verdict::Refused,
        Fate::Never => Verdict::Served,
        Fate::Flaps(_) => Verdict::Flapped,
        Fate::NotOffered => Verdict::NotOffered,
        Fate::Unclear(_) => Verdict::Unclear,
    };
    let refusal = tries.iter().find(|one| one.1 > 0 && matches!(one.2, Outcome::Refused | Outcome::Cut));
    Probe {
        who,
        kind,
        number,
        verdict,
        first_refusal_us: refusal.map(|one| one.1),
        refusal: refusal.map(|one| {
            if one.2 == Outcome::Cut { "connection closed" } else { "403 principal_revoked" }.into()
        }),
        last_served_us: tries.iter().rev().find(served).map(|one| one.1),
        refused_from_us: None,
        lost: tries.iter().filter(|one| one.2 != Outcome::Served).count() as u64,
        served_after_answer: tries.iter().filter(served).filter(|one| one.0 > answered).count() as u64,
        tries,
    }
}

fn drill(label: &str, answered: i64, fates: &[(Kind, [Fate; 2])], failures: &[&str]) -> Findings {
    let mut rng = Rng::with_seed(label.len() as u64);
    let mut probes = Vec::new();
    for (kind, fates) in fates {
        for (number, fate) in fates.iter().enumerate() {
            probes.push(probe(&mut rng, (Who::Victim, *kind, number + 1), *fate, answered));
        }
        let fate = if matches!(fates[0], Fate::NotOffered) { Fate::NotOffered } else { Fate::Never };
        probes.push(probe(&mut rng, (Who::Bystander, *kind, 1), fate, answered));
    }
    let check = |name: &str, passed, detail: &str| Check { name: name.into(), passed, detail: detail.into() };
    let drill = Drill {
        address: "127.0.0.1:8443".into(),
        url: "https://gate.lab.test:8443/work".into(),
        victim: Party { name: "spiffe://lab.test/agent/drill05-test-a".into(), serial: "0a1b2c3d".into() },
        bystander: Some(Party { name: "spiffe://lab.test/agent/b".into(), serial: "4e5f".into() }),
        how: "PUT /v1/revocations on https://gate.lab.test:9443".into(),
        call: Call { answered_us: Some(answered), succeeded: true, told: "200".into() },
        window_us: WINDOW_US as u64,
        before_us: BEFORE_US as u64,
        rate: 200.0,
        probes,
        checks: vec![
            check("a second call changes nothing", Some(true), "200, already revoked"),
            check("a call without credentials is refused", Some(failures.is_empty()), "401"),
            check("the audit names the revocation", None, "no --audit-log was given"),
        ],
        failures: failures.iter().map(|&failure| failure.into()).collect(),
        said: Vec::new(),
    };
    findings(label, Found::Drill(drill))
}

fn ours() -> Findings {
    let (no, cut) = (Outcome::Refused, Outcome::Cut);
    let fates = [
        (Kind::Http1, [Fate::Ends(390, cut), Fate::Ends(310, no)]),
        (Kind::Http2, [Fate::Ends(420, no), Fate::Ends(350, cut)]),
        (Kind::Stream, [Fate::Ends(400, cut), Fate::Ends(330, cut)]),
        (Kind::Body, [Fate::Ends(370, cut), Fate::Ends(410, cut)]),
        (Kind::WebSocket, [Fate::Ends(360, cut), Fate::Ends(430, cut)]),
        (Kind::Handshake, [Fate::Ends(400, no), Fate::Ends(440, no)]),
        (Kind::Resumption, [Fate::Ends(380, no), Fate::Ends(410, no)]),
    ];
    drill("portcullis", 1_240, &fates, &[])
}

fn theirs() -> Findings {
    let no = Outcome::Refused;
    let fates = [
        (Kind::Http1, [Fate::Never, Fate::Never]),
        (Kind::Http2, [Fate::Never, Fate::Ends(5_000_000, Outcome::Cut)]),
        (Kind::Stream, [Fate::Never, Fate::Never]),
        (Kind::Body, [Fate::Ends(1_300_000, Outcome::Cut), Fate::Never]),
        (Kind::WebSocket, [Fate::Never, Fate::Never]),
        (Kind::Handshake, [Fate::Ends(71_000, no), Fate::Ends(84_000, no)]),
        (Kind::Resumption, [Fate::Ends(76_000, no), Fate::Ends(92_000, no)]),
    ];
    let failures = [
        "HTTP/1.1 connection: still served when the window ended",
        "HTTP/2 stream: still served when the window ended",
        "1,998 requests that were begun after the answer were served",
    ];
    drill("nginx, reload", 48_000, &fates, &failures)
}

fn flapping() -> Findings {
    let no = Outcome::Refused;
    let fates = [
        (Kind::Http1, [Fate::Ends(12_000, no), Fate::Ends(9_000, Outcome::Cut)]),
        (Kind::Http2, [Fate::Ends(14_000, no), Fate::Ends(11_000, no)]),
        (Kind::Stream, [Fate::NotOffered, Fate::NotOffered]),
        (Kind::Body, [Fate::Unclear(20_000), Fate::Unclear(40_000)]),
        (Kind::WebSocket, [Fate::NotOffered, Fate::NotOffered]),
        (Kind::Handshake, [Fate::Flaps(16_000), Fate::Ends(15_000, no)]),
        (Kind::Resumption, [Fate::Ends(18_000, no), Fate::Ends(17_000, no)]),
    ];
    drill("haproxy, runtime API", 5_500, &fates, &["new connection: refused, and then served again"])
}

/// Times that lie about `median` microseconds, skewed as waiting times are.
fn spread(rng: &mut Rng, count: u64, median: f64, never: u64) -> Distribution {
    let mut histogram = Histogram::new(3).unwrap();
    for _ in 0..count {
        let normal: f64 = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
        let tail = if rng.u32(0..200) == 0 { 5.0 } else { 1.0 };
        histogram.record((median * 1000.0 * (0.35 * normal).exp() * tail) as u64).unwrap();
    }
    Distribution::of(&histogram, never)
}

fn fleet(gates: u32) -> Fleet {
    let mut rng = Rng::with_seed(u64::from(gates));
    let last = 420.0 * (1.0 + f64::from(gates).ln());
    let kinds = [(Kind::Http1, 380.0), (Kind::Http2, 410.0), (Kind::Handshake, 900.0)];
    Fleet {
        seconds: 40.0,
        last_gate: spread(&mut rng, 4000, last, u64::from(gates == 16) * 40),
        since_sent: spread(&mut rng, 4000, last * 0.97, 0),
        gates: (0..gates)
            .map(|at| spread(&mut rng, 4000, 400.0 + f64::from(at * 11 % 7) * 60.0, 0))
            .collect(),
        kinds: kinds.map(|(kind, median)| (kind, spread(&mut rng, 4000, median, 0))).into(),
        answered: spread(&mut rng, 4000, last * 2.1, 0),
        durable: spread(&mut rng, 4000, last, 0),
        served_after_answer: 0,
        tried_after_answer: 48_211,
        requests_per_second: 9_840.4,
        bystander_errors: 0,
        cpu_seconds: 11.2 * f64::from(gates).sqrt(),
        memory: 48 << 20,
    }
}

/// Fleets of 1, 4 and 16 gates.
pub(crate) fn fleets() -> Findings {
    let fleets = [1, 4, 16].map(fleet).into();
    let found =
        Revocations { feed: "admin".into(), entries: 1_000_000, connections: 1000, rate: 100.0, fleets };
    findings("portcullis, fleets", Found::Revocations(found))
}

/// Three proxies, four works.
pub(crate) fn proxies() -> Findings {
    let works =
        [(Kind::Http1, 41.0), (Kind::Http2, 33.0), (Kind::Handshake, 910.0), (Kind::Resumption, 240.0)];
    let ratios = [("portcullis", 1.0), ("nginx", 0.83), ("haproxy", 0.9)];
    let cost = |(work, cpu_us): (Kind, f64), (proxy, ratio): (&str, f64)| Cost {
        proxy: proxy.into(),
        work,
        cpu_us: cpu_us * ratio,
        ratio,
        per_second: 1e6 / cpu_us / ratio,
        errors: 0,
        memory: 31 << 20,
    };
    let costs = works.into_iter().flat_map(|work| ratios.map(|ratio| cost(work, ratio))).collect();
    findings("proxies", Found::Proxies(Proxies { rounds: 5, seconds: 10.0, costs }))
}
