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
mod budget;
mod caller;
mod callers;
mod connection;
mod dns;
mod front;
#[cfg(fuzzing)]
pub mod fuzzing;
mod head;
mod idle;
mod live;
mod proxy;
mod refusal;
mod resolver;
mod verdict;

pub use authority::{Authority, AuthorityError};
pub use budget::Budget;
pub use caller::SockDiag;
pub use callers::{Callers, NoCallers};
pub use clawkeep_policy::{Target, TargetError};
pub use dns::{DnsStub, NameReason, RefusedName};
pub use live::LivePolicy;
pub use proxy::{Limits, Proxy};
pub use resolver::{HostResolver, Resolver, Resolving};
pub use verdict::{Action, Reason, Verdict, decide};
