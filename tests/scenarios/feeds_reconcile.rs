//! A queue and a revocation list speak of the same certificates, and erase nothing of each other: who is revoked by
//! either is refused, in whatever order they spoke, and after a restart without both.

use std::collections::BTreeMap;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use jsonwebtoken::EncodingKey;
use jsonwebtoken::Header;
use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use portcullis::rig::queue::Queue;
use portcullis::rig::queue::Settings;
use serde_json::Value;
use serde_json::json;
use tokio::time::timeout;

use crate::caller::Caller;
use crate::lab::Lab;
use crate::pki::Cert;

/// A consumer whose queue did not answer asks again after a while.
const PATIENCE: Duration = Duration::from_secs(60);
/// A secret for those who may lift a revocation.
const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const AGENTS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// A gate with a queue and a list, and agents that it knows nothing of.
struct Site {
    lab: Lab,
    queue: Queue,
    certs: BTreeMap<&'static str, Cert>,
    /// When the next event was decided.
    next: Timestamp,
    lists: u64,
}

impl Site {
    async fn start() -> Self {
        let queue = Queue::start(Settings::default()).unwrap();
        let feeds = format!(
            r#"[feed.sqs]
queue_url = "{}"
wait = "1s"
keys = {{ incident = "incident.key" }}
[[feed.crl]]
url = "file://DIRECTORY/agents.crl"
interval = "1h"
max_age = "2h""#,
            queue.url()
        );
        let plan = Lab::plan().file("incident.key", std::str::from_utf8(KEY).unwrap());
        let lab = plan.feeds(&feeds).start().await;
        let certs = AGENTS.map(|name| (name, lab.root.agent(name))).into();
        let next = Timestamp::from_secs(Clock::system().now().secs() - 600);
        Self { lab, queue, certs, next, lists: 0 }
    }

    /// Sends an event about an agent's certificate, and waits until its message is deleted.
    async fn tell(&mut self, action: &str, agent: &str) {
        self.next = self.next.plus(Duration::from_secs(1));
        let mut event = json!({
            "version": 1, "id": format!("{action}-{agent}"), "action": action, "level": "certificate",
            "target": self.certs[agent].serial, "issuer": self.lab.root.key_sha256, "at": self.next,
        });
        let body = if action == "reinstate" {
            event["force"] = true.into();
            signed(&event)
        } else {
            event.to_string()
        };
        self.queue.push(body);
        let deleted = async {
            while self.queue.left() > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        assert!(timeout(PATIENCE, deleted).await.is_ok(), "{action} {agent}: its message is not deleted");
    }

    /// Publishes the next list, with these agents on it, and has the gate look.
    async fn publish(&mut self, agents: &[&str]) {
        self.lists += 1;
        let revoked: Vec<&Cert> = agents.iter().map(|agent| &self.certs[agent]).collect();
        self.lab.write("agents.crl", &self.lab.root.crl(self.lists, &revoked));
        let mut caller = Caller::http1(&self.lab.administrator("ops")).await;
        let answer = caller.call("POST", "/v1/feeds/refresh", Some(&json!({"feed": "crl"}))).await;
        answer.assert_ok();
        // It may just have looked by itself.
        let lists = self.lab.running().engine().lists();
        let numbers: Vec<_> =
            lists.iter().map(|list| list.number.as_ref().map(ToString::to_string)).collect();
        assert_eq!(numbers, [Some(self.lists.to_string())], "{:?}", answer.body);
    }

    /// Fails unless these agents are refused, and all others served.
    #[track_caller]
    fn refuses(&self, refused: &[&str]) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            for (agent, cert) in &self.certs {
                let answer = self.lab.client(cert).get("/").await;
                let wanted = match refused.contains(agent) {
                    true => (403, "certificate_revoked".to_owned()),
                    false => (200, String::new()),
                };
                assert_eq!(answer.verdict(), wanted, "{agent} at {caller}");
            }
        }
    }
}

/// The event as one who may lift a revocation sends it.
fn signed(event: &Value) -> String {
    let mut header = Header::new(Algorithm::HS256);
    (header.kid, header.typ) = (Some("incident".into()), Some("portcullis+jws".into()));
    jsonwebtoken::encode(&header, event, &EncodingKey::from_secret(KEY)).unwrap()
}

/// Seen failing where lists added up, where a reinstatement lifted what a list says, and where a list took the events'
/// place.
#[tokio::test]
async fn neither_lifts_what_the_other_says() {
    let mut site = Site::start().await;
    // a: by the queue alone, before any list was read; b: on the list alone; c to e: by both, in either order.
    site.tell("revoke", "a").await;
    site.tell("revoke", "c").await;
    site.refuses(&["a", "c"]).await;
    let open = site.lab.client(&site.certs["b"]).h1().await;
    site.publish(&["b", "c", "d", "e"]).await;
    let _ = open.ended().await;
    site.refuses(&["a", "b", "c", "d", "e"]).await;
    site.tell("revoke", "d").await;
    site.tell("revoke", "e").await;
    let open = site.lab.client(&site.certs["f"]).h1().await;
    site.tell("revoke", "f").await;
    let _ = open.ended().await;
    site.refuses(&AGENTS).await;

    // Dropped from the list, and still revoked by an event; b was on the list alone.
    site.publish(&["d", "e"]).await;
    site.refuses(&["a", "c", "d", "e", "f"]).await;
    // Lifted by an event: what is on the list is still refused.
    site.tell("reinstate", "a").await;
    site.tell("reinstate", "d").await;
    site.refuses(&["c", "d", "e", "f"]).await;
    // A list that says the same lifts nothing, nor does it bring back what was lifted.
    site.publish(&["d", "e"]).await;
    site.refuses(&["c", "d", "e", "f"]).await;
    // Lifted by both, in either order.
    site.publish(&["e"]).await;
    site.refuses(&["c", "e", "f"]).await;
    site.tell("reinstate", "e").await;
    site.refuses(&["c", "e", "f"]).await;

    // Neither the queue nor the list is there any more.
    site.queue.half_open();
    site.lab.remove("agents.crl");
    site.lab.restart().await;
    site.refuses(&["c", "e", "f"]).await;
    site.queue.heal();
    site.publish(&[]).await;
    site.refuses(&["c", "f"]).await;
    site.tell("reinstate", "c").await;
    site.refuses(&["f"]).await;
}

/// What an administrator asks is told of each of them.
#[tokio::test]
async fn each_says_for_itself_why() {
    let mut site = Site::start().await;
    site.publish(&["c"]).await;
    site.tell("revoke", "c").await;
    let mut caller = Caller::http1(&site.lab.administrator("ops")).await;
    let serial = &site.certs["c"].serial;
    let said = caller.read(&format!("/v1/check?serial={serial}&issuer={}", site.lab.root.key_sha256)).await;
    let sources: Vec<&Value> = said["hits"].as_array().unwrap().iter().map(|hit| &hit["source"]).collect();
    assert_eq!(sources, ["sqs", "crl"], "{said}");
    let looked = caller.call("POST", "/v1/feeds/refresh", Some(&json!({}))).await;
    assert_eq!(looked.json()["failed"], 0, "{:?}", looked.body);
    let status = caller.read("/v1/status").await;
    assert_eq!(status["entries"]["by_layer"], json!({"live": 1, "CN=lab": 1}), "{status}");
    let fresh: Vec<&Value> = status["feeds"].as_array().unwrap().iter().map(|feed| &feed["state"]).collect();
    assert_eq!(fresh, ["fresh", "fresh"], "{status}");
}
