//! One request and its answer, over a connection of its own.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http::header::HeaderName;
use http_body_util::BodyExt as _;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::Fault;
use super::Fetcher;
use super::Validators;
use super::address;
use super::address::Reach;
use super::shown;
use super::url::Web;

/// What a server said.
pub(super) enum Answer {
    /// 304.
    Unchanged,
    /// 200, with all of its body.
    Body { bytes: Bytes, is_gzip: bool, validators: Validators },
    /// It is elsewhere, says this server.
    Moved { to: String, by: IpAddr },
}

/// A longer validator is not repeated to its server.
const MAX_VALIDATOR: usize = 512;
/// How long before it was sent a document must have changed for its date to name it.
const SETTLED: time::Duration = time::Duration::seconds(2);

/// How much is read of the body of an error, bytes.
const MAX_ERROR: usize = 4096;

/// Asks once. Bounded in bytes; the caller bounds the time.
pub(super) async fn ask(
    fetcher: &Fetcher,
    at: &Web,
    reach: Reach,
    known: Option<&Validators>,
) -> Result<Answer, Fault> {
    let addresses = address::resolve(&at.host, at.port, reach).await?;
    let (stream, peer) = connect(&addresses, fetcher.bounds.timeout).await?;
    let request = request(at, known)?;
    // What drives the connection ends with this.
    let mut driver = JoinSet::new();
    let response = if at.is_https {
        let name = ServerName::try_from(at.host.clone()).map_err(|e| Fault::Tls(e.to_string()))?;
        let connector = TlsConnector::from(Arc::clone(&fetcher.tls));
        let stream = connector.connect(name, stream).await.map_err(|e| Fault::Tls(in_words(&e)))?;
        send(stream, request, &mut driver).await?
    } else {
        send(stream, request, &mut driver).await?
    };
    read(response, peer, fetcher.bounds.max_bytes).await
}

/// Connects to the first address that answers, and leaves each its share of the time.
async fn connect(addresses: &[SocketAddr], within: Duration) -> Result<(TcpStream, IpAddr), Fault> {
    let share = within / u32::try_from(addresses.len() + 1).unwrap_or(u32::MAX);
    let mut last = std::io::Error::other("no address");
    for address in addresses {
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, address.ip())),
            Ok(Err(error)) => last = error,
            Err(_) => last = std::io::ErrorKind::TimedOut.into(),
        }
    }
    Err(Fault::Connect(last))
}

fn request(at: &Web, known: Option<&Validators>) -> Result<Request<Empty<Bytes>>, Fault> {
    let mut request = Request::get(&at.path_and_query)
        .header(header::HOST, at.authority())
        .header(header::USER_AGENT, concat!("portcullis/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT_ENCODING, "gzip")
        .header(header::CACHE_CONTROL, "no-cache")
        .header(header::PRAGMA, "no-cache")
        .header(header::CONNECTION, "close");
    if let Some(credentials) = &at.credentials {
        request = request.header(header::AUTHORIZATION, format!("Basic {credentials}"));
    }
    let etag = known.and_then(|known| known.etag.as_ref()).map(|etag| (header::IF_NONE_MATCH, etag));
    // Never both (RFC 9110, section 13.1.3): there are servers that say 304 if either fits.
    let date =
        || known.and_then(|known| known.last_modified.as_ref()).map(|date| (header::IF_MODIFIED_SINCE, date));
    if let Some((name, value)) = etag.or_else(date) {
        request = request.header(name, value);
    }
    request.body(Empty::new()).map_err(|e| Fault::Http(e.to_string()))
}

async fn send<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
    driver: &mut JoinSet<()>,
) -> Result<Response<Incoming>, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| Fault::Http(in_words(&error));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    driver.spawn(async move {
        // What is wrong with it is told to who waits for the answer.
        let _ = connection.await;
    });
    sender.send_request(request).await.map_err(failed)
}

async fn read(response: Response<Incoming>, from: IpAddr, max_bytes: usize) -> Result<Answer, Fault> {
    let (head, body) = response.into_parts();
    match head.status {
        StatusCode::OK => {}
        StatusCode::NOT_MODIFIED => return Ok(Answer::Unchanged),
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::SEE_OTHER
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => {
            let to = text(&head.headers, &header::LOCATION);
            let to = to.ok_or_else(|| Fault::Redirect("no location".to_owned()))?;
            return Ok(Answer::Moved { to, by: from });
        }
        status => return Err(Fault::Status { status, body: beginning(body).await }),
    }
    let is_gzip = is_gzip(&head.headers)?;
    let bytes = collect(body, max_bytes).await?;
    Ok(Answer::Body { bytes, is_gzip, validators: validators(&head.headers) })
}

fn validators(headers: &HeaderMap) -> Validators {
    let found = |name| text(headers, &name).filter(|value| value.len() <= MAX_VALIDATOR);
    let date = |text: &str| OffsetDateTime::parse(text, &Rfc2822).ok();
    let sent = found(header::DATE).and_then(|text| date(&text));
    // Where it was changed in the second in which it was sent, it may change once more and keep its date (RFC 9110,
    // section 8.8.2.2): a revocation would be missed.
    let is_settled =
        |text: &String| date(text).zip(sent).is_some_and(|(changed, sent)| sent - changed >= SETTLED);
    Validators { etag: found(header::ETAG), last_modified: found(header::LAST_MODIFIED).filter(is_settled) }
}

/// The beginning of the body of an answer that is an error; for who knows what it may say.
async fn beginning(mut body: Incoming) -> Bytes {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if bytes.len() >= MAX_ERROR {
            break;
        }
    }
    bytes.truncate(MAX_ERROR);
    bytes.into()
}

/// The body, which hyper refuses if it ends before its length.
async fn collect(mut body: Incoming, max_bytes: usize) -> Result<Bytes, Fault> {
    let said = hyper::body::Body::size_hint(&body).exact();
    if said.is_some_and(|said| usize::try_from(said).map_or(true, |said| said > max_bytes)) {
        return Err(Fault::TooLarge(max_bytes));
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Fault::Http(in_words(&e)))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > max_bytes {
            return Err(Fault::TooLarge(max_bytes));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.into())
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, Fault> {
    let values: Vec<String> = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .map(|value| shown(&String::from_utf8_lossy(value.as_bytes())))
        .collect();
    match values.join(", ").trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(false),
        "gzip" | "x-gzip" => Ok(true),
        other => Err(Fault::Encoding(other.to_owned())),
    }
}

/// A header that is there once and is text.
fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?.to_owned();
    values.next().is_none().then_some(value)
}

/// An error with what caused it, in one line.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(found) = cause {
        let more = found.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = found.source();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(512).collect()
}
