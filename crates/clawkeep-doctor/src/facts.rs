use std::collections::BTreeMap;
use std::path::PathBuf;

use clawkeep_isolation::{Hierarchy, Trials};
use clawkeep_plan::IdRange;

/// What was found on a host, as far as sandboxes depend on it. Plain data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The kernel's release: `6.18.44-generic` (uname(2)).
    pub kernel: String,
    /// Effective uid of this process.
    pub uid: u32,
    /// Its effective capabilities, as a bit mask (capabilities(7)).
    pub capabilities: u64,
    /// The map of the user namespace that it is in.
    pub uid_map: Vec<IdRange>,
    /// What is around it: `docker`, `podman`, `lxc`, `systemd-nspawn`, ...; `None` on a host.
    pub container: Option<String>,
    /// Its root directory is none of a file system (chroot(2)).
    pub chroot: bool,
    /// Landlock.
    pub landlock: Landlock,
    /// The security modules in force, `landlock,yama,apparmor`; `None` where that cannot be read.
    pub lsm: Option<String>,
    /// seccomp.
    pub seccomp: Seccomp,
    /// The sysctls `user.max_KIND_namespaces` (namespaces(7)) by kind, where the kernel has them.
    pub max_namespaces: BTreeMap<String, u64>,
    /// `kernel.unprivileged_userns_clone`, which Debian's kernels have.
    pub unprivileged_clone: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`, which Ubuntu's kernels have.
    pub apparmor_restricts: bool,
    /// What AppArmor calls this process: `unconfined`, or a profile.
    pub apparmor_label: Option<String>,
    /// Parts of /proc that something is mounted over.
    pub hidden_proc: Vec<String>,
    /// What could be made, piece by piece; or why that could not be tried.
    pub trials: Result<Trials, String>,
    /// By what limits are kept.
    pub cgroups: Cgroups,
    /// Whether systemd runs this host.
    pub systemd: bool,
    /// This program's own file.
    pub program: PathBuf,
}

/// Landlock, as landlock_create_ruleset(2) answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landlock {
    /// The highest ABI; 0 for none.
    pub abi: u32,
    /// Without one, the error number.
    pub errno: i32,
}

/// seccomp(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seccomp {
    /// `Seccomp` of `/proc/self/status`; `None` in a kernel without. 2: a filter is around this process already.
    pub mode: Option<u32>,
    /// `/proc/sys/kernel/seccomp/actions_avail`; `None` where that cannot be read.
    pub actions: Option<Vec<String>>,
}

/// What keeps limits (cgroups(7)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    /// The interface.
    pub hierarchy: Hierarchy,
    /// By these controllers.
    pub controllers: Vec<String>,
    /// Those that cannot be had, and why.
    pub lacks: Vec<(String, String)>,
}

impl Facts {
    /// Whether this process is root, of whichever user namespace.
    pub fn root(&self) -> bool {
        self.uid == 0
    }

    /// The error number of a piece that could not be made.
    pub fn failed(&self, piece: clawkeep_isolation::Piece) -> Option<i32> {
        self.trials.as_ref().ok()?.get(&piece).copied().filter(|errno| *errno != 0)
    }

    /// The kernel's version: major and minor.
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.kernel.split(|c: char| !c.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}
