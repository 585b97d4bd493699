//! Feeds of revocation lists: what each fault of a server, a list or a disk does, and that the last good state stays.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod authorities;
mod discovery;
mod faults;
mod fetching;
mod news;
mod registry;
mod restart;
mod series;
mod server;
mod site;

#[path = "../crl/forge.rs"]
#[expect(dead_code, reason = "few kinds of lists are needed here")]
mod forge;

#[path = "../token_list/forge.rs"]
mod tokens;
