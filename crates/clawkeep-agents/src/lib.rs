//! Adapters: how an agent is installed, launched and probed, and what its quirks are.
//!
//! An [`Adapter`] is what the registry stores; its methods answer for the agent. [`install()`] brings OpenClaw
//! and its runtime from npm into a content-addressed [`Bundle`]. [`openclaw`] has the gateway's configuration
//! and its locks.
//!
//! Whether an agent runs, when it is probed and when it is started again is not decided here.
#![forbid(unsafe_code)]

mod adapter;
mod cancel;
mod command;
mod document;
mod exit;
mod health;
mod install;

pub mod openclaw;

pub use adapter::{Adapter, AdapterError};
pub use cancel::Cancel;
pub use command::{HealthUrl, HealthUrlError};
pub use document::{Document, DocumentError, Found, MAX_DOCUMENT_BYTES, Owner};
pub use exit::{Ending, ExitCause, ExitReading, ExitVerdict};
pub use health::{
    Canary, Expect, HealthSpec, MAX_PROBE_BODY, Probe, ProbeVerdict, classify_health, classify_healthz,
    classify_readyz,
};
pub use install::{
    Bundle, BundleError, Generation, InstallError, NodePin, Npm, Progress, Release, install, repair,
};

/// Where the agent's bundle is mounted, read-only, inside every sandbox.
pub const AGENT_MOUNT: &str = "/opt/clawkeep/agent";
