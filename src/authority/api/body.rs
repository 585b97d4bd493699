//! What callers send: JSON bodies and queries, read strictly.

use std::time::Duration;

use axum::body::Body;
use axum::body::to_bytes;
use axum::extract::FromRequestParts;
use axum::extract::Path;
use axum::extract::Query;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::refusal::Refusal;

/// Reads a JSON body of at most `limit` bytes; as a whole it may take `patience`.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    patience: Duration,
) -> Result<Bytes, Refusal> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(Refusal::unsupported_media_type());
    }
    match timeout(patience, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(match is_too_long(&error) {
            true => Refusal::payload_too_large(limit),
            false => Refusal::bad_request(error.to_string()),
        }),
        Err(_) => Err(Refusal::request_timeout()),
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        next = error.source();
    }
    false
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
