//! One incident from the first look to the proof, on the command line, against a running gate.

use std::net::SocketAddr;

use rustls::version::TLS13;
use serde_json::Value;

use crate::client::Client;
use crate::process::Ended;
use crate::process::Process;
use crate::process::Site;
use crate::process::ended;
use crate::upstream::Upstream;

/// A site with a gate, and somebody who types.
struct Desk {
    site: Site,
    admin: SocketAddr,
}

impl Desk {
    async fn run(&self, line: &str) -> Ended {
        let mut words = line.split(' ');
        let command = words.next().unwrap();
        let arguments: Vec<&str> = words.collect();
        ended(self.site.change(command, self.admin, &arguments)).await
    }

    /// A command that must do what it says.
    async fn done(&self, line: &str) -> String {
        let ended = self.run(line).await;
        assert_eq!(ended.code, Some(0), "{line}: {ended:?}");
        ended.out
    }

    async fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.done(&format!("{line} --json")).await).unwrap()
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told straight through")]
async fn from_the_first_look_to_the_proof() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let (gate, at) = Process::start(site.run(upstream.address)).await;
    let (victim, bystander) = (site.root.agent("a"), site.root.agent("b"));
    let desk = Desk { admin: at.admin, site };
    let client = |cert| Client::new(&desk.site.root, Some(cert), at.gate, &[&TLS13]);
    let (mut open, mut unhurt) = (client(&victim).h1().await, client(&bystander).h2().await);
    open.get("/").await.assert_ok();
    unhurt.get("/").await.assert_ok();
    desk.site.write("a.pem", &victim.pem);
    let certificate = desk.site.path("a.pem").display().to_string();
    let state = desk.site.path("state").display().to_string();

    // Who is it, would it be let in, what would be hit?
    let sessions = desk.json("sessions --principal a").await;
    assert_eq!(
        (&sessions["total"], &sessions["sessions"][0]["serial"]),
        (&1.into(), &victim.serial.as_str().into())
    );
    assert!(desk.done(&format!("check --certificate {certificate}")).await.contains("would be let in"));
    let dry = desk.json("revoke --level principal --target a --dry-run").await;
    assert_eq!((&dry["sessions"], &dry["principals"][0]), (&1.into(), &"spiffe://lab.test/agent/a".into()));
    open.get("/").await.assert_ok();

    // A serial with a typing error revokes nothing, and says so.
    let unknown = desk.run("revoke --level certificate --target 00ff00ff").await;
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown.err.contains("NOTHING was revoked") && unknown.err.contains("--preemptive"),
        "{}",
        unknown.err
    );

    let told =
        desk.done(&format!("revoke --level certificate --certificate {certificate} --reason leaked")).await;
    assert!(told.contains("1 session ended"), "{told}");
    assert!(open.try_get("/").await.is_err());
    client(&victim).get("/").await.assert_refused(403, "certificate_revoked");
    unhurt.get("/").await.assert_ok();
    let refused = desk.run(&format!("check --certificate {certificate}")).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.out.contains("certificate_revoked"), "{}", refused.out);

    // Whom it was: never unknown.
    let list = desk.json("revocations --level certificate").await;
    let row = &list["revocations"][0];
    assert_eq!(row["principal"], "spiffe://lab.test/agent/a");
    let id = row["id"].as_str().unwrap();
    let story = desk.json(&format!("revocations {id}")).await;
    assert_eq!((&story["state"], &story["in_effect"]), (&"revoked".into(), &true.into()));
    let timeline = &story["timeline"];
    let stage = |name: &str| timeline[name].as_u64().unwrap();
    assert!(
        stage("effective_us") <= stage("enforced_us") && stage("enforced_us") <= stage("durable_us"),
        "{timeline}"
    );
    let events = desk.json("audit list --outcome applied").await;
    let event = &events["events"][0];
    assert_eq!((&event["principal"], &event["serial"]), (&row["principal"], &victim.serial.as_str().into()));
    assert_eq!(event["actor"], "spiffe://lab.test/admin/ops");
    assert!(desk.done("status").await.contains("certificate 1"));

    // Everybody who was issued by the same batch, from a list with a mistake of the issuer's in it.
    let list: Vec<String> =
        (0..1200).map(|i| format!("task t-{i}")).chain(["certificate 00ff00ff".to_owned()]).collect();
    desk.site.write("list.txt", &list.join("\n"));
    let path = desk.site.path("list.txt").display().to_string();
    let partly = desk.run(&format!("revoke --file {path} --yes")).await;
    assert_eq!(partly.code, Some(4), "{partly:?}");
    assert!(partly.err.contains("list.txt:1201"), "{}", partly.err);
    assert_eq!(desk.json("revocations --level task --limit 1").await["total"], 1200);

    // A session is ended, and nobody is denied.
    let sessions = desk.json("sessions --listener gate").await;
    let id = sessions["sessions"][0]["id"].as_str().unwrap();
    desk.done(&format!("sessions end {id} --reason drill")).await;
    assert!(unhurt.try_get("/").await.is_err());
    client(&bystander).get("/").await.assert_ok();

    // The proof, while the gate runs; and after somebody has improved the record.
    let head = desk.json("status").await["audit"].clone();
    let noted = format!("{}:{}", head["sequence"], head["hash"].as_str().unwrap());
    let verify = format!("verify --dir {state} --expect {noted}");
    let proof = |line: String| ended(desk.site.tool("audit", &line));
    assert_eq!(proof(verify.clone()).await.code, Some(0));
    drop(gate);
    let file = desk.site.path("state/audit.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("\"reason\":\"leaked\"", "\"reason\":\"closed\"", 1)).unwrap();
    let tampered = proof(verify).await;
    assert_eq!(tampered.code, Some(1), "{tampered:?}");
    let line = text.lines().position(|line| line.contains("leaked")).unwrap() + 1;
    assert!(tampered.err.contains(&format!("audit.jsonl:{line}")), "{}", tampered.err);
}
