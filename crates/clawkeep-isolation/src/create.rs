//! The host side of the setup: make a sandbox's init, or find one that is there.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::cgroup::{Cgroup, Host, Id, Refused};
use clawkeep_plan::Tier;

use crate::mark::Mark;
use crate::proto::{Setup, SetupOutcome};
use crate::spec::SandboxSpec;
use crate::wire;

/// The argument under which the program must call [`crate::sandbox_init_main`] before anything else.
pub const SETUP_COMMAND: &str = "sandbox-init";

/// The control socket's name in a sandbox's run directory.
const SOCKET: &str = "init.sock";

/// The lock's name in a sandbox's run directory.
const LOCK: &str = "init.lock";

/// The log's name in a sandbox's run directory.
pub const LOG: &str = "gateway.log";

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A step of the setup was refused by the host.
    #[error("the sandbox could not be set up: {step}: {reason}")]
    Setup {
        /// The step.
        step: String,
        /// What the system said.
        reason: String,
    },
    /// A limit was asked for that this host cannot enforce.
    #[error("{0}")]
    Limit(String),
    /// Something on the host side went wrong before the setup ran.
    #[error("the sandbox could not be set up: {step}: {source}")]
    Host {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl CreateError {
    /// What was tried.
    pub fn step(&self) -> &str {
        match self {
            Self::Setup { step, .. } => step,
            Self::Limit(_) => "set the limits",
            Self::Host { step, .. } => step,
        }
    }
}

fn host(step: &'static str) -> impl FnOnce(io::Error) -> CreateError {
    move |source| CreateError::Host { step, source }
}

/// Open a sandbox's log for init: regular, ours, created if it is missing.
fn open_log(run: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW)
        .open(run.join(LOG))
}

/// Set up a new sandbox: namespaces, file system, listeners, init. Blocks until init serves; no process of
/// the agent runs yet. `program` is this program's own file, `run` the sandbox's run directory on the host.
/// The caller has made sure that no earlier init serves there.
///
/// # Errors
/// [`CreateError`]; then nothing is left behind but the run directory.
pub fn create(program: &Path, run: &Path, spec: &SandboxSpec) -> Result<InitHandle, CreateError> {
    DirBuilder::new().recursive(true).mode(0o700).create(run).map_err(host("make the run directory"))?;
    let lock = take_lock(run)?;
    // It is loaded while the rest is made here.
    let process = SetupProcess::start(program, &spec.name)?;
    let log = open_log(run).map_err(host("open the log"))?;
    end_marked(run).map_err(host("end what is left of the sandbox of before"))?;
    let directory = open_directory(run).map_err(host("look at the run directory"))?;
    let control = bind_control(&directory).map_err(host("bind the control socket"))?;
    let id = Id::of(&directory).map_err(host("look at the run directory"))?;
    let here = Host::look();
    let amounts = spec.limits.amounts(here.memory_bytes());
    let cgroup = Cgroup::create(&here, (&spec.name, &id), &spec.limits, &amounts)
        .map_err(|Refused(why)| CreateError::Limit(why))?;
    let made = || {
        let mark = (spec.tier == Tier::Landlock)
            .then(|| Mark::new(spec.ids))
            .transpose()
            .map_err(host("make a mark"))?;
        mark.map_or(Ok(()), |mark| mark.note(run)).map_err(host("note the mark"))?;
        let setup = Setup::new(spec.clone(), amounts, mark)
            .map_err(|error| host("build the seccomp programs")(io::Error::other(error)))?;
        let doors = cgroup.doors().map_err(host("open the control group"))?;
        let held = [control.as_fd(), log.as_fd(), lock.as_fd()];
        let fds: Vec<_> = held.into_iter().chain(doors.iter().map(AsFd::as_fd)).collect();
        process.run(&setup, &fds)?;
        let init = connect(&directory).and_then(|init| init.ok_or_else(|| io::ErrorKind::NotFound.into()));
        Ok((init.map_err(host("reach the sandbox's first process"))?, mark))
    };
    match made() {
        Ok(((connection, pid, pidfd), mark)) => {
            note_owner(run, pid);
            Ok(InitHandle { connection, pid, pidfd, cgroup, mark })
        }
        Err(error) => {
            // Empty, or what is in it ends: nothing of a sandbox that is none is left. Why it is none counts.
            let _ = end_marked(run);
            let _ = cgroup.remove();
            Err(error)
        }
    }
}

/// The process that makes the sandbox from inside. Without a specification it ends, and it is waited for.
struct SetupProcess {
    child: Child,
    channel: OwnedFd,
}

impl SetupProcess {
    fn start(program: &Path, name: &str) -> Result<Self, CreateError> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(io::Error::from)
                .map_err(host("make a socket pair"))?;
        let child = Command::new(program)
            .arg0("clawkeep")
            .arg(SETUP_COMMAND)
            .arg(name)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(host("start the setup"))?;
        Ok(Self { child, channel: ours })
    }

    fn run(mut self, setup: &Setup, fds: &[BorrowedFd<'_>]) -> Result<(), CreateError> {
        // It waits for the specification, and everything in the sandbox descends from it.
        let sent = usual_oom_score(self.child.id()).and_then(|()| wire::send(&self.channel, setup, fds));
        if sent.is_err() {
            // Else it would wait for the rest, and we for it. What cannot be shut down has no other end.
            let _ = rustix::net::shutdown(&self.channel, rustix::net::Shutdown::Both);
        }
        let outcome = sent.and_then(|()| wire::receive::<SetupOutcome>(&self.channel));
        let status = self.child.wait().map_err(host("wait for the setup"))?;
        match outcome {
            Ok(Some((SetupOutcome::Ready, _))) => Ok(()),
            Ok(Some((SetupOutcome::Failed { step, reason }, _))) => Err(CreateError::Setup { step, reason }),
            Ok(None) => Err(CreateError::Setup {
                step: "run the setup".into(),
                reason: format!("it ended without a word ({status})"),
            }),
            Err(source) => Err(CreateError::Host { step: "talk to the setup", source }),
        }
    }
}

impl Drop for SetupProcess {
    fn drop(&mut self) {
        // Where it has ended and was waited for, neither does anything.
        let _ = rustix::net::shutdown(&self.channel, rustix::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// A daemon that is to outlive an OOM kill (oom_score_adj below 0, proc(5)) hands that on to its children;
/// an agent must not have it.
fn usual_oom_score(pid: u32) -> io::Result<()> {
    let path = format!("/proc/{pid}/oom_score_adj");
    match std::fs::read_to_string(&path)?.trim().starts_with('-') {
        true => std::fs::write(path, "0"),
        false => Ok(()),
    }
}

/// The lock that init holds for its whole life: whatever becomes of the socket's name, there is one init.
fn take_lock(run: &Path) -> Result<File, CreateError> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(run.join(LOCK))
    };
    let lock = open().map_err(host("open the sandbox's lock"))?;
    let attempt = || match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(io::Error::from(error)),
    };
    // One that holds the lock and cannot be reached is an orphan: nobody supervises it, nobody ever will.
    let taken =
        attempt().and_then(|taken| if taken { Ok(true) } else { end_orphan(run).and_then(|()| attempt()) });
    match taken.map_err(host("take the sandbox's lock"))? {
        true => Ok(lock),
        false => Err(CreateError::Setup {
            step: "take the sandbox's lock".into(),
            reason: "its first process of before is still there".into(),
        }),
    }
}

/// Kill the init that noted itself in the lock, if it is still that process: pid and start time.
fn end_orphan(run: &Path) -> io::Result<()> {
    let noted = std::fs::read_to_string(run.join(LOCK))?;
    let parsed = noted
        .trim()
        .split_once(' ')
        .and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse::<u64>().ok()?)));
    let Some((pid, start)) = parsed else { return Ok(()) };
    let Some(process) = rustix::process::Pid::from_raw(pid) else { return Ok(()) };
    let pidfd = match rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // Looked at after the handle was taken: it is of this process or of none.
    if start_time(pid) != Some(start) {
        return Ok(());
    }
    end(&pidfd)
}

/// Note in the lock who holds it, for [`end_orphan`].
fn note_owner(run: &Path, pid: i32) {
    if let Some(start) = start_time(pid) {
        // Without the note an orphan is only found by its socket, as a rule it is.
        let _ = std::fs::write(run.join(LOCK), format!("{pid} {start}\n"));
    }
}

/// Field 22 of `/proc/PID/stat`, behind the name, which may hold anything (proc_pid_stat(5)).
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    start_time_in(&stat)
}

/// The same in the text of such a file.
pub fn start_time_in(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|b| *b == b')')? + 1;
    std::str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// A path to the control socket that is short enough for `sockaddr_un`, however deep the state directory is:
/// the directory goes by its descriptor.
fn short_path(directory: &OwnedFd) -> io::Result<SocketAddrUnix> {
    use std::os::fd::AsRawFd;
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))?)
}

fn open_directory(run: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::open(
        run,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn control_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn bind_control(directory: &OwnedFd) -> io::Result<OwnedFd> {
    match rustix::fs::unlinkat(directory, SOCKET, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let socket = control_socket()?;
    rustix::net::bind(&socket, &short_path(directory)?)?;
    Ok(socket)
}

/// An init that serves: a connection to it, and a handle on it.
#[derive(Debug)]
pub struct InitHandle {
    /// The control connection, blocking.
    pub connection: OwnedFd,
    /// Its pid on the host.
    pub pid: i32,
    /// Readable when it is gone (pidfd_open(2)).
    pub pidfd: OwnedFd,
    /// The control group of all that it starts.
    pub cgroup: Cgroup,
    /// By what its processes are known, where no namespace of theirs ends with it.
    pub mark: Option<Mark>,
}

/// Connect to the init that serves in this run directory; `None` when none does.
///
/// # Errors
/// What the system said, when it is not simply absent.
pub fn find(run: &Path) -> io::Result<Option<InitHandle>> {
    let directory = match open_directory(run) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some((connection, pid, pidfd)) = connect(&directory)? else { return Ok(None) };
    note_owner(run, pid);
    let cgroup = Cgroup::find(&Host::look(), &Id::of(&directory)?);
    Ok(Some(InitHandle { connection, pid, pidfd, cgroup, mark: Mark::of(run)? }))
}

/// A connection to the init of this run directory, its pid and a handle on it; `None` where none serves.
fn connect(directory: &OwnedFd) -> io::Result<Option<(OwnedFd, i32, OwnedFd)>> {
    let connection = control_socket()?;
    match rustix::net::connect(&connection, &short_path(directory)?) {
        Ok(()) => {}
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let peer = rustix::net::sockopt::socket_peercred(&connection)?;
    let pidfd = match rustix::process::pidfd_open(peer.pid, rustix::process::PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // The pid could have passed to somebody else only if init had died: then the connection is dead as well,
    // and the first answer does not come.
    Ok(Some((connection, peer.pid.as_raw_nonzero().get(), pidfd)))
}

/// Kill an init, and with it, by the kernel's hand, every process in its sandbox (pid_namespaces(7)), or those that
/// have its mark. Blocks until they are gone, 30 s at most; its control group goes as well.
///
/// # Errors
/// What the system said.
pub fn destroy(handle: &InitHandle) -> io::Result<()> {
    end(&handle.pidfd)?;
    handle.mark.map_or(Ok(()), Mark::end_all)?;
    handle.cgroup.remove()
}

/// Make sure that nothing is left of the sandbox of this run directory, whether its init lives or not.
///
/// # Errors
/// What the system said.
pub fn remove(run: &Path) -> io::Result<()> {
    if let Some(handle) = find(run)? {
        destroy(&handle)?;
        return Mark::forget(run);
    }
    end_marked(run)?;
    match open_directory(run) {
        Ok(directory) => Cgroup::find(&Host::look(), &Id::of(directory)?).remove(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// End what has the mark of this run directory's sandbox, of which no init is left.
fn end_marked(run: &Path) -> io::Result<()> {
    match Mark::of(run)? {
        Some(mark) => mark.end_all().and_then(|()| Mark::forget(run)),
        None => Ok(()),
    }
}

fn end(pidfd: &OwnedFd) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    match rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    let patience = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&patience)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            result => return result.map(drop).map_err(Into::into),
        }
    }
}
