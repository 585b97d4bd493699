//! The audit: a chain that holds over files, crashes and full disks, and tells what was done to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod accepting;
mod site;

mod chain;
mod crashes;
mod disk_is_full;
mod finding;
mod tampering;
