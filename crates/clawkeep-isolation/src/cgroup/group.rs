use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::host::Host;
use super::{Amounts, Controller, Enforced, Limits, Seat, Usage, Version, read, v1, v2};

/// How the name of every control group of ours begins.
const PREFIX: &str = "clawkeep-";

/// Where there is the cpu controller, the gateway and the sessions each have a group below the sandbox's, with
/// an equal share of the processors' time: what somebody's shell does, a fork bomb too, leaves half to the
/// gateway. Memory and processes are counted for both together.
const PARTS: [&str; 2] = ["gateway", "session"];

/// How long what is in a group gets to be gone after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which sandbox a group is of: its run directory, by device and inode. Another installation's, be it in
/// another mount namespace under the same path, is another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id(String);

impl Id {
    pub fn of(run: impl AsFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(run)?;
        Ok(Self(format!("-{:x}.{:x}", stat.st_dev, stat.st_ino)))
    }
}

/// A limit that was asked for and cannot be set.
#[derive(Debug)]
pub struct Refused(pub String);

/// The control group of one sandbox; in as many directories as the host has hierarchies, or in none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    seats: Vec<Seat>,
}

impl Cgroup {
    /// Make it, empty, with its limits. What is left of an earlier one of the same sandbox is removed first.
    /// Limits that were not asked for are left out where the host cannot keep them.
    pub(crate) fn create(
        host: &Host,
        (name, id): (&str, &Id),
        asked: &Limits,
        amounts: &Amounts,
    ) -> Result<Self, Refused> {
        if let Some(why) = host.refusal(asked) {
            return Err(Refused(why));
        }
        let mut group = Self { seats: Vec::new() };
        let group_name = format!("{PREFIX}{name}{}", id.0);
        for base in &host.seats {
            let (amount, asked) = match base.controller {
                Controller::Memory => (Some(amounts.memory_bytes), asked.memory_bytes.is_some()),
                Controller::Pids => (Some(amounts.pids), asked.pids.is_some()),
                Controller::Cpu => (amounts.cpu_milli, asked.cpu_milli.is_some()),
            };
            let seat = Seat { dir: base.dir.join(&group_name), ..base.clone() };
            if amount.is_none()
                && base.version == Version::V2
                && !v2::is_passed_on(&base.dir, base.controller)
            {
                // Nobody asked for it: the host's other groups are spared the controller.
                continue;
            }
            match group.seat(base, &seat, amount) {
                Ok(()) => group.seats.push(seat),
                Err(error) => {
                    if !group.seats.iter().any(|other| other.dir == seat.dir) {
                        // Nothing can have joined it.
                        let _ = remove(&seat);
                    }
                    if asked {
                        // The reason to refuse is the one that counts.
                        let _ = group.remove();
                        let (what, dir) = (base.controller.name(), seat.dir.display());
                        return Err(Refused(format!("the limit of {what} cannot be set in {dir}: {error}")));
                    }
                }
            }
        }
        Ok(group)
    }

    fn seat(&self, base: &Seat, seat: &Seat, amount: Option<u64>) -> io::Result<()> {
        if base.version == Version::V2 {
            v2::pass_on(&base.dir, base.controller)?;
        }
        if !self.seats.iter().any(|other| other.dir == seat.dir) {
            match std::fs::create_dir(&seat.dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // Of a sandbox that ended with its daemon. Its counts are not ours.
                    remove(seat)?;
                    std::fs::create_dir(&seat.dir)?;
                }
                made => made?,
            }
        }
        if let Some(amount) = amount {
            seat.set(amount)?;
        }
        if seat.controller == Controller::Cpu {
            if seat.version == Version::V2 {
                v2::pass_on(&seat.dir, seat.controller)?;
            }
            PARTS.iter().try_for_each(|part| std::fs::create_dir(seat.dir.join(part)))?;
        }
        Ok(())
    }

    /// The group that a sandbox has, if it has one.
    pub(crate) fn find(host: &Host, id: &Id) -> Self {
        let ours = |name: &str| name.starts_with(PREFIX) && name.ends_with(&id.0);
        let seats = host.seats.iter().filter_map(|base| {
            let entries = std::fs::read_dir(&base.dir).ok()?;
            let name = entries.flatten().find(|entry| entry.file_name().to_str().is_some_and(ours))?;
            Some(Seat { dir: name.path(), ..base.clone() })
        });
        Self { seats: seats.collect() }
    }

    /// What a process writes `0` to in order to join, opened by us: whose right counts is the opener's.
    /// First all of the gateway's, then as many of the sessions'.
    pub(crate) fn doors(&self) -> io::Result<Vec<File>> {
        let door = |(part, seat): (&str, &Seat)| {
            let file = if seat.version == Version::V1 { v1::JOIN } else { v2::JOIN };
            let below = seat.dir.join(part);
            let dir = if below.is_dir() { &below } else { &seat.dir };
            File::options().write(true).open(dir.join(file))
        };
        PARTS.iter().flat_map(|part| self.dirs().map(move |seat| (*part, seat))).map(door).collect()
    }

    /// Each directory once, by one seat.
    fn dirs(&self) -> impl Iterator<Item = &Seat> {
        let first = |index: usize| !self.seats[..index].iter().any(|one| one.dir == self.seats[index].dir);
        self.seats.iter().enumerate().filter(move |(index, _)| first(*index)).map(|(_, seat)| seat)
    }

    /// Its directories on the host, one a hierarchy.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.dirs().map(|seat| seat.dir.as_path())
    }

    fn limit(&self, controller: Controller) -> Option<u64> {
        self.seats.iter().find(|seat| seat.controller == controller).and_then(Seat::limit)
    }

    /// What is in force on the processes of this group, for which this was asked.
    pub fn enforced(&self, asked: &Limits) -> Enforced {
        let host = Host::look();
        let amounts = asked.amounts(host.memory_bytes());
        let limits = Controller::ALL.map(|controller| (controller, self.limit(controller)));
        let lacking = |controller: Controller| {
            let why = host.why(controller).unwrap_or("it could not be set");
            match controller {
                Controller::Memory => format!("memory is not limited: {why}"),
                Controller::Pids => format!(
                    "the number of processes has no control group ({why}): it is limited by RLIMIT_NPROC alone"
                ),
                Controller::Cpu => format!("processor time is not limited: {why}"),
            }
        };
        let wanted = |controller| controller != Controller::Cpu || asked.cpu_milli.is_some();
        let mut missing: Vec<String> = limits
            .iter()
            .filter(|(controller, limit)| wanted(*controller) && limit.is_none())
            .map(|(controller, _)| lacking(*controller))
            .collect();
        let memory = self.seats.iter().find(|seat| seat.controller == Controller::Memory);
        let swap_is_limited = |seat: &Seat| match seat.version {
            Version::V1 => v1::swap_is_limited(&seat.dir),
            Version::V2 => v2::swap_is_limited(&seat.dir),
        };
        if memory.is_some_and(|seat| !swap_is_limited(seat)) && rustix::system::sysinfo().totalswap > 0 {
            missing.push("swap space is not limited: the kernel does not count it".into());
        }
        let [(_, memory_bytes), (_, pids), (_, cpu_milli)] = limits;
        let name = self.seats.first().and_then(|seat| Some(seat.dir.file_name()?.to_string_lossy().into()));
        Enforced {
            hierarchy: Host { seats: self.seats.clone(), lacks: Vec::new() }.hierarchy(),
            group: name,
            memory_bytes,
            // Every process of the agent has this one as well; no exec succeeds where it cannot be set.
            pids: Some(pids.map_or(amounts.pids, |pids| pids.min(amounts.pids))),
            cpu_milli,
            file_bytes: Some(amounts.file_bytes),
            missing,
        }
    }

    /// What was taken so far. A few small reads; nothing is counted for it.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for seat in &self.seats {
            match seat.version {
                Version::V1 => v1::usage(&seat.dir, seat.controller, &mut usage),
                Version::V2 => v2::usage(&seat.dir, seat.controller, &mut usage),
            }
        }
        usage
    }

    /// Remove it, and end whatever is still in it.
    ///
    /// # Errors
    /// What the system said; something would not die.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.dirs().try_for_each(remove)
    }
}

fn remove(seat: &Seat) -> io::Result<()> {
    let dirs = PARTS.iter().map(|part| seat.dir.join(part)).chain([seat.dir.clone()]);
    dirs.map(|dir| Seat { dir, ..seat.clone() }).try_for_each(|seat| remove_one(&seat))
}

fn remove_one(seat: &Seat) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match std::fs::remove_dir(&seat.dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // What is in it is dying, or must.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => kill(seat)?,
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("{}: {error}", seat.dir.display())));
            }
        }
    }
}

/// Kill what is in the group and wait a moment for the end of it.
fn kill(seat: &Seat) -> io::Result<()> {
    let members = || -> Vec<Pid> {
        let pids = read(&seat.dir, "cgroup.procs").unwrap_or_default();
        // A pid of 0 is a process that our namespace cannot see.
        pids.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
    };
    let handle = |pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?));
    let handles: Vec<_> = members().into_iter().filter_map(handle).collect();
    // In the group after the handle was taken: it is of a process of the group, and not of a later one that
    // has its pid.
    let still = members();
    let at_once = seat.version == Version::V2 && v2::kill(&seat.dir).is_ok();
    for (_, pidfd) in handles.iter().filter(|(pid, _)| !at_once && still.contains(pid)) {
        // One that is gone is what is wanted; one that lives is tried again.
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
    }
    // The first death wakes us; the timeout is for members that no handle is of.
    let mut ends: Vec<_> = handles.iter().map(|(_, pidfd)| PollFd::new(pidfd, PollFlags::IN)).collect();
    match poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 2_000_000 })) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::cgroup::mounts;

    fn put(group: &Cgroup, child: &Child) {
        for mut door in group.doors().unwrap() {
            // In both parts one after the other: the second is where it stays.
            io::Write::write_all(&mut door, child.id().to_string().as_bytes()).unwrap();
        }
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    fn id() -> (tempfile::TempDir, Id) {
        let dir = tempfile::tempdir().unwrap();
        let id = Id::of(File::open(dir.path()).unwrap()).unwrap();
        (dir, id)
    }

    #[test]
    fn a_group_is_made_with_its_limits_found_again_and_removed_with_what_is_in_it() {
        let host = Host::look();
        if host.controllers().len() < 3 {
            eprintln!("SKIPPED: a_group_is_made needs all three controllers: {host:?}");
            return;
        }
        let (_dir, id) = id();
        let asked = Limits { memory_bytes: Some(100 << 20), cpu_milli: Some(1500), ..Limits::default() };
        let make = || Cgroup::create(&host, ("box", &id), &asked, &asked.amounts(1 << 30)).unwrap();
        let group = make();
        assert_eq!(Cgroup::find(&host, &id), group);
        let enforced = group.enforced(&asked);
        assert_eq!(enforced.hierarchy, host.hierarchy());
        assert_eq!((enforced.memory_bytes, enforced.pids), (Some(100 << 20), Some(4096)));
        assert_eq!((enforced.cpu_milli, enforced.missing), (Some(1500), vec![]));
        let name = enforced.group.unwrap();
        assert!(name.starts_with("clawkeep-box-"), "{name}");
        // As a crash leaves it: the next one of the same sandbox is another, and empty.
        let mut child = sleeper();
        put(&group, &child);
        assert_eq!(group.usage().pids, Some(1));
        let next = make();
        assert!(!child.wait().unwrap().success());
        assert_eq!(next.usage().pids, Some(0));
        assert_eq!(next.usage().oom_kills, Some(0));
        assert!(next.paths().all(Path::exists));
        next.remove().unwrap();
        assert!(!next.paths().any(Path::exists));
        assert_eq!(Cgroup::find(&host, &id).seats, []);
        // Twice is once.
        next.remove().unwrap();
        // A limit that an earlier one had, and this one has not.
        make();
        let none = Limits::default();
        let without = Cgroup::create(&host, ("box", &id), &none, &none.amounts(1 << 30)).unwrap();
        assert_eq!(Cgroup::find(&host, &id).enforced(&none).cpu_milli, None);
        without.remove().unwrap();
    }

    #[test]
    fn a_v2_group_is_killed_whole_and_removed() {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let v2 = mounts::hierarchies(&mountinfo).into_iter().find(|one| one.controllers.is_none());
        let Some(dir) = v2.map(|v2| v2.mount.join(format!("clawkeep-test-{}", std::process::id()))) else {
            eprintln!("SKIPPED: a_v2_group_is_killed_whole_and_removed needs a mounted cgroup2");
            return;
        };
        // Even where its controllers are with v1, as on a hybrid host.
        if let Err(error) = std::fs::create_dir(&dir) {
            eprintln!("SKIPPED: a_v2_group_is_killed_whole_and_removed needs root: {error}");
            return;
        }
        let seat = Seat { controller: Controller::Pids, version: Version::V2, dir };
        let group = Cgroup { seats: vec![seat.clone()] };
        let mut children = [sleeper(), sleeper()];
        children.iter().for_each(|child| put(&group, child));
        assert_eq!(group.doors().unwrap().len(), 2, "one of the gateway's, one of the sessions'");
        group.remove().unwrap();
        assert!(!seat.dir.exists());
        children.iter_mut().for_each(|child| assert!(!child.wait().unwrap().success()));
    }

    #[test]
    fn what_the_host_cannot_keep_is_refused_when_asked_for_and_told_when_not() {
        let none = Host { seats: Vec::new(), lacks: vec![(Controller::Memory, "there is none".into())] };
        let (_dir, id) = id();
        let make = |asked: Limits| Cgroup::create(&none, ("box", &id), &asked, &asked.amounts(1 << 30));
        let asked = Limits { memory_bytes: Some(1 << 30), ..Limits::default() };
        let Refused(why) = make(asked).unwrap_err();
        assert_eq!(why, "the limit of memory cannot be enforced: there is none");
        let group = make(Limits::default()).unwrap();
        let enforced = group.enforced(&Limits::default());
        assert_eq!((enforced.memory_bytes, enforced.pids), (None, Some(4096)));
        assert_eq!(enforced.hierarchy, crate::cgroup::Hierarchy::None);
        assert_eq!(enforced.missing.len(), 2, "{enforced:?}");
        assert_eq!(group.usage(), Usage::default());
    }

    #[test]
    fn a_limit_that_cannot_be_set_leaves_nothing_behind() {
        // A directory of no kernel's: the files that limits are written to are missing.
        let fake = tempfile::tempdir().unwrap();
        let seat = |controller| Seat { controller, version: Version::V1, dir: fake.path().to_owned() };
        let seats = vec![seat(Controller::Memory), seat(Controller::Pids)];
        let host = Host { seats, lacks: Vec::new() };
        let (_dir, id) = id();
        let make = |asked: Limits| Cgroup::create(&host, ("box", &id), &asked, &asked.amounts(1 << 30));
        let Refused(why) = make(Limits { pids: Some(100), ..Limits::default() }).unwrap_err();
        assert!(why.starts_with("the limit of pids cannot be set in "), "{why}");
        assert_eq!(make(Limits::default()).unwrap().seats, []);
        assert_eq!(std::fs::read_dir(fake.path()).unwrap().count(), 0);
    }
}
