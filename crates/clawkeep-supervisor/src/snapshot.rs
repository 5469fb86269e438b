use std::sync::Arc;

use clawkeep_isolation::{Cgroup, Enforced};
use clawkeep_plan::Receipt;
use clawkeep_recovery::{Phase, Rung};

use crate::run::DeniedCalls;

/// What is known of a sandbox at a moment, for whoever looks. Times are Unix times in milliseconds.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Whether the supervisor has looked for what an earlier one left; before that nothing here is known.
    pub looked: bool,
    /// How many wishes it has taken.
    pub wishes: u64,
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether it should run.
    pub wanted: bool,
    /// Whether the last launch was one in safe mode: without channels and plugins.
    pub safe: bool,
    /// How far the repair of the present incident has gone.
    pub rung: Rung,
    /// Launches so far.
    pub launches: u64,
    /// What the sandbox may take of the host, while there is one.
    pub limits: Option<Arc<LimitsInForce>>,
    /// The running process.
    pub gateway: Option<Gateway>,
    /// What it reported about itself, once that was accepted.
    pub receipt: Option<Receipt>,
    /// The system calls that were refused since the present launch.
    pub denied: DeniedCalls,
    /// Published guards that were found missing or altered and could not be restored yet: file and why.
    pub unpublished: Option<String>,
    /// When the next start is due.
    pub next_attempt_at: Option<u64>,
    /// The last thing that went wrong, and when.
    pub last_incident: Option<(u64, String)>,
}

/// What a sandbox may take of the host, and where it is counted.
#[derive(Debug)]
pub struct LimitsInForce {
    /// As read back from the kernel when the sandbox was made or found.
    pub enforced: Enforced,
    /// What tells what was taken.
    pub cgroup: Cgroup,
}

/// A running gateway process.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// The launch that it is of.
    pub launch: u64,
    /// On the host; 0 where it cannot be told.
    pub pid: i32,
    /// When it was started.
    pub started_at: u64,
    /// When it was ready first, where this supervisor saw that.
    pub ready_at: Option<u64>,
    /// Whether an earlier daemon started it.
    pub adopted: bool,
}
