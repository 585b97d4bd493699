//! What speaks to Amazon's services, held against moto, which stands in for them on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod provision;
mod server;
