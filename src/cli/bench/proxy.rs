//! `portcullis bench proxy`.

use clap::Args;

use crate::cli::REFUSED;

/// A benchmark.
#[derive(Debug, Args)]
pub(in crate::cli) struct ProxyArgs {}

impl ProxyArgs {
    pub(super) fn run(self) -> u8 {
        REFUSED
    }
}
