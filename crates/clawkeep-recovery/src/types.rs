use serde::{Deserialize, Serialize};

use crate::{Backoff, Blame, Ladder, Restore, Unproven};

/// What the life cycle goes by. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// From a launch to ready at most; the agent's whole warm-up is granted before deafness counts.
    pub start_within: u64,
    /// Readiness that lasts this long proves what runs, and ends the incident.
    pub settle: u64,
    /// Readiness that lasts this long, and as long as `settle`, resets the backoff. A minute or more: what is
    /// ready for less each time is a crash loop all the same, and starts once a minute at most.
    pub steady: u64,
    /// Probes in a row that a ready gateway may miss; one more and it is hung.
    pub misses: u32,
    /// From the order to stop to SIGKILL.
    pub stop_grace: u64,
    /// Failures at the first and at the last rung before the next one is tried; at each other rung one is
    /// enough.
    pub tries: u32,
    /// The same where the host is to blame: no rung of the ladder cures that, so it is climbed slowly.
    pub host_tries: u32,
    /// Failures in a row before a sandbox is held that no rung has cured; until then the last rung is tried again.
    pub hold_after: u32,
    /// How long a sandbox stays held that no rung has cured, before the ladder is climbed again.
    pub held_retry: u64,
    /// Whether the agent has a safe mode.
    pub safe_mode: bool,
    /// The command that ends the wait of a sandbox that no rung has cured.
    pub recover: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            start_within: 180_000,
            settle: 25_000,
            steady: 60_000,
            misses: 2,
            stop_grace: 10_000,
            tries: 2,
            host_tries: 5,
            hold_after: 8,
            held_retry: 600_000,
            safe_mode: false,
            recover: "clawkeep recover".into(),
        }
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
    /// Something that was healthy before is being put back; the next start follows.
    Restoring {
        /// What.
        what: Restore,
    },
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
        /// When it is tried again without one, if it is.
        retry_at: Option<u64>,
    },
    /// It was told to end; SIGKILL at this time.
    Stopping {
        /// When.
        kill_at: u64,
    },
    /// Its namespaces are being taken down; wanted again afterwards or not.
    TearingDown,
}

impl Phase {
    /// The word for it in every status; `wanted` is whether the sandbox should run.
    pub fn word(&self, wanted: bool) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Preparing | Self::Restoring { .. } => "preparing",
            Self::Clearing | Self::Starting { .. } => "starting",
            Self::Ready { .. } => "ready",
            Self::Backoff { .. } => "backoff",
            Self::Held { .. } => "held",
            Self::Stopping { .. } => "stopping",
            Self::TearingDown if wanted => "preparing",
            Self::TearingDown => "stopping",
        }
    }
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
    /// How far the repair goes at the next start.
    pub ladder: Ladder,
    /// What the last launch ran with for the first time.
    pub unproven: Unproven,
    /// Whether the last launch was one in safe mode.
    pub safe: bool,
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
            ladder: Ladder::default(),
            unproven: Unproven::default(),
            safe: false,
            launches: 0,
        }
    }

    /// When [`Event::Timer`] is due next, if it is.
    pub fn timer(&self, settings: &Settings) -> Option<u64> {
        match &self.phase {
            Phase::Starting { launch: Some(_), since, .. } => Some(since + settings.start_within),
            Phase::Backoff { until } => Some(*until),
            Phase::Stopping { kill_at } => Some(*kill_at),
            Phase::Held { retry_at, .. } => *retry_at,
            Phase::Stopped
            | Phase::Preparing
            | Phase::Restoring { .. }
            | Phase::Clearing
            | Phase::Starting { launch: None, .. }
            | Phase::Ready { .. }
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
    /// Answer to [`Action::Restore`].
    Restored {
        /// What was to be put back.
        what: Restore,
        /// Whether anything is different now: not where it was the last healthy one already, or none is known.
        changed: bool,
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
        /// What it runs with for the first time.
        unproven: Unproven,
    },
    /// Answer to [`Action::Launch`]: an input was not as planned, or the process could not be made.
    LaunchRefused {
        /// Why.
        reason: String,
        /// Where only a person can help: the command.
        command: Option<String>,
        /// What is to blame.
        blame: Blame,
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
        /// What is to blame, by the evidence.
        blame: Blame,
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
        /// Whether it runs in safe mode.
        safe: bool,
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
    /// It does not answer as it should: counted.
    Deaf,
    /// It does not answer, and nobody else is to blame for that: one is enough.
    Hung,
    /// The probe itself could not run: proves nothing.
    Unknown,
}

/// What to do. Each is answered by an event, as said there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Make the namespaces and mounts.
    Prepare,
    /// Put back what was healthy before.
    Restore {
        /// What.
        what: Restore,
    },
    /// Kill what is left of earlier launches, remove stale locks.
    Clear {
        /// Also every lock and runtime file that would be left alone because it might be somebody's.
        thorough: bool,
    },
    /// Put every input in place, verify, execute.
    Launch {
        /// The launch's number.
        launch: u64,
        /// In safe mode.
        safe: bool,
    },
    /// Ask the gateway to end (SIGTERM). Answered by `Ended`.
    Terminate,
    /// Take down the namespaces and all in them.
    TearDown,
}
