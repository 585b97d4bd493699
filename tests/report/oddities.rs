//! Findings that nobody expects make a page all the same.

use portcullis::clock::Timestamp;
use portcullis::rig::findings::Call;
use portcullis::rig::findings::Check;
use portcullis::rig::findings::Cost;
use portcullis::rig::findings::Distribution;
use portcullis::rig::findings::Drill;
use portcullis::rig::findings::Findings;
use portcullis::rig::findings::Fleet;
use portcullis::rig::findings::Found;
use portcullis::rig::findings::Kind;
use portcullis::rig::findings::Outcome;
use portcullis::rig::findings::Party;
use portcullis::rig::findings::Probe;
use portcullis::rig::findings::Proxies;
use portcullis::rig::findings::Revocations;
use portcullis::rig::findings::Try;
use portcullis::rig::findings::Verdict;
use portcullis::rig::findings::Who;
use portcullis::rig::report;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::LIGHT;
use crate::samples;
use crate::tags;

fn micros() -> impl Strategy<Value = i64> {
    prop_oneof![any::<i64>(), -10_000i64..10_000_000, Just(0), Just(i64::MIN), Just(i64::MAX)]
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>(), 0.0..1e7f64, Just(0.0), Just(f64::NAN), Just(f64::INFINITY), Just(-1.0)]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,12}",
        Just("</svg><script>alert('1')</script>\"&\u{0}\u{202e}".to_owned()),
        Just("x".repeat(5000))
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    proptest::sample::select(Kind::ALL.to_vec())
}

fn outcome() -> impl Strategy<Value = Outcome> {
    proptest::sample::select(vec![Outcome::Served, Outcome::Refused, Outcome::Cut, Outcome::Failed])
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let all = [Verdict::Refused, Verdict::Served, Verdict::Flapped, Verdict::NotOffered, Verdict::Unclear];
    proptest::sample::select(all.to_vec())
}

fn probe() -> impl Strategy<Value = Probe> {
    let who = prop_oneof![Just(Who::Victim), Just(Who::Bystander)];
    let one = (micros(), micros(), outcome()).prop_map(|(sent, at, outcome)| Try(sent, at, outcome));
    let seen =
        (option::of(micros()), option::of(text()), option::of(micros()), any::<u64>(), vec(one, 0..12));
    (who, kind(), any::<usize>(), verdict(), seen).prop_map(|(who, kind, number, verdict, seen)| Probe {
        who,
        kind,
        number,
        verdict,
        first_refusal_us: seen.0,
        refusal: seen.1,
        last_served_us: seen.2,
        refused_from_us: seen.2,
        lost: seen.2.map_or(0, i64::unsigned_abs),
        served_after_answer: seen.3,
        tries: seen.4,
    })
}

fn drill() -> impl Strategy<Value = Found> {
    let call = (option::of(micros()), any::<bool>(), text());
    let call = call.prop_map(|(answered_us, succeeded, told)| Call { answered_us, succeeded, told });
    let party = || (text(), text()).prop_map(|(name, serial)| Party { name, serial });
    let check = (text(), option::of(any::<bool>()), text());
    let check = check.prop_map(|(name, passed, detail)| Check { name, passed, detail });
    let times = (any::<u64>(), any::<u64>(), number());
    let seen = (vec(probe(), 0..60), vec(check, 0..4), vec(text(), 0..4));
    (text(), party(), option::of(party()), call, times, seen).prop_map(
        |(url, victim, bystander, call, times, seen)| {
            Found::Drill(Drill {
                how: url.clone(),
                address: url.clone(),
                url,
                victim,
                bystander,
                call,
                window_us: times.0,
                before_us: times.1,
                rate: times.2,
                probes: seen.0,
                checks: seen.1,
                failures: seen.2,
                said: Vec::new(),
            })
        },
    )
}

fn distribution() -> impl Strategy<Value = Distribution> {
    let marks = [number(), number(), number(), number(), number()];
    (any::<u64>(), any::<u64>(), marks, vec((number(), number()), 0..12)).prop_map(
        |(count, never, marks, ecdf)| {
            let [p50_us, p90_us, p99_us, p999_us, max_us] = marks;
            Distribution { count, never, p50_us, p90_us, p99_us, p999_us, max_us, ecdf }
        },
    )
}

fn fleet() -> impl Strategy<Value = Fleet> {
    let found = (distribution(), distribution(), distribution());
    let parts = (vec(distribution(), 0..80), vec((kind(), distribution()), 0..9));
    let counts = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    (found, parts, counts, [number(), number(), number()]).prop_map(|(found, parts, counts, numbers)| Fleet {
        seconds: numbers[0],
        since_sent: found.0.clone(),
        last_gate: found.0,
        gates: parts.0,
        kinds: parts.1,
        answered: found.1,
        durable: found.2,
        served_after_answer: counts.0,
        tried_after_answer: counts.1,
        requests_per_second: numbers[1],
        bystander_errors: counts.2,
        cpu_seconds: numbers[2],
        memory: counts.3,
    })
}

fn revocations() -> impl Strategy<Value = Found> {
    (text(), any::<u64>(), any::<u64>(), number(), vec(fleet(), 0..4)).prop_map(
        |(feed, entries, connections, rate, fleets)| {
            Found::Revocations(Revocations { feed, entries, connections, rate, fleets })
        },
    )
}

fn proxies() -> impl Strategy<Value = Found> {
    let cost = (text(), kind(), [number(), number(), number()], any::<u64>(), any::<u64>());
    let cost = cost.prop_map(|(proxy, work, numbers, errors, memory)| Cost {
        proxy,
        work,
        cpu_us: numbers[0],
        ratio: numbers[1],
        per_second: numbers[2],
        errors,
        memory,
    });
    (any::<usize>(), number(), vec(cost, 0..40))
        .prop_map(|(rounds, seconds, costs)| Found::Proxies(Proxies { rounds, seconds, costs }))
}

fn findings() -> impl Strategy<Value = Findings> {
    let found = prop_oneof![drill(), revocations(), proxies()];
    (text(), any::<i64>(), found, vec(text(), 0..4)).prop_map(|(label, at, found, command)| {
        let mut findings = samples::findings(&label, found);
        findings.at = Timestamp::from_millis(at);
        findings.setup.command = command;
        findings.setup.processor = label;
        findings
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Seen failing with a `<` that was not escaped.
    #[test]
    fn any_findings_make_a_page_that_is_well_formed(runs in vec(findings(), 0..4)) {
        let page = report::html(&runs);
        prop_assert_eq!(tags::fault(&page), None);
        prop_assert!(!page.contains("<script"));
        for wrong in ["NaN", "=\"inf", " inf ", "Minf", "Hinf"] {
            prop_assert!(!page.contains(wrong), "{}", wrong);
        }
    }
}

/// Seen failing with tries that were all drawn: 15 MB.
#[test]
fn a_million_tries_make_a_page_that_can_be_sent() {
    let [mut run, ..] = <[Findings; 3]>::try_from(samples::drills()).unwrap();
    let Found::Drill(drill) = &mut run.found else { panic!("no drill") };
    let tries = |at: i64| Try(at * 10 - 200_000, at * 10 - 199_000, Outcome::Served);
    let many: Vec<Try> = (0..50_000).map(tries).collect();
    let template = drill.probes[0].clone();
    drill.probes = (0..20).map(|number| Probe { number, tries: many.clone(), ..template.clone() }).collect();
    drill.failures = vec!["x".repeat(10_000); 10_000];
    drill.checks = vec![Check { name: "x".repeat(10_000), passed: None, detail: String::new() }; 10_000];
    let page = report::html(&[run]);
    assert!(page.len() < LIGHT, "{} bytes", page.len());
    assert_eq!(tags::fault(&page), None);
}

/// Seen failing with a `<` that was not escaped.
#[test]
fn what_comes_from_findings_stays_text() {
    let text = "<img src=x onerror=alert(1)>\"'";
    let mut run = samples::proxies();
    run.label = text.into();
    run.setup.command = vec![text.into()];
    let page = report::html(&[run]);
    assert!(!page.contains("<img") && page.contains("&lt;img src=x onerror=alert(1)&gt;&quot;&#39;"));
}
