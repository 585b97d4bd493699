#![doc = include_str!("../README.md")]
//!
//! # Rooms
//!
//! A room uses only rooms of lower layers; `tests/architecture.rs` enforces it, and siblings of one layer meet only
//! in [`app`].
//!
//! | layer | rooms |
//! |---|---|
//! | L0 | [`clock`], [`telemetry`], [`problem`] |
//! | L1 | [`identity`]: who |
//! | L2 | [`session`]: how long |
//! | L3 | [`revocation`]: whether |
//! | L4 | [`feed`]: what comes in from elsewhere; [`proxy`]: the gate; [`authority`]: the admin API |
//! | L5 | [`config`], [`app`] |
//! | L6 | [`rig`], [`cli`], `main` |

pub mod app;
pub mod authority;
pub mod cli;
pub mod clock;
pub mod config;
pub mod feed;
pub mod identity;
pub mod problem;
pub mod proxy;
pub mod revocation;
pub mod rig;
pub mod session;
pub mod telemetry;
