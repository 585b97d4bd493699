//! A gate and its queue, when the queue is well and when it is not. One line of what has broken others is one test.
//!
//! The queue is that of the rig: it speaks SQS's protocol over loopback, and goes wrong when it is told to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod catching_up;
mod credentials;
mod denials;
mod disk;
mod faults;
mod gate;
mod journal;
mod pending;
mod poison;
mod site;
mod stopping;
