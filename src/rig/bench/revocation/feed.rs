//! How revocations get to the gates, and how it is known that each has answered.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use aws_config::BehaviorVersion;
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::Method;
use http::Request;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde_json::Value;
use serde_json::json;
use tokio::sync::Mutex as TurnMutex;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio::time::timeout;

use super::Error;
use super::Victim;
use super::fleet::Fleet;
use super::fleet::Site;
use super::gate::Gate;
use crate::clock::Clock;
use crate::revocation::Action;
use crate::revocation::Event;
use crate::revocation::Level;
use crate::revocation::Target;
use crate::rig::client;
use crate::rig::client::ClientError;
use crate::rig::queue::Queue;

/// How often it is looked whether a message was deleted.
const LOOK: Duration = Duration::from_millis(1);
/// How often a gate is asked.
const ASK: Duration = Duration::from_millis(25);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A way to all gates.
pub(super) enum Feed {
    /// The admin API of each.
    Calls(Vec<Calls>),
    /// A queue for each, in this process.
    Queues(Vec<Queue>),
    /// A queue for each, elsewhere.
    Remote { client: Box<aws_sdk_sqs::Client>, urls: Vec<String>, gates: Vec<Calls> },
    /// A list that all of them look at.
    List(List),
}

/// An open connection to an admin listener, over which many calls can be under way.
pub(super) struct Calls {
    gate: usize,
    sender: http2::SendRequest<Full<Bytes>>,
    _drive: JoinSet<()>,
}

/// A list that is published anew with each revocation.
pub(super) struct List {
    site: Arc<Site>,
    /// What was revoked so far.
    serials: Mutex<Vec<[u8; 16]>>,
    /// The number of the last list, and how many of `serials` are on it.
    published: TurnMutex<(u64, usize)>,
    gates: Vec<Reader>,
}

/// A gate, and how many entries its list had when it was asked last.
struct Reader {
    calls: Calls,
    read: TurnMutex<Option<(Instant, u64)>>,
}

impl Feed {
    /// Calls on the admin listeners.
    pub(super) async fn calls(fleet: &Fleet, tls: &Arc<ClientConfig>) -> Result<Self, Error> {
        connect(fleet, tls).await.map(Self::Calls)
    }

    /// A list, as it was published at the start.
    pub(super) async fn list(
        fleet: &Fleet,
        tls: &Arc<ClientConfig>,
        site: &Arc<Site>,
    ) -> Result<Self, Error> {
        let gates = connect(fleet, tls).await?.into_iter();
        let gates = gates.map(|calls| Reader { calls, read: TurnMutex::default() }).collect();
        let published = TurnMutex::new((1, 0));
        Ok(Self::List(List { site: Arc::clone(site), serials: Mutex::default(), published, gates }))
    }

    /// Queues of some service; credentials and region are those of the environment.
    pub(super) async fn remote(
        fleet: &Fleet,
        tls: &Arc<ClientConfig>,
        urls: Vec<String>,
        endpoint: Option<&str>,
    ) -> Result<Self, Error> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(endpoint) = endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        let client = Box::new(aws_sdk_sqs::Client::new(&loader.load().await));
        Ok(Self::Remote { client, urls, gates: connect(fleet, tls).await? })
    }

    /// Revokes an agent on all gates at once. Each sender is told when its gate has answered; the answers, likewise.
    pub(super) async fn revoke(
        &self,
        victim: &Victim,
        told: Vec<oneshot::Sender<Instant>>,
    ) -> Result<Vec<Instant>, Error> {
        let wanted = match self {
            Self::List(list) => list.publish(victim).await?,
            _ => 0,
        };
        // Made once, so that all gates are told of the same event.
        let message = message(victim)?;
        try_join_all(told.into_iter().enumerate().map(|(gate, told)| {
            let message = &message;
            async move {
                let carried = self.carry(gate, victim, message, wanted);
                match timeout(PATIENCE, carried).await {
                    Ok(carried) => carried?,
                    Err(_) => return Err(Error::Gate(gate, "gave no answer to a revocation".into())),
                }
                let answered = Instant::now();
                // Who has seen enough does not wait for it.
                let _ = told.send(answered);
                Ok(answered)
            }
        }))
        .await
    }

    async fn carry(&self, gate: usize, victim: &Victim, message: &Message, wanted: u64) -> Result<(), Error> {
        let none = || Error::Gate(gate, "has no feed".into());
        match self {
            Self::Calls(calls) => calls.get(gate).ok_or_else(none)?.revoke(victim).await,
            Self::Queues(queues) => {
                let queue = queues.get(gate).ok_or_else(none)?;
                let pushed = queue.push(&message.text);
                while !queue.is_deleted(&pushed.id) {
                    sleep(LOOK).await;
                }
                Ok(())
            }
            Self::Remote { client, urls, gates } => {
                let url = urls.get(gate).ok_or_else(none)?;
                let send = client.send_message().queue_url(url).message_body(&message.text).send();
                let failed =
                    |e| Error::Gate(gate, format!("{url}: {}", aws_sdk_sqs::error::DisplayErrorContext(e)));
                send.await.map_err(failed)?;
                gates.get(gate).ok_or_else(none)?.until_acknowledged(&message.id).await
            }
            Self::List(list) => list.gates.get(gate).ok_or_else(none)?.until(wanted).await,
        }
    }
}

/// An event as a queue carries it.
struct Message {
    id: String,
    text: String,
}

fn message(victim: &Victim) -> Result<Message, Error> {
    let target = Target::parse(Level::Principal, &victim.principal, None);
    let target = target.map_err(|e| Error::Victim(victim.principal.clone(), e.to_string()))?;
    let event = Event::new(Action::Revoke, target, Clock::system().now());
    let mut document = json!(event);
    document["version"] = 1.into();
    Ok(Message { id: event.id, text: document.to_string() })
}

async fn connect(fleet: &Fleet, tls: &Arc<ClientConfig>) -> Result<Vec<Calls>, Error> {
    try_join_all(fleet.gates.iter().enumerate().map(|(number, gate)| Calls::open(number, gate, tls))).await
}

impl Calls {
    async fn open(number: usize, gate: &Gate, tls: &Arc<ClientConfig>) -> Result<Self, Error> {
        let broken = |e: hyper::Error| ClientError::Broken(gate.admin.to_string(), e.to_string());
        let stream = client::connect(tls, gate.admin, "localhost").await?;
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(broken)?;
        let mut drive = JoinSet::new();
        drive.spawn(async move {
            // How it ends is told to the calls that are under way.
            let _ = connection.await;
        });
        Ok(Self { gate: number, sender, _drive: drive })
    }

    async fn revoke(&self, victim: &Victim) -> Result<(), Error> {
        let change = json!({
            "action": "revoke", "level": "principal", "target": victim.principal, "reason": "measured",
        });
        let (status, answer) = self.ask(Method::POST, "/v1/revocations", change.to_string()).await?;
        match status {
            200 => Ok(()),
            status => Err(Error::Gate(self.gate, format!("answered {status} to a revocation: {answer}"))),
        }
    }

    /// Waits until a message has been deleted, as the gate says.
    async fn until_acknowledged(&self, id: &str) -> Result<(), Error> {
        loop {
            let (_, answer) = self.ask(Method::GET, &format!("/v1/revocations/{id}"), String::new()).await?;
            if answer["timeline"]["acknowledged_us"].is_u64() {
                return Ok(());
            }
            sleep(ASK).await;
        }
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> Result<(u16, Value), Error> {
        let failed = |what: &dyn std::fmt::Display| Error::Gate(self.gate, format!("{path}: {what}"));
        let request = Request::builder().method(method).uri(format!("https://localhost{path}"));
        let request = request.header("content-type", "application/json");
        let request = request.body(Full::from(body)).map_err(|e| failed(&e))?;
        let answer = self.sender.clone().send_request(request).await.map_err(|e| failed(&e))?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|e| failed(&e))?.to_bytes();
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }
}

impl List {
    /// Puts a certificate on the list and publishes it, or leaves that to whoever is next. How many entries a list has
    /// that holds it.
    async fn publish(&self, victim: &Victim) -> Result<u64, Error> {
        let place = {
            let mut serials = self.serials.lock().unwrap_or_else(PoisonError::into_inner);
            serials.push(victim.issued.serial);
            serials.len()
        };
        let mut published = self.published.lock().await;
        if published.1 < place {
            let serials = self.serials.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let next = (published.0 + 1, serials.len());
            let site = Arc::clone(&self.site);
            let written = spawn_blocking(move || site.publish(next.0, &serials)).await;
            written.map_err(|e| Error::System("cannot sign a list", std::io::Error::other(e)))??;
            *published = next;
        }
        Ok(self.site.entries() + place as u64)
    }
}

impl Reader {
    /// Waits until the gate holds a list of so many entries. Many that wait ask once.
    async fn until(&self, wanted: u64) -> Result<(), Error> {
        loop {
            let mut read = self.read.lock().await;
            let entries = match *read {
                Some((at, entries)) if at.elapsed() < ASK => entries,
                _ => {
                    let (_, status) = self.calls.ask(Method::GET, "/v1/status", String::new()).await?;
                    let feeds = status["feeds"].as_array().into_iter().flatten();
                    let entries = feeds.filter_map(|feed| feed["entries"].as_u64()).max().unwrap_or_default();
                    *read = Some((Instant::now(), entries));
                    entries
                }
            };
            drop(read);
            if entries >= wanted {
                return Ok(());
            }
            sleep(ASK).await;
        }
    }
}
