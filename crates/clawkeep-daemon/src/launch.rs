//! How there comes to be a daemon: the command line starts a tiny parent, and the parent starts the daemon, as
//! often as it takes.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clawkeep_store::Home;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::{Pid, Signal, WaitOptions};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

use crate::Client;
use crate::api::Failure;
use crate::main_loop::{ALREADY_RUNNING, NEWER_REGISTRY};
use crate::say::say;
use crate::unit;

/// How long a daemon may take until its socket answers.
const PATIENCE: Duration = Duration::from_secs(20);

/// Size from which the daemon's log is put aside at the next start, in bytes.
const MAX_LOG: u64 = 4 << 20;

/// Waits before the restarts after the first, second... death; the last one goes on.
const DELAYS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(200), Duration::from_millis(800)];

/// A daemon that lived this long was well: its next death counts as the first.
const WELL: Duration = Duration::from_secs(30);

/// Starts that fail before this much life, three in a row and never a better one, show that there is no use.
const NO_START: Duration = Duration::from_secs(2);

/// What the daemon gets of our environment; everything else could change how it runs.
const ENVIRONMENT: [&str; 4] = ["PATH", "HOME", "RUST_LOG", "RUST_BACKTRACE"];

/// How the daemon's memory is managed (mallopt(3)): what was needed once for a big message goes back to the system
/// instead of being kept for the next one in each of many arenas. By the environment, because the C library's own call
/// for it is unsafe.
pub(crate) const MEMORY: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "131072"), ("MALLOC_TRIM_THRESHOLD_", "131072")];

/// How long a service manager gets that was asked to start it, before it is started without one.
const HEAD_START: Duration = Duration::from_secs(8);

/// A connection to this home's daemon, which is started if there is none: by the service manager where it has
/// a unit for that, else by a parent of its own. `program` is this program's file. Any number of callers at
/// once end up with the same daemon.
///
/// # Errors
/// `daemon-start` with the end of its log, when none serves within 20 seconds; `daemon-unreachable`.
pub fn ensure(home: &Home, program: &Path) -> Result<Client, Failure> {
    if let Some(client) = connect(home.root())? {
        return Ok(client);
    }
    let run = home.run();
    let before = std::fs::metadata(run.join(LOG)).map_or(0, |log| log.len());
    let failed = |what: String| {
        let log = run.join(LOG);
        let said = last_lines(&log, before);
        let said = if said.is_empty() { String::new() } else { format!("; it said:\n{said}") };
        let next = format!("tail {}", log.display());
        Failure::new("daemon-start", format!("{what}{said}"), next)
    };
    let deadline = Instant::now() + PATIENCE;
    let mut parent: Option<Child> = None;
    let mut start_at = Instant::now();
    if unit::serving(home).is_some_and(unit::start) {
        start_at += HEAD_START;
    }
    loop {
        match parent.as_mut().map(Child::try_wait) {
            None if Instant::now() >= start_at => {
                let log = open_log(&run)
                    .map_err(|error| failed(format!("cannot write the daemon's log: {error}")))?;
                let started =
                    command(program, home.root(), "--parent", log).and_then(|mut command| command.spawn());
                parent = Some(
                    started
                        .map_err(|error| failed(format!("cannot start {}: {error}", program.display())))?,
                );
            }
            Some(Ok(Some(status))) if status.success() || status.code() == Some(ALREADY_RUNNING.into()) => {
                // Another caller's daemon was there first, and is not yet serving, or not any more.
                parent = None;
                start_at = Instant::now() + Duration::from_millis(500);
            }
            Some(Ok(Some(status))) if status.code() == Some(NEWER_REGISTRY.into()) => {
                let next = "install the newer clawkeep again".to_owned();
                return Err(Failure {
                    code: "registry-newer".into(),
                    next: Some(next),
                    ..failed("the daemon does not start".into())
                });
            }
            Some(Ok(Some(status))) => return Err(failed(format!("the daemon does not start ({status})"))),
            Some(Err(error)) => return Err(failed(format!("the daemon cannot be watched: {error}"))),
            None | Some(Ok(None)) => {}
        }
        if let Some(client) = connect(home.root())? {
            return Ok(client);
        }
        if Instant::now() >= deadline {
            return Err(failed(format!("the daemon does not answer after {} s", PATIENCE.as_secs())));
        }
        pause(Duration::from_millis(10));
    }
}

/// A connection to the daemon of the home at this path; `None` when none serves. Starts and makes nothing.
///
/// # Errors
/// `daemon-unreachable`.
pub fn connect(home: &Path) -> Result<Option<Client>, Failure> {
    for socket in Home::sockets_of(home) {
        let client = Client::connect(&socket).map_err(|error| {
            let message = format!("cannot connect to {}: {error}", socket.display());
            Failure::new("daemon-unreachable", message, format!("ls -l {}", socket.display()))
        })?;
        if client.is_some() {
            return Ok(client);
        }
    }
    Ok(None)
}

fn pause(time: Duration) {
    let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
    // A signal may shorten it: every caller looks again.
    let _ = poll(&mut [], Some(&time));
}

/// What this process was started from, whatever became of its file (proc_pid_exe(5)).
pub const OURSELVES: &str = "/proc/self/exe";

/// The daemon's log, in the home's run directory.
const LOG: &str = "daemon.log";

/// Open the log to append to, after putting a big one aside. Without a log on a read-only or full disk: that is
/// no reason to be without a daemon.
fn open_log(run: &Path) -> io::Result<File> {
    match open_log_file(run) {
        Err(error) if matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull) => {
            File::options().write(true).open("/dev/null")
        }
        opened => opened,
    }
}

fn open_log_file(run: &Path) -> io::Result<File> {
    let path = run.join(LOG);
    if std::fs::symlink_metadata(&path).is_ok_and(|found| found.len() > MAX_LOG) {
        std::fs::rename(&path, run.join("daemon.log.1"))?;
    }
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// The last few lines of the log that were written after `from`, without anything that moves a cursor.
fn last_lines(log: &Path, from: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let size = file.metadata()?.len();
        // Put aside meanwhile: then all of it is new.
        let from = if size < from { 0 } else { from };
        file.seek(SeekFrom::Start(from.max(size.saturating_sub(4096))))?;
        let mut bytes = Vec::new();
        file.take(4096).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<String> =
        text.lines().map(|line| line.chars().filter(|c| !c.is_control()).collect()).collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

/// `program daemon --home HOME ROLE`, cut off from whoever started us.
fn command(program: &Path, home: &Path, role: &str, log: File) -> io::Result<Command> {
    let mut command = Command::new(program);
    command
        .arg0("clawkeep")
        .args([OsString::from("daemon"), "--home".into(), home.into(), role.into()])
        .current_dir("/")
        .env_clear();
    command.envs(MEMORY);
    command.envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log);
    Ok(command)
}

/// The tiny parent: keeps one daemon of this home running until it is told to end (SIGTERM is passed on), or
/// the daemon ends as ordered. Adopts and reaps what the daemon's dead leave, so that nothing else has to.
/// The status is 75 when another parent or daemon is at work here.
pub fn parent_main(home: &Path, program: &Path) -> ExitCode {
    match Parent::prepare(home, program).and_then(Parent::run) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            say(format_args!("clawkeep: the daemon's parent: {error}"));
            ExitCode::FAILURE
        }
    }
}

struct Parent<'a> {
    home: Home,
    program: &'a Path,
    /// Readable when a signal came.
    signals: UnixStream,
    told_to_end: Arc<AtomicBool>,
    /// One parent a home; given up with the process.
    _lock: Option<File>,
}

/// How a daemon ended: its exit status, or `None` by a signal.
type End = Option<i32>;

impl<'a> Parent<'a> {
    fn prepare(home: &Path, program: &'a Path) -> io::Result<Self> {
        // A leader already, as under a service manager, is just as well.
        let _ = rustix::process::setsid();
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let (home, _) = Home::open_as_it_is(home).map_err(io::Error::other)?;
        let (signals, write) = UnixStream::pair()?;
        signals.set_nonblocking(true)?;
        let told_to_end = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // The flag first: whoever is woken must find it.
            signal_hook::flag::register(signal, Arc::clone(&told_to_end))?;
        }
        for signal in [SIGTERM, SIGINT, SIGCHLD] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        let path = home.root().join("run/parent.lock");
        let open = |flags| {
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
        };
        let lock = match open(OFlags::RDWR | OFlags::CREATE) {
            // A lock needs no writing.
            Err(rustix::io::Errno::ROFS) => open(OFlags::RDONLY)?,
            opened => opened?,
        };
        let lock = match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Some(lock.into()),
            Err(rustix::io::Errno::WOULDBLOCK) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { home, program, signals, told_to_end, _lock: lock })
    }

    fn run(self) -> io::Result<u8> {
        if self._lock.is_none() {
            return Ok(ALREADY_RUNNING);
        }
        let (mut deaths, mut failed_starts, mut was_well) = (0, 0, false);
        loop {
            let started = Instant::now();
            let end = match self.start() {
                Ok(daemon) => self.watch(daemon)?,
                Err(error) => {
                    self.note(&format!("cannot start {}: {error}", self.program.display()));
                    Some(1)
                }
            };
            let life = started.elapsed();
            match end {
                Some(0) => return Ok(0),
                // The next one would find the same.
                Some(status) if status == i32::from(ALREADY_RUNNING) => return Ok(ALREADY_RUNNING),
                Some(status) if status == i32::from(NEWER_REGISTRY) => return Ok(NEWER_REGISTRY),
                _ if self.told_to_end.load(Ordering::SeqCst) => return Ok(0),
                _ => {}
            }
            was_well |= life >= NO_START;
            failed_starts = if end.is_some() && life < NO_START { failed_starts + 1 } else { 0 };
            if failed_starts == 3 && !was_well {
                return Ok(1);
            }
            if life >= WELL {
                deaths = 0;
            }
            let delay = DELAYS[deaths.min(DELAYS.len() - 1)];
            deaths += 1;
            let how = end.map_or("by a signal".to_owned(), |status| format!("with status {status}"));
            self.note(&format!(
                "the daemon ended {how} after {life:.1?}; the next one starts in {delay:.1?}"
            ));
            let until = Instant::now() + delay;
            while Instant::now() < until {
                self.wait(Some(until))?;
                let _ = reap(None);
                if self.told_to_end.load(Ordering::SeqCst) {
                    return Ok(0);
                }
            }
        }
    }

    fn start(&self) -> io::Result<Pid> {
        let log = open_log(&self.home.run())?;
        // Where the program's file is gone (an upgrade goes on, somebody removed it) it is what we were started
        // from; where there is another one, it is that.
        let program = if self.program.exists() { self.program } else { Path::new(OURSELVES) };
        let child = command(program, self.home.root(), "--serve", log)?.spawn()?;
        Pid::from_raw(child.id().cast_signed()).ok_or_else(|| io::Error::other("a child without a pid"))
    }

    /// Until it is dead.
    fn watch(&self, daemon: Pid) -> io::Result<End> {
        let mut passed_on = false;
        loop {
            if let Some(end) = reap(Some(daemon)) {
                return Ok(end);
            }
            if !passed_on && self.told_to_end.load(Ordering::SeqCst) {
                // Not yet reaped, and by nobody but us: the pid is still the daemon's.
                passed_on = rustix::process::kill_process(daemon, Signal::TERM).is_ok();
            }
            self.wait(None)?;
        }
    }

    /// Until a signal comes.
    fn wait(&self, until: Option<Instant>) -> io::Result<()> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut [PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)], left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut block = [0_u8; 64];
        while matches!((&self.signals).read(&mut block), Ok(n) if n > 0) {}
        Ok(())
    }

    fn note(&self, text: &str) {
        // A log that cannot be written is no reason to leave the daemon alone.
        let _ = open_log(&self.home.run()).and_then(|mut log| writeln!(log, "clawkeep: {text}"));
    }
}

/// Bury all the dead; tells of this one.
fn reap(daemon: Option<Pid>) -> Option<End> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if Some(pid) == daemon {
            ended = Some(status.exit_status());
        }
    }
    ended
}

#[cfg(test)]
#[path = "launch_tests.rs"]
mod tests;
