//! What callers send: JSON bodies and queries, read strictly.

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::Path;
use axum::extract::Query;
use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use super::Api;
use super::refusal::Refusal;

/// A body that needs no room by itself, bytes.
const SHORT: usize = 64 * 1024;

/// Reads a JSON body of at most `limit` bytes; as a whole it may take [`Api::patience`]. A long one takes room, which is
/// limited for all callers together, for as long as what is returned lives.
pub(super) async fn read<'a>(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    api: &'a Api,
) -> Result<(Bytes, Option<SemaphorePermit<'a>>), Refusal> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(Refusal::unsupported_media_type());
    }
    let announced =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(Refusal::payload_too_large(limit));
    }
    let reading = collect(body, limit, || api.load.room_for(announced.unwrap_or(limit)));
    timeout(api.patience, reading).await.unwrap_or_else(|_| Err(Refusal::request_timeout()))
}

async fn collect<P>(
    mut body: Body,
    limit: usize,
    room_for: impl Fn() -> Result<P, Refusal>,
) -> Result<(Bytes, Option<P>), Refusal> {
    let (mut bytes, mut room) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Refusal::bad_request(e.to_string()))?;
        // Trailers say nothing.
        let Ok(chunk) = frame.into_data() else { continue };
        if bytes.len() + chunk.len() > limit {
            return Err(Refusal::payload_too_large(limit));
        }
        bytes.extend_from_slice(&chunk);
        if bytes.len() > SHORT && room.is_none() {
            room = Some(room_for()?);
        }
    }
    Ok((bytes.freeze(), room))
}

/// Parses JSON, the whole of it, and names the place of a mistake.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json);
    let parsed = parsed.map_err(|e| match e.path().to_string().as_str() {
        "." => Refusal::bad_request(e.inner().to_string()),
        path => Refusal::bad_request(format!("{path}: {}", e.inner())),
    })?;
    json.end().map_err(|e| Refusal::bad_request(e.to_string()))?;
    Ok(parsed)
}

/// Parses a JSON object. An array of its members' values, which serde would take for one too, is none.
pub(super) fn parse_object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    match bytes.trim_ascii_start().first() {
        Some(b'{') => parse(bytes),
        _ => Err(Refusal::bad_request("a JSON object is expected")),
    }
}

/// The `{id}` of a path.
pub(super) struct Id(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let read = Path::<String>::from_request_parts(parts, state).await;
        read.map(|Path(id)| Self(id)).map_err(|e| Refusal::bad_request(format!("path: {e}")))
    }
}

/// The query of a request; unknown and repeated keys are refused.
pub(super) struct Filter<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Filter<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let read = Query::try_from_uri(&parts.uri);
        read.map(|Query(filter)| Self(filter)).map_err(|e| {
            let reason = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
            Refusal::bad_request(format!("query: {reason}"))
        })
    }
}
