use std::path::{Path, PathBuf};

use clawkeep_plan::{Digest, NetlinkRule, SCHEMA, Tier, to_canonical_json};
use serde::{Deserialize, Serialize};

use crate::cgroup::Limits;
use crate::seccomp::{Profile, Programs, SeccompError};

/// Uid and gid of the agent, as seen in every sandbox.
pub const AGENT_ID: u32 = 998;

/// How many ids a sandbox's user namespace maps where there is a root to map them.
pub const ID_RANGE: u32 = 65_536;

/// The first id on the host that a sandbox of root has.
pub const FIRST_ID: u32 = 1_900_000_000;

/// Everything that a sandbox is made of, before any process of the agent runs in it. Plain data, made by the
/// host side; the setup does what it says and decides nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Its name, which is also its host name (uts_namespaces(7)).
    pub name: String,
    /// What its walls are made of. In the lower tier nothing is mounted: what a mount would show is what Landlock lets
    /// the agent see, at its own place on the host.
    pub tier: Tier,
    /// How ids inside map to ids on the host.
    pub ids: IdMap,
    /// What is visible, in the order in which it is mounted.
    pub mounts: Vec<Mount>,
    /// Symbolic links to make: path, target.
    pub symlinks: Vec<(String, String)>,
    /// Small files to write into the read-only root: path, content.
    pub files: Vec<(String, String)>,
    /// TCP ports on 127.0.0.1 inside that are listened on before anything runs.
    pub listeners: Vec<u16>,
    /// UDP ports on 127.0.0.1 inside that are bound before anything runs.
    pub datagrams: Vec<u16>,
    /// In the lower tier, TCP ports where the agent itself serves: the only ones besides the listeners' that it may
    /// connect to, and the only ones but a free one that it may bind.
    pub own_ports: Vec<u16>,
    /// Size limit of the private `/tmp`, in bytes; it is never more than half of the memory's limit.
    pub tmp_bytes: u64,
    /// Size at which the gateway's log is cut to its newer half, in bytes.
    pub log_bytes: u64,
    /// What was asked for of its limits. Where they are kept, and what is the default, is the host's affair.
    pub limits: Limits,
}

impl SandboxSpec {
    /// Where something of the operator's may be written to.
    pub(crate) fn writable(&self) -> Vec<&str> {
        let shared = self.mounts.iter().filter(|mount| matches!(mount.access, MountAccess::Shared { .. }));
        shared.map(|mount| mount.target.as_str()).collect()
    }

    /// The seccomp program that is put around what runs in it.
    ///
    /// # Errors
    /// [`SeccompError`] on an architecture that the filter compiler does not know.
    pub fn programs(&self, netlink: NetlinkRule) -> Result<&'static Programs, SeccompError> {
        Programs::of(Profile::of(self.tier, self.ids, netlink))
    }

    /// Uid and gid of the agent, as it sees itself.
    pub fn agent(&self) -> (u32, u32) {
        match self.tier {
            Tier::Namespaces => (AGENT_ID, AGENT_ID),
            Tier::Landlock => self.ids.host_agent(),
        }
    }

    /// Where on the host lies what the agent knows by this path: the source of the innermost mount that it is in. In
    /// the lower tier it is there for the agent too.
    pub fn on_the_host(&self, path: &str) -> Option<PathBuf> {
        let below =
            |mount: &Mount| Some(mount.source.join(Path::new(path).strip_prefix(&mount.target).ok()?));
        let within = self.mounts.iter().filter(|mount| Path::new(path).starts_with(&mount.target));
        let found = below(within.max_by_key(|mount| mount.target.len())?)?;
        // Of the mount itself, without the slash that an empty rest leaves.
        Some(found.components().collect())
    }

    /// Names this exact specification: a sandbox that was made from another one is not the same. Nor is one of
    /// another schema, whose first process takes other orders and writes other receipts; or one whose first process
    /// puts other seccomp programs around what it starts: its receipts would be rejected for ever.
    pub fn digest(&self) -> Digest {
        let walls = [NetlinkRule::RouteOnly, NetlinkRule::Refused]
            .map(|netlink| self.programs(netlink).map(|programs| programs.digest()).ok());
        self.digest_behind(&walls)
    }

    fn digest_behind(&self, walls: &[Option<Digest>]) -> Digest {
        Digest::of(to_canonical_json(&(SCHEMA, walls, self)).as_bytes())
    }
}

/// How ids inside map to ids on the host (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdMap {
    /// Inside 0..[`ID_RANGE`] is the host's `base..base+ID_RANGE`. Needs root on the host.
    Range {
        /// Host id of the sandbox's root.
        base: u32,
    },
    /// Inside [`AGENT_ID`] is the calling user; nothing else is mapped. Needs no privilege.
    Single {
        /// The caller's uid on the host.
        uid: u32,
        /// The caller's gid on the host.
        gid: u32,
    },
}

impl IdMap {
    /// The map that the calling user can have: a range for root, itself for everybody else.
    pub fn for_current_user(slot: u32) -> Self {
        let uid = rustix::process::geteuid();
        if uid.is_root() {
            Self::range(slot)
        } else {
            Self::Single { uid: uid.as_raw(), gid: rustix::process::getegid().as_raw() }
        }
    }

    /// The range of root's sandbox in this slot: far above what distributions hand out (login.defs(5),
    /// systemd-nspawn's range ends at 1,879,048,191), and one for each, so that two sandboxes never share an id.
    fn range(slot: u32) -> Self {
        Self::Range { base: FIRST_ID + slot * ID_RANGE }
    }

    /// Uid and gid on the host of the sandbox's root, which owns what we publish; the agent itself where
    /// there is no root.
    pub fn host_root(self) -> (u32, u32) {
        match self {
            Self::Range { base } => (base, base),
            Self::Single { uid, gid } => (uid, gid),
        }
    }

    /// Uid and gid of the agent on the host.
    pub fn host_agent(self) -> (u32, u32) {
        match self {
            Self::Range { base } => (base + AGENT_ID, base + AGENT_ID),
            Self::Single { uid, gid } => (uid, gid),
        }
    }

    /// The lines for `uid_map` and `gid_map`.
    pub(crate) fn lines(self) -> (String, String) {
        match self {
            Self::Range { base } => (format!("0 {base} {ID_RANGE}"), format!("0 {base} {ID_RANGE}")),
            Self::Single { uid, gid } => (format!("{AGENT_ID} {uid} 1"), format!("{AGENT_ID} {gid} 1")),
        }
    }
}

/// One thing that is visible inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Path on the host.
    pub source: PathBuf,
    /// Absolute path inside.
    pub target: String,
    /// What may be done with it.
    pub access: MountAccess,
}

/// What may be done with a mount. All are nosuid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountAccess {
    /// Read and execute, no devices.
    ReadOnly,
    /// Read, write and execute, no devices.
    ReadWrite,
    /// A device node: read and write, no execution.
    Device,
    /// Something of the operator's: as [`Self::ReadOnly`], and its path must lead through no link, which somebody
    /// inside could have made who may write to another one.
    Shown,
    /// Likewise, and writable: what belongs to these ids of the host is the agent's inside (an id-mapped mount,
    /// mount_setattr(2)); without privilege on the host they are the caller's, who is the agent.
    Shared {
        /// Whose on the host.
        uid: u32,
        /// Likewise.
        gid: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_behind_other_walls_is_another_one() {
        let spec = SandboxSpec {
            name: "box".into(),
            tier: Tier::Namespaces,
            ids: IdMap::range(1),
            mounts: vec![],
            symlinks: vec![],
            files: vec![],
            listeners: vec![],
            datagrams: vec![],
            own_ports: vec![],
            tmp_bytes: 1,
            log_bytes: 1,
            limits: Limits::default(),
        };
        let other = Some(Digest::of(b"other"));
        assert_eq!(spec.digest(), spec.clone().digest());
        assert_ne!(spec.digest(), spec.digest_behind(&[other, other]));
        let renamed = SandboxSpec { name: "another".into(), ..spec.clone() };
        assert_ne!(spec.digest(), renamed.digest());
    }
}
