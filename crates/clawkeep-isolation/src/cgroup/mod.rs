//! Limits on what a sandbox may take of its host, and what the kernel says was taken: one control group for
//! all that the agent runs (gateway, sessions, and whatever they start), made before the first of them and
//! removed with the sandbox (cgroups(7); kernel documentation, cgroup-v2 and cgroup-v1).
//!
//! Init is not in it: it lives on when the agent's memory or number of processes is used up. What is out of
//! memory costs one process, the largest, and not all of them (`memory.oom.group` stays 0).
//!
//! A process joins between fork and exec, by a descriptor that the host side opened. Where controllers are on
//! cgroup v1 it writes to `tasks`: of a process with one thread that is all of it, and it spares the grace
//! period (about 10 ms) that the kernel waits for on every write to `cgroup.procs`.

mod group;
mod host;
mod limits;
pub(crate) mod mounts;
mod v1;
mod v2;

use std::path::{Path, PathBuf};

pub use group::Cgroup;
pub(crate) use group::{Id, Refused};
pub use host::Host;
pub(crate) use limits::Amounts;
pub use limits::{Enforced, Hierarchy, Limits, LimitsError, Usage};

/// What of the kernel's keeps a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Controller {
    Memory,
    Pids,
    Cpu,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    /// Its name in the kernel's files.
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

/// Which of the two interfaces a controller is reached by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// A directory that a controller looks at: on a host one below which groups can be made, in a group its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seat {
    controller: Controller,
    version: Version,
    dir: PathBuf,
}

impl Seat {
    fn set(&self, amount: u64) -> std::io::Result<()> {
        match self.version {
            Version::V1 => v1::set(&self.dir, self.controller, amount),
            Version::V2 => v2::set(&self.dir, self.controller, amount),
        }
    }

    /// The limit that is in force on it; `None` where there is none.
    fn limit(&self) -> Option<u64> {
        match self.version {
            Version::V1 => v1::limit(&self.dir, self.controller),
            Version::V2 => v2::limit(&self.dir, self.controller),
        }
    }
}

/// The whole of a small file of the kernel's.
fn read(dir: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(dir.join(file)).ok()
}

/// The number that is all of the file.
fn number(dir: &Path, file: &str) -> Option<u64> {
    read(dir, file)?.trim().parse().ok()
}

/// The number behind this key in a file of lines with a key and a number.
fn keyed(dir: &Path, file: &str, key: &str) -> Option<u64> {
    read(dir, file)?.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Write to a file that must be there: what is missing is not made.
fn write(dir: &Path, file: &str, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    std::fs::OpenOptions::new().write(true).open(dir.join(file))?.write_all(text.as_bytes())
}
