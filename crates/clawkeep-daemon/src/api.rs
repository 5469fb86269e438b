//! What the command line and the daemon say to each other over the socket in the state directory: one JSON
//! line for a request, then JSON lines for the answer, the last of which is [`Answer::Done`] or
//! [`Answer::Failed`]. Descriptors ride along with the first byte of a line (unix(7), SCM_RIGHTS).
//!
//! The status types are also what `--json` prints: schema 1 of the outside contract. Fields are only added.

pub mod credentials;
pub mod policy;

use std::collections::BTreeMap;

use clawkeep_inference::Seen;
use clawkeep_isolation::{Enforced, Limits, Usage};
use clawkeep_plan::{Digest, EnforcedLevel, SandboxName, Tier};
use clawkeep_store::{Page, Span};
use serde::{Deserialize, Serialize};

use policy::{PolicyChange, PolicyChoice, PolicyReport, PolicySet, RefusedRequest};

/// What the command line can ask for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// Everything: [`Value::Status`].
    Status,
    /// One sandbox, the default one without a name: [`Value::Sandbox`].
    Sandbox {
        /// Which.
        name: Option<SandboxName>,
    },
    /// Make a sandbox, marked as not yet onboarded, and start it. [`Value::Sandbox`].
    Create(Box<Create>),
    /// The onboarding of this sandbox is complete.
    Onboarded {
        /// Which.
        name: SandboxName,
    },
    /// Wait until it is ready, telling each change of phase as [`Answer::Phase`]. [`Value::Sandbox`].
    WaitReady {
        /// Which.
        name: SandboxName,
        /// Patience, in milliseconds.
        timeout_ms: u64,
    },
    /// Ask the model behind the route one question through the agent. [`Value::Text`] with the answer.
    Turn {
        /// Which.
        name: SandboxName,
        /// The question.
        message: String,
    },
    /// Prove the route now, by the way that the agent's requests take. [`Value::Sandbox`] with what came of it.
    Prove {
        /// Which.
        name: SandboxName,
    },
    /// Ask the provider itself one question, from outside: [`Value::Text`] on success; the failure says what
    /// is wrong with the route and what to do next.
    CheckRoute {
        /// Which.
        name: SandboxName,
    },
    /// Lead `inference.local` elsewhere and keep all else of the sandbox. A provider that does not answer is refused,
    /// and nothing is changed, unless `force` is given. An agent that has the model in its configuration is restarted.
    /// [`Value::RouteSet`].
    SetRoute {
        /// Which.
        name: SandboxName,
        /// Where to.
        route: RouteChoice,
        /// Set it whether it answers or not.
        #[serde(default)]
        force: bool,
    },
    /// Another key for the same route; its fall-backs stay, and nothing is restarted. A provider that does not answer
    /// to it is no failure. [`Value::RouteSet`].
    RotateKey {
        /// Which.
        name: SandboxName,
        /// The key.
        key: credentials::SecretText,
    },
    /// Another route, asked when the one that is set, and those added before, give no answer. One that does not
    /// answer now is no failure. Nothing is restarted. [`Value::RouteSet`].
    AddFallback {
        /// Which.
        name: SandboxName,
        /// Where to.
        route: RouteChoice,
    },
    /// Back to the one route that is set. [`Value::Sandbox`].
    RemoveFallbacks {
        /// Which.
        name: SandboxName,
    },
    /// Make everything of it but its home anew, with another version of its agent (installed already) if one is
    /// named. A version that does not stay up is taken back. [`Value::Sandbox`].
    Rebuild {
        /// Which.
        name: SandboxName,
        /// For example `2026.9.6`.
        version: Option<String>,
        /// Another image, unpacked already. One on which it does not become ready is taken back.
        #[serde(default)]
        image: Option<ImageChoice>,
    },
    /// Rehearse a failure on purpose. The answer comes when the agent is ready again. [`Value::Rehearsed`].
    Rehearse {
        /// Which.
        name: SandboxName,
        /// Which failure.
        failure: Rehearsal,
    },
    /// Should run. [`Value::Sandbox`].
    Start {
        /// Which.
        name: SandboxName,
    },
    /// Should not run; answered when it is stopped. [`Value::Sandbox`].
    Stop {
        /// Which.
        name: SandboxName,
    },
    /// Repair what needs repair, now: ends a wait, leaves a healthy gateway alone. [`Value::Sandbox`].
    Recover {
        /// Which.
        name: SandboxName,
    },
    /// Restart the gateway whether it is healthy or not. [`Value::Sandbox`].
    Restart {
        /// Which.
        name: SandboxName,
    },
    /// Stop it and remove everything of it, its files included.
    Destroy {
        /// Which.
        name: SandboxName,
    },
    /// Make this the default sandbox.
    Use {
        /// Which.
        name: SandboxName,
    },
    /// Run a command in the sandbox. With a terminal the first answer is [`Answer::Session`] with the master
    /// side; without, the request carries standard input, output and error. [`Value::Ended`]. If the asker
    /// goes away before, the command is killed.
    Exec {
        /// Which.
        name: SandboxName,
        /// Program and arguments; empty: a login shell.
        argv: Vec<String>,
        /// The size of the terminal to make (rows, columns), if there is to be one.
        terminal: Option<(u16, u16)>,
        /// The asker's TERM.
        term: Option<String>,
    },
    /// Wait for a session that was started over an earlier connection (the daemon was restarted since).
    /// [`Value::Ended`].
    Attach {
        /// Which sandbox.
        name: SandboxName,
        /// Which session.
        session: String,
    },
    /// The names of all credentials, and what is told of them: [`Value::Credentials`].
    Credentials,
    /// Change one. [`Value::Nothing`].
    Credential(credentials::CredentialOrder),
    /// Some of the journal, in which everything is that was recorded before: [`Value::Journal`].
    Journal {
        /// Of which sandbox; without a name of all of them and of none.
        sandbox: Option<SandboxName>,
        /// Which part.
        span: Span,
        /// The most events; no more than [`clawkeep_store::MAX_PAGE`] come in any case.
        limit: usize,
    },
    /// What may leave a sandbox: [`Value::Policy`].
    Policy {
        /// Which.
        name: SandboxName,
    },
    /// Change what may leave it: validated whole, in force at once, or nothing is changed. [`Value::PolicySet`].
    SetPolicy {
        /// Which.
        name: SandboxName,
        /// How.
        change: PolicyChange,
        /// Only tell what would change.
        dry_run: bool,
    },
    /// What was refused to it, the newest last: [`Value::Refused`].
    Refused {
        /// Which.
        name: SandboxName,
    },
    /// What a monitoring system wants to know, in Prometheus' text format: [`Value::Text`].
    Metrics,
    /// Serve the same over HTTP from now on, here; or, without an address, no longer. Outlives the daemon.
    /// [`Value::Metrics`].
    ServeMetrics {
        /// An address of the loopback, and a port.
        listen: Option<std::net::SocketAddr>,
    },
    /// Take every secret that is known out of some lines of an agent's log: [`Value::Text`], of as many lines.
    Redact {
        /// The lines.
        text: String,
    },
    /// End the daemon (not the sandboxes: the next one adopts them).
    Shutdown,
}

/// A sandbox to make.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Create {
    /// Its name.
    pub name: SandboxName,
    /// Its agent.
    pub agent: AgentChoice,
    /// Provider and model behind `inference.local`; `None` is the built-in canary.
    pub route: Option<RouteChoice>,
    /// Refuse netlink sockets inside (the strict profile): only guarded agents bear it.
    pub strict: bool,
    /// What its walls are made of.
    #[serde(default)]
    pub tier: Tier,
    /// Readiness that lasts this long, in seconds, proves a launch; `None`: 25.
    #[serde(default)]
    pub settle_secs: Option<u64>,
    /// Port on the host's loopback for the agent's own page; `None`: 18789 or the next free one.
    pub dashboard_port: Option<u16>,
    /// What it may take of the host. What is asked for here is enforced, or there is no sandbox.
    #[serde(default)]
    pub limits: Limits,
    /// The image that is its system, unpacked already; `None`: this host's `/usr`.
    #[serde(default)]
    pub image: Option<ImageChoice>,
    /// What else of this host it sees.
    #[serde(default)]
    pub mounts: Vec<HostMount>,
    /// What may leave it besides the model's route.
    #[serde(default)]
    pub policy: PolicyChoice,
}

/// The image of a sandbox, with what it says of a start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageChoice {
    /// Of its manifest.
    pub digest: Digest,
    /// Its variables, which everything else that a sandbox says goes before.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Where a command of it begins, as seen inside; `None`: `/sandbox`.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Its command, where that is the agent: it then follows the image when that is changed.
    #[serde(default)]
    pub command: Option<Vec<String>>,
}

/// A directory or file of this host to show in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostMount {
    /// Absolute, and without links.
    pub source: std::path::PathBuf,
    /// Absolute, as seen inside.
    pub target: String,
    /// The agent may write to it.
    pub writable: bool,
}

/// The agent of a new sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "agent", rename_all = "kebab-case")]
pub enum AgentChoice {
    /// OpenClaw, in this version; its bundle is installed already.
    Openclaw {
        /// For example `2026.9.6`.
        version: String,
    },
    /// Any command.
    Command {
        /// Program (absolute, as seen in the sandbox) and arguments.
        argv: Vec<String>,
        /// `http://127.0.0.1:PORT/PATH` or `tcp://127.0.0.1:PORT` that answers when it is well; with
        /// `#every=30s` behind it asked as often as that.
        health_url: Option<String>,
        /// Its configuration, a path below `/sandbox`: put back to the last healthy one when it keeps the command
        /// from running.
        #[serde(default)]
        config: Option<String>,
        /// It has a safe mode, which it enters where `CLAWKEEP_SAFE_MODE` is `1`.
        #[serde(default)]
        safe_mode: bool,
        /// The command is a Node program: load the guards in it, and refuse it without.
        node_guards: bool,
        /// A directory on the host to show read-only at `/opt/clawkeep/agent`.
        bundle: Option<std::path::PathBuf>,
        /// Added to its environment.
        env: BTreeMap<String, String>,
    },
}

/// Provider and model.
#[derive(Clone, Serialize, Deserialize)]
pub struct RouteChoice {
    /// Its name: `custom`, `ollama`, `openai`...
    pub provider: String,
    /// Base URL, where the provider has no default or another is wanted.
    pub endpoint_url: Option<String>,
    /// The model's name at the provider.
    pub model: String,
    /// The key. Travels over the private socket once and is stored outside every sandbox.
    pub key: Option<String>,
}

impl std::fmt::Debug for RouteChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouteChoice")
            .field("provider", &self.provider)
            .field("endpoint_url", &self.endpoint_url)
            .field("model", &self.model)
            .field("key", &self.key.as_ref().map(|_| "(hidden)"))
            .finish()
    }
}

/// Where the metrics are served over HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsStatus {
    /// The address that was chosen; `None` where they are not served.
    pub listen: Option<std::net::SocketAddr>,
    /// Why nothing listens there now, if nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// A failure to rehearse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rehearsal {
    /// SIGKILL to the gateway.
    KillGateway,
    /// Everything in `/tmp` removed and everything in the sandbox killed.
    WipeTmp,
}

/// One line of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The sandbox changed its phase.
    Phase(Box<SandboxStatus>),
    /// A session is open.
    Session {
        /// Its name, for [`Request::Attach`].
        id: String,
    },
    /// The end: it is done.
    Done(Value),
    /// The end: it is not done.
    Failed(Failure),
}

/// What a request gives.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// Nothing to tell.
    Nothing,
    /// Everything.
    Status(Box<Status>),
    /// One sandbox.
    Sandbox(Box<SandboxStatus>),
    /// A text.
    Text(String),
    /// A route was set.
    RouteSet {
        /// The sandbox as it was found, with its new route.
        sandbox: Box<SandboxStatus>,
        /// Another launch than the one that was found is on its way.
        restarts: bool,
        /// Why the provider does not answer, if it does not.
        warning: Option<Failure>,
    },
    /// A rehearsal's figures.
    Rehearsed {
        /// From the failure to the new process, in milliseconds.
        respawn_ms: u64,
        /// From the failure to ready, in milliseconds.
        ready_ms: u64,
    },
    /// What may leave a sandbox.
    Policy(Box<PolicyReport>),
    /// A policy was changed, or would be.
    PolicySet(Box<PolicySet>),
    /// What was refused to a sandbox.
    Refused(Vec<RefusedRequest>),
    /// Every credential, without its value.
    Credentials(Vec<credentials::CredentialStatus>),
    /// Some of the journal.
    Journal(Page),
    /// Where the metrics are served over HTTP.
    Metrics(MetricsStatus),
    /// How a session ended: an exit status, or 128 and the signal.
    Ended {
        /// The status for the shell.
        status: i32,
    },
}

/// Why a request failed: for a person, and for scripts by its code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// A stable code, `kebab-case`.
    pub code: String,
    /// What is wrong and where.
    pub message: String,
    /// What to do next, one command if there is one.
    pub next: Option<String>,
}

impl Failure {
    /// A failure with its next step.
    pub fn new(code: &str, message: impl Into<String>, next: impl Into<Option<String>>) -> Self {
        Self { code: code.to_owned(), message: message.into(), next: next.into() }
    }
}

/// `status --json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// 1.
    pub schema: u32,
    /// The daemon itself.
    pub daemon: DaemonStatus,
    /// Every sandbox, by name.
    pub sandboxes: Vec<SandboxStatus>,
}

/// The daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Its pid.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// When it started, RFC 3339, UTC.
    pub started_at: String,
    /// What is degraded on its side: a full or read-only state directory, a journal that is not written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
    /// Whether a service manager runs it: then it is nobody else's to replace.
    #[serde(default)]
    pub managed: bool,
    /// Where the metrics are served over HTTP, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<std::net::SocketAddr>,
}

/// `NAME status --json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// 1.
    pub schema: u32,
    /// Its name.
    pub name: SandboxName,
    /// Whether it is the one meant when none is named.
    pub default: bool,
    /// `ready`, `starting`, `preparing`, `backoff`, `held`, `stopping`, `stopped`.
    pub phase: String,
    /// Whether it should run.
    pub should_run: bool,
    /// Whether its onboarding was completed.
    pub onboarded: bool,
    /// Its agent.
    pub agent: AgentStatus,
    /// What its walls are made of.
    #[serde(default)]
    pub tier: Tier,
    /// Where its programs and libraries are from.
    #[serde(default)]
    pub system: String,
    /// What else of the host it sees, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<String>,
    /// Its gateway process, if there is one.
    pub gateway: Option<GatewayStatus>,
    /// Its guards.
    pub guards: Vec<GuardStatus>,
    /// What the running launch reported about itself.
    pub receipt: Option<ReceiptStatus>,
    /// System calls that it was refused.
    #[serde(default)]
    pub denied: DeniedStatus,
    /// What is enforced around it, as it read it back.
    pub level: Option<EnforcedLevel>,
    /// Whether it runs in safe mode: without channels and plugins.
    pub safe_mode: bool,
    /// How far the repair of the present incident has gone: `respawn`, `clear`, `renew`, `config`, `agent`, `safe`.
    pub rung: String,
    /// What it may take of the host, and has taken; `None` while there is no sandbox.
    #[serde(default)]
    pub limits: Option<LimitsStatus>,
    /// The route behind `inference.local`.
    pub route: RouteStatus,
    /// What else may leave it.
    #[serde(default)]
    pub egress: EgressStatus,
    /// What passed over it so far.
    #[serde(default)]
    pub inference: Option<Seen>,
    /// The last proof that it leads to the model, from inside; `None` where there was none yet.
    #[serde(default)]
    pub proof: Option<RouteProof>,
    /// Port on the host's loopback.
    pub dashboard_port: Option<u16>,
    /// The page to open, with its token.
    pub dashboard_url: Option<String>,
    /// When the next start is due, RFC 3339, UTC.
    pub next_attempt_at: Option<String>,
    /// Why it waits for a person, and the command that ends the wait.
    pub held: Option<Held>,
    /// The last thing that went wrong.
    pub last_incident: Option<Incident>,
}

/// The agent of a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentStatus {
    /// `openclaw` or `command`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The runtime under it.
    pub runtime: String,
    /// Its configuration, as the path is inside: the last healthy one is put back when it fails with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

/// A gateway process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// As the host sees it.
    pub pid: i32,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// Starts after the first, over the sandbox's life in this daemon's journal.
    pub restarts: u64,
    /// From its start to ready, in milliseconds.
    pub warm_up_ms: Option<u64>,
}

/// A guard.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GuardStatus {
    /// Its name.
    pub name: String,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Whether nothing is launched without it.
    pub critical: bool,
    /// `verified`, `missing` or `altered`.
    pub state: String,
}

/// What a launch reported about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReceiptStatus {
    /// The receipt's digest.
    pub digest: Digest,
    /// The plan's.
    pub plan: Digest,
    /// In force.
    pub landlock_abi: u32,
    /// Digest of the programs in force.
    pub seccomp: Digest,
    /// All capability sets, or-ed, in hexadecimal.
    pub caps: String,
    /// Inode of each.
    pub namespaces: BTreeMap<String, u64>,
}

/// System calls that were refused since the present launch, each once, by name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DeniedStatus {
    /// Refused to the agent, and to what came from it.
    pub agent: Vec<String>,
    /// Refused to sessions that people opened.
    pub sessions: Vec<String>,
}

/// What may leave a sandbox besides the model's route, in short.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressStatus {
    /// The built-in presets in force.
    pub presets: Vec<String>,
    /// How many other rules are.
    pub rules: usize,
    /// How many approvals for a time are.
    pub approvals: usize,
    /// How many different requests were refused lately.
    pub refused: usize,
    /// Digest of the whole policy.
    pub policy: Option<Digest>,
    /// Port on the loopback, as the agent sees it, of the proxy that enforces it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Why the policy that is kept is not in force, so that nothing but the model's route leads out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// What a sandbox may take of the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LimitsStatus {
    /// In force, as read back from the kernel; and what should be and is not.
    #[serde(flatten)]
    pub enforced: Enforced,
    /// Taken so far.
    pub usage: Usage,
}

/// The route behind `inference.local`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RouteStatus {
    /// `canary`, `custom`, ...
    pub provider: String,
    /// The model.
    pub model: String,
    /// The base URL, without any secret.
    pub endpoint_url: Option<String>,
    /// Who is asked when it gives no answer, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<RouteStatus>,
}

/// The last proof of a route, or the last attempt at one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteProof {
    /// `proven` or `failing`.
    pub state: String,
    /// When, RFC 3339, UTC.
    pub at: String,
    /// How long that is ago, in milliseconds.
    pub age_ms: u64,
    /// Since when it has been in this state.
    pub since: String,
    /// How long it took, in milliseconds; `None` where an answer to the agent itself is the proof.
    pub took_ms: Option<u64>,
    /// Where it fails: `sandbox`, `proxy`, `trust` (programs inside do not trust who answers), `provider`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// How.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A wait for a person.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Held {
    /// Why.
    pub reason: String,
    /// What ends it.
    pub command: String,
}

/// Something that went wrong.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Incident {
    /// RFC 3339, UTC.
    pub at: String,
    /// What.
    pub what: String,
}
