//! Strangers, auditors and operators do not get at what is not theirs, nor into the way of those who revoke.

use std::time::Duration;

use nix::sys::signal::Signal;
use rustls::version::TLS13;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use x509_parser::prelude::FromDer as _;
use x509_parser::prelude::X509Certificate;

use crate::caller::Caller;
use crate::caller::token;
use crate::client::Client;
use crate::clients_do_not_fill_the_log::Tally;
use crate::lab::Lab;
use crate::lab::within;
use crate::process::Process;
use crate::process::Site;
use crate::upstream::Upstream;

fn change(action: &str, level: &str, target: &str) -> Value {
    json!({"action": action, "level": level, "target": target, "preemptive": true})
}

fn audited(lab: &Lab, wanted: impl Fn(&Value) -> bool) -> usize {
    let text = std::fs::read_to_string(lab.audit()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).filter(|line| wanted(line)).count()
}

/// Whoever revokes an authority's own certificate, or its key, ends everything under it.
///
/// Seen failing with an operator who ended three sessions and shut out every administrator.
#[tokio::test]
async fn by_an_authoritys_serial_or_key() {
    let lab = Lab::plan().staffed().start().await;
    let issuing = lab.root.intermediate("issuing");
    lab.client(&issuing.agent("a")).get("/").await.assert_ok();
    let serial = |der: &[u8]| X509Certificate::from_der(der).unwrap().1.raw_serial_as_string();
    let mut operator = Caller::http1(&lab.administrator("operator")).await;
    let mut ops = Caller::http1(&lab.administrator("ops")).await;
    for (level, target) in [
        ("certificate", serial(&lab.root.der)),
        ("key", lab.root.key_sha256.clone()),
        ("certificate", serial(&lab.ops.der)),
        ("key", lab.ops.key_sha256.clone()),
        ("certificate", serial(&issuing.der)),
        ("key", issuing.key_sha256.clone()),
    ] {
        for action in ["revoke", "suspend", "reinstate"] {
            let refused = operator.change(&change(action, level, &target)).await;
            refused.assert_refused(403, "insufficient_scope");
        }
        let dry = json!({"action": "revoke", "level": level, "target": target, "dry_run": true});
        assert_eq!(operator.done(&dry).await["refused"]["code"], "insufficient_scope");
    }
    operator.done(&change("revoke", "key", &lab.root.agent("z").key_sha256)).await;
    ops.done(&change("suspend", "key", &issuing.key_sha256)).await;
}

/// Seen failing with a bound on all connections: the administrator waits until those of the others time out.
#[tokio::test]
async fn by_holding_connections_open() {
    let lab = Lab::plan().staffed().start().await;
    let mut open = Vec::new();
    for _ in 0..1200 {
        open.push(TcpStream::connect(lab.admin_address()).await.unwrap());
    }
    let mut ops = Caller::http1(&lab.administrator("ops")).await;
    ops.done(&change("revoke", "principal", "a")).await;
    // Those who were let in are not the ones who make room.
    for _ in 0..1200 {
        open.push(TcpStream::connect(lab.admin_address()).await.unwrap());
    }
    ops.done(&change("revoke", "principal", "b")).await;
}

/// Seen failing with an audit line that is written by the call itself, and is gone with it.
#[tokio::test]
async fn by_hanging_up() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    site.edit("[[admin.secret]]", "auditors = [\"audit.lab.test\"]\n[[admin.secret]]");
    let (mut gate, at) = Process::start(site.run(upstream.address)).await;
    let auditor = site.root.leaf().dns("audit.lab.test").issue();
    let auditor = Client::new(&site.root, Some(&auditor), at.admin, &[&TLS13]);
    let body = change("revoke", "principal", "a").to_string();
    let call = format!(
        "POST /v1/revocations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for i in 0..60_u64 {
        let mut stream = within(auditor.dial(b"http/1.1")).await.unwrap();
        stream.write_all(call.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        tokio::time::sleep(Duration::from_micros(i * 50)).await;
        drop(stream);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    gate.signal(Signal::SIGTERM);
    gate.until(|line| line["message"] == "portcullis is down").await;
    // Some were gone before they were read. Whatever was refused is on record.
    let refused = Tally::of(&gate.log, "admin request refused", "insufficient_scope").all();
    let audit = std::fs::read_to_string(site.path("state/audit.jsonl")).unwrap();
    assert!(refused > 0);
    assert_eq!(audit.matches("\"code\":\"insufficient_scope\"").count(), refused);
}

/// Seen failing with a token that ends with its call: megabytes arrive after its revocation has returned.
#[tokio::test]
async fn by_reading_slowly_on_a_token() {
    let lab = Lab::plan().staffed().start().await;
    let token = token(&lab.admin_client(None), "auditor").await;
    let mut ops = Caller::http1(&lab.administrator("ops")).await;
    let one = json!({"action": "revoke", "level": "task", "target": "t".repeat(500), "dry_run": true});
    let body = Value::Array(vec![one; 5000]).to_string();
    let mut stream = within(lab.admin_client(None).dial(b"http/1.1")).await.unwrap();
    let head = format!(
        "POST /v1/revocations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut begun = [0; 1024];
    within(stream.read_exact(&mut begun)).await.unwrap();
    let revoked = ops.done(&change("revoke", "principal", "secret:auditor")).await;
    assert_eq!((&revoked["sessions_ended"], &revoked["sessions_pending"]), (&json!(1), &json!(0)));
    let mut rest = Vec::new();
    let end = within(stream.read_to_end(&mut rest)).await;
    assert!(end.is_err() && rest.len() < 2_000_000, "{end:?}: {} bytes", rest.len());
}

/// Seen failing with a listener that turns her away before the audit hears of it.
#[tokio::test]
async fn by_trying_again_unseen() {
    let mut lab = Lab::plan().staffed().start().await;
    let mut ops = Caller::http1(&lab.administrator("ops")).await;
    ops.done(&change("revoke", "principal", "operator.admin.test")).await;
    let mut again = Caller::http1(&lab.administrator("operator")).await;
    again.change(&change("revoke", "principal", "a")).await.assert_refused(403, "principal_revoked");
    let is_it = |line: &Value| line["code"] == "principal_revoked" && line["actor"] == "operator.admin.test";
    assert_eq!(audited(&lab, is_it), 1);
    // What is not written one by one is counted, and not lost with the process.
    let mut stranger = Caller::http1(&lab.admin_client(None)).await;
    for _ in 0..400 {
        stranger.get("/v1/status").await;
    }
    drop((ops, again, stranger));
    lab.stop().await;
    let text = std::fs::read_to_string(lab.audit()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_of_stranger =
        |line: &Value| matches!(line["code"].as_str(), Some("unauthorized" | "rate_limited"));
    let (left_out, refused): (Vec<&Value>, Vec<&Value>) =
        lines.iter().filter(|line| is_of_stranger(line)).partition(|line| line["outcome"] == "left_out");
    assert!(left_out.iter().all(|line| line["address"] == "127.0.0.1"), "{left_out:#?}");
    let unsaid: u64 = lines.iter().filter_map(|line| line["unsaid"].as_u64()).sum();
    assert_eq!(refused.len() as u64 + unsaid, 400);
}
