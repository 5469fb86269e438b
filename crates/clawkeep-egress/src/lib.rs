//! The sandbox's only way out, served from outside it.
//!
//! The listener lives inside a sandbox's empty network namespace; a [`Proxy`] serves its file descriptor out
//! here. `inference.local` is answered by [`clawkeep_inference`] in this very process. Everything else goes through
//! stages, each of which may refuse: who asks ([`Callers`]), what the policy says ([`LivePolicy`]), where the name
//! leads ([`Resolver`]) and whether it may lead there; then, in a tunnel, what it begins with, and where the policy
//! inspects, each request. Host and path are brought into one spelling once; what is decided on is what is dialed
//! and sent. Every decision is one [`Event`].
#![forbid(unsafe_code)]

mod addressed;
mod authority;
mod budget;
mod caller;
mod callers;
mod connection;
mod dns;
mod event;
mod exchange;
mod front;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gate;
mod head;
mod hold;
mod idle;
mod leaves;
mod live;
mod meter;
mod model;
mod opening;
mod origin;
mod outside;
mod peer;
mod plain;
mod proxy;
mod refusal;
mod relay;
mod resolver;
mod secrets;
mod server;
#[cfg(test)]
mod tests;
mod tunnel;

pub use authority::{Authority, AuthorityError};
pub use budget::Budget;
pub use caller::SockDiag;
pub use callers::{Callers, NoCallers};
pub use dns::DnsStub;
pub use event::{Action, End, Event, MAX_TEXT, Reason, Verdicts};
pub use live::LivePolicy;
pub use proxy::{Limits, Proxy};
pub use resolver::{HostResolver, Resolver, Resolving};
pub use secrets::{Filling, NoSecrets, Secrets};
