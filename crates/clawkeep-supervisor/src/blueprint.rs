use std::path::PathBuf;
use std::time::Duration;

use clawkeep_agents::{Adapter, openclaw};
use clawkeep_isolation::SandboxSpec;
use clawkeep_plan::{LaunchPlan, SandboxName};
use clawkeep_store::Snapshots;

/// Where the gateway's log is mounted in a sandbox. A link in `/tmp` leads to it.
pub const LOG_INSIDE: &str = "/run/gateway.log";

/// Everything durable that a sandbox and its launches are made of. The daemon derives it from the registry;
/// every start, restart, recovery and boot uses this and nothing else.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// The sandbox.
    pub name: SandboxName,
    /// This program's own file, which the setup is started from.
    pub program: PathBuf,
    /// The sandbox's run directory on the host.
    pub run: PathBuf,
    /// The sandbox's `/sandbox` on the host.
    pub home: PathBuf,
    /// Where guard packages are kept on the host.
    pub guards_root: PathBuf,
    /// What the sandbox is made of, but for the guard package, which is mounted as it stands then.
    pub spec: SandboxSpec,
    /// What a launch is made of.
    pub plan: LaunchPlan,
    /// The bytes of the files published in `/tmp`, by name, in order.
    pub published: Vec<(String, Vec<u8>)>,
    /// The agent's quirks.
    pub adapter: Adapter,
    /// Readiness that lasts this long proves a launch.
    pub settle: Duration,
    /// What is launched in safe mode, where the agent has one.
    pub safe: Option<SafeMode>,
    /// What was healthy before.
    pub snapshots: Snapshots,
}

/// A launch without channels and plugins.
#[derive(Debug, Clone)]
pub struct SafeMode {
    /// What it is made of.
    pub plan: LaunchPlan,
    /// The model route of its own configuration, where it gets one ([`openclaw::SAFE_CONFIG`]).
    pub route: Option<openclaw::Route>,
}
