//! An authority is its key: whatever name a person types for it, and whatever path a client presents, a revocation hits
//! every holder under it and no other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod later;
mod liars;
mod names;
mod world;
