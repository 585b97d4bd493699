//! The rig: the gate as its clients meet it, from outside.

pub mod client;
pub mod demo;
pub mod pki;
pub mod queue;
pub mod sighting;
pub mod stage;
pub mod upstream;
pub mod work;
