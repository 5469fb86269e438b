//! One sandbox that is there: the steps that a launch is made of, each done afresh every time.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clawkeep_agents::openclaw::locks::{LockHolder, clear_stale, displace_all};
use clawkeep_doctor::{Facts, explain};
use clawkeep_guards::{InstallError, Package, Published, Publisher, Watcher};
use clawkeep_isolation::proto::{Child, Ended, Event, Kind, Order, Reply, Spawn, Stdio};
use clawkeep_isolation::{
    InitHandle, LOG, MountAccess, SandboxSpec, Usage, create, destroy, expected, find, start_time,
    start_time_in,
};
use clawkeep_plan::{Digest, Expected, LaunchPlan, Tier, VerifiedPlan};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use tokio::sync::mpsc;

use crate::beside;
use crate::blueprint::{Blueprint, LOG_INSIDE};
use crate::client::{InitClient, InitError, SESSION};
use crate::door;
use crate::identity;
use crate::inspect::{Inspector, open_inside};
use crate::listening::Listening;
use crate::probe;
use crate::run::Inside;
use crate::snapshot::LimitsInForce;

/// Where OpenClaw's configuration is.
const OPENCLAW_CONFIG: &str = "/sandbox/.openclaw/openclaw.json";

/// A sandbox with its init, reached.
pub(crate) struct Sandbox {
    pub client: InitClient,
    pub events: mpsc::UnboundedReceiver<Event>,
    pub handle: InitHandle,
    pub limits: Arc<LimitsInForce>,
    /// Missing where the host's inotify instances are used up: then `/tmp` is looked at every second.
    pub watcher: Option<Watcher>,
    pub inside: Inside,
    listening: Listening,
    /// Ports inside that the host side serves.
    pub served: Vec<u16>,
    /// What it was made from.
    spec: SandboxSpec,
    publisher: Publisher,
    root: OwnedFd,
    guards: OwnedFd,
    tmp: OwnedFd,
    home: OwnedFd,
}

/// Why a step failed, for a person.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    Init(#[from] InitError),
    #[error(transparent)]
    Create(#[from] clawkeep_isolation::CreateError),
    #[error(transparent)]
    Guards(#[from] InstallError),
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
    #[error("{0}")]
    Other(String),
}

impl StepError {
    /// With its cause and the command against it, where the host tells them.
    pub async fn explained(self, blueprint: &Blueprint) -> String {
        let said = self.to_string();
        let Self::Create(error) = self else { return said };
        let program = blueprint.program.clone();
        let look = move || explain(error.step(), &Facts::of_this_host(&program));
        match tokio::task::spawn_blocking(look).await {
            Ok(Some(cause)) => {
                let fix = cause.fix.map(|fix| format!("; next: {fix}")).unwrap_or_default();
                format!("{said}; because of {}: {}{fix}", cause.id, cause.found)
            }
            Ok(None) | Err(_) => said,
        }
    }
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> StepError {
    move |error| StepError::Io(what, error)
}

pub(crate) fn open_dir(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The specification in force: the blueprint's, with the guard package mounted as it stands now.
fn spec_now(blueprint: &Blueprint) -> Result<SandboxSpec, StepError> {
    let package = Package::install(&blueprint.guards_root)?;
    let mut spec = blueprint.spec.clone();
    spec.mounts.push(clawkeep_isolation::Mount {
        source: package.path().to_owned(),
        target: clawkeep_guards::GUARDS_MOUNT.into(),
        access: MountAccess::ReadOnly,
    });
    Ok(spec)
}

/// Make sure that an init is gone.
async fn end(handle: InitHandle) -> std::io::Result<()> {
    tokio::task::spawn_blocking(move || destroy(&handle)).await.map_err(std::io::Error::other)?
}

/// Namespaces and mounts, new. Whatever is still there of this sandbox is ended first, and what was made is
/// ended again when it cannot be reached: there is one at most.
pub(crate) async fn prepare(blueprint: &Blueprint) -> Result<Sandbox, StepError> {
    if let Some(old) = find(&blueprint.run).map_err(io("look for a running sandbox"))? {
        end(old).await.map_err(io("end the sandbox of before"))?;
    }
    let spec = spec_now(blueprint)?;
    if spec.tier == Tier::Landlock {
        beside::prepare(blueprint, &spec).map_err(io("prepare the places of the sandbox"))?;
    }
    let (program, run, made) = (blueprint.program.clone(), blueprint.run.clone(), spec.clone());
    let handle = tokio::task::spawn_blocking(move || create(&program, &run, &made))
        .await
        .map_err(|error| StepError::Other(error.to_string()))??;
    match Sandbox::reach(blueprint, &handle).await {
        Ok(reached) => Ok(reached.into_sandbox(handle, spec)),
        Err(error) => {
            end(handle).await.map_err(io("end a sandbox that cannot be reached"))?;
            Err(error)
        }
    }
}

/// The sandbox of an earlier daemon, if one serves; with what it remembers. One that cannot be reached, or was
/// made from another specification, is ended; an error says why.
pub(crate) async fn adopt(blueprint: &Blueprint) -> Result<Option<(Sandbox, Vec<Child>)>, StepError> {
    let Some(handle) = find(&blueprint.run).map_err(io("look for a running sandbox"))? else {
        return Ok(None);
    };
    let found = match (spec_now(blueprint), Sandbox::reach(blueprint, &handle).await) {
        (Ok(spec), Ok(reached)) if reached.spec == spec.digest() => Ok((reached, spec)),
        (Ok(_), Ok(_)) => Err(StepError::Other("it was made from another specification".into())),
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    match found {
        Ok((mut reached, spec)) => {
            let children = std::mem::take(&mut reached.children);
            Ok(Some((reached.into_sandbox(handle, spec), children)))
        }
        Err(error) => {
            end(handle).await.map_err(io("end a sandbox that cannot be adopted"))?;
            Err(error)
        }
    }
}

/// A sandbox that answered.
struct Reached {
    client: InitClient,
    events: mpsc::UnboundedReceiver<Event>,
    watcher: Option<Watcher>,
    inside: Inside,
    listening: Listening,
    publisher: Publisher,
    dirs: [OwnedFd; 4],
    children: Vec<Child>,
    spec: Digest,
}

impl Reached {
    fn into_sandbox(self, handle: InitHandle, spec: SandboxSpec) -> Sandbox {
        let Self { client, events, watcher, inside, listening, publisher, dirs, .. } = self;
        let [root, guards, tmp, home] = dirs;
        let cgroup = handle.cgroup.clone();
        let limits = Arc::new(LimitsInForce { enforced: cgroup.enforced(&spec.limits), cgroup });
        Sandbox {
            client,
            events,
            handle,
            spec,
            limits,
            watcher,
            inside,
            listening,
            served: Vec::new(),
            publisher,
            root,
            guards,
            tmp,
            home,
        }
    }
}

impl Sandbox {
    async fn reach(blueprint: &Blueprint, handle: &InitHandle) -> Result<Reached, StepError> {
        let (client, events) = InitClient::new(handle).map_err(io("reach the sandbox"))?;
        let (reply, fds) = client.ask(Order::Hello, &[]).await?;
        let Reply::Hello { listeners, datagrams, children, spec, .. } = reply else {
            return Err(InitError::Confused.into());
        };
        let mut fds = fds.into_iter();
        let root = fds.next().ok_or(InitError::Confused)?;
        let listeners: Vec<_> = listeners.into_iter().zip(&mut fds).collect();
        let datagrams: Vec<_> = datagrams.into_iter().zip(&mut fds).collect();
        // Made anew each time: no two must read each other's answers.
        let (_, mut fds) = client.ask(Order::Diagnostics, &[]).await?;
        let diagnostics = fds.pop().ok_or(InitError::Confused)?;
        let (_, mut fds) = client.ask(Order::Diagnostics, &[]).await?;
        let listening = Listening::new(fds.pop().ok_or(InitError::Confused)?).map_err(io("ask sock_diag"))?;
        let spec_now = spec_now(blueprint)?;
        let place = |path: &'static str| {
            let found = match (spec_now.tier, spec_now.on_the_host(path)) {
                (Tier::Landlock, Some(place)) => open_dir(&place),
                _ => open_inside(root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(Into::into),
            };
            found.map_err(|error| StepError::Io(path, error))
        };
        let (tmp, proc, guards) = (place("/tmp")?, place("/proc")?, place(clawkeep_guards::GUARDS_MOUNT)?);
        let twin = |fd: &OwnedFd| fd.try_clone().map_err(io("take /tmp"));
        let (uid, gid) = blueprint.spec.ids.host_root();
        let publisher = Publisher::new(twin(&tmp)?, uid, gid).map_err(|e| StepError::Other(e.to_string()))?;
        let names = blueprint.published.iter().map(|(name, _)| name.clone()).chain([LOG.to_owned()]);
        let watcher = Watcher::new(twin(&tmp)?, names).ok();
        for child in &children {
            if let (true, Some(how)) = (child.id.starts_with(SESSION), child.ended) {
                client.note_session(child.id.clone(), how);
            }
        }
        let home = open_dir(&blueprint.home).map_err(io("open the home"))?;
        let inside = Inside { listeners, datagrams, diagnostics, proc, root: twin(&root)? };
        let dirs = [root, guards, tmp, home];
        Ok(Reached { client, events, watcher, inside, listening, publisher, dirs, children, spec })
    }

    /// Nothing of an earlier launch is left: no process, no stale lock; where it is done thoroughly, no lock at
    /// all. Gives lines for the log.
    pub async fn clear(&self, thorough: bool) -> Result<Vec<String>, StepError> {
        match self.client.ask(Order::KillAll { spare_sessions: true }, &[]).await? {
            (Reply::Killed { left: 0 }, _) => {}
            (Reply::Killed { left }, _) => {
                return Err(StepError::Other(format!("{left} processes in the sandbox will not die")));
            }
            _ => return Err(InitError::Confused.into()),
        }
        let holder = |pid, start| self.lock_holder(pid, start);
        let (uid, _) = self.spec.agent();
        // Its locks are named by it.
        let config = match self.spec.tier {
            Tier::Namespaces => OPENCLAW_CONFIG.to_owned(),
            Tier::Landlock => {
                self.spec.on_the_host(OPENCLAW_CONFIG).unwrap_or_default().to_string_lossy().into_owned()
            }
        };
        let sweep = clear_stale(self.tmp.as_fd(), self.home.as_fd(), (uid, &config), &holder, false);
        let cleared = sweep.cleared.iter().map(|lock| {
            format!(
                "[gateway-recovery] removed stale lock {} (pid {:?}, {:?})",
                lock.path, lock.pid, lock.why
            )
        });
        let refused = sweep.refused.iter().map(|what| format!("[gateway-recovery] left alone: {what}"));
        let mut lines: Vec<_> = cleared.chain(refused).collect();
        if thorough {
            let displaced = displace_all(self.tmp.as_fd(), self.home.as_fd(), uid);
            lines.extend(displaced.iter().map(|what| format!("[gateway-recovery] {what}")));
        }
        Ok(lines)
    }

    /// Whose is a lock with this pid and start time? Asked after everything but people's sessions was killed.
    fn lock_holder(&self, pid: i32, start: Option<u64>) -> LockHolder {
        let read = |file: &str| -> Option<Vec<u8>> {
            let path = format!("{pid}/{file}");
            let fd =
                rustix::fs::openat(&self.inside.proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .ok()?;
            let mut bytes = vec![0; 16 * 1024];
            let read = rustix::io::read(&fd, &mut bytes).ok()?;
            bytes.truncate(read);
            Some(bytes)
        };
        let Some(stat) = read("stat") else { return LockHolder::Gone };
        match (start, start_time_in(&stat)) {
            (Some(lock), Some(now)) if lock != now => LockHolder::Recycled,
            // A gateway that somebody started by hand in a shell is alive, and its lock is its own.
            _ if read("cmdline").is_some_and(|line| String::from_utf8_lossy(&line).contains("gateway")) => {
                LockHolder::Live
            }
            _ => LockHolder::Unrelated,
        }
    }

    /// Its /proc, for whoever looks at its processes.
    pub fn proc(&self) -> std::io::Result<OwnedFd> {
        self.inside.proc.try_clone()
    }

    /// The pid of its first process, as it sees itself.
    pub fn init(&self) -> i32 {
        match self.spec.tier {
            Tier::Namespaces => 1,
            Tier::Landlock => self.handle.pid,
        }
    }

    /// Whether one of its processes is there, and stopped.
    pub fn is_stopped(&self, inside: i32) -> bool {
        probe::stopped(self.inside.proc.as_fd(), inside)
    }

    /// Put every published file in place, and the link to the gateway's log, where shells and old scripts look for it.
    /// Gives the names of those that had to be restored, with what stood in the way.
    pub fn publish(&self, blueprint: &Blueprint) -> Result<Vec<(String, Published)>, String> {
        let mut restored = Vec::new();
        for (name, bytes) in &blueprint.published {
            match self.publisher.publish(name, bytes) {
                Ok(Published::Intact) => {}
                Ok(found) => restored.push((name.clone(), found)),
                Err(error) => return Err(format!("/tmp/{name}: {error}")),
            }
        }
        // Nothing is launched by it, so nothing fails for it.
        if let Ok(found) = self.publisher.publish_link(LOG, &self.log_inside())
            && found != Published::Intact
        {
            restored.push((LOG.to_owned(), found));
        }
        Ok(restored)
    }

    /// The directories that the agent insists on, in `/tmp`, owned by it. What is there and is no such
    /// directory is moved aside; nothing is followed, nothing is deleted.
    pub fn make_runtime_dirs(&self, blueprint: &Blueprint) -> Result<(), StepError> {
        let (uid, gid) = blueprint.spec.ids.host_agent();
        for dir in blueprint.adapter.runtime_dirs(self.spec.agent().0) {
            let name = dir.name.as_str();
            let mode = Mode::from_raw_mode(dir.mode);
            let attempt = || -> Result<bool, Errno> {
                match rustix::fs::mkdirat(&self.tmp, name, mode) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = match rustix::fs::openat(&self.tmp, name, flags, Mode::empty()) {
                    Ok(fd) => fd,
                    Err(Errno::NOTDIR | Errno::LOOP) => return Ok(false),
                    Err(errno) => return Err(errno),
                };
                let stat = rustix::fs::fstat(&fd)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Ok(false);
                }
                if (stat.st_uid, stat.st_gid) != (uid, gid) {
                    rustix::fs::fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
                }
                rustix::fs::fchmod(&fd, mode)?;
                Ok(true)
            };
            let what = "make the agent's directories in /tmp";
            if !attempt().map_err(|e| StepError::Io(what, e.into()))? {
                let aside = format!("{name}.displaced-{}", rustix::process::getpid().as_raw_nonzero());
                // Where something stands aside already, that one goes: it is a file or link of the agent's.
                let _ = rustix::fs::unlinkat(&self.tmp, aside.as_str(), AtFlags::empty());
                rustix::fs::renameat(&self.tmp, name, &self.tmp, aside.as_str())
                    .map_err(|e| StepError::Io(what, e.into()))?;
                if !attempt().map_err(|e| StepError::Io(what, e.into()))? {
                    return Err(StepError::Other(format!("/tmp/{name} is taken by something else")));
                }
            }
        }
        Ok(())
    }

    /// Where the gateway's log is, as the agent sees it.
    fn log_inside(&self) -> PathBuf {
        match self.spec.tier {
            Tier::Namespaces => LOG_INSIDE.into(),
            Tier::Landlock => self.spec.on_the_host(LOG_INSIDE).unwrap_or_default(),
        }
    }

    /// Look at every input of a plan.
    pub fn verify(
        &self,
        blueprint: &Blueprint,
        plan: &LaunchPlan,
    ) -> Result<VerifiedPlan, clawkeep_plan::Refusal> {
        let mut inspector = Inspector {
            guards: self.guards.as_fd(),
            root: self.root.as_fd(),
            publisher: &self.publisher,
            owner: blueprint.spec.ids.host_root().0,
            listeners: &self.served,
            spec: &self.spec,
        };
        plan.clone().verify(&mut inspector)
    }

    /// What a process that was launched by this plan must have said of its isolation.
    pub fn expected(&self, plan: &LaunchPlan, seccomp: Digest) -> std::io::Result<Expected> {
        expected(&self.spec, seccomp, !plan.guards.is_empty(), self.root.as_fd())
    }

    /// Execute. The only way to start an agent, and it takes a verified plan and uses it up.
    pub async fn launch(&self, verified: VerifiedPlan, id: String) -> Result<Process, StepError> {
        let LaunchPlan { argv, env, cwd, sealing, guards, .. } = verified.plan().clone();
        let plan = verified.digest();
        let spawn = Spawn {
            id,
            kind: Kind::Gateway,
            plan,
            argv,
            env,
            cwd,
            netlink: sealing.netlink,
            landlock_abi_min: sealing.landlock_abi_min,
            stdio: Stdio::Log,
            reports: !guards.is_empty(),
        };
        match self.client.ask(Order::Spawn(Box::new(spawn)), &[]).await? {
            (Reply::Spawned { pid }, mut fds) => {
                Ok(Process { inside: pid, host: fds.pop().and_then(host_pid) })
            }
            _ => Err(InitError::Confused.into()),
        }
    }

    /// Whose is what listens on this port? The gateway's: held by it, or by a process that came from it. What cannot
    /// be told is given the benefit of the doubt, the answer itself was right; but not where the whole host could have
    /// given it.
    pub async fn whose(&self, port: u16, gateway: i32) -> Holder {
        let proc = self.inside.proc.as_fd();
        // Nearly always; else everybody who listens there is looked at.
        let answers = self.listening.find(port);
        if answers.is_some_and(|socket| identity::holds(proc, gateway, &[socket]) == Some(true)) {
            return true;
        }
        let sockets = identity::listeners(proc, gateway, port);
        if let Some(owner) = door::owner(&self.spec) {
            match sockets.iter().find(|socket| socket.uid != owner) {
                Some(socket) => return Holder::Stranger(socket.uid),
                None if sockets.is_empty() => return Holder::Nobody,
                None => {}
            }
        }
        if sockets.is_empty() || identity::holds(proc, gateway, &sockets) != Some(false) {
            return Holder::Gateway;
        }
        let Ok((Reply::Hello { children, .. }, _)) = self.client.ask(Order::Hello, &[]).await else {
            return Holder::Gateway;
        };
        let sessions: Vec<i32> =
            children.iter().filter(|c| c.kind == Kind::Session && c.ended.is_none()).map(|c| c.pid).collect();
        let holders = identity::processes(proc)
            .into_iter()
            .filter(|pid| identity::holds(proc, *pid, &sockets) == Some(true));
        let of_session =
            |pid| identity::session(proc, pid).is_some_and(|session| sessions.contains(&session));
        let mut holders = holders.peekable();
        match holders.peek().is_none() || holders.any(|pid| !of_session(pid)) {
            true => Holder::Gateway,
            false => Holder::Session,
        }
    }

    /// Whose of the host's other users the port is that the agent is to have; `None` where it is nobody's, or where
    /// its loopback is its own.
    pub fn stranger_on(&self, port: u16) -> Option<u32> {
        let owner = door::owner(&self.spec)?;
        identity::on_this_host(port).iter().map(|socket| socket.uid).find(|uid| *uid != owner)
    }

    /// What all that runs in it has taken of the host so far, by the kernel's count.
    pub fn usage(&self) -> Usage {
        self.limits.cgroup.usage()
    }

    /// End everything that runs in it, people's sessions too.
    pub async fn kill_all(&self) {
        // What will not die is found by the next clearing.
        let _ = self.client.ask(Order::KillAll { spare_sessions: false }, &[]).await;
    }

    /// The pid on the host of a process that an earlier daemon started.
    pub fn host_pid_of(&self, inside: i32) -> Option<i32> {
        // The last of the pids in NSpid is the one inside; the first the one in the reader's namespace
        // (proc_pid_status(5)). This /proc is the sandbox's, so ask the host's: children of init.
        let children =
            std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.handle.pid)).ok()?;
        children.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()).find(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
                let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
                pids.and_then(|pids| pids.split_ascii_whitespace().last()?.parse().ok()) == Some(inside)
            })
        })
    }

    /// Take it down, with all that runs in it.
    pub async fn tear_down(self) -> std::io::Result<()> {
        end(self.handle).await
    }
}

/// Who has the gateway's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// As it must be.
    Gateway,
    /// A process of a session that somebody opened.
    Session,
    /// Another user of the host, by this uid.
    Stranger(u32),
    /// It was let go since.
    Nobody,
}

/// A launched process, by its two pids.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    pub inside: i32,
    pub host: Option<i32>,
}

/// The pid of a pidfd in our own namespace, from `/proc/self/fdinfo` (pidfd_open(2)).
fn host_pid(pidfd: OwnedFd) -> Option<i32> {
    use std::os::fd::AsRawFd;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok().filter(|pid| *pid > 0)
}

/// When a process of the host started, as Unix time in milliseconds: its start in clock ticks since boot, and
/// the boot's time in `/proc/stat` (proc_stat(5)).
pub(crate) fn started_at(pid: i32) -> Option<u64> {
    let ticks = start_time(pid)?;
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot * 1000 + ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// For how long a process of the host has been there, by the clock that nobody sets (clock_gettime(2),
/// CLOCK_BOOTTIME).
pub(crate) fn age(pid: i32) -> Option<std::time::Duration> {
    let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = since_boot.tv_sec.unsigned_abs() * 1000 + since_boot.tv_nsec.unsigned_abs() / 1_000_000;
    let started = start_time(pid)? * 1000 / rustix::param::clock_ticks_per_second();
    Some(std::time::Duration::from_millis(now.saturating_sub(started)))
}

/// What an ended process looks like to the adapters.
pub(crate) fn ending(how: Ended) -> clawkeep_agents::Ending {
    match how {
        Ended::Exited(code) => clawkeep_agents::Ending::Code(code),
        Ended::Signalled(signal) => clawkeep_agents::Ending::Signal(signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_time_is_read_whatever_the_process_calls_itself() {
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        let started = started_at(std::process::id() as i32).unwrap();
        // The boot's time is in whole seconds.
        assert!(started <= now + 2_000 && now - started.min(now) < 600_000, "{started} {now}");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (ours, theirs) = (age(std::process::id() as i32).unwrap(), age(child.id() as i32).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(theirs <= ours && ours.as_millis() < 600_000, "{theirs:?} {ours:?}");
        assert_eq!(age(-1), None);
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(start_time_in(format!("7 (a) S 1 (b) {rest}").as_bytes()), Some(4711));
        assert_eq!(start_time_in(b"7 (x"), None);
        assert_eq!(start_time_in(b""), None);
    }
}
