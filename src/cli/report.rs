//! `portcullis report`: one HTML file of what was found.

use clap::Args;

use super::REFUSED;

/// A report.
#[derive(Debug, Args)]
pub(super) struct ReportArgs {}

impl ReportArgs {
    pub(super) fn run(self) -> u8 {
        REFUSED
    }
}
