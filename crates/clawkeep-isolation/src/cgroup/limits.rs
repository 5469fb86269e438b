use serde::{Deserialize, Serialize};

/// Processes and threads of one sandbox where nothing else is asked for: more than any agent needs, few enough
/// that a fork bomb in it is no danger to the host.
const DEFAULT_PIDS: u64 = 4096;

/// Largest file where nothing else is asked for, in bytes: room for a database or a model's weights, and an
/// end for one file that grows for ever.
const DEFAULT_FILE_BYTES: u64 = 64 << 30;

/// Least that can be asked for: below, no gateway starts, and the mistake is better told than tried.
const MIN_MEMORY_BYTES: u64 = 64 << 20;
const MIN_PIDS: u64 = 32;
const MIN_FILE_BYTES: u64 = 1 << 20;

/// The kernel takes no quota below 1 ms in a period of 100 ms (cpu.max, cpu.cfs_quota_us).
const MIN_CPU_MILLI: u64 = 10;

/// More than any machine has: keeps sums of amounts within 64 bits.
const MAX_BYTES: u64 = 1 << 50;
const MAX_CPU_MILLI: u64 = 1_000_000;

/// The kernel's own most (PID_MAX_LIMIT on 64 bits).
const MAX_PIDS: u64 = 4 << 20;

/// What was asked for. What was asked for is enforced, or there is no sandbox; what was not has a default
/// (3/4 of the host's memory, 4096 processes, all of the processors, 64 GiB in one file), and a host that
/// cannot enforce that says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Memory of everything that the agent runs, with its page cache and its `/tmp`, in bytes. Nothing of it
    /// goes to the swap space: it would be slow for everybody, and an agent's secrets would be on a disk.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Time of the processors, in thousandths of one.
    pub cpu_milli: Option<u64>,
    /// Largest file that can be written, in bytes (RLIMIT_FSIZE, setrlimit(2)).
    pub file_bytes: Option<u64>,
}

/// A limit that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// No gateway could run with it.
    #[error("{what} of {given} is too little: the least is {least}")]
    TooLittle {
        /// Which limit, with its unit.
        what: &'static str,
        /// What was asked for.
        given: u64,
        /// What can be.
        least: u64,
    },
    /// No machine has as much.
    #[error("{what} of {given} is too much: the most is {most}")]
    TooMuch {
        /// Which limit, with its unit.
        what: &'static str,
        /// What was asked for.
        given: u64,
        /// What can be.
        most: u64,
    },
}

impl Limits {
    /// Whether a sandbox could live with it.
    ///
    /// # Errors
    /// The first limit with which none could.
    pub fn check(&self) -> Result<(), LimitsError> {
        for (what, given, least, most) in [
            ("memory in bytes", self.memory_bytes, MIN_MEMORY_BYTES, MAX_BYTES),
            ("number of processes", self.pids, MIN_PIDS, MAX_PIDS),
            ("processor time in thousandths", self.cpu_milli, MIN_CPU_MILLI, MAX_CPU_MILLI),
            ("file size in bytes", self.file_bytes, MIN_FILE_BYTES, MAX_BYTES),
        ] {
            match given {
                Some(given) if given < least => return Err(LimitsError::TooLittle { what, given, least }),
                Some(given) if given > most => return Err(LimitsError::TooMuch { what, given, most }),
                _ => {}
            }
        }
        Ok(())
    }

    /// With the defaults on a host of this much memory.
    pub(crate) fn amounts(&self, host_memory: u64) -> Amounts {
        Amounts {
            memory_bytes: self.memory_bytes.unwrap_or(host_memory / 4 * 3).max(MIN_MEMORY_BYTES),
            pids: self.pids.unwrap_or(DEFAULT_PIDS),
            cpu_milli: self.cpu_milli,
            file_bytes: self.file_bytes.unwrap_or(DEFAULT_FILE_BYTES),
        }
    }
}

/// What is to be set on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Amounts {
    pub memory_bytes: u64,
    pub pids: u64,
    pub cpu_milli: Option<u64>,
    pub file_bytes: u64,
}

impl Amounts {
    /// Processes of a session, with everything that is there: what a fork bomb in somebody's shell leaves
    /// over is enough to start the gateway again.
    pub fn session_pids(&self) -> u64 {
        self.pids / 4 * 3
    }

    /// How much of `wanted` bytes a private `/tmp` gets. What is in it is memory of the agent's: half is left,
    /// or no process could live beside a full one.
    pub fn tmp_bytes(&self, wanted: u64) -> u64 {
        wanted.min(self.memory_bytes / 2)
    }
}

/// Where limits are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hierarchy {
    /// cgroup v2.
    V2,
    /// cgroup v1, as a rule beside a v2 without controllers.
    V1Hybrid,
    /// No control group.
    None,
}

impl std::fmt::Display for Hierarchy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V2 => "cgroup v2",
            Self::V1Hybrid => "cgroup v1",
            Self::None => "no cgroup",
        })
    }
}

/// What is in force, read back from the kernel; `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// By what.
    pub hierarchy: Hierarchy,
    /// The control group on the host, as the kernel names it in its log; `None` without one.
    pub group: Option<String>,
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Processor time, in thousandths of one.
    pub cpu_milli: Option<u64>,
    /// Largest file, in bytes.
    pub file_bytes: Option<u64>,
    /// What should be in force and is not, and why.
    pub missing: Vec<String>,
}

/// What a sandbox has taken, by the kernel's count. What the host does not count is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Memory now, in bytes.
    pub memory_bytes: Option<u64>,
    /// The most that it ever was, in bytes.
    pub memory_peak_bytes: Option<u64>,
    /// Processes that were killed because memory was used up, since the sandbox was made.
    pub oom_kills: Option<u64>,
    /// Processes and threads now.
    pub pids: Option<u64>,
    /// Processes that could not be started because of their number, since the sandbox was made.
    pub pids_refused: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_has_a_default_and_no_more_than_the_host_has() {
        let amounts = Limits::default().amounts(16 << 30);
        assert_eq!((amounts.memory_bytes, amounts.pids), (12 << 30, 4096));
        assert_eq!((amounts.cpu_milli, amounts.file_bytes), (None, 64 << 30));
        assert_eq!(amounts.tmp_bytes(2 << 30), 2 << 30);
        let limits = Limits { memory_bytes: Some(1 << 30), pids: Some(64), ..Limits::default() };
        let amounts = limits.amounts(16 << 30);
        assert_eq!((amounts.tmp_bytes(2 << 30), amounts.session_pids()), (512 << 20, 48));
    }

    #[test]
    fn limits_that_no_sandbox_could_live_with_are_named() {
        assert_eq!(Limits::default().check(), Ok(()));
        let memory = Limits { memory_bytes: Some(4096), ..Limits::default() };
        assert_eq!(
            memory.check().unwrap_err().to_string(),
            "memory in bytes of 4096 is too little: the least is 67108864"
        );
        for limits in [
            Limits { memory_bytes: Some(u64::MAX), ..Limits::default() },
            Limits { pids: Some(0), ..Limits::default() },
            Limits { pids: Some(u64::MAX), ..Limits::default() },
            Limits { cpu_milli: Some(9), ..Limits::default() },
            Limits { file_bytes: Some(0), ..Limits::default() },
        ] {
            assert!(limits.check().is_err(), "{limits:?}");
        }
    }

    #[test]
    fn records_of_before_have_no_limits_and_are_read() {
        assert_eq!(serde_json::from_str::<Limits>("{}").unwrap(), Limits::default());
        assert_eq!(serde_json::from_str::<Limits>(r#"{"pids":7}"#).unwrap().pids, Some(7));
    }
}
