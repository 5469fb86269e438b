//! The files of cgroup v2 (kernel documentation, admin-guide/cgroup-v2).

use std::io;
use std::path::Path;

use super::{Controller, Usage, keyed, number, read, write};

/// What a process writes `0` to in order to join.
pub const JOIN: &str = "cgroup.procs";

/// One period of the scheduler's bandwidth control, in microseconds.
const PERIOD: u64 = 100_000;

/// Whether the groups below this one can have the controller as things stand.
pub fn is_passed_on(dir: &Path, controller: Controller) -> bool {
    has(dir, "cgroup.subtree_control", controller)
}

/// Whether this group has the controller.
pub fn is_available(dir: &Path, controller: Controller) -> bool {
    has(dir, "cgroup.controllers", controller)
}

fn has(dir: &Path, file: &str, controller: Controller) -> bool {
    read(dir, file).is_some_and(|list| list.split_whitespace().any(|have| have == controller.name()))
}

/// Whether this group holds processes itself and is not the root of all: then the kernel passes no controller
/// on to groups below it.
pub fn holds_processes(dir: &Path) -> bool {
    dir.join("cgroup.type").exists() && read(dir, "cgroup.procs").is_some_and(|pids| !pids.trim().is_empty())
}

/// Let the groups below have the controller.
pub fn pass_on(dir: &Path, controller: Controller) -> io::Result<()> {
    if is_passed_on(dir, controller) {
        return Ok(());
    }
    write(dir, "cgroup.subtree_control", &format!("+{}", controller.name()))
}

pub fn set(dir: &Path, controller: Controller, amount: u64) -> io::Result<()> {
    match controller {
        Controller::Memory => {
            write(dir, "memory.max", &amount.to_string())?;
            // A kernel that does not count swap has no such file.
            match write(dir, "memory.swap.max", "0") {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        }
        Controller::Pids => write(dir, "pids.max", &amount.to_string()),
        Controller::Cpu => write(dir, "cpu.max", &format!("{} {PERIOD}", amount * PERIOD / 1000)),
    }
}

pub fn limit(dir: &Path, controller: Controller) -> Option<u64> {
    match controller {
        // `max`, no limit, is no number.
        Controller::Memory => number(dir, "memory.max"),
        Controller::Pids => number(dir, "pids.max"),
        Controller::Cpu => {
            let text = read(dir, "cpu.max")?;
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.parse::<u64>().ok()? * 1000).checked_div(period.parse().ok()?)
        }
    }
}

/// Whether swap is limited with the memory.
pub fn swap_is_limited(dir: &Path) -> bool {
    number(dir, "memory.swap.max").is_some()
}

pub fn usage(dir: &Path, controller: Controller, usage: &mut Usage) {
    match controller {
        Controller::Memory => {
            usage.memory_bytes = number(dir, "memory.current");
            usage.memory_peak_bytes = number(dir, "memory.peak");
            usage.oom_kills = keyed(dir, "memory.events", "oom_kill");
        }
        Controller::Pids => {
            usage.pids = number(dir, "pids.current");
            usage.pids_refused = keyed(dir, "pids.events", "max");
        }
        Controller::Cpu => {}
    }
}

/// Kill all that is in it, at once (Linux 5.14).
pub fn kill(dir: &Path) -> io::Result<()> {
    write(dir, "cgroup.kill", "1")
}

/// Directories of files as the kernel has them; not the kernel, which on this machine may be v1.
#[cfg(test)]
mod tests {
    use super::*;

    fn fake(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in files {
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        dir
    }

    #[test]
    fn limits_are_written_and_read_back_in_the_fake_group() {
        // Empty and not as the kernel has them at first: a plain file does not forget a longer text.
        let files = ["memory.max", "memory.swap.max", "pids.max", "cpu.max"].map(|file| (file, ""));
        let fake = fake(&files);
        let dir = fake.path();
        for controller in Controller::ALL {
            assert_eq!(limit(dir, controller), None);
        }
        assert!(!swap_is_limited(dir));
        set(dir, Controller::Memory, 1 << 30).unwrap();
        set(dir, Controller::Pids, 77).unwrap();
        set(dir, Controller::Cpu, 1500).unwrap();
        assert_eq!(read(dir, "cpu.max").unwrap(), "150000 100000");
        let limits = Controller::ALL.map(|controller| limit(dir, controller));
        assert_eq!(limits, [Some(1 << 30), Some(77), Some(1500)]);
        assert!(swap_is_limited(dir));
    }

    #[test]
    fn no_limit_is_no_number() {
        let fake = fake(&[("memory.max", "max\n"), ("pids.max", "max\n"), ("cpu.max", "max 100000\n")]);
        assert_eq!(Controller::ALL.map(|controller| limit(fake.path(), controller)), [None; 3]);
    }

    #[test]
    fn a_limit_that_the_kernel_does_not_know_is_an_error_and_makes_no_file() {
        let fake = fake(&[]);
        for controller in Controller::ALL {
            assert_eq!(set(fake.path(), controller, 1000).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        assert_eq!(std::fs::read_dir(fake.path()).unwrap().count(), 0);
    }

    #[test]
    fn counts_are_read_by_their_whole_names() {
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 9\n";
        let fake = fake(&[
            ("memory.events", events),
            ("memory.current", "4096\n"),
            ("memory.peak", "8192\n"),
            ("pids.current", "5\n"),
            ("pids.events", "max 6\n"),
        ]);
        let mut found = Usage::default();
        Controller::ALL.iter().for_each(|controller| usage(fake.path(), *controller, &mut found));
        let pids = (found.pids, found.pids_refused);
        assert_eq!((found.oom_kills, found.memory_bytes, pids), (Some(2), Some(4096), (Some(5), Some(6))));
        assert_eq!(found.memory_peak_bytes, Some(8192));
    }

    #[test]
    fn a_fake_group_with_processes_passes_nothing_on() {
        let fake = fake(&[
            ("cgroup.controllers", "cpuset cpu memory pids\n"),
            ("cgroup.subtree_control", "memory\n"),
            ("cgroup.procs", "1\n"),
        ]);
        let dir = fake.path();
        // Without a type it is the root of all, which may.
        assert!(!holds_processes(dir));
        std::fs::write(dir.join("cgroup.type"), "domain\n").unwrap();
        assert!(holds_processes(dir));
        assert!(is_available(dir, Controller::Cpu) && !is_passed_on(dir, Controller::Cpu));
        pass_on(dir, Controller::Memory).unwrap();
        assert_eq!(read(dir, "cgroup.subtree_control").unwrap(), "memory\n");
        pass_on(dir, Controller::Cpu).unwrap();
        assert_eq!(&read(dir, "cgroup.subtree_control").unwrap()[..4], "+cpu");
    }
}
