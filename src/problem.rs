//! Problem documents (RFC 9457): the one shape in which every listener says no.

use http::StatusCode;
use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

/// The media type of a problem document (RFC 9457, section 3).
pub const CONTENT_TYPE: &str = "application/problem+json";

/// How much of a refusal the client is told. The log and the metrics always know all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Disclose {
    /// The status alone.
    None,
    /// The status and the code.
    #[default]
    Code,
    /// The status, the code and the reason in words.
    Reason,
}

/// One refusal or failure, ready to be written down.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// The machine-readable code, such as `certificate_revoked`.
    pub code: &'static str,
    /// The reason in words.
    pub reason: String,
    /// What the log calls this request.
    pub request_id: String,
}

impl Problem {
    /// The document as a line of JSON (RFC 8259), with as much of it as `disclose` allows.
    pub fn to_json(&self, disclose: Disclose) -> Vec<u8> {
        format!("{}\n", self.document(disclose)).into_bytes()
    }

    /// The whole document with more members.
    pub fn to_json_with(&self, members: Map<String, Value>) -> Vec<u8> {
        let mut document = self.document(Disclose::Reason);
        if let Some(document) = document.as_object_mut() {
            document.extend(members);
        }
        format!("{document}\n").into_bytes()
    }

    fn document(&self, disclose: Disclose) -> Value {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let mut document = json!({
            "type": "about:blank",
            "title": title,
            "status": self.status.as_u16(),
            "error": title.to_ascii_lowercase(),
            "request_id": self.request_id,
        });
        if disclose != Disclose::None {
            document["type"] = Value::from(format!("urn:portcullis:error:{}", self.code));
            document["code"] = Value::from(self.code);
            document["error"] = Value::from(self.code.replace('_', " "));
        }
        if disclose == Disclose::Reason {
            document["detail"] = Value::from(self.reason.as_str());
            document["error"] = Value::from(self.reason.as_str());
        }
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disclosure_is_what_was_allowed() {
        let problem = Problem {
            status: StatusCode::FORBIDDEN,
            code: "certificate_revoked",
            reason: "key compromise".into(),
            request_id: "r1".into(),
        };
        let read = |disclose| serde_json::from_slice::<Value>(&problem.to_json(disclose)).unwrap();
        let none = read(Disclose::None);
        assert_eq!((none["status"].as_u64(), none.get("code"), none.get("detail")), (Some(403), None, None));
        let code = read(Disclose::Code);
        assert_eq!((code["code"].as_str(), code.get("detail")), (Some("certificate_revoked"), None));
        assert_eq!(read(Disclose::Reason)["detail"], "key compromise");
    }
}
