//! The sandbox's only way out, served from outside it.
//!
//! The listener lives inside a sandbox's empty network namespace; a [`Proxy`] serves its file descriptor out
//! here. In this version one destination exists, `inference.local`, and it is answered by
//! [`clawkeep_inference`] in this very process. So nothing that the agent says is ever resolved or dialed: this
//! crate holds no code that opens a connection.
//!
//! Every request ends in one [`Verdict`], made by the pure function [`decide`] from a [`Target`], which is
//! canonicalised once.
#![forbid(unsafe_code)]

mod authority;
mod connection;
mod front;
#[cfg(fuzzing)]
pub mod fuzzing;
mod head;
mod idle;
mod peer;
mod proxy;
mod refusal;
mod target;
mod verdict;

pub use authority::{Authority, AuthorityError};
pub use proxy::{Limits, Proxy};
pub use target::{Target, TargetError};
pub use verdict::{Action, Reason, Verdict, decide};
