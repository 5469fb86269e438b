//! The files of cgroup v1 (kernel documentation, admin-guide/cgroup-v1).

use std::io;
use std::path::Path;

use super::{Controller, Usage, keyed, number, write};

/// What a process with one thread writes `0` to in order to join.
pub const JOIN: &str = "tasks";

/// One period of the scheduler's bandwidth control, in microseconds.
const PERIOD: u64 = 100_000;

/// The kernel's word for no limit is a number of this size: the greatest one in whole pages.
const UNLIMITED: u64 = 1 << 62;

pub fn set(dir: &Path, controller: Controller, amount: u64) -> io::Result<()> {
    match controller {
        Controller::Memory => {
            write(dir, "memory.limit_in_bytes", &amount.to_string())?;
            // Memory and swap together: no more than memory alone. A kernel that does not count swap has no
            // such file, and that is told where the limit is read back.
            match write(dir, "memory.memsw.limit_in_bytes", &amount.to_string()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        }
        Controller::Pids => write(dir, "pids.max", &amount.to_string()),
        Controller::Cpu => {
            write(dir, "cpu.cfs_period_us", &PERIOD.to_string())?;
            write(dir, "cpu.cfs_quota_us", &(amount * PERIOD / 1000).to_string())
        }
    }
}

pub fn limit(dir: &Path, controller: Controller) -> Option<u64> {
    match controller {
        Controller::Memory => number(dir, "memory.limit_in_bytes").filter(|bytes| *bytes < UNLIMITED),
        Controller::Pids => number(dir, "pids.max"),
        Controller::Cpu => {
            // -1, no limit, is no number of ours.
            let (quota, period) = (number(dir, "cpu.cfs_quota_us")?, number(dir, "cpu.cfs_period_us")?);
            (quota * 1000).checked_div(period)
        }
    }
}

/// Whether swap is limited with the memory.
pub fn swap_is_limited(dir: &Path) -> bool {
    number(dir, "memory.memsw.limit_in_bytes").is_some_and(|bytes| bytes < UNLIMITED)
}

pub fn usage(dir: &Path, controller: Controller, usage: &mut Usage) {
    match controller {
        Controller::Memory => {
            usage.memory_bytes = number(dir, "memory.usage_in_bytes");
            usage.memory_peak_bytes = number(dir, "memory.max_usage_in_bytes");
            usage.oom_kills = keyed(dir, "memory.oom_control", "oom_kill");
        }
        Controller::Pids => {
            usage.pids = number(dir, "pids.current");
            usage.pids_refused = keyed(dir, "pids.events", "max");
        }
        Controller::Cpu => {}
    }
}
