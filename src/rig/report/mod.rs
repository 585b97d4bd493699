//! The report: one HTML file of one or several findings.
