use serde::{Deserialize, Serialize};

use crate::Backoff;

/// Times of the life cycle, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// From a launch to ready at most; the agent's whole warm-up is granted before deafness counts.
    pub start_within: u64,
    /// Readiness that lasts this long resets the backoff.
    pub settle: u64,
    /// Probes in a row that a ready gateway may miss; one more and it is hung.
    pub misses: u32,
    /// From the order to stop to SIGKILL.
    pub stop_grace: u64,
    /// Failures in a row after which the whole sandbox is made anew for the next start.
    pub renew_after: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { start_within: 180_000, settle: 25_000, misses: 2, stop_grace: 10_000, renew_after: 3 }
    }
}

/// Where a sandbox is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Not wanted, and nothing of it runs.
    Stopped,
    /// Its namespaces and mounts are being made.
    Preparing,
    /// What an earlier launch left is being killed; the launch follows.
    Clearing,
    /// A launch was ordered; `launch` once its process is there.
    Starting {
        /// The launch's number.
        launch: Option<u64>,
        /// When it was ordered.
        since: u64,
        /// Whether its receipt was accepted.
        receipt: bool,
    },
    /// It serves.
    Ready {
        /// The launch's number.
        launch: u64,
        /// Since when.
        since: u64,
        /// Probes missed in a row.
        missed: u32,
    },
    /// It failed; the next start is due at this time.
    Backoff {
        /// When.
        until: u64,
    },
    /// A person must decide.
    Held {
        /// Why.
        reason: String,
        /// The command that ends the wait.
        command: String,
    },
    /// It was told to end; SIGKILL at this time.
    Stopping {
        /// When.
        kill_at: u64,
    },
    /// Its namespaces are being taken down; wanted again afterwards or not.
    TearingDown,
}

/// The whole state of one sandbox's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Whether it should run.
    pub wanted: bool,
    /// Where it is.
    pub phase: Phase,
    /// Whether its namespaces exist.
    pub sandbox: bool,
    /// Whether the last launch was refused in it: it is made anew before the next one.
    pub unfit: bool,
    /// Delay before the next start.
    pub backoff: Backoff,
    /// Launches so far; the last one has this number.
    pub launches: u64,
}

impl State {
    /// A sandbox that nothing is known of yet.
    pub fn new(seed: u64) -> Self {
        Self {
            wanted: false,
            phase: Phase::Stopped,
            sandbox: false,
            unfit: false,
            backoff: Backoff::new(seed),
            launches: 0,
        }
    }

    /// When [`Event::Timer`] is due next, if it is.
    pub fn timer(&self, settings: &Settings) -> Option<u64> {
        match &self.phase {
            Phase::Starting { since, .. } => Some(since + settings.start_within),
            Phase::Backoff { until } => Some(*until),
            Phase::Stopping { kill_at } => Some(*kill_at),
            Phase::Stopped
            | Phase::Preparing
            | Phase::Clearing
            | Phase::Ready { .. }
            | Phase::Held { .. }
            | Phase::TearingDown => None,
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// It should run.
    OrderStart,
    /// It should not run.
    OrderStop,
    /// Repair what needs repair, now.
    OrderRecover,
    /// Restart even a healthy gateway.
    OrderRestart,
    /// Answer to [`Action::Prepare`]: namespaces and mounts are there, nothing runs in them.
    Prepared,
    /// Answer to [`Action::Prepare`]: they are not.
    PrepareFailed {
        /// Why.
        reason: String,
    },
    /// Answer to [`Action::Clear`]: no process of an earlier launch is left.
    Cleared,
    /// Answer to [`Action::Clear`]: some would not die.
    ClearFailed {
        /// Why.
        reason: String,
    },
    /// Answer to [`Action::Launch`]: the process of this launch is there.
    Launched {
        /// The launch's number.
        launch: u64,
    },
    /// Answer to [`Action::Launch`]: an input was not as planned, or the process could not be made.
    LaunchRefused {
        /// Why.
        reason: String,
        /// Where only a person can help: the command.
        command: Option<String>,
    },
    /// The receipt of this launch is what the plan says.
    ReceiptAccepted {
        /// The launch's number.
        launch: u64,
    },
    /// The receipt of this launch falls short of the plan.
    ReceiptRejected {
        /// The launch's number.
        launch: u64,
        /// How.
        reason: String,
        /// The command for the person who must decide.
        command: String,
    },
    /// The process of this launch ended.
    Ended {
        /// The launch's number.
        launch: u64,
        /// What the adapter makes of it.
        verdict: Verdict,
    },
    /// A probe of this launch came back.
    Probed {
        /// The launch's number.
        launch: u64,
        /// With this.
        health: Health,
    },
    /// A sandbox of an earlier daemon was found.
    Adopted {
        /// The last launch in it, or of all times where it has none.
        launch: u64,
        /// Whether that launch runs.
        running: bool,
        /// Whether its receipt was accepted.
        receipt: bool,
    },
    /// The namespaces are gone, and all that ran in them.
    SandboxLost,
    /// Answer to [`Action::TearDown`].
    TornDown,
    /// The time that [`State::timer`] named has come.
    Timer,
}

/// What an ended process means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It failed.
    Crash,
    /// It ended as it was told to.
    Ordered,
    /// It ended by its own wish, without failing: started again.
    Wish,
}

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It serves.
    Ready,
    /// It lives and is not ready.
    Alive,
    /// It does not answer.
    Deaf,
    /// The probe itself could not run: proves nothing.
    Unknown,
}

/// What to do. Each is answered by an event, as said there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Make the namespaces and mounts.
    Prepare,
    /// Kill what is left of earlier launches, remove stale locks.
    Clear,
    /// Put every input in place, verify, execute.
    Launch {
        /// The launch's number.
        launch: u64,
    },
    /// Ask the gateway to end (SIGTERM). Answered by `Ended`.
    Terminate,
    /// Take down the namespaces and all in them.
    TearDown,
}
