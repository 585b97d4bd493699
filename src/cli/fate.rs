//! What became of one change of many.

use http::StatusCode;
use serde_json::Value;

use super::blast::refusal;
use super::obstacles::still_refused;

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// As it was asked for.
    Done,
    /// Nothing stood that could be lifted.
    Idle,
    /// Lifted, while other entries refuse the same principal.
    Shut,
    /// In effect, but not on disk: to be asked again.
    Kept,
    /// In effect and on disk, but something that it hits has not ended yet.
    Incomplete,
    /// Not done.
    Refused,
}

impl Fate {
    /// What an answer says became of it.
    pub(super) fn of(status: StatusCode, document: &Value) -> Self {
        let is = |name: &str, value: bool| document[name] == Value::Bool(value);
        match status.is_success() {
            true if !still_refused(document).is_empty() => Self::Shut,
            true if document["action"] == "reinstate" && is("changed", false) => Self::Idle,
            true => Self::Done,
            false if is("effective", true) && is("durable", true) => Self::Incomplete,
            false if is("effective", true) => Self::Kept,
            false => Self::Refused,
        }
    }
}

/// The answer of a dry run, as the change would be answered if it is to be refused.
pub(super) fn foreseen((status, document): (StatusCode, Value)) -> (StatusCode, Value) {
    let refused =
        refusal(&document).and_then(|(status, _)| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
    match refused.filter(|status| !status.is_success()) {
        Some(status) => (status, document["refused"].clone()),
        None => (status, document),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_on_disk_is_done() {
        let failed = StatusCode::SERVICE_UNAVAILABLE;
        for (status, document, fate) in [
            (StatusCode::OK, json!({"action": "revoke", "changed": false}), Fate::Done),
            (StatusCode::OK, json!({"action": "reinstate", "changed": true}), Fate::Done),
            (StatusCode::OK, json!({"action": "reinstate", "changed": false}), Fate::Idle),
            (
                StatusCode::OK,
                json!({"action": "reinstate", "changed": true, "still_refused": [{"level": "principal"}]}),
                Fate::Shut,
            ),
            (failed, json!({"effective": true, "durable": false}), Fate::Kept),
            (failed, json!({"effective": true, "durable": true, "sessions_pending": 2}), Fate::Incomplete),
            (failed, json!({"effective": false}), Fate::Refused),
            (StatusCode::CONFLICT, json!({"code": "revoked"}), Fate::Refused),
            (
                StatusCode::CONFLICT,
                json!({"code": "overtaken", "effective": false, "durable": true}),
                Fate::Refused,
            ),
        ] {
            assert_eq!(Fate::of(status, &document), fate, "{document}");
        }
    }

    #[test]
    fn a_dry_run_says_what_the_change_would() {
        let refused = json!({"dry_run": true, "refused": {"status": 409, "code": "revoked"}});
        assert_eq!(
            foreseen((StatusCode::OK, refused)),
            (StatusCode::CONFLICT, json!({"status": 409, "code": "revoked"}))
        );
        let fine = (StatusCode::OK, json!({"dry_run": true}));
        assert_eq!(foreseen(fine.clone()), fine);
    }
}
