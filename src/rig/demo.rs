//! The demonstration: two agents at work through the gate, the revocation of one of them, and what is seen of it.

use std::io;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::header::HOST;
use http_body_util::Full;
use rustls::ClientConfig;
use rustls::HandshakeKind;
use serde_json::Value;
use serde_json::json;
use tokio::time::sleep;
use tokio::time::timeout;

use super::client;
use super::client::ClientError;
use super::client::Conversation;
use super::sighting::Call;
use super::sighting::Log;
use super::sighting::Resumption;
use super::sighting::Sighting;
use super::sighting::words;
use super::stage::Stage;
use super::stage::StageError;
use super::stage::principal;
use super::upload::Upload;
use super::work::Agent;
use super::work::Outcome;
use super::work::Via;
use super::work::Worker;
use super::work::judge;

/// The agent that is revoked.
pub const VICTIM: &str = "alice";
/// The agent that must not notice.
pub const BYSTANDER: &str = "bob";

/// What each worker is served before anything is revoked.
const BUSY: u64 = 100;
/// How long that may take.
const BUSY_WITHIN: Duration = Duration::from_secs(20);
/// How long everybody works on after the answer to the revoke call.
const AFTERMATH: Duration = Duration::from_secs(1);
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is nothing to be seen.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Nothing to show it on.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A connection of its own.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An agent has no thread to work on.
    #[error("cannot start an agent: {0}")]
    Agent(#[source] io::Error),
    /// An agent is not served although nothing is revoked yet.
    #[error("{0} is not served over {1}, before anything is revoked: {2}")]
    Idle(String, &'static str, String),
    /// A TLS session is not resumed although nothing is revoked yet.
    #[error("a TLS session cannot be resumed, before anything is revoked: {0}")]
    NotResumed(String),
    /// The revoke call was not answered with success.
    #[error("the revoke call was answered with {0}: {1}")]
    Revoke(StatusCode, String),
}

/// Two agents at work, and an administrator at the ready.
pub struct Act<'a> {
    stage: &'a Stage,
    victim: Vec<Worker>,
    bystander: Vec<Worker>,
    /// With a session store of its own, so that nobody else uses up its tickets.
    returning: Arc<ClientConfig>,
    /// The victim's, of which the upstream has read the header alone.
    upload: Option<Upload>,
    administrator: Conversation,
}

impl<'a> Act<'a> {
    /// Sets both agents to work, shows that TLS sessions are resumed, and opens the administrator's connection.
    /// Returns when every connection of theirs was served for a while.
    pub async fn begin(stage: &'a Stage) -> Result<Self, DemoError> {
        let administrator = Arc::new(stage.tls(stage.admin_files())?);
        let stream = client::connect(&administrator, stage.admin(), "localhost").await?;
        let mut act = Self {
            stage,
            upload: Some(upload(stage).await?),
            victim: crew(stage, VICTIM)?,
            bystander: crew(stage, BYSTANDER)?,
            returning: Arc::new(stage.tls(&stage.agent_files(VICTIM))?),
            administrator: Conversation::begin(stream).await?,
        };
        // The first leaves a ticket, the second has to be let in with it: else a refusal later on would say nothing.
        act.come_back().await?;
        match act.come_back().await? {
            (true, Outcome::Served) => {}
            (true, outcome) => return Err(DemoError::NotResumed(words(&outcome))),
            (false, _) => return Err(DemoError::NotResumed("a full handshake".into())),
        }
        act.warm_up().await?;
        Ok(act)
    }

    /// What both agents were served so far.
    pub fn served(&self) -> (u64, u64) {
        let sum = |crew: &[Worker]| crew.iter().map(Worker::served).sum();
        (sum(&self.victim), sum(&self.bystander))
    }

    /// Revokes one agent, lets everybody work on for a second, and says what was seen.
    pub async fn revoke(mut self) -> Result<Sighting, DemoError> {
        let request = self.revocation()?;
        let sent = Instant::now();
        let answer = exchange(&mut self.administrator, request).await?;
        let answered = Instant::now();
        let upload = match self.upload.take() {
            Some(upload) => Some(upload.read_on().await),
            None => None,
        };
        let resumed = match self.come_back().await {
            Ok((resumed, outcome)) => Resumption::new(resumed, &outcome),
            Err(error) => Resumption::Other(error.to_string()),
        };
        let document: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        if answer.status() != StatusCode::OK {
            let body = String::from_utf8_lossy(answer.body()).into_owned();
            return Err(DemoError::Revoke(answer.status(), body));
        }
        let call =
            Call { sent, answered, sessions_ended: document["sessions_ended"].as_u64().unwrap_or_default() };
        sleep(AFTERMATH).await;
        self.victim.iter().chain(&self.bystander).for_each(Worker::stop);
        let finish = |worker: Worker| Log { via: worker.via, entries: worker.finish() };
        let victim: Vec<Log> = self.victim.into_iter().map(finish).collect();
        let bystander: Vec<Log> = self.bystander.into_iter().map(finish).collect();
        let served = self.stage.upstream().take_served(&principal(VICTIM));
        let seen = Sighting::new(&call, &victim, &bystander, &served, resumed);
        Ok(Sighting { upload, ..seen })
    }

    async fn warm_up(&mut self) -> Result<(), DemoError> {
        let begun = Instant::now();
        let lazy = |crew: &[Worker]| crew.iter().position(|worker| worker.served() < BUSY);
        loop {
            let (id, crew, lazy) = match (lazy(&self.victim), lazy(&self.bystander)) {
                (None, None) => return Ok(()),
                (Some(index), _) => (VICTIM, &mut self.victim, index),
                (None, Some(index)) => (BYSTANDER, &mut self.bystander, index),
            };
            if begun.elapsed() > BUSY_WITHIN {
                let worker = crew.swap_remove(lazy);
                let via = worker.via.name();
                let last = worker.finish().pop().map(|entry| format!("{:?}", entry.outcome));
                return Err(DemoError::Idle(id.into(), via, last.unwrap_or_default()));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// The victim opens another connection with the TLS session of the one before, and asks for something: whether
    /// the session was resumed, and what came of the request.
    async fn come_back(&self) -> Result<(bool, Outcome), ClientError> {
        let stream = client::connect(&self.returning, self.stage.gate(), "localhost").await?;
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        let request = Request::get("/again").header(HOST, "localhost").header("x-agent-id", VICTIM);
        let request = request.body(Full::default());
        let request = request.map_err(|e| ClientError::Broken("/again".into(), e.to_string()))?;
        let answer = exchange(&mut Conversation::begin(stream).await?, request).await?;
        Ok((resumed, judge(&answer)))
    }

    fn revocation(&self) -> Result<Request<Full<Bytes>>, ClientError> {
        let body = json!({
            "action": "revoke",
            "level": "principal",
            "target": principal(VICTIM),
            "reason": "demonstration",
        });
        let address = self.stage.admin().to_string();
        Request::post("/v1/revocations")
            .header(HOST, &address)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.to_string()))
            .map_err(|e| ClientError::Broken(address, e.to_string()))
    }
}

/// Begins an upload of the victim.
async fn upload(stage: &Stage) -> Result<Upload, DemoError> {
    let mut tls = stage.tls(&stage.agent_files(VICTIM))?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = client::connect(&Arc::new(tls), stage.gate(), "localhost").await?;
    let request = Request::post("/upload").header(HOST, "localhost").header("x-agent-id", VICTIM);
    let begun = Upload::begin(stage.upstream().uploads(), Conversation::begin(stream).await?, request).await;
    begun.ok_or_else(|| {
        DemoError::Idle(VICTIM.into(), "an upload", "nothing of it gets to the upstream".into())
    })
}

fn crew(stage: &Stage, agent: &str) -> Result<Vec<Worker>, DemoError> {
    let agent =
        Agent { id: agent.to_owned(), tls: stage.tls(&stage.agent_files(agent))?, gate: stage.gate() };
    let workers = Via::ALL.into_iter().map(|via| Worker::start(&agent, via));
    workers.collect::<io::Result<_>>().map_err(DemoError::Agent)
}

/// Sends a request, and waits for the answer; not for ever.
async fn exchange(
    conversation: &mut Conversation,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, ClientError> {
    match timeout(PATIENCE, conversation.send(request)).await {
        Ok(answer) => answer,
        Err(_) => Err(ClientError::Broken("the gate".into(), "no answer in time".into())),
    }
}
