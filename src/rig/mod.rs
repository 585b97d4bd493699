//! The rig: the gate as its clients meet it, from outside; and any other proxy.

pub mod bench;
pub mod client;
pub mod demo;
pub mod drill;
pub mod findings;
pub mod pki;
pub mod queue;
pub mod report;
pub mod setup;
pub mod sighting;
pub mod stage;
pub mod upload;
pub mod upstream;
pub mod work;
