//! A gate that reads a queue which `portcullis queue provision` has made, and a revocation list in S3: from whoever
//! publishes to the end of an open connection.

use std::time::Duration;
use std::time::Instant;

use aws_sdk_sqs::types::QueueAttributeName;
use portcullis::clock::Clock;
use serde_json::Value;
use serde_json::json;

use crate::caller::Caller;
use crate::lab::Lab;
use crate::lab::Plan;
use crate::site::Site;

/// Nothing that a test waits for takes longer, on a busy machine either.
const PATIENCE: Duration = Duration::from_secs(60);
const STAGES: [&str; 5] = ["received", "effective", "enforced", "durable", "acknowledged"];

/// The gate of a section that was printed, with short polls and with messages that come again soon.
fn plan(section: &str) -> Plan {
    let brisk = "[feed.sqs]\nwait = \"1s\"\nvisibility = \"1s\"\n";
    let section = section.replace("[feed.sqs]\n", brisk);
    let feeds = section.replace("[feed.sqs.sns]\n", "[feed.sqs.sns]\ncertificates = [\"sns.pem\"]\n");
    Lab::plan().feeds(&feeds)
}

fn event(agent: &str) -> Value {
    json!({
        "version": 1, "id": format!("incident-{agent}"), "action": "revoke", "level": "principal",
        "target": format!("spiffe://lab.test/agent/{agent}"), "reason": "leaked", "at": Clock::system().now(),
    })
}

impl Site {
    async fn publish(&self, message: impl ToString) {
        self.sns.publish().topic_arn(&self.topic).message(message.to_string()).send().await.unwrap();
    }

    /// How many messages a queue holds, those included that are being worked on.
    async fn left(&self, queue: &str) -> u64 {
        let counts = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        let attributes = self.attributes(queue).await;
        counts.iter().map(|name| attributes[name].parse::<u64>().unwrap()).sum()
    }

    async fn until_left(&self, queue: &str, count: u64) {
        until(async || self.left(queue).await == count).await;
    }

    /// What a message that waits in the queue says, which stays there.
    async fn peek(&self, queue: &str) -> String {
        let receive = self.sqs.receive_message().queue_url(self.url(queue).await.unwrap());
        let received = receive.visibility_timeout(0).send().await.unwrap();
        received.messages.unwrap().remove(0).body.unwrap()
    }
}

/// Waits for what must come.
async fn until(done: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_is_published_ends_an_open_connection() {
    for raw in [false, true] {
        let site = Site::new().await;
        let section = site.provision(if raw { &["--raw"] } else { &[] }).said(0, &[]).out;
        // What was published before the gate began is read, too; and says where its certificate is.
        site.publish(event("z")).await;
        let certificate = serde_json::from_str::<Value>(&site.peek("gate-1").await).unwrap();
        let certificate = certificate["SigningCertURL"].as_str().map(|url| site.moto.certificate(url));
        assert_eq!(certificate.is_some(), !raw);
        let plan =
            plan(&section).file("sns.pem", &String::from_utf8(certificate.unwrap_or_default()).unwrap());
        let lab = plan.start().await;
        let (a, b, z) = (lab.root.agent("a"), lab.root.agent("b"), lab.root.agent("z"));
        site.until_left("gate-1", 0).await;
        lab.client(&z).get("/").await.assert_refused(403, "principal_revoked");
        let (mut one, mut two) = (lab.client(&a).h1().await, lab.client(&a).h2().await);
        let mut other = lab.client(&b).h1().await;
        one.get("/").await.assert_ok();
        two.get("/").await.assert_ok();
        other.get("/").await.assert_ok();

        site.publish(event("a")).await;
        // Idle as they are.
        let _ = one.ended().await;
        let _ = two.ended().await;
        lab.client(&a).get("/").await.assert_refused(403, "principal_revoked");
        other.get("/").await.assert_ok();
        site.until_left("gate-1", 0).await;
        assert_eq!(site.left("gate-1-dead-letter").await, 0);
        is_told(&lab).await;
    }
}

/// Fails unless everybody who asks is told what became of the revocation of agent a.
async fn is_told(lab: &Lab) {
    let admin = lab.administrator("ops");
    let told = async || Caller::http1(&admin).await.read("/v1/revocations/incident-a").await;
    // The message is gone a moment before this process knows it.
    until(async || told().await["timeline"]["acknowledged_us"].is_u64()).await;
    let (told, begun) = (told().await, event("a"));
    assert_eq!((&told["state"], &told["in_effect"]), (&json!("revoked"), &json!(true)), "{told}");
    assert_eq!((&told["target"], &told["level"]), (&begun["target"], &begun["level"]), "{told}");
    assert_eq!(told["entry"]["source"], "sqs", "{told}");
    let timeline = &told["timeline"];
    assert_eq!((&timeline["feed"], &timeline["sessions_ended"]), (&json!("sqs"), &json!(2)), "{told}");
    assert!(timeline["at"].is_string() && timeline["received"].is_string(), "{told}");
    let reached = STAGES[1..].iter().map(|stage| timeline[format!("{stage}_us")].as_u64().unwrap());
    let [effective, enforced, durable, acknowledged] = reached.collect::<Vec<_>>()[..] else {
        unreachable!()
    };
    assert!(effective <= enforced && enforced <= acknowledged && durable <= acknowledged, "{told}");

    let audit = std::fs::read_to_string(lab.audit()).unwrap();
    let lines = audit.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines: Vec<Value> = lines.filter(|line| line["id"] == "incident-a").collect();
    let [line] = &lines[..] else { panic!("{} lines of one event: {audit}", lines.len()) };
    for (key, wanted) in [("action", "revoke"), ("outcome", "applied"), ("reason", "leaked")] {
        assert_eq!(line[key], wanted, "{line}");
    }
    assert_eq!((&line["target"], &line["timeline"]["feed"]), (&begun["target"], &json!("sqs")), "{line}");
    assert_eq!(line["timeline"]["sessions_ended"], 2, "{line}");

    let metrics = lab.plain("/metrics").await;
    for stage in STAGES {
        let count =
            format!("portcullis_revocation_enforced_seconds_count{{feed=\"sqs\",stage=\"{stage}\"}} 2");
        assert!(metrics.contains(&count), "{count}: {metrics}");
    }
}

#[tokio::test]
async fn poison_ends_among_the_dead_letters_and_blocks_nobody() {
    let site = Site::new().await;
    let section = site.provision(&["--raw"]).said(0, &[]).out;
    let poison = ["not JSON", "null", "{\"version\": 1, \"action\": \"explode\"}"];
    for (i, bad) in poison.iter().enumerate() {
        site.publish(bad).await;
        site.publish(event(&format!("a{i}"))).await;
    }
    let lab = plan(&section).start().await;
    for i in 0..poison.len() {
        let agent = format!("a{i}");
        until(async || std::fs::read_to_string(lab.audit()).unwrap().contains(&format!("incident-{agent}")))
            .await;
        let agent = lab.root.agent(&agent);
        lab.client(&agent).get("/").await.assert_refused(403, "principal_revoked");
    }
    site.until_left("gate-1-dead-letter", poison.len() as u64).await;
    site.until_left("gate-1", 0).await;
    let url = site.url("gate-1-dead-letter").await.unwrap();
    let received = site.sqs.receive_message().queue_url(url).max_number_of_messages(10).send().await.unwrap();
    let mut dead: Vec<String> =
        received.messages.unwrap().into_iter().map(|dead| dead.body.unwrap()).collect();
    dead.sort_unstable();
    assert_eq!(dead, poison);
    // By the queue alone: nothing is kept here as well.
    assert!(!lab.audit().with_file_name("quarantine.jsonl").exists());
    // And it goes on.
    let mut last = lab.client(&lab.root.agent("last")).h1().await;
    last.get("/").await.assert_ok();
    site.publish(event("last")).await;
    let _ = last.ended().await;
    site.until_left("gate-1", 0).await;
}

#[tokio::test]
async fn a_list_in_s3_is_read_again_when_it_is_new() {
    const PATH: &str = "/lists/agents.crl";
    let moto = crate::server::Moto::start();
    moto.put("/lists", b"");
    let feed = format!("[[feed.crl]]\nurl = \"{}{PATH}\"\nrequired = true", moto.url);
    let lab = Lab::plan().feeds(&feed).start().await;
    let (a, b) = (lab.root.agent("a"), lab.root.agent("b"));
    let refresh = async || {
        let mut caller = Caller::http1(&lab.administrator("ops")).await;
        let answer = caller.call("POST", "/v1/feeds/refresh", Some(&json!({}))).await;
        answer.assert_ok();
        answer.json()["feeds"][0].clone()
    };
    // The bucket is empty.
    let looked = refresh().await;
    assert!(looked["error"].as_str().unwrap().contains("status 404"), "{looked}");
    lab.client(&a).get("/").await.assert_refused(503, "revocation_state_stale");

    moto.put(PATH, &lab.root.crl(1, &[&a]));
    // It may just have looked by itself.
    let looked = refresh().await;
    assert!(looked["found"].is_string(), "{looked}");
    lab.client(&a).get("/").await.assert_refused(403, "certificate_revoked");
    let mut open = lab.client(&b).h1().await;
    open.get("/").await.assert_ok();
    let before = moto.calls(&format!("GET {PATH}"), 304);
    for times in 1..=3 {
        assert_eq!(refresh().await["found"], "unchanged");
        until(async || moto.calls(&format!("GET {PATH}"), 304) == before + times).await;
    }
    assert_eq!(moto.calls(&format!("GET {PATH}"), 200), 1);

    moto.put(PATH, &lab.root.crl(2, &[&a, &b]));
    assert_eq!(refresh().await["found"], "new list 2 of CN=lab, 2 entries, 1 session ended");
    assert!(open.try_get("/").await.is_err());
    lab.client(&b).get("/").await.assert_refused(403, "certificate_revoked");
    lab.client(&a).get("/").await.assert_refused(403, "certificate_revoked");
    assert_eq!(refresh().await["found"], "unchanged");
    // Whoever may write to the bucket takes nothing back with a list of yesterday.
    moto.put(PATH, &lab.root.crl(1, &[&a]));
    assert!(refresh().await["error"].as_str().unwrap().contains("number 1 is below the known 2"));
    lab.client(&b).get("/").await.assert_refused(403, "certificate_revoked");
}
