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
use crate::rig::client;
use crate::rig::client::ClientError;

/// What to change, where, and as whom.
#[derive(Debug, Args)]
pub(super) struct ChangeArgs {
    /// certificate, key, principal (agent), token, task, chain, issuer or trust_domain.
    #[arg(long)]
    level: String,
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
    #[arg(long, value_name = "TIME")]
    issued_before: Option<String>,
    /// When what is hit has expired, and the entry may be forgotten: RFC 3339, or Unix seconds.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// The admin listener.
    #[arg(long, env = "PORTCULLIS_SERVER", default_value = "https://localhost:9443", value_name = "URL")]
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
                if matches!(error, ClientError::Broken(..)) {
                    complain(&"whether the change is in effect is not known; repeating it does no harm");
                }
                if matches!(error, ClientError::File(..)) { USAGE } else { UNREACHABLE }
            }
        }
    }

    async fn call(&self, action: &str, force: bool) -> Result<(StatusCode, Bytes), ClientError> {
        let own = Some((self.client_cert.as_path(), self.client_key.as_path()));
        let config = Arc::new(client::config_from_files(&self.cacert, own)?);
        let unreachable = |reason: &str| ClientError::Unreachable(self.server.to_string(), reason.to_owned());
        let authority = self.server.authority().ok_or_else(|| unreachable("not a URL"))?;
        if self.server.scheme_str() != Some("https") {
            return Err(unreachable("the server is `https://HOST:PORT`"));
        }
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
        body.insert("level".into(), self.level.as_str().into());
        body.insert("target".into(), self.target.as_str().into());
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
        let document: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
        let number = |name: &str| document.get(name).and_then(Value::as_u64).unwrap_or_default();
        if self.json {
            println!("{}", String::from_utf8_lossy(body));
        } else if status == StatusCode::OK {
            println!(
                "{action}: {} {} (id {}), {} sessions ended, generation {}",
                text("level"),
                text("target"),
                text("id"),
                number("sessions_ended"),
                number("generation")
            );
        }
        if status == StatusCode::OK {
            return DONE;
        }
        let effective =
            if document["effective"] == Value::Bool(true) { "in effect, but not on disk: " } else { "" };
        let reason = if text("error").is_empty() { status.as_str() } else { text("error") };
        complain(&format_args!("{action}: {} {effective}{reason}", status.as_u16()));
        REFUSED
    }
}
