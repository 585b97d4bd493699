//! The report: one HTML file of one or several findings.
//!
//! It holds its style and its pictures (inline SVG) itself, no script, and asks nobody for anything; its content
//! security policy says so to the browser.
//!
//! **Invariant:** what comes from findings reaches the page only through `markup::Text`.

mod chart;
mod drills;
mod headline;
mod heat;
mod lanes;
mod markup;
mod page;
mod probes;
mod proxies;
mod quantity;
mod revocations;
mod source;
mod timeline;

pub use page::html;
pub use source::UnreadableError;
pub use source::read;
