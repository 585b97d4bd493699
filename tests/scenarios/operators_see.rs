//! What operators are promised: metrics and log lines by the names that runbooks alert on.

use rustls::version::TLS13;
use serde_json::Value;
use serde_json::json;

use crate::client::Client;
use crate::lab::Lab;
use crate::lab::plain;
use crate::pki::Cert;
use crate::process::Process;
use crate::process::Site;
use crate::process::ended;
use crate::upstream::Upstream;

/// The value of a metric.
fn metric(text: &str, series: &str) -> f64 {
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
}

#[tokio::test]
async fn metrics() {
    let mut lab = Lab::start().await;
    let (a, b) = (lab.root.agent("a"), lab.root.leaf().dns("b.lab.test").claim("b").issue());
    let mut open = lab.client(&a).h1().await;
    open.get("/").await.assert_ok();
    open.get("/").await.assert_ok();
    lab.client(&a).get("/").await.assert_ok();
    lab.client(&b).get("/").await.assert_ok();
    lab.client(&b.clone().claiming(Some("c"))).get("/").await.assert_refused(403, "identity_mismatch");
    lab.client_of(None, &[&TLS13]).get("/").await.assert_refused(401, "mtls_required");
    lab.until_sessions(1).await;
    lab.revoke("certificate", &b.serial).await;
    lab.client(&b).get("/").await.assert_refused(403, "certificate_revoked");
    let text = lab.plain("/metrics").await;
    for (series, value) in [
        ("mtls_auth_total{principal_type=\"agent\",result=\"success\"}", 3.0),
        // One of them is the administrator's.
        ("mtls_auth_total{principal_type=\"dns\",result=\"success\"}", 2.0),
        ("mtls_auth_total{principal_type=\"dns\",result=\"failure\"}", 1.0),
        ("mtls_auth_total{principal_type=\"dns\",result=\"revoked\"}", 1.0),
        ("mtls_auth_total{principal_type=\"none\",result=\"failure\"}", 1.0),
        ("mtls_cache_hits{type=\"principal\"}", 1.0),
        ("portcullis_refusals_total{code=\"certificate_revoked\"}", 1.0),
        ("portcullis_revocation_entries", 1.0),
        ("portcullis_revocation_events_total{action=\"revoke\",feed=\"admin\",level=\"certificate\"}", 1.0),
        ("portcullis_journal_durable", 1.0),
    ] {
        assert!((metric(&text, series) - value).abs() < 1e-9, "{series}: {text}");
    }
    assert!(metric(&text, "mtls_cache_hits{type=\"certificate\"}") >= 3.0);
    let series =
        format!("cert_expiry_days{{principal_id=\"spiffe://lab.test/agent/a\",serial=\"{}\"}}", a.serial);
    let days = metric(&text, &series);
    assert!(0.99 < days && days <= 1.0, "{days}");
    lab.revoke("principal", "a").await;
    let text = lab.plain("/metrics").await;
    let ended = metric(&text, "portcullis_sessions_ended_total{cause=\"principal_revoked\"}");
    assert!((ended - 1.0).abs() < 1e-9, "{text}");
}

#[tokio::test]
async fn health() {
    let lab = Lab::start().await;
    assert!(lab.plain("/healthz").await.starts_with("HTTP/1.1 200 "));
    assert!(lab.plain("/readyz").await.starts_with("HTTP/1.1 200 "));
    assert!(lab.plain("/v1/revocations").await.starts_with("HTTP/1.1 404 "));
}

fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_else(|| panic!("no {field} in {line}"))
}

#[tokio::test]
async fn log_lines() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let (mut process, at) = Process::start(site.run(upstream.address)).await;
    let cert = site.root.agent("a");
    let client = |cert: &Cert| Client::new(&site.root, Some(cert), at.gate, &[&TLS13]);
    let mismatch = client(&cert.clone().claiming(Some("b"))).get("/").await;
    mismatch.assert_refused(403, "identity_mismatch");
    let line = process.until(|line| text(line, "message").contains("authentication error")).await;
    assert_eq!(text(&line, "principal_id"), "spiffe://lab.test/agent/a");
    assert_eq!((text(&line, "serial"), text(&line, "code")), (cert.serial.as_str(), "identity_mismatch"));
    let asked = |line: &Value| ["route", "host", "path"].map(|name| text(line, name).to_owned());
    // Seen failing without them: only a certificate told one refusal from another.
    assert_eq!(asked(&line), ["/", "localhost", "/"]);
    // The client is told the number under which the log has its case.
    assert_eq!(text(&line, "request_id"), mismatch.json()["request_id"].as_str().unwrap());

    let mut open = client(&cert).h1().await;
    open.get("/").await.assert_ok();
    let target = ["--level", "certificate", "--target", cert.serial.as_str(), "--reason", "key_compromise"];
    assert_eq!(ended(site.change("revoke", at.admin, &target)).await.code, Some(0));
    let line = process.until(|line| text(line, "message") == "session ended").await;
    assert_eq!(
        (text(&line, "principal_id"), text(&line, "serial")),
        ("spiffe://lab.test/agent/a", cert.serial.as_str())
    );
    assert_eq!(text(&line, "revocation_reason"), "key_compromise");
    client(&cert).get("/").await.assert_refused(403, "certificate_revoked");
    let line = process.until(|line| text(line, "message").contains("revoked certificate")).await;
    assert!(text(&line, "message").contains("authentication error"));
    assert_eq!(asked(&line), ["/", "localhost", "/"]);
    assert_eq!(
        (text(&line, "principal_id"), text(&line, "serial")),
        ("spiffe://lab.test/agent/a", cert.serial.as_str())
    );
    assert_eq!(text(&line, "revocation_reason"), "key_compromise");

    let stranger = crate::pki::Ca::root("stranger").agent("a");
    assert!(client(&stranger).raw(b"GET / HTTP/1.1\r\n\r\n").await.is_err());
    let line = process.until(|line| text(line, "message").contains("authentication error")).await;
    assert_eq!(text(&line, "code"), "certificate_untrusted");
    assert_eq!(
        (text(&line, "presented_id"), text(&line, "presented_serial")),
        ("spiffe://lab.test/agent/a", stranger.serial.as_str())
    );
    assert!(text(&line, "address").starts_with("127.0.0.1:") && line.get("principal_id").is_none(), "{line}");
}

/// Whoever has to be given another certificate can be found; and what failed is told with where it went.
#[tokio::test]
async fn whom_advisory_mode_let_pass_can_be_found() {
    let site = Site::new();
    site.edit("mode = \"strict\" ", "mode = \"advisory\" ");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut process, at) = Process::start(site.run(nobody)).await;
    let stranger = crate::pki::Ca::root("stranger").agent("a");
    let answer = Client::new(&site.root, Some(&stranger), at.gate, &[&TLS13]).get("/").await;
    assert_eq!(answer.status.as_u16(), 502);
    let line = process.until(|line| text(line, "message").contains("authentication error")).await;
    assert_eq!((&line["passed"], text(&line, "principal_id")), (&Value::Bool(true), ""));
    assert_eq!(
        (text(&line, "presented_id"), text(&line, "presented_serial")),
        ("spiffe://lab.test/agent/a", stranger.serial.as_str())
    );
    let known = Client::new(&site.root, Some(&site.root.agent("a")), at.gate, &[&TLS13]);
    assert_eq!(known.get("/there?secret=1").await.status.as_u16(), 502);
    let line = process.until(|line| line["path"] == "/there").await;
    assert_eq!(text(&line, "message"), "request failed");
    assert_eq!((text(&line, "path"), text(&line, "route")), ("/there", "/"));
    assert_eq!(
        (text(&line, "principal_id"), text(&line, "host")),
        ("spiffe://lab.test/agent/a", "localhost")
    );
}

#[tokio::test]
async fn advisory_mode_only_warns() {
    let mut lab = Lab::plan().gate("mode = \"advisory\"").start().await;
    let cert = lab.root.agent("a");
    let mut open = lab.client(&cert).h1().await;
    let mut streams = lab.client(&cert).h2().await;
    open.get("/").await.assert_ok();
    let waiting = streams.begin("/hold").await;
    lab.upstream.until("/hold", |_| true).await;
    assert_eq!(lab.revoke("certificate", &cert.serial).await, 0);
    open.get("/").await.assert_ok();
    lab.upstream.release();
    assert_eq!(crate::lab::within(waiting).await.unwrap().status(), 200);
    lab.client(&cert).get("/").await.assert_ok();
    lab.client(&cert.clone().claiming(Some("b"))).get("/").await.assert_ok();
    lab.client(&lab.root.agent("c").claiming(None)).get("/").await.assert_ok();
    lab.client_of(None, &[&TLS13]).get("/").await.assert_ok();
    let text = lab.plain("/metrics").await;
    let revoked = metric(&text, "mtls_auth_total{principal_type=\"agent\",result=\"revoked\"}");
    assert!((revoked - 3.0).abs() < 1e-9, "{text}");
    assert!(metric(&text, "mtls_auth_total{principal_type=\"agent\",result=\"failure\"}") > 0.0);
    assert!(metric(&text, "mtls_auth_total{principal_type=\"none\",result=\"failure\"}") > 0.0);
    // Administrators are judged strictly all the same.
    let foreign = lab.ops.leaf().dns("ops.admin.test").issue();
    lab.revoke("certificate", &foreign.serial).await;
    let change = json!({"action": "revoke", "level": "principal", "target": "x"});
    let refused = crate::lab::post(&mut lab.admin_client(Some(&foreign)).h1().await, &change).await.unwrap();
    refused.assert_refused(403, "certificate_revoked");
}

#[tokio::test]
async fn advisory_mode_says_who_would_have_been_refused() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    site.edit("mode = \"strict\" ", "mode = \"advisory\" ");
    let (mut process, at) = Process::start(site.run(upstream.address)).await;
    let cert = site.root.agent("a");
    Client::new(&site.root, Some(&cert), at.gate, &[&TLS13]).get("/").await.assert_ok();
    let target = ["--level", "certificate", "--target", cert.serial.as_str(), "--reason", "superseded"];
    assert_eq!(ended(site.change("revoke", at.admin, &target)).await.code, Some(0));
    Client::new(&site.root, Some(&cert), at.gate, &[&TLS13]).get("/").await.assert_ok();
    let line = process.until(|line| text(line, "message").contains("revoked certificate")).await;
    assert_eq!((&line["passed"], text(&line, "revocation_reason")), (&Value::Bool(true), "superseded"));
    assert!(at.metrics.port() > 0);
}

/// From the command line to the log: who has broken the glass, why and until when; whom that let pass; and its end.
#[tokio::test]
async fn break_glass_is_told() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let (mut process, at) = Process::start(site.run(upstream.address)).await;
    let cert = site.root.agent("a");
    let client = || Client::new(&site.root, Some(&cert), at.gate, &[&TLS13]);
    let begin = ["--for", "30m", "--reason", "INC-42"];
    let begun = ended(site.change("advisory", at.admin, &begin)).await;
    assert_eq!(begun.code, Some(0), "{begun:?}");
    let line = process.until(|line| text(line, "message").starts_with("break-glass: ")).await;
    let who = "spiffe://lab.test/admin/ops";
    assert_eq!((text(&line, "level"), text(&line, "by"), text(&line, "reason")), ("WARN", who, "INC-42"));
    assert!(text(&line, "since") < text(&line, "until"));
    let target = ["--level", "certificate", "--target", cert.serial.as_str(), "--preemptive"];
    let revoked = ended(site.change("revoke", at.admin, &target)).await;
    assert!(revoked.err.contains("NOT ENFORCED until 20"), "{revoked:?}");
    assert!(revoked.out.contains(", NOT ENFORCED, generation"), "{revoked:?}");
    client().get("/").await.assert_ok();
    let line = process.until(|line| text(line, "message").contains("revoked certificate")).await;
    assert_eq!(line["passed"], true);
    assert_eq!(ended(site.change("advisory", at.admin, &["--end"])).await.code, Some(0));
    let line = process.until(|line| text(line, "message").starts_with("break-glass is over")).await;
    assert_eq!((text(&line, "reason"), text(&line, "ended_by")), ("INC-42", who));
    client().get("/").await.assert_refused(403, "certificate_revoked");
}

/// It is said anew each minute, for as long as it lasts, and a metric says so all the while.
#[tokio::test]
async fn break_glass_is_told_each_minute() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let (mut process, at) = Process::start(site.run(upstream.address)).await;
    let begin = ["--for", "30m", "--reason", "INC-42"];
    assert_eq!(ended(site.change("advisory", at.admin, &begin)).await.code, Some(0));
    let lasts = |line: &Value| text(line, "message").starts_with("break-glass: ");
    let first = process.until(lasts).await;
    assert!(plain(at.metrics, "/metrics").await.lines().any(|line| line == "portcullis_advisory 1"));
    tokio::time::sleep(std::time::Duration::from_secs(55)).await;
    let second = process.until(lasts).await;
    assert_ne!(text(&first, "timestamp"), text(&second, "timestamp"));
    assert_eq!(
        (text(&first, "reason"), text(&first, "until")),
        (text(&second, "reason"), text(&second, "until"))
    );
    assert_eq!(ended(site.change("advisory", at.admin, &["--end"])).await.code, Some(0));
    process.until(|line| text(line, "message").starts_with("break-glass is over")).await;
    assert!(plain(at.metrics, "/metrics").await.lines().any(|line| line == "portcullis_advisory 0"));
}

#[tokio::test]
async fn clients_are_told_as_much_as_was_decided() {
    for (disclose, code, detail) in [
        ("none", Value::Null, false),
        ("code", "certificate_revoked".into(), false),
        ("reason", "certificate_revoked".into(), true),
    ] {
        let mut lab = Lab::plan().gate(&format!("disclose = \"{disclose}\"")).start().await;
        let cert = lab.root.agent("a");
        lab.revoke("certificate", &cert.serial).await;
        let answer = lab.client(&cert).get("/").await;
        assert_eq!(
            (answer.status.as_u16(), &answer.headers["content-type"]),
            (403, &"application/problem+json".parse().unwrap())
        );
        let document = answer.json();
        assert_eq!((&document["code"], &document["status"]), (&code, &json!(403)), "{disclose}");
        assert!(document["error"].is_string() && document["request_id"].is_string());
        assert_eq!(
            document["detail"].as_str().is_some_and(|detail| detail.contains("leaked")),
            detail,
            "{disclose}"
        );
        assert_eq!(document.to_string().contains("leaked"), detail, "{disclose}");
        assert_eq!(document.to_string().contains("revoked"), disclose != "none");
    }
}

/// Name, kind and labels of each metric that `docs/metrics.md` has.
fn documented() -> Vec<(String, String, Vec<String>)> {
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows = include_str!("../../docs/metrics.md").lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (quoted(cells[1]).remove(0), cells[2].to_owned(), quoted(cells[3]))
    })
    .collect()
}

/// What a gate shows and what its documentation says are the same. Seen failing with a label that the table does not
/// have.
#[tokio::test]
async fn every_metric_is_documented() {
    let mut lab = Lab::start().await;
    let a = lab.root.agent("a");
    lab.client(&a).get("/").await.assert_ok();
    lab.client(&a).h2().await.get("/").await.assert_ok();
    lab.client_of(None, &[&TLS13]).get("/").await.assert_refused(401, "mtls_required");
    let _open = lab.client(&a).websocket().await;
    lab.revoke("principal", "a").await;
    let told = async {
        while !lab.plain("/metrics").await.contains("protocol=\"http/2\",status=\"2xx\"} 1") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    crate::lab::within(told).await;
    let text = lab.plain("/metrics").await;
    let documented = documented();
    let mut shown = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let row =
            documented.iter().find(|row| row.0 == name).unwrap_or_else(|| panic!("{name} is not there"));
        assert_eq!(row.1, kind, "{name}");
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let series = series.filter_map(|line| line.strip_prefix(name)).map(|rest| {
            let rest =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| rest.strip_prefix(end)).unwrap_or(rest);
            rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(labels, _)| labels)
        });
        for labels in series {
            let names = labels.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name);
            let mut names: Vec<&str> = names.filter(|name| *name != "le").collect();
            let mut expected: Vec<&str> = row.2.iter().map(String::as_str).collect();
            names.sort_unstable();
            expected.sort_unstable();
            assert_eq!(names, expected, "{name}");
        }
        shown += 1;
    }
    assert!(shown > 20, "{text}");
    // What has no series yet is not shown: the rest is held against the source.
    let source = concat!(
        include_str!("../../src/telemetry/mod.rs"),
        include_str!("../../src/telemetry/traffic.rs"),
        include_str!("../../src/telemetry/log_queue.rs")
    );
    let of_ours = |word: &&str| {
        ["portcullis_", "mtls_", "cert_"].iter().any(|prefix| word.starts_with(prefix)) && !word.contains('{')
    };
    let mut names: Vec<&str> = source.split('"').skip(1).step_by(2).filter(of_ours).collect();
    let mut rows: Vec<&str> = documented.iter().map(|row| row.0.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    rows.sort_unstable();
    assert_eq!(names, rows);
}
