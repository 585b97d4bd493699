//! Each level of a revocation hits all that it names, on open connections and on new ones, and nothing else.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::json;

use crate::client::H1;
use crate::lab::Lab;
use crate::pki::Ca;
use crate::pki::Cert;

/// A fleet with every kind of kinship that a level could confuse.
struct Fleet {
    lab: Lab,
    certs: BTreeMap<&'static str, Cert>,
    first: Ca,
    second: Ca,
    other: Ca,
}

const SHARED_SERIAL: [u8; 3] = [0x0a, 0x1b, 0x2c];

impl Fleet {
    async fn start() -> Self {
        let other = Ca::root("other");
        let templates = r#"["spiffe://{trust_domain}/agent/{agent}", "dns:{agent}.lab.test",
            "dns:{agent}.{task}.tasks.test", "spiffe://{trust_domain}/task/{task}/{agent}"]"#;
        let plan = Lab::plan().client_ca(r#"["ca.pem", "other.pem"]"#).file("other.pem", other.pem());
        let plan = plan.domains(r#"["lab.test", "other.test"]"#).templates(templates);
        let lab = plan.claim(r#""none""#).start().await;
        let (first, second) = (lab.root.intermediate("first"), lab.root.intermediate("second"));
        let a = first.agent("a");
        let task = |task: &str, agent: &str| {
            let leaf = lab.root.leaf().uri(&format!("spiffe://lab.test/task/{task}/{agent}"));
            leaf.claim(agent).issue()
        };
        let dns = lab.root.leaf().dns("D.lab.test").claim("d").issue();
        let shared = |ca: &Ca, name: &str| {
            let leaf = ca.leaf().uri(&format!("spiffe://lab.test/agent/{name}"));
            leaf.claim(name).serial(&SHARED_SERIAL).issue()
        };
        let dns_task = lab.root.leaf().dns("r.t-42.tasks.test").claim("r").issue();
        let foreign = other.leaf().uri("spiffe://other.test/agent/a").claim("a").issue();
        let renewed = first.leaf().uri("spiffe://lab.test/agent/a").claim("a");
        let certs = BTreeMap::from([
            ("a renewed, same key", renewed.key_of(&a).issue()),
            ("a renewed, new key", first.agent("a")),
            ("a", a),
            ("A", first.agent("A")),
            ("b", second.agent("b")),
            ("d", dns),
            ("first's 0a1b2c", shared(&first, "f")),
            ("other's a", foreign),
            ("second's 0a1b2c", shared(&second, "s")),
            ("task t of agent p", task("t", "p")),
            ("task t of agent q", task("t", "q")),
            ("task u of agent p", task("u", "p")),
            ("task T-42 of agent p", task("T-42", "p")),
            ("task t-42 of agent p", task("t-42", "p")),
            ("task t-42 of a DNS name", dns_task),
        ]);
        Self { lab, certs, first, second, other }
    }

    async fn connect(&self) -> BTreeMap<&'static str, H1> {
        let mut connections = BTreeMap::new();
        for (name, cert) in &self.certs {
            let mut connection = self.lab.client(cert).h1().await;
            connection.get("/").await.assert_ok();
            connections.insert(*name, connection);
        }
        connections
    }

    /// Revokes, holds the whole fleet against what should be hit, and lifts the revocation again.
    async fn expect(&mut self, level: &str, target: &str, issuer: Option<&str>, hit: &[&str]) {
        let what = format!("{level} {target} {issuer:?}");
        let mut connections = self.connect().await;
        assert_eq!(self.lab.sessions(), self.certs.len());
        let mut change = json!({"action": "revoke", "level": level, "target": target, "preemptive": true});
        change["issuer"] = issuer.map_or(Value::Null, Value::from);
        let ended = self.lab.applied(change.clone()).await;
        assert_eq!((ended, self.lab.sessions()), (hit.len() as u64, self.certs.len() - hit.len()), "{what}");
        for (name, cert) in &self.certs {
            let open = connections.get_mut(name).unwrap().try_get("/").await;
            let fresh = self.lab.client(cert).get("/").await;
            if hit.contains(name) {
                assert!(open.is_err(), "{what}: {name} goes on");
                let code = format!("{}_revoked", level.replace("agent", "principal"));
                assert_eq!(fresh.verdict(), (403, code), "{what}: {name}");
            } else {
                assert_eq!(open.unwrap().status, 200, "{what}: {name}");
                assert_eq!(fresh.status, 200, "{what}: {name}");
            }
        }
        drop(connections);
        change["action"] = "reinstate".into();
        change["force"] = true.into();
        self.lab.applied(change).await;
        self.lab.until_sessions(0).await;
    }
}

/// Seen failing with a serial that counts without its issuer.
#[tokio::test]
async fn certificate_and_key() {
    let mut fleet = Fleet::start().await;
    let a = fleet.certs["a"].clone();
    fleet.expect("certificate", &a.serial, None, &["a"]).await;
    let spelled: Vec<String> =
        a.serial.as_bytes().chunks(2).map(|b| String::from_utf8_lossy(b).to_uppercase()).collect();
    fleet.expect("certificate", &format!("00:{}", spelled.join(":")), None, &["a"]).await;
    fleet.expect("certificate", "0A1B2C", None, &["first's 0a1b2c", "second's 0a1b2c"]).await;
    let (by_key, by_id) = (fleet.first.key_sha256.clone(), fleet.first.key_id.clone());
    fleet.expect("certificate", "0a1b2c", Some(&by_key), &["first's 0a1b2c"]).await;
    fleet.expect("certificate", "0a1b2c", Some(&by_id.to_uppercase()), &["first's 0a1b2c"]).await;
    // Of the root's numbers, neither is one; nor has anybody this serial under another authority.
    let root = fleet.lab.root.key_sha256.clone();
    fleet.expect("certificate", "0a1b2c", Some(&root), &[]).await;
    fleet.expect("certificate", &a.serial, Some(&fleet.second.key_id.clone()), &[]).await;
    fleet.expect("key", &a.key_sha256, None, &["a", "a renewed, same key"]).await;
    // The key, or the certificate, of an authority takes every leaf under it along.
    let under = ["A", "a", "a renewed, new key", "a renewed, same key", "first's 0a1b2c"];
    fleet.expect("key", &by_key, None, &under).await;
    let first = portcullis::identity::Certificate::parse(&fleet.first.der).unwrap();
    let serial = first.serial.to_string();
    fleet.expect("certificate", &serial, None, &under).await;
}

#[tokio::test]
async fn principal_and_task() {
    let mut fleet = Fleet::start().await;
    let all_of_a = ["a", "a renewed, new key", "a renewed, same key"];
    fleet.expect("principal", "spiffe://lab.test/agent/a", None, &all_of_a).await;
    // An agent id is the same in every trust domain.
    fleet.expect("agent", "a", None, &["a", "a renewed, new key", "a renewed, same key", "other's a"]).await;
    // A path segment never folds; a DNS name does.
    fleet.expect("principal", "A", None, &["A"]).await;
    fleet.expect("principal", "spiffe://lab.test/agent/A", None, &["A"]).await;
    fleet.expect("principal", "d.LAB.test.", None, &["d"]).await;
    fleet.expect("principal", "d", None, &["d"]).await;
    fleet.expect("principal", "D", None, &["d"]).await;
    let tasks = ["T-42", "t-42", "t", "u"].map(|task| format!("task {task} of agent p"));
    fleet.expect("principal", "p", None, &tasks.each_ref().map(String::as_str)).await;
    let of_dns = "task t-42 of a DNS name";
    fleet.expect("task", "T-42", None, &["task T-42 of agent p", of_dns]).await;
    fleet.expect("task", "t-42", None, &["task t-42 of agent p", of_dns]).await;
    fleet.expect("task", "t", None, &["task t of agent p", "task t of agent q"]).await;
    fleet.expect("task", "a", None, &[]).await;
}

/// Seen failing with the leaf's issuer alone instead of the whole path, without the scan, and with one that hits all.
#[tokio::test]
async fn issuer_and_trust_domain() {
    let mut fleet = Fleet::start().await;
    let under_first = ["A", "a", "a renewed, new key", "a renewed, same key", "first's 0a1b2c"];
    let under_second = ["b", "second's 0a1b2c"];
    let under_root: Vec<&str> = fleet.certs.keys().copied().filter(|name| *name != "other's a").collect();
    let (by_key, by_id) = (fleet.first.key_sha256.clone(), fleet.first.key_id.clone());
    fleet.expect("issuer", &by_key, None, &under_first).await;
    fleet.expect("issuer", &by_id, None, &under_first).await;
    fleet.expect("issuer", &fleet.second.key_id.clone(), None, &under_second).await;
    fleet.expect("issuer", &fleet.lab.root.key_id.clone(), None, &under_root).await;
    fleet.expect("issuer", &fleet.other.key_sha256.clone(), None, &["other's a"]).await;
    // A leaf's key is no authority's.
    fleet.expect("issuer", &fleet.certs["a"].key_sha256.clone(), None, &[]).await;
    let in_lab: Vec<&str> =
        under_root.iter().copied().filter(|name| !["d", "task t-42 of a DNS name"].contains(name)).collect();
    fleet.expect("trust_domain", "lab.test", None, &in_lab).await;
    fleet.expect("trust_domain", "spiffe://other.test", None, &["other's a"]).await;
    fleet.expect("trust_domain", "nowhere.test", None, &[]).await;
}

/// Nothing here carries tokens yet; their levels are taken in and hit no certificate.
#[tokio::test]
async fn token_and_chain() {
    let mut fleet = Fleet::start().await;
    for name in ["a", "spiffe://lab.test/agent/a", "0a1b2c", "t"] {
        fleet.expect("token", name, None, &[]).await;
        fleet.expect("chain", name, None, &[]).await;
    }
}
