//! Where `inference.local` leads.
//!
//! The agent in a sandbox talks to `https://inference.local/v1` and holds no key. Out here a [`Service`] turns
//! that into the [`Provider`] that the operator chose: it forwards the few calls of the OpenAI-compatible API
//! that it knows, puts the key in, and lets nothing else of what the agent said about credentials through.
//! Without a provider the built-in canary answers, so that the whole path can be proven on any machine.
//!
//! This crate opens connections to one place only, the route's base URL, which never comes from a sandbox.
#![forbid(unsafe_code)]

mod body;
mod canary;
mod check;
mod connect;
mod forward;
mod pool;
mod problem;
mod provider;
mod reply;
mod route;
mod secret;
mod service;

pub use body::{BoxBody, BoxError};
pub use canary::{CANARY_ANSWER, CANARY_MODEL};
pub use check::RouteReport;
pub use problem::RouteProblem;
pub use provider::{Provider, ProviderError};
pub use route::{AuthScheme, Route, RouteError};
pub use secret::Secret;
pub use service::{LiveService, Service, Timeouts};

/// The host name that agents use for their model.
pub const HOST: &str = "inference.local";

/// The largest request body that the canary reads, in bytes.
pub const MAX_CANARY_BODY: u64 = 8 << 20;

/// The largest request body that is passed on to a provider, in bytes. It is streamed, never held.
pub const MAX_FORWARDED_BODY: u64 = 64 << 20;
