//! `portcullis bench revocation`.

use clap::Args;

use crate::cli::REFUSED;

/// A benchmark.
#[derive(Debug, Args)]
pub(in crate::cli) struct RevocationArgs {}

impl RevocationArgs {
    pub(super) fn run(self) -> u8 {
        REFUSED
    }
}
