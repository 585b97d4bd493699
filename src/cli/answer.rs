//! What came back from the admin API, or from whatever answered in its place.

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use super::complain;

/// An answer: its status, and its document if it has one.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// `Null` if the body is no JSON.
    pub(super) document: Value,
    pub(super) body: Bytes,
    /// Seconds after which the server wants to be asked again.
    pub(super) retry_after: Option<u64>,
}

/// What a caller can do whose certificate is no good any more.
pub(super) const LOCKED_OUT: &str =
    "you are locked out; come back with --secret-file FILE (docs/admin.md, \"Locked out\")";
/// Reasons that only the gate has.
const OF_THE_GATE: [&str; 5] =
    ["identity_unclaimed", "identity_mismatch", "no_route", "upstream_failed", "upstream_timeout"];

impl Answer {
    /// A member that is text; empty if it is not there.
    pub(super) fn text(&self, name: &str) -> &str {
        self.document.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A member that is a number; 0 if it is not there.
    pub(super) fn number(&self, name: &str) -> u64 {
        self.document.get(name).and_then(Value::as_u64).unwrap_or_default()
    }

    /// Whether the API did what was asked. A service behind the gate may answer 200 to anything, so the document must
    /// have the member that this call is answered with.
    pub(super) fn is_done(&self, member: &str) -> bool {
        let there = match self.document.get(member) {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(_) => true,
        };
        self.status.is_success() && there
    }

    /// Whether the admin API says this, as far as it can be told: it names what it did, or one of its own reasons.
    pub(super) fn is_of_the_api(&self) -> bool {
        let code = self.text("code");
        !self.text("id").is_empty() || (!code.is_empty() && !OF_THE_GATE.contains(&code))
    }

    /// The code, where the caller's own certificate keeps the caller out.
    pub(super) fn locks_out(&self) -> Option<&str> {
        let is_of_caller = matches!(self.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let is_it = |code: &&str| {
            matches!(*code, "certificate_expired" | "certificate_untrusted")
                || code.ends_with("_revoked")
                || code.ends_with("_suspended")
        };
        Some(self.text("code")).filter(is_it).filter(|_| is_of_caller)
    }

    /// Why it was not done, with how far it was.
    pub(super) fn failure(&self) -> String {
        let status = self.status.as_u16();
        if self.status.is_success() {
            return format!("{status}, but not what the admin API answers");
        }
        format!("{status} {}", failure_of(&self.document, self.status))
    }

    /// Says why it was not done.
    pub(super) fn complain(&self, subject: &str) {
        complain(&format_args!("{subject}: {}", self.failure()));
        if let Some(code) = self.locks_out() {
            complain(&format_args!("{code}: {LOCKED_OUT}"));
        }
        if !self.is_of_the_api() {
            complain(&"is this the gate's port? the admin API listens elsewhere");
        }
    }
}

/// Why a change was not done, in the words of its problem document or of its result.
pub(super) fn failure_of(document: &Value, status: StatusCode) -> String {
    let is = |name: &str| document.get(name).and_then(Value::as_bool);
    let effective = match (is("effective"), is("durable")) {
        (Some(true), Some(true)) => "in effect and on disk, but not complete: ",
        (Some(true), _) => "in effect, but not on disk: ",
        _ => "",
    };
    let reason = ["error", "detail", "title"].iter().find_map(|name| document.get(name)?.as_str());
    let reason = match reason {
        None | Some("") => status.canonical_reason().unwrap_or("no problem document"),
        Some(reason) => reason,
    };
    format!("{effective}{reason}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(status: StatusCode, document: Value) -> Answer {
        Answer { status, document, body: Bytes::new(), retry_after: None }
    }

    #[test]
    fn only_the_api_has_done_something() {
        let done = answer(StatusCode::OK, json!({"id": "i"}));
        assert!(done.is_done("id") && done.is_of_the_api());
        let kept_in_memory = answer(
            StatusCode::SERVICE_UNAVAILABLE,
            json!({"id": "i", "effective": true, "error": "disk full"}),
        );
        assert!(!kept_in_memory.is_done("id") && kept_in_memory.is_of_the_api());
        assert_eq!(kept_in_memory.failure(), "503 in effect, but not on disk: disk full");
        // The answer of a service behind the gate.
        let of_a_service = answer(StatusCode::OK, json!({"hello": "world"}));
        assert!(!of_a_service.is_done("id") && !of_a_service.is_of_the_api());
        for (code, of_the_api) in [("admin_denied", true), ("bad_request", true), ("no_route", false)] {
            let refusal = answer(StatusCode::FORBIDDEN, json!({"code": code}));
            assert_eq!(refusal.is_of_the_api(), of_the_api, "{code}");
        }
    }

    #[test]
    fn the_reason_is_the_servers_own_if_it_gives_one() {
        for (document, told) in [
            (json!({"error": "e", "detail": "d"}), "403 e"),
            (json!({"error": "", "title": "t"}), "403 Forbidden"),
            (json!({"detail": "d"}), "403 d"),
            (json!("text"), "403 Forbidden"),
        ] {
            assert_eq!(answer(StatusCode::FORBIDDEN, document).failure(), told);
        }
    }
}
