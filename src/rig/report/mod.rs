//! The report: one HTML file of one or several findings.

use super::findings::Findings;

/// One file of all of them.
pub fn html(_runs: &[Findings]) -> String {
    String::new()
}
