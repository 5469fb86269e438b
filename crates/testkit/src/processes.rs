//! Processes as /proc shows them (proc_pid_stat(5)), and which of them belong to the calling test.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// One process. A pid alone names nothing; pid and start time together do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its pid in the namespace of the /proc that was read.
    pub pid: i32,
    /// Field 22 of its stat: clock ticks since boot.
    pub start_time: u64,
    /// Its parent's pid.
    pub parent: i32,
    /// One letter (`R`, `S`, `Z` ...).
    pub state: char,
    /// Its command name, at most 15 bytes.
    pub command: String,
    /// Fields 14 and 15: what its threads have run so far, in clock ticks (a hundred a second).
    pub ticks: u64,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({}, state {}, child of {})", self.pid, self.command, self.state, self.parent)
    }
}

/// One process as it is now, `None` when there is none.
pub fn process(pid: i32) -> Option<Process> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&stat))
}

/// Start time of a process: with its pid, its identity.
pub fn start_time(pid: i32) -> Option<u64> {
    process(pid).map(|process| process.start_time)
}

/// The command may hold anything, blanks and brackets too, so the fields are counted from its last bracket.
fn parse_stat(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    let (command, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Process {
        pid: pid.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        state: fields.first()?.chars().next()?,
        command: command.to_owned(),
        ticks: fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?,
    })
}

/// A process that can be mistaken for no other, however soon its pid is used again (pidfd_open(2)).
#[derive(Debug)]
pub struct Handle {
    /// What it was when it was looked at.
    pub process: Process,
    pidfd: OwnedFd,
}

impl Handle {
    /// A handle on the process that has this pid now and lives.
    pub fn of(pid: i32) -> Option<Self> {
        let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        let process = process(pid)?;
        let handle = Self { process, pidfd };
        // Alive after the look: so the look was at this one.
        handle.lives().then_some(handle)
    }

    /// Whether it has not ended yet.
    pub fn lives(&self) -> bool {
        !self.ends_within(Duration::ZERO)
    }

    /// Wait for its end; false when it does not come.
    ///
    /// # Panics
    /// When the kernel refuses to wait.
    pub fn ends_within(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&left)) {
                Ok(ended) => return ended == 1,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("wait for {}: {error}", self.process),
            }
        }
    }

    /// SIGKILL. False when it had ended already.
    pub fn kill(&self) -> bool {
        pidfd_send_signal(&self.pidfd, Signal::KILL).is_ok()
    }
}

/// All processes at one moment.
#[derive(Debug, Clone)]
pub struct Processes(BTreeMap<i32, Process>);

impl Processes {
    /// All processes now. Makes the caller a subreaper first (prctl(2) PR_SET_CHILD_SUBREAPER): whatever its
    /// descendants orphan from now on stays its descendant, so nothing can hide by outliving its parent, and
    /// what other tests do at the same time is told apart. This needs one process a test, as nextest does.
    ///
    /// # Panics
    /// When /proc cannot be read.
    pub fn snapshot() -> Self {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("be a subreaper");
        let entries = std::fs::read_dir("/proc").expect("read /proc");
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        Self(pids.filter_map(process).map(|process| (process.pid, process)).collect())
    }

    /// One of them.
    pub fn get(&self, pid: i32) -> Option<&Process> {
        self.0.get(&pid)
    }

    /// The children of one of them.
    pub fn children(&self, pid: i32) -> impl Iterator<Item = &Process> {
        self.0.values().filter(move |process| process.parent == pid)
    }

    /// The descendants of the calling process in this snapshot.
    pub fn descendants(&self) -> impl Iterator<Item = &Process> {
        let own = own_pid();
        self.0.values().filter(move |process| self.descends(process, own))
    }

    /// Descendants of the caller that are there now and were not in `before`. Not counted: dead children of
    /// the caller itself, which it has to wait for and nobody else can.
    pub fn leaked_since(before: &Self) -> Vec<Process> {
        let now = Self::snapshot();
        let own = own_pid();
        now.descendants()
            .filter(|process| before.0.get(&process.pid).is_none_or(|p| p.start_time != process.start_time))
            .filter(|process| !(process.state == 'Z' && process.parent == own))
            .cloned()
            .collect()
    }

    fn descends(&self, process: &Process, ancestor: i32) -> bool {
        let mut at = process.parent;
        // A chain cannot be longer than the table; a snapshot that was torn by reused pids could be a ring.
        for _ in 0..self.0.len() {
            match at {
                _ if at == ancestor => return true,
                0 => return false,
                _ => at = self.0.get(&at).map_or(0, |parent| parent.parent),
            }
        }
        false
    }
}

/// The namespaces of a process and those that its open files refer to, like `net:[4026531840]`.
pub(crate) fn namespaces_of(pid: i32, into: &mut BTreeSet<String>) {
    let base = Path::new("/proc").join(pid.to_string());
    for links in ["ns", "fd"] {
        let entries = std::fs::read_dir(base.join(links)).into_iter().flatten().flatten();
        for target in entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()) {
            let text = target.to_string_lossy();
            let kind = text.split_once(":[").map_or("", |(kind, _)| kind);
            if ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"].contains(&kind) {
                into.insert(text.into_owned());
            }
        }
    }
}

pub(crate) fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;
    use crate::wait_until;

    #[test]
    fn a_command_name_cannot_move_the_fields() {
        let stat = "7 (a) R 1 (b) S 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 4242 23";
        let process = parse_stat(stat).unwrap();
        assert_eq!((process.command.as_str(), process.state, process.parent), ("a) R 1 (b", 'S', 3));
        assert_eq!(process.start_time, 4242);
        assert_eq!(parse_stat("7 (a) S 3"), None);
    }

    #[test]
    fn a_handle_is_of_one_process_and_ends_with_it() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id().cast_signed();
        let handle = Handle::of(pid).unwrap();
        assert_eq!(Some(handle.process.start_time), start_time(pid));
        assert!(handle.lives() && !handle.ends_within(Duration::from_millis(10)));
        assert!(handle.kill());
        assert!(handle.ends_within(Duration::from_secs(20)));
        // Dead and not yet buried.
        assert!(Handle::of(pid).is_none());
        child.wait().unwrap();
        assert!(!handle.kill());
    }

    #[test]
    fn an_orphan_is_found_and_a_reaped_child_is_not() {
        let before = Processes::snapshot();
        // The shell leaves a cat behind that waits on our pipe, and ends.
        let mut shell = Command::new("sh")
            .args(["-c", "exec 3<&0; cat <&3 >/dev/null & exit 0"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pipe = shell.stdin.take().unwrap();
        assert!(shell.wait().unwrap().success());
        let orphan = wait_until(Duration::from_secs(20), "the orphan is ours", || {
            Processes::leaked_since(&before).into_iter().find(|p| p.command == "cat" && p.parent == own_pid())
        });
        assert_eq!(start_time(orphan.pid), Some(orphan.start_time));
        drop(pipe);
        wait_until(Duration::from_secs(20), "the orphan ends with its pipe", || {
            (Processes::leaked_since(&before).is_empty()).then_some(())
        });
        let pid = rustix::process::Pid::from_raw(orphan.pid).unwrap();
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
    }
}
