//! Where `inference.local` leads.
//!
//! The agent in a sandbox talks to `https://inference.local/v1` and holds no key. Out here a [`Service`] turns
//! that into the [`Provider`] that the operator chose: it forwards the few calls of the OpenAI and Anthropic
//! APIs that it knows, puts the key in, and lets nothing else of what the agent said about credentials through.
//! Without a provider the built-in canary answers, so that the whole path can be proven on any machine.
//!
//! This crate opens connections to one place only, the route's base URL, which never comes from a sandbox.
#![forbid(unsafe_code)]

mod body;
mod breaker;
mod canary;
mod chain;
mod check;
mod connect;
mod edit;
mod forward;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hide;
mod histogram;
mod limit;
mod meter;
mod pool;
mod problem;
mod provider;
mod reply;
mod route;
mod secret;
mod service;
mod usage;
mod watch;

pub use body::{BoxBody, BoxError};
pub use breaker::BreakerState;
pub use canary::{CANARY_ANSWER, CANARY_MODEL};
pub use check::RouteReport;
pub use histogram::{BOUNDS, Histogram};
pub use limit::Limits;
pub use meter::{Counted, Counts, Kept, Meter, RouteSeen, Seen};
pub use problem::RouteProblem;
pub use provider::{Api, Provider, ProviderError};
pub use route::{AuthScheme, MAX_FALLBACKS, Route, RouteError};
pub use secret::Secret;
pub use service::{LiveService, Service, Timeouts};
pub use watch::{RouteFailing, RouteNews};

/// The host name that agents use for their model.
pub const HOST: &str = "inference.local";

/// The header that marks a request as a proof of the route and not the agent's own, with [`Meter::proof`] as its
/// value. It is not passed on.
pub const PROOF_HEADER: &str = "x-clawkeep-proof";

/// The largest request body that the canary reads, in bytes.
pub const MAX_CANARY_BODY: u64 = 8 << 20;

/// The largest request body that is held, in bytes: it can be sent again, to another route too, and be given what
/// its model needs. A longer one is streamed to the first route as it is.
pub const MAX_HELD_BODY: u64 = 8 << 20;

/// The largest request body that is passed on to a provider, in bytes.
pub const MAX_FORWARDED_BODY: u64 = 64 << 20;
