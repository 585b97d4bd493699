//! Whatever holds the role `admin` is revoked and suspended by that role alone, at every level, in every spelling and by every
//! call that there is.

use portcullis::clock::Clock;
use portcullis::revocation::Action;
use portcullis::revocation::Config;
use portcullis::revocation::Engine;
use portcullis::revocation::Event;
use portcullis::revocation::Level;
use portcullis::revocation::Target;
use serde_json::Value;
use serde_json::json;

use crate::caller::Caller;
use crate::caller::fresh_address;
use crate::caller::token;
use crate::lab::Lab;
use crate::pki::Cert;
use crate::pki::sha256;

/// An administrator who has a SPIFFE ID, a task, an agent id and a DNS name.
const CHIEF: &str = "spiffe://lab.test/task/audit/agent/chief";
const TEMPLATES: &str = r#"["spiffe://{trust_domain}/task/{task}/agent/{agent}", "spiffe://{trust_domain}/agent/{agent}",
    "dns:{agent}.lab.test"]"#;

/// A gate with an operator, and administrators by certificate, secret and token that it has seen.
struct Site {
    lab: Lab,
    chief: Cert,
    ops: Cert,
    /// The id of the token that the administrators' secret bought.
    jti: String,
    bearer: String,
}

impl Site {
    async fn start() -> Self {
        let plan = Lab::plan().staffed().allowing(CHIEF).templates(TEMPLATES);
        let lab = plan.admin("limits = { calls_per_second = 1000, burst = 10000 }").start().await;
        let chief = lab.ops.leaf().uri(CHIEF).dns("chief.lab.test").issue();
        let ops = lab.ops.leaf().dns("ops.admin.test").issue();
        for cert in [&chief, &ops] {
            Caller::http1(&lab.admin_client(Some(cert))).await.read("/v1/status").await;
        }
        let bearer = token(&lab.admin_client(None), "admin").await;
        let mut caller = Caller::http1(&lab.admin_client(Some(&ops))).await;
        let tokens = caller.read("/v1/audit/events?action=authenticate&outcome=applied").await;
        let jti = tokens["events"][0]["id"].as_str().unwrap().to_owned();
        drop(caller);
        lab.until_sessions(0).await;
        Self { lab, chief, ops, jti, bearer }
    }

    async fn operator(&self) -> Caller {
        Caller::http1(&self.lab.administrator("operator")).await
    }

    /// Targets of an administrator, at each level.
    fn targets(&self) -> Vec<Value> {
        let issuer = &self.lab.ops.key_sha256;
        let mut targets: Vec<Value> = [
            ("principal", "ops.admin.test"),
            ("principal", "OPS.Admin.Test."),
            ("agent", CHIEF),
            ("principal", " spiffe://lab.test/task/audit/agent/chief "),
            ("principal", "chief"),
            ("principal", "chief.lab.test"),
            ("agent", "Chief.Lab.Test"),
            ("task", "audit"),
            ("principal", "secret:admin"),
            ("agent", " secret:admin "),
            ("token", &self.jti),
        ]
        .map(|(level, target)| json!({"level": level, "target": target}))
        .into();
        for cert in [&self.chief, &self.ops] {
            let serial = json!({"level": "certificate", "target": cert.serial});
            targets.push(serial.clone());
            let more = |name: &str, value: &str| {
                let mut target = serial.clone();
                target[name] = value.into();
                target
            };
            targets.push(more("issuer", issuer));
            targets.push(more("issuer", &self.lab.ops.key_id));
            targets.push(more("sha256", &sha256(&cert.chain[0])));
            targets.push(json!({"level": "key", "target": cert.key_sha256}));
        }
        targets
    }

    /// Targets above every administrator, which need the role whomever they hit.
    fn above(&self) -> Vec<Value> {
        let ops = &self.lab.ops;
        vec![
            json!({"level": "issuer", "target": ops.key_sha256}),
            json!({"level": "issuer", "target": ops.key_id}),
            json!({"level": "key", "target": ops.key_sha256}),
            json!({"level": "trust_domain", "target": "lab.test"}),
        ]
    }
}

fn with(mut change: Value, name: &str, value: Value) -> Value {
    change[name] = value;
    change
}

/// Seen failing at every target that is not above with a look at the level alone; without the certificates that were seen at each
/// certificate, key and DNS name; without the configured names at the secret.
#[tokio::test]
async fn what_is_an_administrators_takes_an_administrator() {
    let site = Site::start().await;
    let mut operator = site.operator().await;
    let mut wrong = Vec::new();
    let all = site.targets().into_iter().map(|target| (target, "holds an administrator's role"));
    for (target, why) in all.chain(site.above().into_iter().map(|target| (target, "takes admin"))) {
        let mut note = |what: &str, answer: &Value, is_refused: bool| {
            let text = answer["detail"].as_str().or(answer["error"].as_str()).unwrap_or_default();
            if !is_refused || answer["code"] != "insufficient_scope" || !text.contains(why) {
                wrong.push(format!("{what} {target}: {answer}"));
            }
        };
        for action in ["revoke", "suspend"] {
            let change = with(target.clone(), "action", action.into());
            let answer = operator.change(&change).await;
            note(action, &answer.json(), answer.status == 403);
            let dry = operator.done(&with(change.clone(), "dry_run", true.into())).await;
            note("dry run of", &dry["refused"], dry["refused"]["status"] == 403);
            let preemptive = with(change.clone(), "preemptive", true.into());
            let batch = operator.change(&json!([preemptive])).await;
            let answer = batch.json()["answers"][0].clone();
            note("batch of", &answer["problem"], batch.status == 207 && answer["status"] == 403);
        }
        if target.as_object().unwrap().len() == 2 {
            let answer = operator.call("POST", "/v1/revoke", Some(&target)).await;
            note("old", &answer.json(), answer.status == 403);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(site.lab.running().engine().entries(), 0);
    // Everybody is in.
    for cert in [&site.chief, &site.ops] {
        Caller::http1(&site.lab.admin_client(Some(cert))).await.read("/v1/status").await;
    }
    Caller::http1(&site.lab.admin_client(None)).await.bearing(&site.bearer).read("/v1/status").await;
}

/// Seen failing with everybody taken for an administrator.
#[tokio::test]
async fn what_is_an_operators_or_an_agents_takes_an_operator() {
    let mut site = Site::start().await;
    let agent = site.lab.root.leaf().uri("spiffe://lab.test/task/t/agent/a").claim("a").issue();
    site.lab.client(&agent).get("/").await.assert_ok();
    let mut operator = site.operator().await;
    let issuer = &site.lab.root.key_sha256;
    for change in [
        json!({"level": "principal", "target": "auditor.admin.test"}),
        json!({"level": "principal", "target": "secret:auditor"}),
        json!({"level": "principal", "target": "secret:Admin"}),
        json!({"level": "principal", "target": "spiffe://lab.test/task/audit/agent/Chief"}),
        json!({"level": "principal", "target": "a"}),
        json!({"level": "task", "target": "t"}),
        json!({"level": "chain", "target": "ops.admin.test"}),
        json!({"level": "token", "target": "no administrator's"}),
        json!({"level": "certificate", "target": agent.serial, "issuer": issuer}),
        json!({"level": "key", "target": agent.key_sha256}),
    ] {
        for action in ["suspend", "reinstate", "revoke"] {
            operator.done(&with(change.clone(), "action", action.into())).await;
        }
    }
    // Who holds the role decides about it, and an operator may lift what only suspends.
    let change = json!({"action": "suspend", "level": "principal", "target": "secret:admin"});
    site.lab.applied(change.clone()).await;
    operator.done(&with(change, "action", "reinstate".into())).await;
}

/// Seen failing with a name that is held against the administrators' as it is typed.
#[tokio::test]
async fn a_name_that_counts_in_any_case_is_held_against_every_case() {
    let plan = Lab::plan().staffed().allowing("spiffe://lab.test/agent/BOSS");
    let mut lab = plan.start().await;
    // A row of an earlier version, as its audit has it.
    lab.stop().await;
    let clock = Clock::system();
    let engine = Engine::reopen(&lab.state(), &Config::default(), clock.clone()).unwrap();
    let older = Target::parse(Level::Principal, "boss", None).unwrap().of_earlier_version();
    for action in [Action::Suspend, Action::Reinstate] {
        let outcome = engine.apply(Event::new(action, older.clone(), clock.now())).await.unwrap();
        assert!(outcome.as_asked);
    }
    drop(engine);
    lab.start_again();
    let mut operator = Caller::http1(&lab.administrator("operator")).await;
    let change = json!({"action": "revoke", "level": "principal", "target": "boss"});
    let answer = operator.change(&change).await;
    answer.assert_refused(403, "insufficient_scope");
}

/// Seen failing with sessions that any operator ends, and with a look at the certificate of a connection alone.
#[tokio::test]
async fn an_administrators_session_is_ended_by_an_administrator() {
    let site = Site::start().await;
    let chief = &site.chief;
    let mut admin = Caller::http1(&site.lab.admin_client(Some(chief))).await;
    admin.read("/v1/status").await;
    let mut bearer = Caller::http1(&site.lab.admin_client(None)).await.bearing(&site.bearer);
    bearer.read("/v1/status").await;
    let mut agent = site.lab.client(&site.lab.root.agent("a")).h1().await;
    agent.get("/").await.assert_ok();
    let mut operator = site.operator().await;
    let own = |session: &Value| session["principal"] == "operator.admin.test";
    let listed = operator.read("/v1/sessions").await;
    let sessions: Vec<Value> = listed["sessions"].as_array().unwrap().clone();
    // The chief's, the token's with its connection, the agent's, the operator's own.
    assert_eq!(sessions.len(), 5, "{listed}");
    for session in sessions.iter().filter(|session| !own(session)) {
        let path = format!("/v1/sessions/{}", session["id"].as_str().unwrap());
        let answer = operator.call("DELETE", &path, None).await;
        if session["listener"] == "gate" {
            answer.assert_ok();
            continue;
        }
        answer.assert_refused(403, "insufficient_scope");
        let said = answer.json();
        assert!(said["detail"].as_str().unwrap().contains("holds an administrator's role"), "{said}");
    }
    admin.read("/v1/status").await;
    bearer.read("/v1/status").await;
    assert!(agent.try_get("/").await.is_err());
    let mine = sessions.iter().find(|session| session["principal"] == CHIEF).unwrap();
    let path = format!("/v1/sessions/{}", mine["id"].as_str().unwrap());
    let mut ops = Caller::http1(&site.lab.admin_client(Some(&site.ops))).await;
    ops.call("DELETE", &path, None).await.assert_ok();
    assert!(admin.try_call("GET", "/v1/status", None).await.is_err());
}

/// Seen failing without a look at live sessions.
#[tokio::test]
async fn a_token_that_is_in_use_is_an_administrators_although_its_secret_has_bought_too_many_others() {
    let site = Site::start().await;
    let mut bearer = Caller::http1(&site.lab.admin_client(None)).await.bearing(&site.bearer);
    bearer.read("/v1/status").await;
    for _ in 0..64 {
        token(&site.lab.admin_client(None).from(fresh_address()), "admin").await;
    }
    let mut operator = site.operator().await;
    let change = json!({"action": "revoke", "level": "token", "target": site.jti});
    operator.change(&change).await.assert_refused(403, "insufficient_scope");
    let session =
        site.lab.running().engine().sessions().list().into_iter().find(|one| one.protocol() == "bearer");
    assert!(session.is_some_and(|session| session.cause().is_none()));
}
