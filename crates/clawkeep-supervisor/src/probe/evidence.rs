//! Could it have answered? What the kernel says of a process that was silent, at the beginning of the silence and
//! at its end. All of it is about processes of an adversary, so it is bounded, and no word of theirs is used.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use clawkeep_isolation::start_time_in;
use rustix::fs::{Mode, OFlags};
use tokio::time::Instant;

use crate::identity;

/// Processes of a sandbox, and threads of them all, that are looked at.
const MAX_PROCESSES: usize = 512;
const MAX_THREADS: usize = 2048;

/// A file of these is shorter, in bytes.
const MAX_FILE: usize = 4096;

/// States of a process that is stopped: by a signal, by a debugger (proc_pid_stat(5)).
const STOPPED: [u8; 2] = [b'T', b't'];

/// What a thread has had of the processor since it began, in nanoseconds (`schedstat`: time on a processor, time of
/// waiting for one, the wait that it is in not counted).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Spent {
    ran: u64,
    waited: u64,
    /// Whether it runs, or waits for its turn.
    runnable: bool,
}

/// One look at a process and all that came from it.
#[derive(Debug, Clone)]
pub(super) struct Look {
    at: Instant,
    pid: i32,
    start_time: u64,
    state: u8,
    threads: HashMap<(i32, i32), Spent>,
    /// All time in which a process of the host waited for a processor, in microseconds.
    pressure: Option<u64>,
}

/// What a silence was like for the one who was silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// One letter, as in `stat` (proc_pid_stat(5)).
    pub state: char,
    /// How long it was silent.
    pub silent: Duration,
    /// What all of its threads together ran.
    pub ran: Duration,
    /// How long it had no processor, or no disk, while it needed one.
    pub starved: Duration,
}

impl Evidence {
    /// A stopped process serves nobody.
    pub(super) fn stopped(&self) -> bool {
        STOPPED.map(char::from).contains(&self.state)
    }

    /// The part of the silence in which it could have answered.
    pub(super) fn able(&self) -> Duration {
        self.silent.saturating_sub(self.starved)
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, silent, ran, starved } = self;
        if self.stopped() {
            return write!(f, "silent for {silent:.1?}, it is stopped");
        }
        write!(f, "silent for {silent:.1?}, ran {ran:.1?}, starved for {starved:.1?}, state {state}")
    }
}

/// Looks at processes of one sandbox, through its own /proc.
#[derive(Debug)]
pub(super) struct Eyes(OwnedFd);

impl Eyes {
    pub(super) fn new(proc: OwnedFd) -> Self {
        Self(proc)
    }

    /// Look at this process and its descendants. `None`: it is not there.
    pub(super) fn look(&self, pid: i32) -> Option<Look> {
        let proc = self.0.as_fd();
        let stat = read(proc, &format!("{pid}/stat"))?;
        let mut threads = HashMap::new();
        for member in self.family(pid) {
            spent(proc, member, &mut threads);
        }
        let pressure = std::fs::read_to_string("/proc/pressure/cpu").ok().and_then(|text| total(&text));
        let (state, _) = state_and_parent(&stat)?;
        let start_time = start_time_in(&stat)?;
        Some(Look { at: Instant::now(), pid, start_time, state, threads, pressure })
    }

    /// Whether this process is there, and stopped.
    pub(super) fn sees_stopped(&self, pid: i32) -> bool {
        stopped(self.0.as_fd(), pid)
    }

    /// What has become of it since that look. `None`: it is not there any more.
    pub(super) fn since(&self, before: &Look) -> Option<Evidence> {
        let now = self.look(before.pid)?;
        (now.start_time == before.start_time).then(|| between(before, &now))
    }

    /// The process and its descendants; init's, everybody's forefather, would be all, and do not count as its.
    fn family(&self, pid: i32) -> Vec<i32> {
        let mut family = vec![pid];
        if pid == 1 {
            return family;
        }
        let all: Vec<(i32, i32)> = identity::processes(self.0.as_fd())
            .into_iter()
            .take(MAX_PROCESSES)
            .filter_map(|pid| {
                Some((pid, state_and_parent(&read(self.0.as_fd(), &format!("{pid}/stat"))?)?.1))
            })
            .collect();
        let mut next = 0;
        while let Some(&parent) = family.get(next) {
            next += 1;
            // A table that was torn by reused pids could be a ring.
            let children = all.iter().filter(|(child, of)| *of == parent && !family.contains(child));
            let children: Vec<i32> = children.map(|(child, _)| *child).collect();
            family.extend(children);
        }
        family
    }
}

/// Whether a process is there, and stopped (by SIGSTOP, or by a debugger).
pub(crate) fn stopped(proc: BorrowedFd<'_>, pid: i32) -> bool {
    let state = read(proc, &format!("{pid}/stat")).and_then(|stat| state_and_parent(&stat));
    state.is_some_and(|(state, _)| STOPPED.contains(&state))
}

/// What lies between two looks.
fn between(before: &Look, now: &Look) -> Evidence {
    let silent = now.at.saturating_duration_since(before.at);
    let had = |key: &(i32, i32)| before.threads.get(key).copied().unwrap_or_default();
    let ran = |key: &(i32, i32), spent: &Spent| Duration::from_nanos(spent.ran.saturating_sub(had(key).ran));
    let waited = |key: &(i32, i32), spent: &Spent| match spent.runnable && had(key).runnable {
        // It may have been in this wait for long.
        true => silent.saturating_sub(ran(key, spent)),
        false => Duration::from_nanos(spent.waited.saturating_sub(had(key).waited)),
    };
    let longest = now.threads.iter().map(|(key, spent)| waited(key, spent)).max().unwrap_or_default();
    let all_ran = now.threads.iter().map(|(key, spent)| ran(key, spent));
    let all_ran = all_ran.fold(Duration::ZERO, |a, b| a.saturating_add(b));
    let main = (now.pid, now.pid);
    let main_ran = now.threads.get(&main).map(|spent| ran(&main, spent));
    let starved = match (main_ran, now.state) {
        // In the kernel, for a disk as a rule: it cannot answer, and could not be killed either.
        (_, b'D') => silent,
        // Waiting for its turn from beginning to end: that is counted only once it gets one.
        (Some(ran), b'R') if ran < silent / 100 => silent,
        (Some(_), _) => longest,
        // This kernel does not count. What the whole host waited is the next best.
        (None, _) => match (before.pressure, now.pressure) {
            (Some(before), Some(now)) => Duration::from_micros(now.saturating_sub(before)),
            // Nothing is known: not much can be concluded from one silence.
            _ => silent * 3 / 4,
        },
    };
    Evidence { state: now.state.into(), silent, ran: all_ran, starved: starved.min(silent) }
}

/// What every thread of a process has had.
fn spent(proc: BorrowedFd<'_>, pid: i32, into: &mut HashMap<(i32, i32), Spent>) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(tasks) = rustix::fs::openat(proc, format!("{pid}/task"), flags, Mode::empty()) else { return };
    for tid in identity::processes(tasks.as_fd()) {
        if into.len() >= MAX_THREADS {
            return;
        }
        let Some(text) = read(tasks.as_fd(), &format!("{tid}/schedstat")) else { continue };
        let mut numbers = std::str::from_utf8(&text).unwrap_or_default().split_ascii_whitespace();
        let mut number = || numbers.next().and_then(|number| number.parse::<u64>().ok());
        let stat = read(tasks.as_fd(), &format!("{tid}/stat"));
        let runnable = stat.and_then(|stat| state_and_parent(&stat)).is_some_and(|(state, _)| state == b'R');
        if let (Some(ran), Some(waited)) = (number(), number()) {
            into.insert((pid, tid), Spent { ran, waited, runnable });
        }
    }
}

fn read(dir: BorrowedFd<'_>, path: &str) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, path, flags, Mode::empty()).ok()?;
    let mut bytes = vec![0; MAX_FILE];
    let length = rustix::io::read(&file, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

/// Fields 3 and 4 of a stat: the name before them may hold anything.
fn state_and_parent(stat: &[u8]) -> Option<(u8, i32)> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?.bytes().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

/// The total of the line `some` of a pressure file (the kernel's Documentation/accounting/psi.rst).
fn total(pressure: &str) -> Option<u64> {
    let some = pressure.lines().find(|line| line.starts_with("some "))?;
    some.rsplit_once("total=")?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use proptest::prelude::*;
    use rustix::process::{Pid, Signal, kill_process};
    use testkit::{pause, wait_until};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A child that is ended with the test.
    struct Running(Child);

    impl Running {
        fn sh(script: &str) -> Self {
            Self(Command::new("/bin/sh").args(["-c", script]).spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            self.0.id().cast_signed()
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn eyes() -> Eyes {
        Eyes::new(std::fs::File::open("/proc").unwrap().into())
    }

    #[test]
    fn tells_one_that_sleeps_from_one_that_runs_and_one_that_is_stopped() {
        let (sleeper, runner) = (Running::sh("exec sleep 600"), Running::sh("while :; do :; done"));
        let eyes = eyes();
        let (asleep, running) = (eyes.look(sleeper.pid()).unwrap(), eyes.look(runner.pid()).unwrap());
        let (slept, ran) = wait_until(LONG, "one of them to run for a while", || {
            let ran = eyes.since(&running).unwrap();
            (ran.ran > Duration::from_millis(300)).then(|| (eyes.since(&asleep).unwrap(), ran))
        });
        // It may have begun late, and had to wait for that.
        assert!(slept.ran < Duration::from_millis(100), "{slept}");
        assert!(ran.starved <= ran.silent, "{ran}");
        assert!(!slept.stopped() && !ran.stopped());
        kill_process(Pid::from_raw(sleeper.pid()).unwrap(), Signal::STOP).unwrap();
        wait_until(LONG, "it to be stopped", || eyes.since(&asleep).unwrap().stopped().then_some(()));
        assert!(eyes.since(&asleep).unwrap().to_string().contains("it is stopped"));
    }

    #[test]
    fn one_that_must_share_its_processor_is_starved_by_as_much_and_so_is_its_parent() {
        // All on one processor: four that take it, and one that wants it, for a parent that waits for it.
        let ours = rustix::thread::sched_getaffinity(None).unwrap();
        let cpu = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| ours.is_set(*cpu)).unwrap();
        let pinned = |script: &str| Running::sh(&format!("exec taskset -c {cpu} sh -c '{script}'"));
        let _others: Vec<_> = (0..4).map(|_| pinned("while :; do :; done")).collect();
        let parent = pinned("sh -c \"while :; do :; done\"; :");
        let eyes = eyes();
        wait_until(LONG, "the child to run", || (eyes.family(parent.pid()).len() == 2).then_some(()));
        let before = eyes.look(parent.pid()).unwrap();
        pause(Duration::from_secs(2));
        let evidence = eyes.since(&before).unwrap();
        assert!(evidence.starved > evidence.silent / 2, "{evidence}");
        // What came from it goes with it.
        for pid in eyes.family(parent.pid()).into_iter().skip(1) {
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        }
    }

    #[test]
    fn what_is_gone_or_another_by_now_gives_nothing() {
        let eyes = eyes();
        let sleeper = Running::sh("exec sleep 600");
        let pid = sleeper.pid();
        let mut look = eyes.look(pid).unwrap();
        look.start_time += 1;
        assert_eq!(eyes.since(&look), None);
        look.start_time -= 1;
        assert!(eyes.since(&look).is_some());
        drop(sleeper);
        assert_eq!(eyes.since(&look), None);
        assert!(eyes.look(pid).is_none());
    }

    fn look(state: u8, after: u64, ran_ms: u64, waited_ms: u64, pressure: Option<u64>) -> Look {
        let runnable = state == b'R';
        let spent = Spent { ran: ran_ms * 1_000_000, waited: waited_ms * 1_000_000, runnable };
        Look {
            at: Instant::now() + Duration::from_secs(after),
            pid: 7,
            start_time: 1,
            state,
            threads: HashMap::from([((7, 7), spent)]),
            pressure,
        }
    }

    #[test]
    fn every_way_of_being_unable_counts() {
        let before = look(b'S', 0, 100, 100, Some(0));
        let starved = |now: &Look| between(&before, now).starved.as_millis();
        assert_eq!(starved(&look(b'S', 10, 100, 100, Some(9_000_000))), 0, "asleep on a busy host");
        assert_eq!(starved(&look(b'R', 10, 2_100, 8_100, Some(0))), 8_000);
        assert!(starved(&look(b'R', 10, 100, 100, Some(0))) >= 10_000, "it never had a turn");
        assert!(starved(&look(b'D', 10, 100, 100, Some(0))) >= 10_000, "it waits for a disk");
        // Runnable from beginning to end: what it did not run it waited, counted yet or not.
        let wanting = look(b'R', 0, 100, 100, None);
        let waits = between(&wanting, &look(b'R', 10, 2_100, 600, None)).starved.as_millis();
        assert!((7_900..=8_100).contains(&waits), "{waits}");
        let spins = between(&wanting, &look(b'R', 10, 10_050, 110, None)).starved.as_millis();
        assert!(spins <= 200, "{spins}");
        // A kernel that does not count.
        let uncounted = |state, pressure| {
            let now = look(state, 10, 0, 0, pressure);
            let (before, now) =
                (Look { threads: HashMap::new(), ..before.clone() }, Look { threads: HashMap::new(), ..now });
            between(&before, &now).starved.as_millis()
        };
        assert_eq!(uncounted(b'S', Some(4_000_000)), 4_000);
        assert!((7_400..=7_600).contains(&uncounted(b'S', None)));
        assert!(starved(&look(b'S', 10, u64::MAX / 1_000_000, u64::MAX / 1_000_000, None)) <= 10_100);
    }

    proptest! {
        #[test]
        fn no_text_of_proc_makes_it_panic(bytes: Vec<u8>, text in "\\PC{0,80}") {
            let _ = state_and_parent(&bytes);
            let _ = total(&text);
        }

        #[test]
        fn a_name_cannot_pass_for_a_state(name in "[^\\n]{0,15}", parent in 0..i32::MAX) {
            let stat = format!("7 ({name}) S {parent} 7 7");
            prop_assert_eq!(state_and_parent(stat.as_bytes()), Some((b'S', parent)));
        }
    }
}
