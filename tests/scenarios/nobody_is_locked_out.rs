//! An operator with the break-glass secret always comes back, by the way that docs/admin.md ("Locked out") describes.

use std::process::Command;

use nix::sys::signal::Signal;
use rustix::process::Pid;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::prlimit;
use rustls::version::TLS13;
use serde_json::Value;
use serde_json::json;
use time::Duration;

use crate::caller::Caller;
use crate::caller::JSON;
use crate::caller::Protocol;
use crate::caller::fresh_address;
use crate::client::Answer;
use crate::client::Client;
use crate::lab::Lab;
use crate::lab::PATIENCE;
use crate::lab::plain;
use crate::lab::post;
use crate::lab::secret;
use crate::pki::Ca;
use crate::pki::Cert;
use crate::pki::now;
use crate::process::Addresses;
use crate::process::Ended;
use crate::process::Process;
use crate::process::Site;
use crate::process::ended;
use crate::upstream::Upstream;

/// An administrator's certificate that is no use, and how a call that goes by it is refused.
struct LockOut {
    cert: Cert,
    /// Level and target of what denies it; `None` where its chain does not verify.
    denial: Option<(&'static str, String)>,
    refusal: (u16, &'static str),
}

impl LockOut {
    fn denied(cert: &Cert, level: &'static str, target: &str, code: &'static str) -> Self {
        Self { cert: cert.clone(), denial: Some((level, target.to_owned())), refusal: (403, code) }
    }

    fn unverified(cert: Cert, code: &'static str) -> Self {
        Self { cert, denial: None, refusal: (403, code) }
    }

    /// Of each kind.
    fn all(lab: &Lab) -> Vec<Self> {
        let second = || lab.ops.leaf().dns("second.admin.test");
        let cert = second().issue();
        let third = lab.ops.leaf().uri("spiffe://lab.test/admin/third").issue();
        let (from, until) = (now() - Duration::minutes(50), now() - Duration::minutes(1));
        vec![
            Self::denied(&cert, "principal", "second.admin.test", "principal_revoked"),
            Self::denied(&cert, "certificate", &cert.serial, "certificate_revoked"),
            Self::denied(&cert, "key", &cert.key_sha256, "key_revoked"),
            Self::denied(&cert, "issuer", &lab.ops.key_sha256, "issuer_revoked"),
            Self::denied(&third, "trust_domain", "lab.test", "trust_domain_revoked"),
            Self::unverified(second().valid(from, until).issue(), "certificate_expired"),
            Self::unverified(
                Ca::root("operators").leaf().dns("second.admin.test").issue(),
                "certificate_untrusted",
            ),
            Self::unverified(second().authority().issue(), "certificate_untrusted"),
        ]
    }
}

/// One call with `Authorization: Bearer TOKEN`; others on the same connection go by the certificate.
async fn bearing(caller: &mut Caller, token: &str, call: (&str, &str), body: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    caller.send(call, &[("authorization", &bearer), JSON], body.to_owned()).await
}

/// A login on an open connection; the token.
async fn log_in(caller: &mut Caller) -> String {
    let login = json!({"secret": secret("admin")});
    let answer = caller.call("POST", "/v1/admin/auth", Some(&login)).await;
    answer.assert_ok();
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

/// Someone who has the secret and no certificate.
async fn holder(lab: &Lab) -> Caller {
    let mut caller = Caller::http1(&lab.admin_client(None).from(fresh_address())).await;
    let token = log_in(&mut caller).await;
    caller.bearing(&token)
}

fn change(action: &str, (level, target): &(&'static str, String)) -> Value {
    let mut change = json!({"action": action, "level": level, "target": target, "preemptive": true});
    if action == "reinstate" {
        change = json!({"action": action, "level": level, "target": target, "force": true});
    }
    change
}

/// Seen failing with the certificate judged before the token (403 in place of every answer to a login or token), with an admin
/// listener that refuses in the handshake a chain that does not verify or, under `reject_at`, a revoked certificate; and,
/// for what goes by the certificate, with a check that is left out on connections whose certificate is denied.
#[tokio::test]
async fn a_token_counts_alone_whatever_certificate_is_beside_it() {
    for gate in ["", "reject_at = \"handshake\""] {
        let lab = Lab::plan().gate(gate).secret("admin", "admin");
        let lab = lab.admin("operators = [\"spiffe://lab.test/admin/third\"]").start().await;
        let mut holder = holder(&lab).await;
        let glass = json!({"for": "10m", "reason": "a drill"});
        for (i, lock_out) in LockOut::all(&lab).iter().enumerate() {
            // Break-glass makes no difference: the admin listener stays strict.
            let method = if i % 2 == 0 { "POST" } else { "DELETE" };
            holder.call(method, "/v1/advisory", Some(&glass).filter(|_| i % 2 == 0)).await.assert_ok();
            for protocol in Protocol::ALL {
                is_overcome(&lab, lock_out, protocol, &mut holder).await;
            }
        }
    }
}

async fn is_overcome(lab: &Lab, lock_out: &LockOut, protocol: Protocol, holder: &mut Caller) {
    // Each with a whole handshake of its own.
    let client = || lab.admin_client(Some(&lock_out.cert)).from(fresh_address());
    let resumes = client();
    if let Some(denial) = &lock_out.denial {
        Caller::over(protocol, &resumes).await.get("/v1/status").await.assert_ok();
        holder.done(&change("revoke", denial)).await;
    }
    let (status, code) = lock_out.refusal;
    for client in [&resumes, &client()] {
        Caller::over(protocol, client).await.get("/v1/status").await.assert_refused(status, code);
    }
    log_in(&mut Caller::over(protocol, &resumes).await).await;
    let mut caller = Caller::over(protocol, &client()).await;
    let token = log_in(&mut caller).await;
    let answer = bearing(&mut caller, &token, ("GET", "/v1/status"), "").await;
    answer.assert_ok();
    assert_eq!(answer.json()["caller"]["actor"], "secret:admin");
    for authorization in ["Bearer x", "Basic eDp5", "Bearer ", ""] {
        let headers = [("authorization", authorization)];
        caller.send(("GET", "/v1/status"), &headers, "").await.assert_refused(401, "unauthorized");
    }
    if let Some(denial) = &lock_out.denial {
        let lift = change("reinstate", denial).to_string();
        let changes = ("POST", "/v1/revocations");
        // By the certificate alone, where the token had its say before, still nothing.
        let mut alone = Caller::over(protocol, &client()).await;
        bearing(&mut alone, &token, ("GET", "/v1/status"), "").await.assert_ok();
        alone.send(changes, &[JSON], lift.clone()).await.assert_refused(status, code);
        bearing(&mut caller, &token, changes, &lift).await.assert_ok();
        Caller::over(protocol, &client()).await.get("/v1/status").await.assert_ok();
    } else {
        caller.get("/v1/status").await.assert_refused(status, code);
    }
}

/// A token that does not count is not made up for by the certificate. Seen failing with a certificate that is asked where the
/// token does not count.
#[tokio::test]
async fn beside_a_good_certificate_a_bad_token_is_refused() {
    let lab = Lab::plan().secret("admin", "admin").start().await;
    for protocol in Protocol::ALL {
        let mut caller = Caller::over(protocol, &lab.administrator("ops")).await;
        caller.get("/v1/status").await.assert_ok();
        for headers in
            [&[("authorization", "Bearer x")][..], &[("authorization", ""), ("authorization", "x")]]
        {
            caller.send(("GET", "/v1/status"), headers, "").await.assert_refused(401, "unauthorized");
        }
    }
}

/// A connection whose certificate is denied from the start has a session that the token's revocation ends. Seen failing with a
/// connection that has none: it went on.
#[tokio::test]
async fn a_tokens_revocation_ends_the_connection_whatever_its_certificate() {
    let lab = Lab::plan().secret("admin", "admin").start().await;
    let mut holder = holder(&lab).await;
    holder.done(&change("revoke", &("principal", "second.admin.test".into()))).await;
    for protocol in Protocol::ALL {
        let client = lab.administrator("second").from(fresh_address());
        let mut caller = Caller::over(protocol, &client).await;
        let token = log_in(&mut caller).await;
        bearing(&mut caller, &token, ("GET", "/v1/status"), "").await.assert_ok();
        let logins = holder.read("/v1/audit/events?action=authenticate&outcome=applied").await;
        let jti = logins["events"][0]["id"].as_str().unwrap();
        let revoked = holder.done(&json!({"action": "revoke", "level": "token", "target": jti})).await;
        assert_eq!((&revoked["sessions_ended"], &revoked["sessions_pending"]), (&json!(1), &json!(0)));
        let more = caller.try_send(("GET", "/openapi.json"), &[], "").await;
        assert!(more.is_err(), "{more:?}");
    }
}

/// A batch that goes by a token is not stopped by the revocation of the certificate beside it. Seen failing with a decision that
/// also stands on the connection's session.
#[tokio::test]
async fn what_a_token_decided_stands_when_the_certificate_beside_it_is_revoked() {
    let lab = Lab::plan().secret("admin", "admin").start().await;
    let mut holder = holder(&lab).await;
    let mut caller = Caller::http1(&lab.administrator("second")).await;
    let token = log_in(&mut caller).await;
    let mut caller = caller.bearing(&token);
    let batch: Value =
        (0..3000).map(|i| json!({"action": "revoke", "level": "task", "target": format!("t{i}")})).collect();
    let running = tokio::spawn(async move { caller.try_slowly(&batch).await });
    let entries = || lab.running().engine().entries();
    let reached = async |count: usize| {
        while entries() < count {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached(1)).await.unwrap();
    holder.done(&change("revoke", &("principal", "second.admin.test".into()))).await;
    assert!(running.await.unwrap().is_err(), "the connection is cut");
    let all = tokio::time::timeout(PATIENCE, reached(3001)).await;
    assert!(all.is_ok(), "{} entries", entries());
}

/// A gate, and an operator at a shell that exports the administrator's certificate.
struct Desk {
    site: Site,
    upstream: Upstream,
    admin: Cert,
    agent: Cert,
    gate: Option<Process>,
    at: Option<Addresses>,
}

impl Desk {
    /// One authority and one trust domain for everybody: nothing keeps an administrator from what hits an agent.
    async fn open() -> Self {
        let (site, upstream) = (Site::new(), Upstream::start().await);
        let agent = site.root.agent("a");
        let admin = site.root.leaf().uri("spiffe://lab.test/admin/ops").issue();
        let mut desk = Self { site, upstream, admin, agent, gate: None, at: None };
        desk.export(desk.admin.clone(), "");
        desk.start(|command| command).await;
        desk
    }

    /// Exports another certificate, with that of the authority above it.
    fn export(&mut self, admin: Cert, authority: &str) {
        self.site.write("admin.pem", &format!("{}{authority}", admin.pem));
        self.site.write("admin.key", &admin.key_pem);
        self.admin = admin;
    }

    async fn start(&mut self, limit: impl FnOnce(Command) -> Command) {
        let (gate, at) = Process::start(limit(self.site.run(self.upstream.address))).await;
        (self.gate, self.at) = (Some(gate), Some(at));
    }

    async fn restart(&mut self) {
        let mut gate = self.gate.take().unwrap();
        gate.signal(Signal::SIGTERM);
        assert_eq!(gate.wait().await, Some(0));
        self.start(|command| command).await;
    }

    fn at(&self) -> Addresses {
        self.at.unwrap()
    }

    /// `portcullis LINE` with the exported certificate.
    fn exported(&self, line: &str) -> Command {
        let (command, arguments) = line.split_once(' ').unwrap_or((line, "--json"));
        let mut program = self.site.tool(command, arguments);
        program.args(["--server", &format!("https://{}", self.at().admin), "--cacert", "ca.pem"]);
        program.env("PORTCULLIS_CLIENT_CERT", "admin.pem").env("PORTCULLIS_CLIENT_KEY", "admin.key");
        program
    }

    async fn by_certificate(&self, line: &str) -> Ended {
        ended(self.exported(line)).await
    }

    /// The same and `--secret-file`, which is what the documentation says.
    async fn by_secret(&self, line: &str) -> Ended {
        let mut command = self.exported(line);
        command.args(["--secret-file", "break-glass.secret"]);
        ended(command).await
    }

    async fn done(&self, line: &str) -> Ended {
        let ended = self.by_secret(line).await;
        assert_eq!(ended.code, Some(0), "{line}: {ended:?}");
        ended
    }

    async fn agent(&self) -> Answer {
        self.client(&self.agent).get("/").await
    }

    fn client(&self, cert: &Cert) -> Client {
        Client::new(&self.site.root, Some(cert), self.at().gate, &[&TLS13])
    }

    async fn assert_in(&self) {
        let status = self.by_certificate("status").await;
        assert_eq!(status.code, Some(0), "{status:?}");
        assert!(status.out.contains("spiffe://lab.test/admin/ops"), "{status:?}");
    }

    async fn assert_out(&self, why: &str) {
        let status = self.by_certificate("status").await;
        assert_eq!(status.code, Some(1), "{status:?}");
        assert!(status.out.contains(why), "no `{why}` in {status:?}");
    }

    /// Targets that can deny the administrator: level and name.
    fn denials(&self) -> Vec<(&'static str, String)> {
        vec![
            ("principal", "spiffe://lab.test/admin/ops".to_owned()),
            ("certificate", self.admin.serial.clone()),
            ("key", self.admin.key_sha256.clone()),
            ("issuer", self.site.root.key_sha256.clone()),
            ("trust_domain", "lab.test".to_owned()),
        ]
    }
}

/// Seen failing with a command that presents the exported certificate beside the secret, to a gate that judges it first.
#[tokio::test]
async fn from_a_revocation_of_the_administrator_at_any_level() {
    let desk = Desk::open().await;
    desk.agent().await.assert_ok();
    desk.assert_in().await;
    for (level, target) in desk.denials() {
        desk.done(&format!("revoke --level {level} --target {target} --yes")).await;
        desk.assert_out(&format!("{level}_revoked")).await;
        desk.done(&format!("reinstate --level {level} --target {target} --force --yes")).await;
        desk.assert_in().await;
        desk.agent().await.assert_ok();
    }
    // Everything at once: no more than one after the other.
    for (level, target) in desk.denials() {
        desk.done(&format!("revoke --level {level} --target {target} --yes")).await;
    }
    desk.assert_out("revoked").await;
    for (level, target) in desk.denials() {
        desk.by_secret(&format!("reinstate --level {level} --target {target} --force --yes")).await;
    }
    desk.assert_in().await;
    desk.agent().await.assert_ok();
}

/// What is revoked of an agent below an authority is no other name of the authority's key. Seen failing with the entries against
/// every certificate below it taken for that: the agent was let in as well.
#[tokio::test]
async fn and_the_way_back_lets_no_agent_in() {
    let desk = Desk::open().await;
    desk.agent().await.assert_ok();
    desk.done("revoke --level principal --target spiffe://lab.test/agent/a").await;
    let key = format!("--level key --target {} --yes", desk.site.root.key_sha256);
    for way in ["--all-names --force", "--force"] {
        desk.done(&format!("revoke {key}")).await;
        desk.assert_out("_revoked").await;
        desk.done(&format!("reinstate {key} {way}")).await;
        desk.assert_in().await;
        desk.agent().await.assert_refused(403, "principal_revoked");
    }
}

/// The authority of everybody has expired; then, a certificate of an authority that the gate does not know. Seen failing with a
/// command that presents the exported certificate, to an admin listener that refuses it in the handshake.
#[tokio::test]
async fn from_certificates_that_do_not_verify() {
    let mut desk = Desk::open().await;
    let expired = desk.site.root.intermediate_until("expired", now() - Duration::minutes(1));
    for (authority, why) in [(&expired, "certificate_expired"), (&Ca::root("lab"), "certificate_untrusted")] {
        let of = |id: &str| authority.leaf().uri(&format!("spiffe://lab.test/{id}"));
        desk.export(of("admin/ops").issue(), authority.pem());
        let agent = of("agent/a").claim("a").issue();
        desk.assert_out(why).await;
        assert!(is_refused(&desk, &agent).await);
        desk.done("advisory --for 10m --reason expired").await;
        desk.client(&agent).get("/").await.assert_ok();
        // The certificates are renewed.
        let renewed = desk.site.root.leaf().uri("spiffe://lab.test/admin/ops").issue();
        desk.export(renewed, "");
        desk.assert_in().await;
        let over = desk.by_certificate("advisory --end").await;
        assert_eq!(over.code, Some(0), "{over:?}");
        assert!(is_refused(&desk, &agent).await);
        desk.agent().await.assert_ok();
    }
}

/// True if the gate refuses an agent whose chain does not verify, in the handshake: a client of TLS 1.3 learns it when it reads.
async fn is_refused(desk: &Desk, agent: &Cert) -> bool {
    match desk.client(agent).try_h1().await {
        Ok(mut connection) => connection.try_get("/").await.is_err(),
        Err(_) => true,
    }
}

/// A token is replaced by the next one; a secret that was revoked, by the same under another name. Seen failing with a command that
/// presents the exported certificate beside the secret, to a gate that judges it first.
#[tokio::test]
async fn from_a_revocation_of_the_token_or_of_the_secret() {
    let mut desk = Desk::open().await;
    let mut listener = Caller::http1(&Client::new(&desk.site.root, None, desk.at().admin, &[&TLS13])).await;
    let login = json!({"secret": secret("break-glass")});
    let bought = listener.call("POST", "/v1/admin/auth", Some(&login)).await;
    desk.site.write("token", bought.json()["access_token"].as_str().unwrap());
    let by_token = async |desk: &Desk| {
        let mut command = desk.exported("status");
        command.args(["--token-file", "token"]);
        ended(command).await
    };
    assert_eq!(by_token(&desk).await.code, Some(0));
    let logins = desk.done("audit list --action authenticate --json").await;
    let logins: Value = serde_json::from_str(&logins.out).unwrap();
    // The newest is that of the command itself.
    let jti = logins["events"][1]["id"].as_str().unwrap();
    desk.done(&format!("revoke --level token --target {jti}")).await;
    assert_eq!(by_token(&desk).await.code, Some(1));
    desk.done(&format!("reinstate --level token --target {jti} --force")).await;
    assert_eq!(by_token(&desk).await.code, Some(0));

    let by_admin = "revoke --level principal --target secret:break-glass --yes";
    assert_eq!(desk.by_certificate(by_admin).await.code, Some(0));
    let cut =
        desk.by_certificate("revoke --level principal --target spiffe://lab.test/admin/ops --yes").await;
    assert!(cut.code.is_some(), "{cut:?}");
    desk.assert_out("principal_revoked").await;
    assert_eq!(desk.by_secret("status").await.code, Some(1));
    desk.site.edit("name = \"break-glass\"", "name = \"break-glass-2\"");
    desk.restart().await;
    desk.done("reinstate --level principal --target spiffe://lab.test/admin/ops --force").await;
    desk.done("reinstate --level principal --target secret:break-glass --force").await;
    desk.assert_in().await;
    desk.site.edit("name = \"break-glass-2\"", "name = \"break-glass\"");
    desk.restart().await;
    desk.done("status").await;
}

/// Seen failing with a warning that any secret silences.
#[tokio::test]
async fn a_configuration_without_a_way_back_is_warned_of() {
    let site = Site::new();
    let warns = async || {
        let validated = ended(site.command("validate")).await;
        assert_eq!(validated.code, Some(0), "{validated:?}");
        let upstream = Upstream::start().await;
        let (gate, _) = Process::start(site.run(upstream.address)).await;
        let started = gate.log.iter().any(|line| line.to_string().contains("locked out"));
        assert_eq!(validated.err.contains("locked out"), started, "{validated:?} {:?}", gate.log);
        started
    };
    assert!(!warns().await);
    site.edit("role = \"admin\"", "role = \"operator\"");
    assert!(warns().await);
    let text = std::fs::read_to_string(site.path("portcullis.toml")).unwrap();
    let (before, rest) = text.split_once("[[admin.secret]]").unwrap();
    let (_, after) = rest.split_once("[metrics]").unwrap();
    site.write("portcullis.toml", &format!("{before}[metrics]{after}"));
    assert!(warns().await);
}

/// Blocks of 512 bytes: enough for an empty journal, and for a few hundred rows more.
const BLOCKS: u64 = 2600;

/// Neither journal nor audit can be written: the holder of the secret logs in, breaks the glass and, once there is room,
/// reinstates. Seen failing with a login, and with a break-glass, that does not happen without its audit line on disk.
#[tokio::test]
async fn from_a_full_disk() {
    let mut desk = Desk::open().await;
    let (level, target) = ("principal", "spiffe://lab.test/admin/ops");
    drop(desk.gate.take());
    desk.start(limited).await;
    fill(&desk).await;
    desk.by_secret(&format!("revoke --level {level} --target {target} --yes")).await;
    desk.by_secret("revoke --level principal --target spiffe://lab.test/agent/a").await;
    desk.assert_out("principal_revoked").await;
    desk.agent().await.assert_refused(403, "principal_revoked");

    let lift = format!("reinstate --level {level} --target {target} --force --yes");
    let refused = desk.by_secret(&lift).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let begun = desk.done("advisory --for 10m --reason full").await;
    assert!(begun.err.contains("the audit line of this is not on disk"), "{begun:?}");
    desk.agent().await.assert_ok();
    let status: Value = serde_json::from_str(&desk.done("status").await.out).unwrap();
    let waiting = status["audit"]["waiting"].as_u64().unwrap();
    assert!(waiting >= 6, "{status}");
    assert_eq!((&status["audit"]["durable"], &status["audit"]["lost"]), (&json!(false), &json!(0)));
    let ready = plain(desk.at().metrics, "/readyz").await;
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("revocations.redb cannot be written ("),
        "{ready}"
    );
    assert!(ready.contains(" lines wait in memory"), "{ready}");

    // There is room again, in a while: nobody has to restart anything.
    let pid = Pid::from_raw(desk.gate.as_ref().unwrap().id().cast_signed());
    prlimit(pid, Resource::Fsize, Rlimit { current: None, maximum: None }).unwrap();
    let mended = async {
        while !plain(desk.at().metrics, "/readyz").await.starts_with("HTTP/1.1 200") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, mended).await.unwrap();
    desk.done(&lift).await;
    desk.done("reinstate --level principal --target spiffe://lab.test/agent/a --force").await;
    desk.done("advisory --end").await;
    desk.assert_in().await;
    desk.agent().await.assert_ok();

    // Every line is there, in its order.
    let lines = std::fs::read_to_string(desk.site.path("state/audit.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let place = |action: &str, outcome: &str| {
        let is_it = |line: &Value| line["action"] == action && line["outcome"] == outcome;
        lines.iter().position(is_it).unwrap_or_else(|| panic!("no {action} {outcome}"))
    };
    assert!(place("revoke", "effective_not_durable") < place("advisory", "asked"));
    assert!(place("advisory", "asked") < place("advisory", "begun"));
    assert!(place("advisory", "begun") < place("advisory", "ended"));
    let verified = ended(desk.site.tool("audit", "verify --dir state")).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

/// The same program under a limit of what one file may grow to, which it meets as it would a full disk.
fn limited(command: Command) -> Command {
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("trap '' XFSZ; ulimit -S -f {BLOCKS}; exec \"$0\" \"$@\"")]);
    limited.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited.current_dir(command.get_current_dir().unwrap());
    limited
}

/// Revokes tasks until neither the journal nor the audit takes any more.
async fn fill(desk: &Desk) {
    let client = Client::new(&desk.site.root, Some(&desk.admin), desk.at().admin, &[&TLS13]);
    let mut connection = client.h1().await;
    for i in 0..4000 {
        let target = format!("{i:04}{}", "x".repeat(2000));
        post(&mut connection, &json!({"action": "revoke", "level": "task", "target": target})).await.unwrap();
        let status = connection.get("/v1/status").await.json();
        if status["durable"] == false && status["audit"]["durable"] == false {
            return;
        }
    }
    panic!("the disk is never full");
}
