//! The host process: the registry's and the journal's only writer, one task a sandbox, their proxies and
//! forwards, and the API for the command line. Killing it stops no agent: the next one adopts them.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::print_stderr, clippy::print_stdout))]

mod admission;
mod agents;
pub mod api;
mod audit;
mod ca;
mod client;
mod config;
mod create;
mod credentials;
mod enforce;
mod fallback;
mod forward;
mod launch;
mod layout;
mod lower_tier;
mod main_loop;
mod manager;
mod mend;
mod metrics;
mod mounts;
mod ocsf;
mod policy;
mod proof;
mod rebuild;
mod redaction;
mod refused;
mod route;
mod running;
mod say;
mod server;
mod serving;
mod sessions;
mod status;
mod system;
mod tally;
mod trouble;
mod turn;
pub mod unit;
mod vault;
mod wire;
mod witness;

pub use client::Client;
pub use launch::{connect, ensure, parent_main};
pub use main_loop::{Role, daemon_main};
pub use redaction::stored as stored_secrets;
pub use route::failure as route_failure;
pub use vault::{Vault, VaultError};
