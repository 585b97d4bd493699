//! What an answer or a failure says.

use bytes::Bytes;
use http::Response;

use crate::rig::client::ClientError;
use crate::rig::findings::Outcome;

/// The code of a gate's 503 that is a refusal.
const STALE: &[u8] = b"revocation_state_stale";

/// What a failure says: that a handshake takes too long or ends in an internal error is no refusal.
pub(super) fn of_error(error: &ClientError) -> Outcome {
    match error {
        ClientError::Refused(..) => Outcome::Refused,
        ClientError::Broken(..) | ClientError::Dropped(..) => Outcome::Cut,
        _ => Outcome::Failed,
    }
}

/// What an answer says.
pub(in crate::rig::drill) fn judge(answer: &Response<Bytes>) -> Outcome {
    match answer.status().as_u16() {
        ..400 => Outcome::Served,
        // These are about the request, or about how many there are, not about who sends it.
        405 | 408 | 411 | 413..=417 | 421 | 425 | 426 | 428 | 429 | 431 => Outcome::Failed,
        400..500 => Outcome::Refused,
        503 if answer.body().windows(STALE.len()).any(|part| part == STALE) => Outcome::Refused,
        _ => Outcome::Failed,
    }
}

/// An answer in a few words: the status, and the code of a problem document.
pub(in crate::rig::drill) fn words(answer: &Response<Bytes>) -> String {
    let problem: serde_json::Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    match problem["code"].as_str() {
        Some(code) => format!("{} {}", answer.status().as_u16(), code.chars().take(64).collect::<String>()),
        None => answer.status().as_u16().to_string(),
    }
}
