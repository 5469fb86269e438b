use serde::{Deserialize, Serialize};

/// How a process ended (waitpid(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// It exited with this status.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

/// What an ending means to whoever keeps the agent running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitVerdict {
    /// We told it to end. Nothing to repair.
    Ordered,
    /// It broke: start it again, with backoff.
    Crash,
    /// It says all is well and is gone all the same: start it again, with backoff, after a look at the causes.
    CleanUnordered,
    /// Starting again as it is would end the same way: look at the causes first.
    DiagnoseFirst,
}

/// What may lie behind an ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitCause {
    /// Something else listens on the gateway's port.
    PortTaken,
    /// A healthy gateway with the same state is running.
    TwinRunning,
    /// A lock file that cannot be read as one.
    TornLock,
    /// The configuration is refused.
    BadConfig,
    /// The agent wished to end, or to be started anew.
    OwnWish,
    /// An error that nothing caught.
    UnhandledError,
    /// A signal, which also the kernel sends when memory runs out.
    KilledBySignal,
}

/// What an adapter reads out of an ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitReading {
    /// What to do.
    pub verdict: ExitVerdict,
    /// What to look for, the likeliest first; empty when it was ordered.
    pub causes: &'static [ExitCause],
}
