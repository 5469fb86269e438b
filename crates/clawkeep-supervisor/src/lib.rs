//! Drives the recovery core against the real world: processes, probes, files, clock.
//!
//! [`supervise`] is one task for one sandbox. Everything that it does to bring an agent up is one function of
//! a [`Blueprint`]: put every input in place, verify, execute; the same for the first start and every other.
#![forbid(unsafe_code)]

mod beside;
mod blueprint;
mod client;
mod door;
mod identity;
mod inspect;
mod listening;
mod probe;
mod run;
mod sandbox;
mod snapshot;

pub use blueprint::{Blueprint, LOG_INSIDE, SafeMode};
pub use client::{InitClient, InitError, SESSION};
pub use door::Door;
pub use inspect::open_inside;
pub use run::{DeniedCalls, Hooks, Inside, Wish, initial_snapshot, supervise};
pub use snapshot::{Gateway, LimitsInForce, Snapshot};
