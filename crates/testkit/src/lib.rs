//! What the tests of all crates share: the fake gateway, fake providers of models, a search for what a test left
//! behind, waiting for a condition, seeds that replay, a small HTTP client, image layouts, and running a test again
//! under other rights.
//!
//! Only ever a dev-dependency: helpers panic with a message for the person who reads the test's output.
#![forbid(unsafe_code)]

pub mod fake;
pub mod http;
pub mod layout;
mod leftovers;
mod port;
pub mod powercut;
pub mod processes;
pub mod provider;
mod reexec;
mod seed;
mod wait;

pub use leftovers::Leftovers;
pub use port::free_port;
pub use processes::{Handle, Processes};
pub use provider::FakeProvider;
pub use reexec::{Outcome, Reexec};
pub use seed::{Rng, Seed};
pub use wait::{pause, wait_until};
