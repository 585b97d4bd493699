//! Scenarios: each module is a promise to users, shown on real TLS and real sockets with a fresh authority.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test a panic is the report"
)]

mod client;
mod lab;
mod pki;
mod upstream;

mod revoke_while_idle;
