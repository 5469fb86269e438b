//! The first process of a sandbox: starts and reaps processes, holds the listeners, pumps output into the log
//! and receipts to the host. No policy, and nothing that an agent writes is parsed here. It outlives the
//! daemon: the next one connects to the same control socket.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use clawkeep_plan::{Digest, MAX_RECEIPT_BYTES};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink};
use rustix::process::{Pid, Signal, WaitOptions};

use crate::broker::Broker;
use crate::children::Confinement;
use crate::log::BoundedLog;
use crate::mark::Mark;
use crate::notify::Listeners;
use crate::proto::{Child, Ended, Event, Kind, Message, Order, Reply, Request, Setup, Spawn};
use crate::stage::{Failure, at};
use crate::{sys, wire};

/// Connections of the host side that are served at once; the daemon needs one, an overlap of two daemons two.
const MAX_CONNECTIONS: usize = 4;

/// Processes that are remembered at once.
const MAX_CHILDREN: usize = 128;

/// How long processes get to be gone after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

struct Process {
    child: Child,
    output: Option<OwnedFd>,
    receipt: Option<OwnedFd>,
    receipt_bytes: Vec<u8>,
}

/// Init, ready to serve.
pub struct Server {
    confinement: Confinement,
    control: OwnedFd,
    signals: OwnedFd,
    root: OwnedFd,
    spec: Digest,
    /// Held for as long as this process lives: no second sandbox can be made beside it.
    _lock: OwnedFd,
    listeners: Vec<(u16, OwnedFd)>,
    datagrams: Vec<(u16, OwnedFd)>,
    log: BoundedLog,
    connections: Vec<OwnedFd>,
    processes: Vec<Process>,
    events: VecDeque<Event>,
    refusals: Listeners,
    /// By what the processes of the sandbox are known, where they have no namespace.
    mark: Option<Mark>,
}

impl Server {
    /// Open everything that needs the rights which are dropped next.
    pub fn prepare(
        setup: &Setup,
        confinement: Confinement,
        control: OwnedFd,
        log: BoundedLog,
        lock: OwnedFd,
    ) -> Result<Self, Failure> {
        let spec = &setup.spec;
        let mut listeners = Vec::new();
        for port in &spec.listeners {
            listeners.push((*port, listen(*port).map_err(at(format!("listen on port {port}")))?));
        }
        let mut datagrams = Vec::new();
        for port in &spec.datagrams {
            datagrams.push((*port, bind(*port).map_err(at(format!("bind UDP port {port}")))?));
        }
        // Only now: whoever connects is answered by the process that listens, and is told its pid.
        rustix::net::listen(&control, 16).map_err(at("listen on the control socket"))?;
        rustix::io::ioctl_fionbio(&control, true).map_err(at("listen on the control socket"))?;
        Ok(Self {
            confinement,
            control,
            signals: sys::sigchld_fd().map_err(at("take signals"))?,
            root: directory("/")?,
            spec: setup.digest,
            _lock: lock,
            listeners,
            datagrams,
            log,
            connections: Vec::new(),
            processes: Vec::new(),
            events: VecDeque::new(),
            refusals: Listeners::new(Broker::of(spec).map_err(at("open the sandbox's directories"))?),
            mark: setup.mark,
        })
    }

    /// Serve until killed.
    pub fn run(mut self) -> ! {
        loop {
            self.wait();
            self.reap();
            self.pump();
            self.refuse();
            self.accept();
            self.serve();
            self.tell();
        }
    }

    fn wait(&self) {
        let pipes = self.processes.iter().flat_map(|p| p.output.iter().chain(&p.receipt));
        let (refusals, no_longer_than) = self.refusals.wait();
        let mut fds: Vec<PollFd<'_>> = [&self.control, &self.signals]
            .into_iter()
            .chain(&self.connections)
            .chain(pipes)
            .map(AsFd::as_fd)
            .chain(refusals)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        // Interrupted or not: everything below looks for itself, without blocking.
        let _ = poll(&mut fds, no_longer_than.as_ref());
    }

    fn reap(&mut self) {
        let mut drained = [0_u8; 512];
        while matches!(rustix::io::read(&self.signals, &mut drained), Ok(n) if n > 0) {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let how = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Ended::Exited(code),
                (None, Some(signal)) => Ended::Signalled(signal),
                (None, None) => continue,
            };
            let pid = pid.as_raw_nonzero().get();
            let known = self.processes.iter_mut().find(|p| p.child.pid == pid && p.child.ended.is_none());
            if let Some(process) = known {
                process.child.ended = Some(how);
                self.events.push_back(Event::Ended { id: process.child.id.clone(), how });
            }
        }
    }

    /// Move what is there, a bounded amount a turn, so that a flood starves nobody.
    fn pump(&mut self) {
        // As much of it is touched as is read: what is never touched takes no memory.
        let mut block = Vec::with_capacity(64 * 1024);
        for process in &mut self.processes {
            match process.output.as_ref().map(|fd| read_into(fd, &mut block)) {
                Some(Ok(0)) => process.output = None,
                Some(Ok(_)) => self.log.append(&block),
                Some(Err(_)) | None => {}
            }
            match process.receipt.as_ref().map(|fd| read_into(fd, &mut block)) {
                Some(Ok(0)) => process.receipt = None,
                Some(Ok(read)) => {
                    // One byte over the limit is kept, so that the host sees that it was broken.
                    let room = (MAX_RECEIPT_BYTES + 1).saturating_sub(process.receipt_bytes.len());
                    process.receipt_bytes.extend(&block[..read.min(room)]);
                    if room > 0 {
                        process.child.receipt = printable(&process.receipt_bytes);
                        let (id, text) = (process.child.id.clone(), process.child.receipt.clone());
                        self.events.push_back(Event::Receipt { id, text });
                    }
                }
                Some(Err(_)) | None => {}
            }
        }
    }

    /// Answer the calls that the seccomp programs refuse, and remember which they were.
    fn refuse(&mut self) {
        for (id, call) in self.refusals.answer() {
            if let Some(process) = self.processes.iter_mut().find(|p| p.child.id == id) {
                process.child.denied.push(call);
            }
            self.events.push_back(Event::Denied { id, call });
        }
    }

    fn accept(&mut self) {
        while let Ok(connection) =
            rustix::net::accept_with(&self.control, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            if self.connections.len() == MAX_CONNECTIONS {
                // The oldest is the one most likely to belong to a daemon that hangs.
                self.connections.remove(0);
            }
            self.connections.push(connection);
        }
    }

    fn serve(&mut self) {
        for index in (0..self.connections.len()).rev() {
            let gone = match wire::receive::<Request>(&self.connections[index]) {
                Ok(Some((request, fds))) => self.answer(index, request, fds).is_err(),
                Ok(None) => true,
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            };
            if gone {
                self.connections.remove(index);
            }
        }
    }

    fn tell(&mut self) {
        while let Some(event) = self.events.pop_front() {
            let message = Message::Event(event);
            // One that does not read its events is cut off; it will ask again with `Hello`.
            self.connections.retain(|connection| wire::send(connection, &message, &[]).is_ok());
        }
    }

    fn answer(&mut self, index: usize, request: Request, fds: Vec<OwnedFd>) -> io::Result<()> {
        let number = request.number;
        let (reply, extra) = match self.carry_out(request.order, fds) {
            Ok(done) => done,
            Err(Failure { step, error }) => (Reply::Failed { step, reason: error.to_string() }, Vec::new()),
        };
        let mut borrowed: Vec<BorrowedFd<'_>> = extra.iter().map(AsFd::as_fd).collect();
        if matches!(reply, Reply::Hello { .. }) {
            borrowed.push(self.root.as_fd());
            borrowed.extend(self.listeners.iter().chain(&self.datagrams).map(|(_, fd)| fd.as_fd()));
        }
        wire::send(&self.connections[index], &Message::Reply { number, reply }, &borrowed)
    }

    fn carry_out(&mut self, order: Order, fds: Vec<OwnedFd>) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        let done = |reply| Ok((reply, Vec::new()));
        match order {
            Order::Hello => done(Reply::Hello {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                spec: self.spec,
                listeners: self.listeners.iter().map(|(port, _)| *port).collect(),
                datagrams: self.datagrams.iter().map(|(port, _)| *port).collect(),
                children: self.processes.iter().map(|p| p.child.clone()).collect(),
            }),
            Order::Spawn(spawn) => self.spawn(&spawn, fds),
            Order::Socket => {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
                    .map_err(at("make a socket"))?;
                Ok((Reply::Done, vec![socket]))
            }
            Order::Diagnostics => {
                let (flags, protocol) = (SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG));
                let socket =
                    rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)
                        .map_err(at("make a socket of sock_diag"))?;
                Ok((Reply::Done, vec![socket]))
            }
            Order::KillAll { spare_sessions } => {
                let left = self.kill_all(spare_sessions).map_err(at("kill the processes"))?;
                done(Reply::Killed { left })
            }
            Order::Signal { id, signal } => {
                let process = self.processes.iter().find(|p| p.child.id == id && p.child.ended.is_none());
                let process =
                    process.ok_or_else(|| at("signal")(io::Error::from_raw_os_error(libc::ESRCH)))?;
                let signal = Signal::from_named_raw(signal)
                    .ok_or_else(|| at("signal")(io::Error::from_raw_os_error(libc::EINVAL)))?;
                // Not yet reaped, so the pid is still this process's own.
                let pid = Pid::from_raw(process.child.pid)
                    .ok_or_else(|| at("signal")(io::Error::from_raw_os_error(libc::ESRCH)))?;
                rustix::process::kill_process(pid, signal).map_err(at("signal"))?;
                done(Reply::Done)
            }
            Order::Forget { id } => {
                self.processes.retain(|p| p.child.id != id || p.child.ended.is_none());
                done(Reply::Done)
            }
            Order::Log { line } => {
                self.log.append(format!("{line}\n").as_bytes());
                done(Reply::Done)
            }
        }
    }

    fn spawn(&mut self, spawn: &Spawn, fds: Vec<OwnedFd>) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        if self.processes.iter().any(|p| p.child.id == spawn.id) {
            return Err(at(format!("start {}", spawn.id))(io::Error::from_raw_os_error(libc::EEXIST)));
        }
        if self.processes.len() >= MAX_CHILDREN
            && let Some(oldest) = self.processes.iter().position(|p| p.child.ended.is_some())
        {
            // Its asker went away with an earlier daemon.
            self.processes.remove(oldest);
        }
        if self.processes.len() >= MAX_CHILDREN {
            return Err(at(format!("start {}", spawn.id))(io::Error::other("too many sessions are open")));
        }
        let started = self.confinement.start(spawn, fds)?;
        let pid = started.pid.as_raw_nonzero().get();
        self.refusals.expect(spawn.id.clone(), started.listener);
        self.processes.push(Process {
            child: Child {
                id: spawn.id.clone(),
                kind: spawn.kind,
                plan: spawn.plan,
                pid,
                receipt: String::new(),
                denied: Vec::new(),
                ended: None,
            },
            output: started.output,
            receipt: started.receipt,
            receipt_bytes: Vec::new(),
        });
        let extra = [Some(started.pidfd), started.terminal].into_iter().flatten().collect();
        Ok((Reply::Spawned { pid }, extra))
    }

    /// Those that init started itself, which may be too young to have the mark.
    fn kill_children_but(&self, spared: &[i32]) {
        for process in self.processes.iter().filter(|p| p.child.ended.is_none()) {
            // Not yet reaped, so the pid is still this process's own.
            if let Some(pid) =
                Pid::from_raw(process.child.pid).filter(|_| !spared.contains(&process.child.pid))
            {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }

    /// SIGKILL to everything else in the sandbox until nothing is left. What is spared is known by its
    /// session id, which no process can take from another (setsid(2)).
    fn kill_all(&mut self, spare_sessions: bool) -> io::Result<u32> {
        let until = Instant::now() + KILL_PATIENCE;
        loop {
            let spared: Vec<i32> = self
                .processes
                .iter()
                .filter(|p| spare_sessions && p.child.kind == Kind::Session && p.child.ended.is_none())
                .map(|p| p.child.pid)
                .collect();
            let left = match self.mark {
                None => kill_all_but(&spared)?,
                Some(mark) => {
                    self.kill_children_but(&spared);
                    mark.kill_but(&spared)?
                }
            };
            self.reap();
            if left == 0 || Instant::now() > until {
                // Output of the dead that nobody has read yet.
                self.pump();
                return Ok(left);
            }
            // Woken by the next death; the timeout only covers one that came before the wait.
            let mut fds = [PollFd::new(&self.signals, PollFlags::IN)];
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 }));
        }
    }
}

/// Read what is there, as far as the buffer's capacity goes, in the place of what it held.
fn read_into(fd: &OwnedFd, buffer: &mut Vec<u8>) -> rustix::io::Result<usize> {
    buffer.clear();
    rustix::io::read(fd, rustix::buffer::spare_capacity(buffer))
}

/// A receipt is printable ASCII in lines. Everything else becomes a question mark, which no receipt holds: so
/// its size in a message is known.
fn printable(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|b| if b.is_ascii_graphic() || *b == b' ' || *b == b'\n' { char::from(*b) } else { '?' })
        .collect()
}

fn directory(path: &str) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(at(format!("open {path}")))
}

fn kill_all_but(spared_sessions: &[i32]) -> io::Result<u32> {
    let mut left = 0;
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Some(pid) = Pid::from_raw(pid).filter(|pid| !pid.is_init()) else { continue };
        // Without one it went in between.
        let spared = session(pid).is_none_or(|session| spared_sessions.contains(&session));
        if !spared && rustix::process::kill_process(pid, Signal::KILL).is_ok() {
            left += 1;
        }
    }
    Ok(left)
}

/// Field 6 of a process's stat (proc_pid_stat(5)). Not by getsid(2): a session led from outside of this pid
/// namespace has the number 0, which rustix takes for impossible.
fn session(pid: Pid) -> Option<i32> {
    session_in(&std::fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?)
}

/// The same in the text of such a file.
pub(crate) fn session_in(stat: &[u8]) -> Option<i32> {
    // The name may hold anything, parentheses too.
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    std::str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace().nth(3)?.parse().ok()
}

fn listen(port: u16) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &loopback(port))?;
    rustix::net::listen(&socket, 1024)?;
    Ok(socket)
}

/// A UDP socket on this port that nobody else can have as well: the address is not to be reused.
fn bind(port: u16) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    rustix::net::bind(&socket, &loopback(port))?;
    Ok(socket)
}

fn loopback(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}
