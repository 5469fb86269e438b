use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, SandboxName, canonical::to_canonical_json};

/// The schema of plans and receipts that this version writes. A sandbox of another schema is made anew.
pub const SCHEMA: u32 = 3;

/// The file descriptor on which a launched process finds the write end of its receipt pipe.
pub const RECEIPT_FD: i32 = 3;

/// Everything that a launch depends on. Durable, comparable, free of secrets; two equal plans have equal
/// digests. Build it with the adapters, turn it into a launch with [`LaunchPlan::verify`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchPlan {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The sandbox that the launch happens in.
    pub sandbox: SandboxName,
    /// What is launched.
    pub agent: Agent,
    /// Absolute path of the program, as seen in the sandbox, then its arguments.
    pub argv: Vec<String>,
    /// Working directory, as seen in the sandbox.
    pub cwd: String,
    /// The whole environment; nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// Guards that the process must load, in order.
    pub guards: Vec<GuardInput>,
    /// Files on read-only mounts whose bytes the launch depends on (runtime, entry point).
    pub files: Vec<PinnedFile>,
    /// Files published in the sandbox's `/tmp` for shells and old scripts.
    pub published: Vec<PublishedFile>,
    /// TCP ports on the sandbox's loopback that must be held for the daemon before the launch (the proxy's).
    pub listeners: Vec<u16>,
    /// How tightly the process is sealed in.
    pub sealing: Sealing,
}

/// What is launched, for people and for the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// The adapter's name: `openclaw` or `command`.
    pub name: String,
    /// The agent's own version, empty where it has none.
    pub version: String,
    /// The runtime under it (`node 24.21.0`), empty where it has none.
    pub runtime: String,
}

/// A guard: a preload that the launched process must load before any of its own code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardInput {
    /// Its name, without a suffix: `ciao-network-guard`.
    pub name: String,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Whether a launch without it is refused.
    pub critical: bool,
    /// Absolute path on the read-only mount inside the sandbox.
    pub path: String,
}

/// A file on a read-only mount of the sandbox whose bytes the launch depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedFile {
    /// Absolute path inside the sandbox.
    pub path: String,
    /// Digest of its bytes.
    pub digest: Digest,
}

/// A file published in `/tmp` of the sandbox, mode 0444.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedFile {
    /// Its name below `/tmp`, a plain file name.
    pub name: String,
    /// Digest of its bytes.
    pub digest: Digest,
}

/// The layers around a launched process that can be chosen. Those that cannot be chosen (no new privileges, no
/// capabilities, Landlock, the allowlist) are not here: they are always on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealing {
    /// What the walls are made of.
    pub tier: Tier,
    /// What the seccomp filter does with netlink sockets.
    pub netlink: NetlinkRule,
    /// The least Landlock ABI that is accepted; a kernel with a lower one refuses the launch.
    pub landlock_abi_min: u32,
}

/// What the walls around a sandbox are made of. The lower one is chosen by a person and never taken by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Namespaces of its own (user, pid, mount, net, ipc, uts, cgroup), with Landlock and seccomp in them.
    #[default]
    Namespaces,
    /// Landlock and seccomp alone, for hosts that refuse user namespaces: the host's own files, processes and
    /// network are around the agent, and refused to it.
    Landlock,
}

impl Tier {
    /// Its word, as it is typed and shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Landlock => "landlock",
        }
    }
}

/// What the seccomp filter does with `socket(AF_NETLINK)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetlinkRule {
    /// `NETLINK_ROUTE` only, so that `getifaddrs(3)` works. In an empty network namespace, without
    /// capabilities, it can read two facts about the loopback device and change none.
    RouteOnly,
    /// No netlink at all (EPERM). Programs that cannot bear that need a guard.
    Refused,
}

impl LaunchPlan {
    /// The digest of the plan's canonical form.
    pub fn digest(&self) -> Digest {
        Digest::of(to_canonical_json(self).as_bytes())
    }
}
