//! Findings as they stand in a file.

use serde::Deserialize;
use thiserror::Error;

use crate::rig::findings::FORMAT;
use crate::rig::findings::Findings;

/// Why something is not read as findings.
#[derive(Debug, Error)]
pub enum UnreadableError {
    /// It is no JSON, or holds something else; the reason ends with line and column.
    #[error("{0}")]
    Content(serde_json::Error),
    /// It holds something else, or a part that is not known.
    #[error("{path}: {reason}")]
    Field {
        /// Where in the document: `found.drill.probes[3].verdict`.
        path: String,
        /// Why; with line and column.
        reason: serde_json::Error,
    },
    /// It was written by a later version of the program.
    #[error("is of format {0}, and this version reads up to {FORMAT}")]
    Format(u32),
}

/// What is read first: an unknown field is the fault of the format, if that is a later one.
#[derive(Deserialize)]
struct Header {
    format: u32,
}

/// Reads findings as `--json` prints them.
pub fn read(bytes: &[u8]) -> Result<Findings, UnreadableError> {
    let header: Header = serde_json::from_slice(bytes).map_err(UnreadableError::Content)?;
    if header.format > FORMAT {
        return Err(UnreadableError::Format(header.format));
    }
    let mut document = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut document).map_err(|error| UnreadableError::Field {
        path: error.path().to_string(),
        reason: error.into_inner(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        read(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_findings_is_refused_by_line_and_reason() {
        assert!(told("{\n\"format\": ,").contains("expected value at line 2"));
        assert!(told("{}").contains("missing field `format`"));
        assert_eq!(told("{\"format\": 9, \"new\": 1}"), "is of format 9, and this version reads up to 1");
        let setup =
            "{\"portcullis\":\"\",\"command\":[],\"system\":\"\",\"processor\":\"\",\"cores\":1,\n\"x\":1}";
        let text = format!("{{\"format\":1,\"label\":\"\",\"at\":1,\"setup\":{setup}}}");
        let told = told(&text);
        assert!(
            told.starts_with("setup.x: unknown field `x`") && told.contains("at line 2 column"),
            "{told}"
        );
    }
}
