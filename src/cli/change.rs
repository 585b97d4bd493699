//! `portcullis revoke`, `suspend`, `reinstate`: one call of the admin API.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use http::Request;
use http::StatusCode;
use http::Uri;
use http::header::CONTENT_TYPE;
use http::header::HOST;
use http_body_util::Full;
use serde_json::Map;
use serde_json::Value;

use super::DONE;
use super::REFUSED;
use super::UNREACHABLE;
use super::USAGE;
use super::complain;
use crate::clock::Timestamp;
use crate::revocation::Level;
use crate::rig::client;
use crate::rig::client::ClientError;

/// What to change, where, and as whom.
#[derive(Debug, Args)]
pub(super) struct ChangeArgs {
    /// certificate, key, principal (agent), token, task, chain, issuer or trust_domain.
    #[arg(long)]
    level: Level,
    /// The target: a serial, a key's SHA-256, a SPIFFE ID, DNS name or agent id, a jti, a task id, a CA key id, ...
    #[arg(long)]
    target: String,
    /// The issuer's key id, where the target is a serial.
    #[arg(long)]
    issuer: Option<String>,
    /// Why; it is logged, audited and, where configured, told to the client.
    #[arg(long)]
    reason: Option<String>,
    /// Hit only what was issued before: RFC 3339, or Unix seconds.
    #[arg(long, value_name = "TIME", value_parser = time)]
    issued_before: Option<String>,
    /// When what is hit has expired, and the entry may be forgotten: RFC 3339, or Unix seconds.
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires_at: Option<String>,
    /// The admin listener.
    #[arg(long, env = "PORTCULLIS_SERVER", default_value = "https://localhost:9443", value_name = "URL",
        value_parser = server)]
    server: Uri,
    /// The authority that vouches for the server (PEM).
    #[arg(long, env = "PORTCULLIS_CACERT", value_name = "FILE")]
    cacert: PathBuf,
    /// The administrator's certificate (PEM).
    #[arg(long, env = "PORTCULLIS_CLIENT_CERT", value_name = "FILE")]
    client_cert: PathBuf,
    /// Its private key (PEM).
    #[arg(long, env = "PORTCULLIS_CLIENT_KEY", value_name = "FILE")]
    client_key: PathBuf,
    /// Print the server's answer as it is.
    #[arg(long)]
    json: bool,
}

impl ChangeArgs {
    /// Sends the change, prints what came of it, and returns the exit code.
    pub(super) fn send(self, action: &str, force: bool) -> u8 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let answered = match runtime {
            Ok(runtime) => runtime.block_on(self.call(action, force)),
            Err(error) => {
                complain(&error);
                return REFUSED;
            }
        };
        match answered {
            Ok((status, body)) => self.print(action, status, &body),
            Err(error) => {
                complain(&error);
                if matches!(error, ClientError::Broken(..) | ClientError::Silent(..)) {
                    complain(&"whether the change is in effect is not known; repeating it does no harm");
                }
                match error {
                    ClientError::File(..) => USAGE,
                    ClientError::Refused(..) => REFUSED,
                    _ => UNREACHABLE,
                }
            }
        }
    }

    async fn call(&self, action: &str, force: bool) -> Result<(StatusCode, Bytes), ClientError> {
        let own = Some((self.client_cert.as_path(), self.client_key.as_path()));
        let config = Arc::new(client::config_from_files(&self.cacert, own)?);
        let unreachable = |reason: &str| ClientError::Unreachable(self.server.to_string(), reason.to_owned());
        let authority = self.server.authority().ok_or_else(|| unreachable(SERVER))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let addresses = tokio::net::lookup_host((host.as_str(), authority.port_u16().unwrap_or(9443))).await;
        let addresses: Vec<SocketAddr> = addresses.map_err(|e| unreachable(&e.to_string()))?.collect();
        let mut failure = unreachable("no address");
        for address in addresses {
            let request = Request::post("/v1/revocations")
                .header(HOST, authority.as_str())
                .header(CONTENT_TYPE, "application/json")
                .body(Full::new(Bytes::from(self.body(action, force))))
                .map_err(|e| unreachable(&e.to_string()))?;
            match client::call(&config, address, &host, request).await {
                Ok(answer) => return Ok((answer.status(), answer.into_body())),
                // `localhost` may be two addresses of which one listens.
                Err(error @ ClientError::Unreachable(..)) => failure = error,
                Err(error) => return Err(error),
            }
        }
        Err(failure)
    }

    fn body(&self, action: &str, force: bool) -> String {
        let mut body = Map::new();
        body.insert("action".into(), action.into());
        body.insert("level".into(), self.level.name().into());
        // As openssl prints a serial.
        let target = self.target.strip_prefix("serial=").filter(|_| self.level == Level::Certificate);
        body.insert("target".into(), target.unwrap_or(&self.target).into());
        let optional = [("issuer", &self.issuer), ("reason", &self.reason)];
        let times = [("issued_before", &self.issued_before), ("expires_at", &self.expires_at)];
        for (name, value) in optional.into_iter().chain(times) {
            if let Some(value) = value {
                body.insert(name.into(), value.as_str().into());
            }
        }
        if force {
            body.insert("force".into(), true.into());
        }
        Value::Object(body).to_string()
    }

    fn print(&self, action: &str, status: StatusCode, body: &[u8]) -> u8 {
        let answer = Answer { status, document: serde_json::from_slice(body).unwrap_or(Value::Null) };
        if self.json {
            println!("{}", String::from_utf8_lossy(body));
        } else if answer.is_done() {
            println!("{action}: {}", answer.told(action, self.level));
        }
        if answer.document["enforced"] == Value::Bool(false) {
            complain(&"WARNING: the gate is in advisory mode: nothing is refused");
        }
        if answer.is_done() {
            return DONE;
        }
        complain(&format_args!("{action}: {} {}", status.as_u16(), answer.failure()));
        if !answer.is_of_the_api() {
            complain(&"is this the gate's port? the admin API listens elsewhere");
        }
        REFUSED
    }
}

/// What came back.
struct Answer {
    status: StatusCode,
    document: Value,
}

impl Answer {
    fn text(&self, name: &str) -> &str {
        self.document.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn number(&self, name: &str) -> u64 {
        self.document.get(name).and_then(Value::as_u64).unwrap_or_default()
    }

    /// A service behind the gate may answer 200 to anything.
    fn is_done(&self) -> bool {
        self.status == StatusCode::OK && !self.text("id").is_empty()
    }

    /// Whether the admin API says this, as far as it can be told: it names what it did, or one of its own reasons.
    fn is_of_the_api(&self) -> bool {
        let code = self.text("code");
        !self.text("id").is_empty() || (!code.is_empty() && !OF_THE_GATE.contains(&code))
    }

    fn told(&self, action: &str, level: Level) -> String {
        let target = format!("{} {}", self.text("level"), self.text("target"));
        if action == "reinstate" && self.document["changed"] == Value::Bool(false) {
            return format!("nothing was suspended or revoked under {target}");
        }
        let effect = match (action, level, self.number("sessions_ended")) {
            ("reinstate", ..) => String::new(),
            (_, Level::Token | Level::Chain, _) => " kept; no token is read yet,".into(),
            (.., 1) => " 1 session ended,".into(),
            (.., ended) => format!(" {ended} sessions ended,"),
        };
        format!("{target} (id {}),{effect} generation {}", self.text("id"), self.number("generation"))
    }

    fn failure(&self) -> String {
        let is = |name: &str| self.document.get(name).and_then(Value::as_bool);
        let effective = match (is("effective"), is("durable")) {
            (Some(true), Some(true)) => "in effect and on disk, but not complete: ",
            (Some(true), _) => "in effect, but not on disk: ",
            _ => "",
        };
        let reason = match self.text("error") {
            "" => self.status.canonical_reason().unwrap_or("no problem document"),
            reason => reason,
        };
        format!("{effective}{reason}")
    }
}

/// Reasons that only the gate has.
const OF_THE_GATE: [&str; 5] =
    ["identity_unclaimed", "identity_mismatch", "no_route", "upstream_failed", "upstream_timeout"];

/// What `--server` is.
const SERVER: &str = "https://HOST:PORT";

fn server(text: &str) -> Result<Uri, &'static str> {
    let uri: Uri = text.parse().map_err(|_| SERVER)?;
    let fits = uri.scheme_str() == Some("https") && matches!(uri.path(), "" | "/");
    if fits { Ok(uri) } else { Err(SERVER) }
}

/// Checked here, and read where it counts.
fn time(text: &str) -> Result<String, &'static str> {
    let read = Timestamp::parse(text);
    read.map(|_| text.to_owned()).ok_or("RFC 3339, such as 2026-11-22T12:00:00Z, or Unix seconds")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(status: StatusCode, mut more: Value) -> Answer {
        let mut document = json!({"id": "i", "level": "principal", "target": "a", "generation": 7});
        document.as_object_mut().unwrap().append(more.as_object_mut().unwrap());
        Answer { status, document }
    }

    #[test]
    fn it_is_told_what_came_of_it() {
        let told = |action, level, more| answer(StatusCode::OK, more).told(action, level);
        let principal = Level::Principal;
        for (sessions, words) in [(0, "0 sessions"), (1, "1 session"), (2, "2 sessions")] {
            let expected = format!("principal a (id i), {words} ended, generation 7");
            assert_eq!(told("revoke", principal, json!({"sessions_ended": sessions})), expected);
        }
        let lifted = told("reinstate", principal, json!({"changed": true}));
        assert_eq!(lifted, "principal a (id i), generation 7");
        let nothing = told("reinstate", principal, json!({"changed": false}));
        assert_eq!(nothing, "nothing was suspended or revoked under principal a");
        let token = told("revoke", Level::Token, json!({"level": "token", "sessions_ended": 0}));
        assert_eq!(token, "token a (id i), kept; no token is read yet, generation 7");
    }

    #[test]
    fn only_the_api_has_done_something() {
        let done = answer(StatusCode::OK, json!({}));
        assert!(done.is_done() && done.is_of_the_api());
        let kept_in_memory =
            answer(StatusCode::SERVICE_UNAVAILABLE, json!({"effective": true, "error": "disk full"}));
        assert!(!kept_in_memory.is_done() && kept_in_memory.is_of_the_api());
        assert_eq!(kept_in_memory.failure(), "in effect, but not on disk: disk full");
        // The answer of a service behind the gate.
        let of_a_service = Answer { status: StatusCode::OK, document: json!({"hello": "world"}) };
        assert!(!of_a_service.is_done() && !of_a_service.is_of_the_api());
        for (code, of_the_api) in [("admin_denied", true), ("bad_request", true), ("no_route", false)] {
            let refusal = Answer { status: StatusCode::FORBIDDEN, document: json!({"code": code}) };
            assert_eq!(refusal.is_of_the_api(), of_the_api, "{code}");
        }
    }
}
