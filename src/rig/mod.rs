//! The rig: the gate as its clients meet it, from outside.

pub mod client;
pub mod pki;
pub mod sighting;
pub mod upstream;
pub mod work;
