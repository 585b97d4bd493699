//! `portcullis drill`.

use clap::Args;

use super::REFUSED;

/// A drill.
#[derive(Debug, Args)]
pub(super) struct DrillArgs {}

impl DrillArgs {
    pub(super) fn run(self) -> u8 {
        REFUSED
    }
}
