//! What speaks to Amazon's services, held against moto, which stands in for them on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod consumer;
mod provision;
mod server;
mod site;

#[path = "../scenarios/caller.rs"]
#[expect(dead_code, reason = "a gate's scenarios need more of it")]
mod caller;
#[path = "../scenarios/client.rs"]
#[expect(dead_code, reason = "a gate's scenarios need more of it")]
mod client;
#[path = "../scenarios/lab.rs"]
#[expect(dead_code, reason = "a gate's scenarios need more of it")]
mod lab;
#[path = "../scenarios/pki.rs"]
#[expect(dead_code, reason = "a gate's scenarios need more of it")]
mod pki;
#[path = "../tools/mod.rs"]
mod tools;
#[path = "../scenarios/upstream.rs"]
#[expect(dead_code, reason = "a gate's scenarios need more of it")]
mod upstream;
