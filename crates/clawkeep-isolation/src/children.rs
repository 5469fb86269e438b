//! Starting a process of the agent: between fork and exec it gives up everything that it will not need, reads
//! back what is in force, and says so on its receipt pipe.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use clawkeep_plan::{IsolationReport, NetlinkRule, RECEIPT_FD, Receipt, Tier};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Gid, Pid, Resource, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::cgroup::Amounts;
use crate::mark::Mark;
use crate::procself::Status;
use crate::proto::{Kind, Setup, Spawn, Stdio};
use crate::seal::Seal;
use crate::seccomp::Programs;
use crate::spec::IdMap;
use crate::stage::{Failure, at};
use crate::{audit, readback, sys, wire};

/// Everything that can be prepared before the first process is asked for.
pub struct Confinement {
    tier: Tier,
    /// Whom init makes of what it starts, where it can.
    agent: Option<(Uid, Gid)>,
    mark: Option<Mark>,
    /// Init's pid.
    init: Pid,
    seal: Seal,
    route_only: Programs,
    no_netlink: Programs,
    amounts: Amounts,
    /// What a process writes `0` to in order to join the sandbox's control group: a gateway's and a session's.
    doors: [Vec<OwnedFd>; 2],
}

/// A process that was started, and init's ends of its pipes.
pub struct Started {
    /// Its pid.
    pub pid: Pid,
    /// A handle on it (pidfd_open(2)).
    pub pidfd: OwnedFd,
    /// Its output, for the log.
    pub output: Option<OwnedFd>,
    /// Its receipt.
    pub receipt: Option<OwnedFd>,
    /// Over which it hands over its seccomp listener.
    pub listener: OwnedFd,
    /// The master side of its terminal.
    pub terminal: Option<OwnedFd>,
}

struct ChildFds {
    stdio: [OwnedFd; 3],
    receipt: Option<OwnedFd>,
    hand_over: OwnedFd,
    terminal: bool,
}

impl Confinement {
    pub fn prepare(setup: &Setup, mut doors: Vec<OwnedFd>) -> Result<Self, Failure> {
        let spec = &setup.spec;
        let sessions = doors.split_off(doors.len() / 2);
        Ok(Self {
            tier: spec.tier,
            agent: matches!(spec.ids, IdMap::Range { .. }).then(|| {
                let (uid, gid) = spec.agent();
                (Uid::from_raw(uid), Gid::from_raw(gid))
            }),
            mark: setup.mark,
            init: rustix::process::getpid(),
            seal: Seal::prepare(sys::landlock_abi(), spec).map_err(at("prepare Landlock"))?,
            route_only: setup.route_only.clone(),
            no_netlink: setup.no_netlink.clone(),
            amounts: setup.amounts,
            doors: [doors, sessions],
        })
    }

    /// Start the process. A failure after the fork is told on the receipt pipe, and by exit status 127.
    pub fn start(&self, spawn: &Spawn, given: Vec<OwnedFd>) -> Result<Started, Failure> {
        self.seal.at_least(spawn.landlock_abi_min).map_err(at("prepare Landlock"))?;
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(at("make a pipe"));
        let null = || {
            rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                .map_err(at("open /dev/null"))
        };
        let mut output = None;
        let mut terminal = None;
        let stdio = match spawn.stdio {
            Stdio::Log => {
                let (read, write) = pipe()?;
                output = Some(read);
                let twin = write.try_clone().map_err(at("make a pipe"))?;
                [null()?, write, twin]
            }
            Stdio::Given => <[OwnedFd; 3]>::try_from(given)
                .map_err(|_| at("take the given descriptors")(io::Error::other("three are needed")))?,
            Stdio::Terminal { rows, columns } => {
                let (master, slave) = self.open_terminal(rows, columns).map_err(at("open a terminal"))?;
                terminal = Some(master);
                let twin = || slave.try_clone().map_err(at("open a terminal"));
                [twin()?, twin()?, twin()?]
            }
        };
        let (receipt, tell) = match spawn.kind {
            Kind::Gateway => pipe().map(|(read, write)| (Some(read), Some(write)))?,
            Kind::Session => (None, None),
        };
        let kind = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (listener, hand_over) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, kind, None)
                .map_err(at("make a socket pair"))?;
        let fds = ChildFds { stdio, receipt: tell, hand_over, terminal: terminal.is_some() };
        let Some(pid) = sys::fork().map_err(at("fork"))? else { self.child(spawn, fds) };
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .map_err(at("get a handle on the process"))?;
        for end in output.iter().chain(&receipt) {
            rustix::io::ioctl_fionbio(end, true).map_err(at("prepare a pipe"))?;
        }
        Ok(Started { pid, pidfd, output, receipt, listener, terminal })
    }

    /// Threads of the same user that are not the sandbox's: some, where that user is the host's.
    fn strangers(&self) -> io::Result<u64> {
        if self.tier == Tier::Namespaces || self.agent.is_some() {
            return Ok(0);
        }
        let own = rustix::process::getuid().as_raw();
        let mut threads = 0;
        for entry in std::fs::read_dir("/proc")? {
            let path = entry?.path().join("status");
            // One that went in between counts no more; nor does what is not a process.
            let Ok(bytes) = std::fs::read(path) else { continue };
            let text = String::from_utf8_lossy(&bytes);
            let status = Status(&text);
            if status.ids("Uid").is_ok_and(|ids| ids[0] == own) {
                threads += u64::from(status.number("Threads").unwrap_or(1));
            }
        }
        Ok(threads)
    }

    fn open_terminal(&self, rows: u16, columns: u16) -> io::Result<(OwnedFd, OwnedFd)> {
        // The sandbox's own devpts instance: no host terminal is ever reachable from inside. In the lower tier it is
        // the host's, and Landlock keeps every terminal but this one, which is open already, out of reach.
        let path = match self.tier {
            Tier::Namespaces => "/dev/pts/ptmx",
            Tier::Landlock => "/dev/ptmx",
        };
        let master = rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::pty::unlockpt(&master)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(
            &master,
            rustix::pty::OpenptFlags::RDWR
                | rustix::pty::OpenptFlags::NOCTTY
                | rustix::pty::OpenptFlags::CLOEXEC,
        )?;
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size)?;
        if let Some((uid, gid)) = self.agent {
            rustix::fs::fchown(&slave, Some(uid), Some(gid))?;
        }
        Ok((master, slave))
    }

    fn child(&self, spawn: &Spawn, fds: ChildFds) -> ! {
        // A copy out of the way of the numbers that are given away below; it closes itself at exec.
        let receipt = fds.receipt.as_ref().and_then(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 10).ok());
        let (step, error) = match self.become_agent(spawn, fds, receipt.as_ref()) {
            Ok(never) => match never {},
            Err(Failure { step, error }) => (step, error),
        };
        let line = Receipt::exec_failed_line(&step, error.raw_os_error().unwrap_or(libc::EIO));
        match (spawn.kind, receipt) {
            (Kind::Gateway, Some(receipt)) => drop(rustix::io::write(&receipt, line.as_bytes())),
            _ => eprintln!("clawkeep: {step}: {error}"),
        }
        sys::exit_now(127)
    }

    fn become_agent(
        &self,
        spawn: &Spawn,
        fds: ChildFds,
        receipt: Option<&OwnedFd>,
    ) -> Result<std::convert::Infallible, Failure> {
        // Before anything else: it is known for the sandbox's, and until it is it ends with init.
        if let Some(mark) = self.mark {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                .map_err(at("end with init"))?;
            if rustix::process::getppid() != Some(self.init) {
                return Err(at("end with init")(rustix::io::Errno::SRCH));
            }
            mark.put().map_err(at("take the sandbox's mark"))?;
        }
        // From here on what it does is counted and limited, and so is all that comes from it.
        let [of_gateway, of_session] = &self.doors;
        let (doors, pids) = match spawn.kind {
            Kind::Gateway => (of_gateway, self.amounts.pids),
            Kind::Session => (of_session, self.amounts.session_pids()),
        };
        for door in doors {
            rustix::io::write(door, b"0").map_err(at("join the control group"))?;
        }
        rustix::process::setsid().map_err(at("start a session"))?;
        if fds.terminal {
            rustix::process::ioctl_tiocsctty(&fds.stdio[0]).map_err(at("take the terminal"))?;
        }
        if let Some((uid, gid)) = self.agent {
            rustix::thread::set_thread_groups(&[]).map_err(at("drop groups"))?;
            rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at("become the agent's user"))?;
            rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at("become the agent's user"))?;
        }
        // By the user's count, which the gateway and the sessions share. Where the ids of a sandbox are its own, nobody
        // else's processes are in it; where they are not, those are added that are there now.
        sys::limit(Resource::Nproc, pids + self.strangers().map_err(at("count the user's processes"))?)
            .map_err(at("limit the number of processes"))?;
        sys::limit(Resource::Fsize, self.amounts.file_bytes).map_err(at("limit the size of files"))?;
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, sets).map_err(at("drop capabilities"))?;
        rustix::thread::clear_ambient_capability_set().map_err(at("drop ambient capabilities"))?;
        rustix::thread::set_no_new_privs(true).map_err(at("forbid new privileges"))?;
        let landlock = self.seal.enter(spawn.kind).map_err(at("enter the Landlock domain"))?;

        // Descriptors before the filter, in their places; all else is closed.
        for (number, fd) in (0..).zip(&fds.stdio) {
            let high = rustix::io::fcntl_dupfd_cloexec(fd, 10).map_err(at("place descriptors"))?;
            sys::place_fd(high.as_fd(), number).map_err(at("place descriptors"))?;
        }
        let first_closed = match receipt {
            Some(receipt) if spawn.reports => {
                sys::place_fd(receipt.as_fd(), RECEIPT_FD).map_err(at("place descriptors"))?;
                RECEIPT_FD + 1
            }
            Some(_) | None => RECEIPT_FD,
        };
        let hand_over =
            rustix::io::fcntl_dupfd_cloexec(&fds.hand_over, 10).map_err(at("place descriptors"))?;
        let keep: Vec<_> = receipt.iter().map(|fd| fd.as_fd()).chain([hand_over.as_fd()]).collect();
        sys::close_all_but(first_closed, &keep).map_err(at("close descriptors"))?;
        // The closed ones must not be closed again by their owners: they are numbers of others by then.
        std::mem::forget(fds);

        let programs = match spawn.netlink {
            NetlinkRule::RouteOnly => &self.route_only,
            NetlinkRule::Refused => &self.no_netlink,
        };
        let listener = programs.install().map_err(at("install the seccomp program"))?;
        let denials_recorded = listener.is_some();
        if self.tier == Tier::Landlock && !denials_recorded {
            // Nobody would make its sockets, nor see that they lead nowhere else.
            let why = "another program listens to what is refused here (seccomp_unotify(2))";
            return Err(at("install the seccomp program")(io::Error::new(io::ErrorKind::ResourceBusy, why)));
        }
        let handed: Vec<_> = listener.iter().map(AsFd::as_fd).collect();
        wire::send(&hand_over, &(), &handed).map_err(at("hand over the seccomp listener"))?;
        drop((listener, hand_over));
        sys::reset_signals();
        let status = readback::text("status").map_err(at("read back"))?;
        let status = Status(&status);
        let kept = audit::descriptors(&status, first_closed, receipt)?;
        if let Some(receipt) = receipt {
            let level = readback::level(self.tier, landlock, (programs, denials_recorded), &status, kept);
            let level = level.map_err(at("read back"))?;
            let report = IsolationReport { plan: spawn.plan, level };
            rustix::io::write(receipt, report.to_line().as_bytes()).map_err(at("write the receipt"))?;
        }
        let (program, arguments) = spawn
            .argv
            .split_first()
            .ok_or_else(|| at("execve")(io::Error::from_raw_os_error(libc::ENOENT)))?;
        let error =
            Command::new(program).args(arguments).env_clear().envs(&spawn.env).current_dir(&spawn.cwd).exec();
        Err(at(format!("execve {program}"))(error))
    }
}
