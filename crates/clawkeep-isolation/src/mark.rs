//! By what the processes of a sandbox without a process-id namespace are known, however they came to be: a number in
//! the hard limit of a resource that no kernel has looked at since 2.4.25 (RLIMIT_LOCKS, setrlimit(2)). It goes over
//! to every process that comes from one that has it; nobody can raise it without CAP_SYS_RESOURCE, and the seccomp
//! program refuses to lower it. Whoever looks reads it in `/proc/PID/limits`.

use std::fs::{self, DirEntry};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getpid, getrlimit, pidfd_open, pidfd_send_signal, setrlimit,
};
use serde::{Deserialize, Serialize};

use crate::init::session_in;
use crate::procself::Status;
use crate::spec::{ID_RANGE, IdMap};

/// Its file in a sandbox's run directory: there from before the first process until nothing of it is left.
const FILE: &str = "init.mark";

/// How the line of this limit begins (proc_pid_limits(5)).
const LINE: &str = "Max file locks";

/// How long processes get to be gone after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);

/// The mark of one sandbox. It counts on processes of its users alone: others can put it on what they start, and be it
/// a program with rights that they have not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    number: u64,
    /// The first uid of the host that its processes have, and how many there are.
    uids: (u32, u32),
}

impl Mark {
    /// A new one, which nobody else has: 62 random bits.
    pub fn new(ids: IdMap) -> io::Result<Self> {
        let mut bytes = [0_u8; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let uids = match ids {
            IdMap::Range { base } => (base, ID_RANGE),
            IdMap::Single { uid, .. } => (uid, 1),
        };
        Ok(Self { number: u64::from_ne_bytes(bytes) >> 2 | 1, uids })
    }

    /// That of the sandbox of this run directory, if it has one.
    pub fn of(run: &Path) -> io::Result<Option<Self>> {
        match fs::read_to_string(run.join(FILE)) {
            Ok(text) => match read(&text) {
                Some(mark) => Ok(Some(mark)),
                None => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{FILE} holds no mark"))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Note it, before anything has it.
    pub fn note(self, run: &Path) -> io::Result<()> {
        let Self { number, uids: (first, count) } = self;
        fs::write(run.join(FILE), format!("{number} {first} {count}\n"))
    }

    /// Nothing has it any more.
    pub fn forget(run: &Path) -> io::Result<()> {
        match fs::remove_file(run.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Put it on this process, for ever, and on all that comes from it.
    pub fn put(self) -> io::Result<()> {
        let limit = Rlimit { current: Some(self.number), maximum: Some(self.number) };
        setrlimit(Resource::Locks, limit)?;
        if getrlimit(Resource::Locks) == limit {
            return Ok(());
        }
        Err(io::Error::other("the mark of its sandbox was not taken"))
    }

    /// SIGKILL to all that have it, but for those of these sessions, and wait a moment for the end of one. How many
    /// there were; one that has ended and was not waited for is none.
    pub fn kill_but(self, sessions: &[i32]) -> io::Result<u32> {
        let found = self.bearers(sessions)?;
        for (_, pidfd) in &found {
            match pidfd_send_signal(pidfd, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut ends: Vec<_> = found.iter().map(|(_, pidfd)| PollFd::new(pidfd, PollFlags::IN)).collect();
        if !ends.is_empty() {
            // The first end wakes us; the next look is at all of them.
            let _ = poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 }));
        }
        Ok(u32::try_from(found.len()).unwrap_or(u32::MAX))
    }

    /// The same until nothing has it.
    ///
    /// # Errors
    /// Something would not die; what the system said.
    pub fn end_all(self) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.kill_but(&[])? {
                0 => return Ok(()),
                left if Instant::now() > until => {
                    let what = format!("{left} processes of the sandbox will not die");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, what));
                }
                _ => {}
            }
        }
    }

    fn is_of_its_users(self, pid: Pid) -> bool {
        let (first, count) = self.uids;
        let status = fs::read(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
        let real = Status(&String::from_utf8_lossy(&status)).ids("Uid").map(|ids| ids[0]);
        real.is_ok_and(|uid| uid.checked_sub(first).is_some_and(|above| above < count))
    }

    fn bearers(self, spared: &[i32]) -> io::Result<Vec<(Pid, OwnedFd)>> {
        let mut found = Vec::new();
        let pid = |entry: DirEntry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw);
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = pid(entry?).filter(|pid| *pid != getpid()) else { continue };
            let number = pid.as_raw_nonzero();
            // Without one it went in between.
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            // Looked at after the handle was taken: it is of this process or of none.
            let (Ok(limits), Ok(stat)) = (
                fs::read_to_string(format!("/proc/{number}/limits")),
                fs::read(format!("/proc/{number}/stat")),
            ) else {
                continue;
            };
            let is_ours =
                hard_limit(&limits) == Some(self.number) && !has_ended(&stat) && self.is_of_its_users(pid);
            if is_ours && session_in(&stat).is_none_or(|session| !spared.contains(&session)) {
                found.push((pid, pidfd));
            }
        }
        Ok(found)
    }
}

/// What [`Mark::note`] has written.
fn read(text: &str) -> Option<Mark> {
    let mut words = text.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let uids = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    words.next().is_none().then_some(Mark { number, uids })
}

/// The hard limit in the text of a `/proc/PID/limits`; `None` for none, or where there is no such line.
fn hard_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(LINE))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Whether this stat is of a process that has ended (field 3, proc_pid_stat(5)).
fn has_ended(stat: &[u8]) -> bool {
    let after_name = stat.iter().rposition(|byte| *byte == b')').map_or(0, |at| at + 1);
    matches!(stat[after_name..].trim_ascii_start().first(), None | Some(b'Z' | b'X'))
}

/// Whether this host's /proc shows a process to others of its user: else what the agent started could not be found
/// again (proc(5), `hidepid`).
pub fn proc_shows_all(mounts: &str) -> bool {
    let of_proc = mounts.lines().filter(|line| line.split(' ').nth(1) == Some("/proc"));
    let options = of_proc.filter_map(|line| line.split(' ').nth(3)).next_back().unwrap_or("");
    options.split(',').all(|option| matches!(option.strip_prefix("hidepid="), None | Some("0" | "off")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units     \n\
Max processes             31841                31841                processes \n\
Max file locks            4611686018427387904  4611686018427387905  locks     \n\
Max pending signals       31841                31841                signals   \n";

    #[test]
    fn the_mark_is_read_where_the_kernel_writes_it() {
        assert_eq!(hard_limit(LIMITS), Some(4_611_686_018_427_387_905));
        assert_eq!(
            hard_limit("Max file locks            unlimited            unlimited            locks"),
            None
        );
        assert_eq!(hard_limit(""), None);
        assert!(has_ended(b"7 (a) Z) Z 1"));
        assert!(has_ended(b""));
        assert!(!has_ended(b"7 (Z) S 1"));
    }

    #[test]
    fn a_proc_that_hides_is_told() {
        assert!(proc_shows_all("proc /proc proc rw,nosuid 0 0\nx /tmp tmpfs hidepid=2 0 0\n"));
        assert!(proc_shows_all("proc /proc proc rw,hidepid=off 0 0"));
        for hides in ["hidepid=2", "hidepid=invisible", "rw,hidepid=1,gid=4", "hidepid=ptraceable"] {
            assert!(
                !proc_shows_all(&format!("proc /proc proc rw 0 0\nproc /proc proc {hides} 0 0")),
                "{hides}"
            );
        }
    }

    #[test]
    fn all_that_came_from_a_marked_process_ends_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Mark::of(dir.path()).unwrap(), None);
        let uid = rustix::process::getuid().as_raw();
        let mark = Mark::new(IdMap::Single { uid, gid: 0 }).unwrap();
        mark.note(dir.path()).unwrap();
        assert_eq!(Mark::of(dir.path()).unwrap(), Some(mark));
        let marked = |script: &str| {
            let limit = format!("--locks={0}:{0}", mark.number);
            Command::new("prlimit").args([&limit, "sh", "-c", script]).spawn().unwrap()
        };
        let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
        // What has left its parent and its session is found too.
        let mut child = marked("setsid setsid sleep 1000 & exec sleep 1000");
        testkit::wait_until(Duration::from_secs(60), "both to be there", || {
            (mark.bearers(&[]).unwrap().len() == 2).then_some(())
        });
        let own = child.id() as i32;
        let of_own = session_in(&fs::read(format!("/proc/{own}/stat")).unwrap()).unwrap();
        assert_eq!(mark.kill_but(&[of_own]).unwrap(), 1, "the one in another session");
        let elsewhere = Mark { uids: (uid + 1, 1), ..mark };
        assert_eq!(
            elsewhere.bearers(&[]).unwrap().len(),
            0,
            "of another user's processes none is the sandbox's"
        );
        mark.end_all().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        Mark::forget(dir.path()).unwrap();
        Mark::forget(dir.path()).unwrap();
        assert_eq!(Mark::of(dir.path()).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,300}", bytes: Vec<u8>) {
            let _ = (hard_limit(&text), has_ended(&bytes), proc_shows_all(&text), read(&text));
        }
    }
}
