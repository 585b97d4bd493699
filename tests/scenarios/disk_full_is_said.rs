//! On a full disk a revocation stands all the same, and everybody who should know is told that it is not written.

use std::process::Command;

use rustls::version::TLS13;
use serde_json::Value;
use serde_json::json;

use crate::client::Client;
use crate::lab::plain;
use crate::lab::post;
use crate::process::Process;
use crate::process::Site;
use crate::process::ended;
use crate::upstream::Upstream;

/// Blocks of 512 bytes: enough for an empty journal, and for a few hundred rows more.
const BLOCKS: u32 = 2600;

#[tokio::test]
async fn in_the_answer_and_in_the_health() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let (mut gate, at) = Process::start(limited(&site.run(upstream.address))).await;
    let client = |cert, address| Client::new(&site.root, Some(cert), address, &[&TLS13]);
    let (agent, admin) = (site.root.agent("a"), site.root.leaf().uri("spiffe://lab.test/admin/ops").issue());
    client(&agent, at.gate).get("/").await.assert_ok();
    assert!(plain(at.metrics, "/readyz").await.starts_with("HTTP/1.1 200"));

    let mut connection = client(&admin, at.admin).h1().await;
    let mut filled = None;
    for i in 0..4000 {
        let target = format!("{i:04}{}", "x".repeat(2000));
        let change = json!({"action": "revoke", "level": "task", "target": target});
        let answer = post(&mut connection, &change).await.unwrap();
        if answer.status != 200 {
            filled = Some(answer);
            break;
        }
    }
    let answer = filled.expect("the disk is never full");
    let document = answer.json();
    assert_eq!(
        (answer.status.as_u16(), &document["effective"], &document["durable"]),
        (503, &json!(true), &json!(false))
    );
    assert!(document["error"].as_str().unwrap().contains("cannot write"), "{document}");

    let target = ["--level", "principal", "--target", "spiffe://lab.test/agent/a"];
    let revoked = ended(site.change("revoke", at.admin, &target)).await;
    assert_eq!(revoked.code, Some(1), "{}", revoked.err);
    assert!(revoked.err.contains("in effect, but not on disk"), "{}", revoked.err);
    client(&agent, at.gate).get("/").await.assert_refused(403, "principal_revoked");
    let lifted = json!({"action": "reinstate", "level": "principal", "target": "spiffe://lab.test/agent/a", "force": true});
    let lifted = post(&mut connection, &lifted).await.unwrap();
    assert_eq!((lifted.status.as_u16(), lifted.code()), (503, "not_durable".into()));
    client(&agent, at.gate).get("/").await.assert_refused(403, "principal_revoked");

    let ready = plain(at.metrics, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("journal"), "{ready}");
    assert!(plain(at.metrics, "/metrics").await.contains("portcullis_journal_durable 0"));
    let wanted = |line: &Value| {
        line["level"] == "ERROR" && line["message"].as_str().is_some_and(|m| m.starts_with("journal"))
    };
    gate.until(wanted).await;
}

/// The same program under a limit of what one file may grow to, which it meets as it would a full disk.
fn limited(command: &Command) -> Command {
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("trap '' XFSZ; ulimit -f {BLOCKS}; exec \"$0\" \"$@\"")]);
    limited.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}
