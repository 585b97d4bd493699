//! How somebody is revoked: over our API, over anybody's, or by a command.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http::Request;
use http::Response;
use http::header::CONTENT_TYPE;
use http::header::HOST;
use http_body_util::Full;
use rustls::ClientConfig;
use serde_json::Value;
use serde_json::json;
use tokio::time::timeout;

use super::probe;
use super::probe::Place;
use super::shell;
use crate::rig::client;
use crate::rig::client::ClientError;
use crate::rig::client::Conversation;
use crate::rig::findings::Party;
use crate::rig::setup::shown_command;
use crate::rig::setup::shown_url;

/// The longest text of a command's or a server's that is repeated.
pub(super) const SAID: usize = 400;

/// How somebody is revoked.
#[derive(Clone)]
pub enum Means {
    /// Portcullis's admin API: the victim's certificate, by its serial.
    Admin(Api),
    /// A POST to a URL.
    Url {
        /// Where and as whom.
        api: Api,
        /// What is sent; `{serial}` and `{principal}` are the victim's.
        body: String,
        /// More of the request.
        headers: HeaderMap,
    },
    /// A command of the shell. The victim is in its environment: `DRILL_SERIAL`, `DRILL_PRINCIPAL`.
    Command(String),
}

/// A server that is called.
#[derive(Clone)]
pub struct Api {
    /// Where.
    pub place: Place,
    /// As whom; over HTTP/1.1.
    pub tls: Arc<ClientConfig>,
    /// As nobody.
    pub stranger: Arc<ClientConfig>,
    /// Whether `tls` has a certificate.
    pub is_known: bool,
}

/// What came of a call or a command.
#[derive(Clone, Debug)]
pub struct Told {
    /// When it was begun.
    pub sent: Instant,
    /// When its answer was there, or it had ended.
    pub answered: Option<Instant>,
    /// Whether that was a success.
    pub succeeded: bool,
    /// The status of an answer.
    pub status: Option<u16>,
    /// Whether the server would not hear it: it refused the handshake, or broke off.
    pub shut: bool,
    /// The status or exit code.
    pub words: String,
    /// What was said besides, which may hold credentials.
    pub said: String,
    /// The answer, if it is a document.
    pub document: Value,
}

impl Told {
    /// What was said besides, if anything was.
    pub(super) fn said(&self) -> Option<String> {
        Some(self.said.clone()).filter(|said| !said.is_empty())
    }

    /// A failure of which nothing is known yet.
    pub(super) fn nothing(sent: Instant, answered: Option<Instant>) -> Self {
        let (words, said, document) = (String::new(), String::new(), Value::Null);
        Self { sent, answered, succeeded: false, status: None, shut: false, words, said, document }
    }
}

/// A connection that is open before it is needed.
pub(super) struct Ready(Option<Conversation>);

impl Means {
    /// What it is, in words that can be shown to anybody: what follows the name of a command may hold credentials.
    pub fn words(&self) -> String {
        match self {
            Self::Admin(api) => format!("POST {}v1/revocations", api.base()),
            Self::Url { api, .. } => format!("POST {}", shown_url(&api.place.url.to_string())),
            Self::Command(command) => shown_command(command),
        }
    }

    /// Whether a URL has a query.
    pub(super) fn has_query(&self) -> bool {
        matches!(self, Self::Url { api, .. } if api.place.url.query().is_some())
    }

    /// Opens the connection for the call.
    ///
    /// # Errors
    /// Where nobody answers, or does not want this certificate.
    pub(super) async fn ready(&self) -> Result<Ready, ClientError> {
        match self {
            Self::Admin(api) | Self::Url { api, .. } => Ok(Ready(Some(api.open(&api.tls).await?))),
            Self::Command(_) => Ok(Ready(None)),
        }
    }

    /// Revokes. Returns after `patience` at the latest.
    pub(super) async fn revoke(&self, ready: Ready, victim: &Party, patience: Duration) -> Told {
        let (api, request) = match self {
            Self::Command(command) => return shell::run(command, victim, &[], patience).await,
            Self::Admin(api) => (api, api.revocation(&victim.serial)),
            Self::Url { api, body, headers } => (api, api.posting(body, headers, victim)),
        };
        let conversation = match ready.0 {
            Some(conversation) => Ok(conversation),
            None => api.open(&api.tls).await,
        };
        let sent = Instant::now();
        let answer = match (conversation, request) {
            (Ok(mut conversation), Ok(request)) => within(patience, conversation.send(request)).await,
            (Err(error), _) => Err(error),
            (_, Err(reason)) => Err(ClientError::Broken(api.place.address.to_string(), reason)),
        };
        told(sent, answer)
    }

    /// The same again on a connection of its own.
    pub(super) async fn again(&self, victim: &Party, patience: Duration) -> Told {
        let sent = Instant::now();
        match self.ready().await {
            Ok(ready) => self.revoke(ready, victim, patience).await,
            Err(error) => told(sent, Err(error)),
        }
    }

    /// The same without any credential; `None` where there is nobody to be asked, or nothing to go without.
    pub(super) async fn as_nobody(&self, victim: &Party, patience: Duration) -> Option<Told> {
        let means = match self {
            Self::Url { api, headers, .. } if headers.is_empty() && !api.is_known => return None,
            Self::Admin(api) => Self::Admin(Api { tls: Arc::clone(&api.stranger), ..api.clone() }),
            Self::Url { api, body, .. } => Self::Url {
                api: Api { tls: Arc::clone(&api.stranger), ..api.clone() },
                body: body.clone(),
                headers: HeaderMap::new(),
            },
            Self::Command(_) => return None,
        };
        Some(means.again(victim, patience).await)
    }
}

impl Api {
    fn base(&self) -> String {
        let authority = self.place.url.authority().map_or("", |authority| authority.as_str());
        format!("https://{authority}/")
    }

    async fn open(&self, tls: &Arc<ClientConfig>) -> Result<Conversation, ClientError> {
        let address: SocketAddr = self.place.address;
        Conversation::begin(client::connect(tls, address, &self.place.server).await?).await
    }

    fn revocation(&self, serial: &str) -> Result<Request<Full<Bytes>>, String> {
        let body = json!({"action": "revoke", "level": "certificate", "target": serial, "reason": "drill"});
        let authority = self.place.url.authority().map_or("", |authority| authority.as_str());
        Request::post("/v1/revocations")
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.to_string()))
            .map_err(|e| e.to_string())
    }

    fn posting(
        &self,
        body: &str,
        headers: &HeaderMap,
        victim: &Party,
    ) -> Result<Request<Full<Bytes>>, String> {
        let body = body.replace("{serial}", &victim.serial).replace("{principal}", &victim.name);
        let request = probe::request(&self.place, headers, false).method("POST");
        request.body(Full::from(body)).map_err(|e| e.to_string())
    }
}

async fn within(
    patience: Duration,
    answer: impl Future<Output = Result<Response<Bytes>, ClientError>>,
) -> Result<Response<Bytes>, ClientError> {
    match timeout(patience, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(ClientError::Silent("the server".into(), patience)),
    }
}

fn told(sent: Instant, answer: Result<Response<Bytes>, ClientError>) -> Told {
    let now = Some(Instant::now());
    match answer {
        Ok(answer) => Told {
            sent,
            answered: now,
            succeeded: answer.status().is_success(),
            status: Some(answer.status().as_u16()),
            shut: false,
            words: probe::words(&answer),
            said: if answer.status().is_success() { String::new() } else { said(answer.body()) },
            document: serde_json::from_slice(answer.body()).unwrap_or_default(),
        },
        Err(error) => {
            let answered = now.filter(|_| !matches!(error, ClientError::Silent(..)));
            let shut = matches!(
                error,
                ClientError::Refused(..) | ClientError::Broken(..) | ClientError::Dropped(..)
            );
            Told { shut, words: error.to_string(), ..Told::nothing(sent, answered) }
        }
    }
}

/// The beginning of what was said, on one line.
pub(super) fn said(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().take(SAID).collect()
}
