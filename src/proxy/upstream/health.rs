//! Active checks: each endpoint is asked now and then whether it is well.

use std::cell::RefCell;
use std::sync::Arc;

use http::Request;
use http::Uri;
use http::header::HOST;
use http_body_util::BodyExt as _;
use http_body_util::Limited;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio::time::timeout;

use super::HealthConfig;
use super::cluster::Cluster;
use super::cluster::Member;
use super::connect::Connected;
use super::connect::Sender;
use super::connect::Wanted;
use crate::proxy::body::RequestBody;
use crate::proxy::reset::Wire;

/// How much of a checked endpoint's answer is read.
const MAX_ANSWER: usize = 64 * 1024;

/// Looks after the endpoints of every upstream that has `health`. Must run on a local runtime; ends never.
pub async fn watch(clusters: Vec<Arc<Cluster>>) {
    let mut checks = JoinSet::new();
    for cluster in clusters {
        let Some(health) = cluster.config.health.clone() else { continue };
        for member in &cluster.members {
            checks.spawn_local(check(Arc::clone(&cluster), Arc::clone(member), health.clone()));
        }
    }
    while let Some(ended) = checks.join_next().await {
        tracing::error!(?ended, "the check of an upstream's endpoint ended");
    }
    std::future::pending::<()>().await;
}

async fn check(cluster: Arc<Cluster>, member: Arc<Member>, health: HealthConfig) {
    let (mut well, mut ill) = (0, 0);
    loop {
        let endpoint = &member.connector.endpoint;
        let (upstream, found) = (&cluster.name, probe(&member, &health).await);
        match found {
            Ok(()) => (well, ill) = (well + 1, 0),
            Err(_) => (well, ill) = (0, ill + 1),
        }
        match &found {
            Ok(()) if well >= health.healthy_after && member.set_healthy(true) => {
                tracing::info!(upstream, %endpoint, "an upstream's endpoint is well again");
            }
            Err(reason) if ill >= health.unhealthy_after && member.set_healthy(false) => {
                tracing::warn!(upstream, %endpoint, reason, "an upstream's endpoint is ill: it gets no requests");
            }
            _ => {}
        }
        // Apart from each other, so that many gates do not ask in one moment.
        sleep(health.interval.mul_f64(0.9 + fastrand::f64() * 0.2)).await;
    }
}

/// Whether an endpoint is well; the error says what is wrong.
async fn probe(member: &Member, health: &HealthConfig) -> Result<(), String> {
    let wire = RefCell::new(None);
    let probed = async {
        let connected = member.connector.connect(Wanted::Requests, health.timeout, ()).await;
        let Connected { sender, wire: opened } = connected.map_err(|e| told(&e))?;
        wire.replace(Some(opened));
        match &health.path {
            Some(path) => ask(member, sender, path.clone().into()).await,
            None => Ok(()),
        }
    };
    let answer = timeout(health.timeout, probed).await;
    wire.take().iter().for_each(Wire::close);
    answer.unwrap_or_else(|_| Err(format!("no answer within {}", humantime::format_duration(health.timeout))))
}

async fn ask(member: &Member, sender: Sender, path: Uri) -> Result<(), String> {
    let endpoint = &member.connector.endpoint;
    let mut request = Request::new(RequestBody::empty());
    *request.uri_mut() = path;
    let host = endpoint.authority().parse().map_err(|_| "its name is no Host".to_owned())?;
    request.headers_mut().insert(HOST, host);
    let sent = match sender {
        Sender::Http1(mut sender) => sender.send_request(request).await,
        Sender::Http2(mut sender, _) => {
            super::to_http2(&mut request, endpoint.protocol).ok_or("its name is no authority")?;
            sender.send_request(request).await
        }
    };
    let answer = sent.map_err(|e| told(&e))?;
    let status = answer.status().as_u16();
    // Read, so that the endpoint is not left with an answer that nobody wanted.
    let whole = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    match (status, whole) {
        (200..400, Ok(_)) => Ok(()),
        (200..400, Err(e)) => Err(format!("its answer broke off: {e}")),
        _ => Err(format!("answered {status}")),
    }
}

/// An error with what it came of.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}
