//! `kill -9` at any moment: what was answered is in effect and on record after the next start.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use portcullis::authority::audit;
use rustls::version::TLS13;
use serde_json::Value;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::client::Client;
use crate::lab::post;
use crate::lab::within;
use crate::process::Addresses;
use crate::process::Process;
use crate::process::Site;
use crate::upstream::Upstream;

const ROUNDS: u64 = 8;
const CALLERS: usize = 4;

/// The ids that calls to a gate were answered with, until it broke off: batches and single changes by turns.
async fn answered_until_killed(
    client: Client,
    (round, caller): (u64, usize),
    answers: Arc<Semaphore>,
) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut connection = client.h1().await;
    for n in 0.. {
        let one = |i: usize| {
            let target = format!("r{round}-c{caller}-n{n}-{i}");
            let action = ["revoke", "suspend"][i % 2];
            json!({"action": action, "level": "task", "target": target})
        };
        let body = if n % 2 == 0 { (0..200).map(one).collect() } else { one(0) };
        let Ok(answer) = post(&mut connection, &body).await else { break };
        answer.assert_ok();
        answers.add_permits(1);
        let document = answer.json();
        let results = document["answers"].as_array().into_iter().flatten().map(|answer| &answer["result"]);
        let results = results.chain(document.get("id").map(|_| &document));
        ids.extend(results.map(|result| result["id"].as_str().unwrap().to_owned()));
    }
    ids
}

/// Every id that stands.
async fn standing(site: &Site, at: Addresses, client: &Client) -> BTreeSet<String> {
    let mut connection = client.at(at.admin).h1().await;
    let mut ids = BTreeSet::new();
    for offset in (0..).step_by(1000) {
        let page = connection.get(&format!("/v1/revocations?limit=1000&offset={offset}")).await;
        page.assert_ok();
        let page = page.json();
        let rows = page["revocations"].as_array().unwrap();
        if rows.is_empty() {
            break;
        }
        ids.extend(rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()));
    }
    assert!(site.path("state").exists());
    ids
}

/// Seen failing with answers that do not wait for the audit. Those that do not wait for the journal were not seen to
/// fail here, because the audit's fsync gives it the time; `tests/journal.rs` is about that.
#[tokio::test]
async fn and_nothing_that_was_answered_is_lost() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    site.edit(
        "allow = [\"spiffe://lab.test/admin/ops\"]\n",
        "allow = [\"spiffe://lab.test/admin/ops\"]\nlimits = { calls_per_second = 10000, burst = 10000 }\n",
    );
    let admin = site.root.leaf().uri("spiffe://lab.test/admin/ops").issue();
    let mut answered = BTreeSet::new();
    for round in 0..ROUNDS {
        let (mut gate, at) = Process::start(site.run(upstream.address)).await;
        let client = Client::new(&site.root, Some(&admin), at.admin, &[&TLS13]);
        let stands = standing(&site, at, &client).await;
        assert!(answered.is_subset(&stands), "{:?}", answered.difference(&stands).next());
        let answers = Arc::new(Semaphore::new(0));
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..CALLERS {
            callers.spawn(answered_until_killed(client.clone(), (round, caller), Arc::clone(&answers)));
        }
        within(answers.acquire_many(4)).await.unwrap().forget();
        tokio::time::sleep(Duration::from_millis(round * 13)).await;
        gate.signal(Signal::SIGKILL);
        gate.wait().await;
        answered.extend(callers.join_all().await.into_iter().flatten());
    }
    assert!(answered.len() > 1000, "{}", answered.len());

    let (gate, at) = Process::start(site.run(upstream.address)).await;
    let client = Client::new(&site.root, Some(&admin), at.admin, &[&TLS13]);
    assert!(answered.is_subset(&standing(&site, at, &client).await));
    drop(gate);
    let report = audit::verify(&site.path("state"), None, &mut |_, _| {}).unwrap();
    assert!(report.events >= answered.len() as u64);
    let lines = std::fs::read_to_string(site.path("state/audit.jsonl")).unwrap();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let told: BTreeSet<String> = lines.filter_map(|line| line["id"].as_str().map(str::to_owned)).collect();
    assert!(answered.is_subset(&told), "{:?}", answered.difference(&told).next());
}
