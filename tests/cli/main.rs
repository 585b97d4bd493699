//! The command line: what it sends, what it prints, and the exit code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod audits;
mod batches;
mod changes;
mod helps;
mod mistakes;
mod questions;
mod states;
mod stub;
mod terminal;
