//! Lock files that a dead gateway leaves, and that keep the next one from starting.
//!
//! The old generation keeps them in `/tmp/openclaw-<uid>`, the new one in `<state>/tmp/openclaw-<uid>`, where
//! they survive a wiped `/tmp`. Both directories belong to the agent: everything in them is hostile.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use clawkeep_plan::Digest;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;

use crate::document;

/// The largest lock that is read, in bytes; a real one has under 1 KiB.
const MAX_LOCK: u64 = 16 * 1024;
/// How many entries of a directory are looked at, and how many locks.
const MAX_ENTRIES: usize = 4096;
const MAX_LOCKS: usize = 64;

/// What is known about the process that a lock names. Pids and start times are as the sandbox sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockHolder {
    /// No process has that pid.
    Gone,
    /// A process has it, which started at another time.
    Recycled,
    /// A process has it which is no agent process of this sandbox.
    Unrelated,
    /// The very process that took the lock is alive, or it cannot be ruled out.
    Live,
}

/// Why a lock was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staleness {
    /// Its holder is gone.
    HolderGone,
    /// Its holder's pid is another process now.
    PidRecycled,
    /// The process with that pid is no agent of this sandbox.
    Unrelated,
    /// It cannot be read as a lock, and no gateway is alive that could be writing it.
    Torn,
}

/// A lock that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClearedLock {
    /// Its path as the sandbox sees it.
    pub path: String,
    /// The pid in it, if it could be read.
    pub pid: Option<i32>,
    /// Why.
    pub why: Staleness,
}

/// What a look at the locks came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockSweep {
    /// Removed.
    pub cleared: Vec<ClearedLock>,
    /// Left alone because the holder is alive (or a torn one may be being written): path and pid.
    pub live: Vec<(String, Option<i32>)>,
    /// Not touched because they are not what they must be, or could not be looked at: what, for a person.
    pub refused: Vec<String>,
}

#[derive(Deserialize)]
struct Payload {
    pid: i32,
    #[serde(rename = "startTime")]
    start_time: Option<u64>,
}

/// Remove the stale locks of a sandbox.
///
/// `tmp` and `home` are the sandbox's `/tmp` and `/sandbox`, `uid` and `config` are the agent's uid and the path of its
/// configuration as the sandbox sees them.
/// `holder` answers for a pid and a start time (field 22 of `/proc/<pid>/stat`; `None` where the lock has
/// none) in the sandbox's pid namespace. `gateway_alive`: is any gateway of this sandbox running? If so, a
/// torn lock may be one that is just being written, and stays.
///
/// Nothing is followed, only regular files are removed, every read is bounded. The caller is the only one that
/// starts gateways here, so no lock is taken between the look and the removal.
pub fn clear_stale(
    tmp: BorrowedFd<'_>,
    home: BorrowedFd<'_>,
    (uid, config): (u32, &str),
    holder: &dyn Fn(i32, Option<u64>) -> LockHolder,
    gateway_alive: bool,
) -> LockSweep {
    let names = |dir: &OwnedFd| names(dir, config);
    let mut sweep = LockSweep::default();
    let own = format!("openclaw-{uid}");
    for (base, shown, steps) in
        [(tmp, "/tmp", vec![own.as_str()]), (home, "/sandbox", vec![".openclaw", "tmp", own.as_str()])]
    {
        let shown = format!("{shown}/{}", steps.join("/"));
        match open_dir(base, &steps) {
            Ok(Some(dir)) => sweep_dir((&dir, &names(&dir)), &shown, holder, gateway_alive, &mut sweep),
            Ok(None) => {}
            Err(errno) => sweep.refused.push(format!("{shown}: {}", std::io::Error::from(errno))),
        }
    }
    sweep
}

/// Move the lock directories aside, whatever they and their locks are: for a sandbox in which a look at single
/// locks has not helped. Gives lines for a person. The same is true as for [`clear_stale`], and that no gateway of
/// the caller's runs.
pub fn displace_all(tmp: BorrowedFd<'_>, home: BorrowedFd<'_>, uid: u32) -> Vec<String> {
    let (own, state) = (format!("openclaw-{uid}"), format!("openclaw-state-locks-{uid}"));
    let places: [(_, _, &[&str]); 3] =
        [(tmp, "/tmp", &[&own]), (tmp, "/tmp", &[&state]), (home, "/sandbox", &[".openclaw", "tmp", &own])];
    let mut lines = Vec::new();
    for (base, shown, steps) in places {
        let shown = format!("{shown}/{}", steps.join("/"));
        match displace_path(base, steps) {
            Ok(true) => lines.push(format!("moved aside {shown}")),
            Ok(false) => {}
            Err(error) => lines.push(format!("left alone {shown}: {error}")),
        }
    }
    lines
}

/// Displace the last step, or the first that is no directory. Gives whether there was anything.
fn displace_path(base: BorrowedFd<'_>, steps: &[&str]) -> std::io::Result<bool> {
    let Some((last, dirs)) = steps.split_last() else { return Ok(false) };
    let mut at: Option<OwnedFd> = None;
    for step in dirs {
        let here = at.as_ref().map_or(base, AsFd::as_fd);
        match document::open_dir(here, step) {
            Ok(next) => at = Some(next),
            Err(Errno::NOENT) => return Ok(false),
            Err(Errno::NOTDIR | Errno::LOOP) => return document::displace(here, step).map(|()| true),
            Err(errno) => return Err(errno.into()),
        }
    }
    match document::displace(at.as_ref().map_or(base, AsFd::as_fd), last) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

fn open_dir(base: BorrowedFd<'_>, steps: &[&str]) -> Result<Option<OwnedFd>, Errno> {
    let mut at: Option<OwnedFd> = None;
    for step in steps {
        match document::open_dir(at.as_ref().map_or(base, AsFd::as_fd), step) {
            Ok(next) => at = Some(next),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
    Ok(at)
}

fn sweep_dir(
    (dir, names): (&OwnedFd, &[String]),
    shown: &str,
    holder: &dyn Fn(i32, Option<u64>) -> LockHolder,
    gateway_alive: bool,
    sweep: &mut LockSweep,
) {
    let path = |name: &str| format!("{shown}/{name}");
    for name in names {
        let lock = match Lock::read(dir, name) {
            Ok(Some(lock)) => lock,
            Ok(None) => continue,
            Err(problem) => {
                sweep.refused.push(format!("{}: {problem}", path(name)));
                continue;
            }
        };
        let pid = lock.payload.as_ref().map(|payload| payload.pid);
        let found = match &lock.payload {
            Some(payload) => match holder(payload.pid, payload.start_time) {
                LockHolder::Gone => Some(Staleness::HolderGone),
                LockHolder::Recycled => Some(Staleness::PidRecycled),
                LockHolder::Unrelated => Some(Staleness::Unrelated),
                LockHolder::Live => None,
            },
            None => (!gateway_alive).then_some(Staleness::Torn),
        };
        match found.map(|why| (why, lock.remove(dir, name))) {
            None => sweep.live.push((path(name), pid)),
            Some((why, Ok(()))) => sweep.cleared.push(ClearedLock { path: path(name), pid, why }),
            Some((_, Err(problem))) => sweep.refused.push(format!("{}: {problem}", path(name))),
        }
    }
}

/// The locks to look at: first those of our own configuration, which no flood of files can hide, then what else
/// is found.
fn names(dir: &OwnedFd, config: &str) -> Vec<String> {
    let own = Digest::of(config.as_bytes()).short();
    let mut names = vec![format!("gateway.{own}.lock"), "gateway.state.lock".to_owned()];
    let Ok(entries) = Dir::read_from(dir) else { return names };
    for entry in entries.take(MAX_ENTRIES).map_while(Result::ok) {
        let Ok(name) = entry.file_name().to_str() else { continue };
        if names.len() == MAX_LOCKS {
            break;
        }
        if is_lock(name) && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

fn is_lock(name: &str) -> bool {
    let id = name.strip_prefix("gateway.").and_then(|rest| rest.strip_suffix(".lock"));
    id.is_some_and(|id| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    })
}

struct Lock {
    /// `None`: torn.
    payload: Option<Payload>,
    identity: (u64, u64),
}

impl Lock {
    fn read(dir: &OwnedFd, name: &str) -> Result<Option<Self>, String> {
        // Not blocking: a FIFO in its place must not hold us.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err("is a symlink".to_owned()),
            Err(errno) => return Err(std::io::Error::from(errno).to_string()),
        };
        let stat = file.metadata().map_err(|error| error.to_string())?;
        if !stat.is_file() {
            return Err("is no regular file".to_owned());
        }
        let mut bytes = Vec::new();
        file.take(MAX_LOCK + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        let payload = if bytes.len() as u64 > MAX_LOCK { None } else { parse(&bytes) };
        Ok(Some(Self { payload, identity: (stat.dev(), stat.ino()) }))
    }

    /// Remove it, if that name still is the file that was read.
    fn remove(&self, dir: &OwnedFd, name: &str) -> Result<(), String> {
        let say = |errno: Errno| std::io::Error::from(errno).to_string();
        let now = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(say)?;
        let regular = FileType::from_raw_mode(now.st_mode) == FileType::RegularFile;
        if !regular || (now.st_dev, now.st_ino) != self.identity {
            return Err("changed while it was looked at".to_owned());
        }
        rustix::fs::unlinkat(dir, name, AtFlags::empty()).map_err(say)
    }
}

/// A lock's content; `None` when it is torn. The new generation pads it with white space.
fn parse(bytes: &[u8]) -> Option<Payload> {
    serde_json::from_slice(bytes).ok().filter(|payload: &Payload| payload.pid > 0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use proptest::prelude::*;
    use rustix::fs::CWD;

    use super::*;

    const REAL: &str = r#"{"pid":257,"createdAt":"2026-11-24T06:43:48.260Z","configPath":"/sandbox/.openclaw/openclaw.json","startTime":9140991}"#;

    const CONFIG: &str = "/sandbox/.openclaw/openclaw.json";

    struct Sandbox(tempfile::TempDir);

    impl Sandbox {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("tmp/openclaw-998")).unwrap();
            fs::create_dir_all(dir.path().join("home/.openclaw/tmp/openclaw-998")).unwrap();
            Self(dir)
        }

        fn old(&self, name: &str) -> std::path::PathBuf {
            self.0.path().join("tmp/openclaw-998").join(name)
        }

        fn new_lock(&self, name: &str) -> std::path::PathBuf {
            self.0.path().join("home/.openclaw/tmp/openclaw-998").join(name)
        }

        fn sweep(&self, holder: LockHolder, gateway_alive: bool) -> LockSweep {
            let (tmp, home) = (dir(&self.0.path().join("tmp")), dir(&self.0.path().join("home")));
            let answer = |pid: i32, start: Option<u64>| {
                assert_eq!((pid, start), (257, Some(9_140_991)));
                holder
            };
            clear_stale(tmp.as_fd(), home.as_fd(), (998, CONFIG), &answer, gateway_alive)
        }
    }

    fn dir(path: &Path) -> OwnedFd {
        rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn stale_locks_go_from_both_places_and_live_ones_stay() {
        let sandbox = Sandbox::new();
        let places = [sandbox.old("gateway.ad3e0d36.lock"), sandbox.new_lock("gateway.state.lock")];
        for (holder, why) in [
            (LockHolder::Live, None),
            (LockHolder::Gone, Some(Staleness::HolderGone)),
            (LockHolder::Recycled, Some(Staleness::PidRecycled)),
            (LockHolder::Unrelated, Some(Staleness::Unrelated)),
        ] {
            fs::write(&places[0], REAL).unwrap();
            fs::write(&places[1], format!("{REAL}\n\t \t\t \n")).unwrap();
            fs::write(sandbox.new_lock("gateway.state.lock.sqlite"), "").unwrap();
            let sweep = sandbox.sweep(holder, false);
            assert_eq!(sweep.refused, Vec::<String>::new());
            assert_eq!(sweep.cleared.len(), if why.is_some() { 2 } else { 0 });
            assert_eq!(sweep.live.len(), if why.is_some() { 0 } else { 2 });
            assert!(sweep.cleared.iter().all(|lock| Some(lock.why) == why && lock.pid == Some(257)));
            assert!(places.iter().all(|place| place.exists() == why.is_none()));
            assert!(sandbox.new_lock("gateway.state.lock.sqlite").exists(), "no lock file, not ours");
        }
        assert_eq!(sandbox.sweep(LockHolder::Gone, false), LockSweep::default());
    }

    #[test]
    fn a_torn_lock_goes_only_when_no_gateway_is_alive() {
        let sandbox = Sandbox::new();
        let huge = "x".repeat(20_000);
        for torn in
            ["", "{\"pid\":25", "[]", "{\"pid\":-1}", "{\"pid\":0}", "{\"pid\":99999999999}", huge.as_str()]
        {
            fs::write(sandbox.old("gateway.0.lock"), torn).unwrap();
            assert_eq!(sandbox.sweep(LockHolder::Gone, true).live.len(), 1, "{torn:.20}");
            let sweep = sandbox.sweep(LockHolder::Gone, false);
            assert_eq!(sweep.cleared[0].why, Staleness::Torn, "{torn:.20}");
            assert_eq!(sweep.cleared[0].path, "/tmp/openclaw-998/gateway.0.lock");
        }
    }

    #[test]
    fn links_pipes_and_directories_are_left_alone_and_told() {
        let sandbox = Sandbox::new();
        let precious = sandbox.0.path().join("precious");
        fs::write(&precious, REAL).unwrap();
        symlink(&precious, sandbox.old("gateway.a.lock")).unwrap();
        rustix::fs::mkfifoat(CWD, sandbox.old("gateway.b.lock"), 0o600.into()).unwrap();
        fs::create_dir(sandbox.old("gateway.c.lock")).unwrap();
        fs::write(sandbox.old("notes.lock"), REAL).unwrap();
        let sweep = sandbox.sweep(LockHolder::Gone, false);
        assert_eq!((sweep.cleared.len(), sweep.live.len(), sweep.refused.len()), (0, 0, 3));
        assert!(precious.exists() && sandbox.old("notes.lock").exists());
    }

    #[test]
    fn all_of_it_moves_aside_where_single_locks_are_no_help() {
        let lab = tempfile::tempdir().unwrap();
        let (tmp, home) = (lab.path().join("t"), lab.path().join("h"));
        std::fs::create_dir_all(tmp.join("openclaw-998")).unwrap();
        std::fs::create_dir_all(home.join(".openclaw")).unwrap();
        std::fs::write(tmp.join("openclaw-998/gateway.1.lock"), "torn").unwrap();
        std::os::unix::fs::symlink("/etc", home.join(".openclaw/tmp")).unwrap();
        let open = |path: &std::path::Path| {
            rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
        };
        let lines = displace_all(open(&tmp).as_fd(), open(&home).as_fd(), 998);
        assert_eq!(
            lines,
            ["moved aside /tmp/openclaw-998", "moved aside /sandbox/.openclaw/tmp/openclaw-998"]
        );
        assert!(tmp.join("openclaw-998.displaced-1/gateway.1.lock").exists(), "nothing is deleted");
        assert!(home.join(".openclaw/tmp.displaced-1").is_symlink() && !tmp.join("openclaw-998").exists());
        assert_eq!(displace_all(open(&tmp).as_fd(), open(&home).as_fd(), 998), Vec::<String>::new());
    }

    #[test]
    fn a_directory_that_is_a_link_is_not_entered() {
        let sandbox = Sandbox::new();
        let elsewhere = sandbox.0.path().join("elsewhere");
        fs::create_dir_all(elsewhere.join("openclaw-998")).unwrap();
        fs::write(elsewhere.join("openclaw-998/gateway.a.lock"), REAL).unwrap();
        fs::remove_dir_all(sandbox.0.path().join("home/.openclaw/tmp")).unwrap();
        symlink(&elsewhere, sandbox.0.path().join("home/.openclaw/tmp")).unwrap();
        let sweep = sandbox.sweep(LockHolder::Gone, false);
        assert_eq!(sweep.cleared, vec![]);
        assert_eq!(sweep.refused.len(), 1);
        assert!(elsewhere.join("openclaw-998/gateway.a.lock").exists());
    }

    #[test]
    fn ten_thousand_files_hide_no_lock_of_ours_and_cost_no_more_than_the_bound() {
        let sandbox = Sandbox::new();
        for i in 0..10_000 {
            fs::write(sandbox.old(&format!("gateway.f{i}.lock")), "").unwrap();
        }
        let own = format!("gateway.{}.lock", Digest::of(CONFIG.as_bytes()).short());
        fs::write(sandbox.old(&own), REAL).unwrap();
        let sweep = sandbox.sweep(LockHolder::Gone, false);
        assert!(!sandbox.old(&own).exists());
        assert!(sweep.cleared.len() <= MAX_LOCKS, "{}", sweep.cleared.len());
    }

    proptest! {
        #[test]
        fn whatever_a_lock_holds_is_a_lock_or_torn(bytes: Vec<u8>, pid: i64, start: Option<u64>) {
            prop_assert!(parse(&bytes).is_none_or(|p| p.pid > 0));
            let text = serde_json::json!({"pid": pid, "startTime": start, "x": bytes}).to_string();
            let payload = parse(text.as_bytes());
            prop_assert_eq!(payload.is_some(), (1..=i64::from(i32::MAX)).contains(&pid));
            for cut in 0..text.len() {
                prop_assert!(parse(&text.as_bytes()[..cut]).is_none());
            }
        }

        #[test]
        fn a_lock_name_is_a_plain_name(name in "gateway\\.\\PC{0,8}\\.lock|\\PC{0,20}") {
            if is_lock(&name) {
                prop_assert!(!name.contains('/') && !name.contains("..") && name.len() < 128);
            }
        }
    }
}
