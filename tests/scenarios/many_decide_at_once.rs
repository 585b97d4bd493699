//! A thousand revocations, suspensions and reinstatements of the same targets at once end in the state that the two
//! registers define, whatever overtook what; the audit has all of them, and tells the same story.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use bytes::Bytes;
use h2::client::ResponseFuture;
use portcullis::authority::audit;
use portcullis::clock::Timestamp;
use portcullis::revocation::Action;
use portcullis::revocation::Event;
use portcullis::revocation::Registers;
use portcullis::revocation::Target;
use portcullis::revocation::Uptime;
use serde_json::Value;
use serde_json::json;

use crate::client::Answer;
use crate::client::H2;
use crate::lab::Lab;
use crate::lab::within;

/// All of them are under way at once: as many streams as one connection may have.
const CONNECTIONS: usize = 10;
const STREAMS: usize = 100;
const TARGETS: usize = 40;

/// The target, in a spelling that depends on who asks.
fn spelled(target: usize, spelling: usize) -> (&'static str, String) {
    match target % 4 {
        0 if spelling.is_multiple_of(2) => ("principal", format!("agent-{target}")),
        0 => ("agent", format!("AGENT-{target}")),
        1 => ("task", format!("t-{target}")),
        2 if spelling.is_multiple_of(2) => ("certificate", format!("0{target:03x}")),
        2 => ("certificate", format!("00:00:0{:x}:{:02X}", target >> 8, target & 0xff)),
        _ => ("trust_domain", format!("td-{target}.test")),
    }
}

fn change(i: usize) -> Value {
    let (level, target) = spelled((i * 7) % TARGETS, i);
    let action = ["revoke", "suspend", "reinstate", "suspend", "reinstate", "revoke"][i % 6];
    let mut change =
        json!({"action": action, "level": level, "target": target, "reason": format!("no. {i}")});
    change["preemptive"] = true.into();
    if action == "reinstate" && i.is_multiple_of(4) {
        change["force"] = true.into();
    }
    if action != "reinstate" && i.is_multiple_of(5) {
        change["issued_before"] = (1_700_000_000 + i).into();
    }
    change
}

async fn begun(connection: &mut H2, body: String) -> ResponseFuture {
    let request = connection.request("POST", "/v1/revocations");
    let request = request.header("content-type", "application/json").body(()).unwrap();
    let (response, mut stream) = connection.send(request, false).await.unwrap();
    stream.send_data(Bytes::from(body), true).unwrap();
    response
}

async fn finished(response: ResponseFuture) -> Answer {
    let (parts, mut body) = within(response).await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(chunk) = within(body.data()).await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        bytes.extend_from_slice(&chunk);
    }
    Answer { status: parts.status, headers: parts.headers, body: bytes.into() }
}

/// The result of a change that was done. A reinstatement that a later denial overtook is one, too, and says so.
fn done(answer: &Answer) -> Value {
    let done = answer.json();
    if done["code"] == "overtaken" {
        assert_eq!((answer.status.as_u16(), &done["effective"]), (409, &Value::Bool(false)), "{done}");
        assert_eq!(done["action"], "reinstate", "{done}");
    } else {
        answer.assert_ok();
    }
    done
}

fn text<'a>(document: &'a Value, name: &str) -> &'a str {
    document[name].as_str().unwrap_or_default()
}

fn time(document: &Value, name: &str) -> Option<Timestamp> {
    document[name].as_str().and_then(Timestamp::parse)
}

/// What the registers make of the events that an audit, or a pile of answers, tells of.
#[derive(Default)]
struct Model(BTreeMap<Target, Registers>);

impl Model {
    fn merge(&mut self, document: &Value, at: Timestamp) {
        let target =
            Target::parse(text(document, "level").parse().unwrap(), text(document, "target"), None).unwrap();
        let action = match text(document, "action") {
            "revoke" => Action::Revoke,
            "suspend" => Action::Suspend,
            _ => Action::Reinstate,
        };
        let event = Event {
            id: text(document, "id").into(),
            issued_before: document["issued_before"].as_i64(),
            force: document["force"] == Value::Bool(true),
            ..Event::new(action, target.clone(), at)
        };
        self.0.entry(target).or_default().merge(&event, Uptime::MAX);
    }

    /// Every entry that stands, as the list tells it.
    fn rows(&self) -> BTreeSet<[String; 4]> {
        let rows = self.0.iter().flat_map(|(target, registers)| {
            registers.standings().map(|(state, standing)| {
                let id = standing.stamp.1.clone();
                [id, state.name().to_owned(), target.level().name().to_owned(), target.name().to_owned()]
            })
        });
        rows.collect()
    }
}

async fn listed(connection: &mut H2) -> BTreeSet<[String; 4]> {
    let page = connection.get("/v1/revocations?limit=1000").await;
    page.assert_ok();
    let rows = page.json();
    let rows = rows["revocations"].as_array().unwrap().iter();
    rows.map(|row| ["id", "state", "level", "target"].map(|name| text(row, name).to_owned())).collect()
}

/// Seen failing with an `apply` that writes no audit line for an event that changes nothing, and with a merge that lets
/// the later arrival win.
#[tokio::test]
async fn and_the_registers_decide() {
    let mut lab = Lab::start().await;
    let mut connections = Vec::new();
    for i in 0..CONNECTIONS {
        // Two administrators, so that neither calls too often.
        let name = ["ops.admin.test", "second.admin.test"][i % 2];
        connections.push(lab.admin_client(Some(&lab.ops.leaf().dns(name).issue())).h2().await);
    }
    let mut calls = tokio::task::JoinSet::new();
    for (c, mut connection) in connections.into_iter().enumerate() {
        calls.spawn(async move {
            let mut streams = Vec::new();
            for s in 0..STREAMS {
                let asked = change(c * STREAMS + s);
                streams.push((begun(&mut connection, asked.to_string()).await, asked));
            }
            let mut answers = Vec::new();
            for (response, asked) in streams {
                answers.push((asked, finished(response).await));
            }
            answers
        });
    }
    let answers: Vec<(Value, Answer)> = calls.join_all().await.into_iter().flatten().collect();
    assert_eq!(answers.len(), CONNECTIONS * STREAMS);

    let mut model = Model::default();
    let (mut applied, mut refused) = (BTreeSet::new(), 0);
    // Backwards, which must not matter.
    for (asked, answer) in answers.iter().rev() {
        if answer.verdict() == (409, "revoked".into()) {
            refused += 1;
            continue;
        }
        let mut done = done(answer);
        for name in ["issued_before", "force"] {
            done[name] = asked[name].clone();
        }
        let at = ["revoked_at", "suspended_at", "reinstated_at"].iter().find_map(|name| time(&done, name));
        model.merge(&done, at.unwrap());
        applied.insert(text(&done, "id").to_owned());
    }
    assert_eq!(applied.len() + refused, answers.len(), "no two have one id");
    assert!(refused > 0 && applied.len() > TARGETS);

    let admin = lab.admin_client(Some(&lab.ops.leaf().dns("ops.admin.test").issue()));
    assert_eq!(listed(&mut admin.h2().await).await, model.rows());

    // The audit is whole and in order, and tells the same story.
    let state = lab.audit().parent().unwrap().to_owned();
    let report = audit::verify(&state, None, &mut |_, _| {}).unwrap();
    let lines = std::fs::read_to_string(lab.audit()).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(report.events, lines.len() as u64);
    assert!(lines.iter().zip(1..).all(|(line, sequence)| line["sequence"] == sequence));
    assert!(lines.is_sorted_by_key(|line| time(line, "time")));
    let done: Vec<&Value> = lines.iter().filter(|line| line["outcome"] == "applied").collect();
    assert_eq!(done.len(), applied.len());
    assert_eq!(done.iter().map(|line| text(line, "id").to_owned()).collect::<BTreeSet<_>>(), applied);
    assert_eq!(lines.iter().filter(|line| line["outcome"] == "refused").count(), refused);
    let mut told = Model::default();
    done.iter().for_each(|line| told.merge(line, time(line, "at").unwrap()));
    assert_eq!(told.rows(), model.rows());

    lab.restart().await;
    let admin = lab.admin_client(Some(&lab.ops.leaf().dns("ops.admin.test").issue()));
    assert_eq!(listed(&mut admin.h2().await).await, model.rows());
}

/// A batch takes effect in its own order: what it says last of a target holds.
#[tokio::test]
async fn and_a_batch_in_its_order() {
    let lab = Lab::start().await;
    let mut admin = lab.admin_client(Some(&lab.ops.leaf().dns("ops.admin.test").issue())).h2().await;
    let one = |action: &str, target: usize| json!({"action": action, "level": "task", "target": format!("t-{target}")});
    let batch: Vec<Value> =
        (0..3000).map(|i| one(["suspend", "reinstate", "suspend"][i / 1000], i % 1000)).collect();
    let answer = finished(begun(&mut admin, Value::Array(batch).to_string()).await).await;
    answer.assert_ok();
    let document = answer.json();
    assert_eq!((&document["done"], &document["refused"]), (&json!(3000), &json!(0)));
    let last: BTreeSet<String> = document["answers"].as_array().unwrap()[2000..]
        .iter()
        .map(|answer| text(&answer["result"], "id").to_owned())
        .collect();
    let standing = listed(&mut admin).await;
    assert_eq!(standing.iter().map(|row| row[0].clone()).collect::<BTreeSet<_>>(), last);
}

/// What is lifted takes effect late, once it is on record; what comes after it is still judged after it. Seen failing
/// with a batch that goes on meanwhile.
#[tokio::test]
async fn also_what_comes_after_a_reinstatement() {
    let lab = Lab::start().await;
    let mut admin = lab.admin_client(Some(&lab.ops.leaf().dns("ops.admin.test").issue())).h2().await;
    let change = |action: &str, target: usize, force: bool| {
        let mut change = json!({"action": action, "level": "task", "target": format!("t-{target}")});
        if force {
            change["force"] = true.into();
        }
        change
    };
    let steps = [
        ("revoke", false, 200),
        ("reinstate", false, 409),
        ("reinstate", true, 200),
        ("reinstate", false, 200),
        ("revoke", false, 200),
        ("reinstate", false, 409),
        ("reinstate", true, 200),
        ("suspend", false, 200),
        ("revoke", false, 200),
        ("reinstate", true, 200),
        ("revoke", false, 200),
    ];
    let batch: Vec<Value> =
        (0..50).flat_map(|target| steps.map(|(action, force, _)| change(action, target, force))).collect();
    let answer = finished(begun(&mut admin, Value::Array(batch).to_string()).await).await;
    let document = answer.json();
    let answers = document["answers"].as_array().unwrap();
    for (target, answers) in answers.chunks(steps.len()).enumerate() {
        let statuses: Vec<u64> = answers.iter().map(|answer| answer["status"].as_u64().unwrap()).collect();
        assert_eq!(statuses, steps.map(|(_, _, status)| status), "t-{target}");
    }
    let last: BTreeSet<String> = answers
        .chunks(steps.len())
        .map(|answers| text(&answers.last().unwrap()["result"], "id").to_owned())
        .collect();
    let standing = listed(&mut admin).await;
    assert_eq!(standing.iter().map(|row| row[0].clone()).collect::<BTreeSet<_>>(), last);
}
