//! OpenClaw: how it is launched and configured, and what its quirks are.

mod config;
mod config_file;
mod exit;
mod health;
mod launch;
mod token;

pub mod locks;

pub use config::{
    CONTEXT_WINDOW, ModelApi, PROVIDER, Route, initial_config, safe_config, set_route, token_of,
};
pub use config_file::{ConfigError, MAX_CONFIG_BYTES, Overwrite, read_config, read_token, write_config};
pub use exit::exit_reading;
pub use health::health;
pub use launch::{
    AgentLaunch, GATEWAY_PORT, LaunchContext, RuntimeDir, SAFE_CONFIG, launch, runtime_dirs, safe_env,
};
pub use token::{Token, TokenError};
