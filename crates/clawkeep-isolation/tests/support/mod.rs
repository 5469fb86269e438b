//! A sandbox for one test, and a blocking client of its init.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clawkeep_isolation::proto::{Ended, Event, Kind, Message, Order, Reply, Request, Spawn, Stdio};
use clawkeep_isolation::{
    IdMap, InitHandle, Limits, Mount, MountAccess, SandboxSpec, System, create, destroy, etc_files, expected,
    find, wire,
};
use clawkeep_plan::{Digest, EnforcedLevel, Expected, NetlinkRule, Receipt, Tier};

pub struct Sandbox {
    pub dir: tempfile::TempDir,
    pub handle: InitHandle,
    pub spec: SandboxSpec,
    pub events: VecDeque<Event>,
    number: u64,
}

/// The setup's program; in a virtual machine it lies elsewhere than where it was built.
pub fn program() -> &'static Path {
    static GIVEN: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();
    GIVEN.get_or_init(|| match std::env::var_os("CLAWKEEP_INIT") {
        Some(given) => given.into(),
        None => env!("CARGO_BIN_EXE_isolation-init").into(),
    })
}

/// Where there is no Python it is said aloud.
pub fn has_python(test: &str) -> bool {
    let found = Path::new("/usr/bin/python3").exists();
    if !found {
        eprintln!("SKIPPED: {test} needs /usr/bin/python3");
    }
    found
}

/// A program in this directory that does something (in Python, with `libc` at hand) and then becomes the setup.
pub fn setup_after(dir: &Path, script: &str) -> PathBuf {
    let path = dir.join("setup");
    let init = program().display();
    let text = format!(
        "#!/usr/bin/python3\nimport ctypes, os, struct, sys\nlibc = ctypes.CDLL(None)\n{script}\nos.execv('{init}', sys.argv)\n"
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

pub fn spec(dir: &Path, ids: IdMap) -> SandboxSpec {
    let home = dir.join("home");
    std::fs::create_dir_all(&home).unwrap();
    let (uid, gid) = ids.host_agent();
    std::os::unix::fs::chown(&home, Some(uid), Some(gid)).unwrap();
    let system = System::of_this_host();
    let mut mounts = system.mounts;
    mounts.push(Mount { source: home, target: "/sandbox".into(), access: MountAccess::ReadWrite });
    SandboxSpec {
        name: "box".into(),
        tier: Tier::Namespaces,
        ids,
        mounts,
        symlinks: system.symlinks,
        files: etc_files("box"),
        listeners: vec![3128, 53],
        datagrams: vec![53],
        own_ports: vec![],
        tmp_bytes: 64 << 20,
        log_bytes: 1 << 20,
        limits: Limits::default(),
    }
}

fn order(id: &str, kind: Kind, stdio: Stdio, argv: &[&str]) -> Spawn {
    Spawn {
        id: id.into(),
        kind,
        plan: Digest::of(b"plan"),
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]),
        cwd: "/".into(),
        netlink: NetlinkRule::RouteOnly,
        landlock_abi_min: 1,
        stdio,
        reports: kind == Kind::Gateway,
    }
}

impl Sandbox {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut SandboxSpec)) -> Self {
        Self::by(program(), tempfile::tempdir().unwrap(), change)
    }

    /// Set up by this program, in this directory.
    pub fn by(program: &Path, dir: tempfile::TempDir, change: impl FnOnce(&mut SandboxSpec)) -> Self {
        let ids = IdMap::for_current_user(7);
        let mut spec = spec(dir.path(), ids);
        change(&mut spec);
        let run = dir.path().join("run");
        create(program, &run, &spec).unwrap();
        let handle = find(&run).unwrap().expect("init serves");
        Self { dir, handle, spec, events: VecDeque::new(), number: 0 }
    }

    /// In the lower tier, with a directory of its own for a `/tmp`, and these ports to serve on.
    pub fn beside(own_ports: Vec<u16>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Where the agent is another user it must get there.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let tmp = dir.path().join("tmp");
        std::fs::create_dir(&tmp).unwrap();
        Self::by(program(), dir, |spec| {
            let (uid, gid) = spec.ids.host_agent();
            std::os::unix::fs::chown(&tmp, Some(uid), Some(gid)).unwrap();
            spec.tier = Tier::Landlock;
            spec.listeners = vec![testkit::free_port()];
            spec.datagrams = vec![];
            spec.own_ports = own_ports;
            let home = spec.mounts.pop();
            spec.mounts = System::beside_this_host().mounts;
            spec.mounts.extend(home);
            spec.mounts.push(Mount { source: tmp, target: "/tmp".into(), access: MountAccess::ReadWrite });
            (spec.symlinks, spec.files) = (vec![], vec![]);
        })
    }

    /// What a gateway in it must say of itself.
    pub fn expected(&mut self) -> Expected {
        let (_, fds) = self.ask(Order::Hello, &[]);
        let seccomp = self.spec.programs(NetlinkRule::RouteOnly).unwrap().digest();
        expected(&self.spec, seccomp, true, fds[0].as_fd()).unwrap()
    }

    pub fn ask(&mut self, order: Order, fds: &[BorrowedFd<'_>]) -> (Reply, Vec<OwnedFd>) {
        self.number += 1;
        wire::send(&self.handle.connection, &Request { number: self.number, order }, fds).unwrap();
        loop {
            match wire::receive(&self.handle.connection).unwrap().expect("init answers") {
                (Message::Reply { number, reply }, fds) if number == self.number => return (reply, fds),
                (Message::Reply { .. }, _) => panic!("an answer to no question"),
                (Message::Event(event), _) => self.events.push_back(event),
            }
        }
    }

    pub fn next_event(&mut self) -> Event {
        self.events.pop_front().unwrap_or_else(|| self.receive_event())
    }

    fn receive_event(&self) -> Event {
        match wire::receive(&self.handle.connection).unwrap().expect("init tells") {
            (Message::Event(event), _) => event,
            (Message::Reply { .. }, _) => panic!("an answer to no question"),
        }
    }

    pub fn spawn(
        &mut self,
        id: &str,
        kind: Kind,
        stdio: Stdio,
        argv: &[&str],
        fds: &[BorrowedFd<'_>],
    ) -> Vec<OwnedFd> {
        let spawn = order(id, kind, stdio, argv);
        match self.ask(Order::Spawn(Box::new(spawn)), fds) {
            (Reply::Spawned { .. }, fds) => fds,
            (other, _) => panic!("{other:?}"),
        }
    }

    /// How this process ended, once it has; other events are kept.
    pub fn ended(&mut self, id: &str) -> Ended {
        let of_it = |event: &Event| match event {
            Event::Ended { id: ended, how } if ended == id => Some(*how),
            _ => None,
        };
        loop {
            if let Some(how) = self.events.iter().find_map(of_it) {
                self.events.retain(|event| of_it(event).is_none());
                return how;
            }
            let event = self.receive_event();
            self.events.push_back(event);
        }
    }

    /// Run a command as a session; its output and end.
    pub fn run(&mut self, argv: &[&str]) -> (String, Ended) {
        let null = std::fs::File::open("/dev/null").unwrap();
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        self.number += 1;
        let id = format!("run-{}", self.number);
        self.spawn(&id, Kind::Session, Stdio::Given, argv, &[null.as_fd(), write.as_fd(), write.as_fd()]);
        drop(write);
        let mut output = Vec::new();
        std::fs::File::from(read).read_to_end(&mut output).unwrap();
        let how = self.ended(&id);
        self.ask(Order::Forget { id }, &[]);
        (String::from_utf8_lossy(&output).into_owned(), how)
    }

    /// Start a session that needs this Landlock ABI; why it was not started.
    pub fn spawn_under_landlock(&mut self, least: u32) -> Result<(), String> {
        let mut spawn = order("l", Kind::Session, Stdio::Terminal { rows: 1, columns: 1 }, &["/bin/true"]);
        spawn.landlock_abi_min = least;
        match self.ask(Order::Spawn(Box::new(spawn)), &[]).0 {
            Reply::Spawned { .. } => Ok(()),
            Reply::Failed { step, reason } => Err(format!("{step}: {reason}")),
            other => panic!("{other:?}"),
        }
    }

    /// Start a gateway that goes on; what it says of its isolation.
    pub fn gateway_level(&mut self) -> EnforcedLevel {
        self.spawn("g", Kind::Gateway, Stdio::Log, &["/bin/sleep", "1000"], &[]);
        loop {
            if let Event::Receipt { text, .. } = self.next_event()
                && let Ok(receipt) = Receipt::parse(text.as_bytes())
            {
                return receipt.isolation.level;
            }
        }
    }

    pub fn sh(&mut self, script: &str) -> (String, Ended) {
        self.run(&["/bin/sh", "-c", script])
    }

    /// Run a script of Python's as a session; what it prints. `None`, said aloud, where there is no Python.
    pub fn python(&mut self, test: &str, script: &str) -> Option<String> {
        if !has_python(test) {
            return None;
        }
        let (output, how) = self.run(&["/usr/bin/python3", "-c", script]);
        assert_eq!(how, Ended::Exited(0), "{output}");
        Some(output)
    }

    /// What was refused to this process so far, in order. Init has told of all that it answered before.
    pub fn denied(&mut self, id: &str) -> Vec<i64> {
        self.ask(Order::Hello, &[]);
        let of_it = |event: &Event| match event {
            Event::Denied { id: of, call } if of == id => Some(*call),
            _ => None,
        };
        self.events.iter().filter_map(of_it).collect()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("run/gateway.log")).unwrap()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        destroy(&self.handle).unwrap();
    }
}
