//! The faults of the campaign, and the hands that commit them. Every choice is drawn from the seed before
//! anything happens, so that a replay commits the same faults.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use clawkeep_daemon::api::{Answer, Request, Value};
use clawkeep_daemon::ensure;
use rustix::net::sockopt::Timeout;
use testkit::{Handle, Processes, Rng, pause, wait_until};

use crate::support::{Installation, LONG, PROGRAM, name};

/// The one sandbox of the campaign.
pub const BOX: &str = "box";

/// A daemon that dies for the third time under one parent within half a minute comes back after seconds.
const DEATHS_A_PARENT: u32 = 2;

/// A gateway that is there takes an order at once.
const ANSWER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// SIGKILL to the gateway.
    KillGateway,
    /// The same, and again this much later, to whatever init has started by then.
    KillAtStart { after: Duration },
    /// By the agent itself: everything that it may kill.
    KillAllInside,
    /// SIGKILL to the sandbox's first process: namespaces, mounts, listeners, all gone.
    KillInit,
    /// Everything in `/tmp` removed, this often.
    Wipe { times: u64 },
    /// A published file, by its number, made into something else.
    Tamper { file: usize, how: &'static str },
    /// What a dead gateway, or a hostile agent, leaves where the lock belongs.
    Lock { how: &'static str },
    /// SIGKILL to the daemon, and to its parent.
    KillDaemon { parent: bool },
    /// SIGKILL to the daemon's parent alone.
    KillParent,
    /// The gateway does this to itself.
    Order(&'static str),
}

const TAMPERINGS: [&str; 8] = [
    "rm -f $F",
    "ln -sfn /sandbox/evil.js $F",
    "rm -rf $F; mkdir -p $F/deep",
    "rm -rf $F; printf '%s' \"$HOSTILE\" > $F; chmod 0666 $F",
    "chmod 0666 $F; printf '\\n%s\\n' \"$HOSTILE\" >> $F",
    "ln $F ./second-$$",
    "rm -rf $F; mkfifo $F",
    ": > $F",
];

const LOCKS: [&str; 6] = [
    r#"rm -rf $L; printf '{"pid":999999,"createdAt":"x","configPath":"/x","startTime":1}' > $L"#,
    r#"rm -rf $L; printf '{"pid":1,"createdAt":"x","configPath":"/x","startTime":1}' > $L"#,
    r#"rm -rf $L; printf '{"pid":' > $L"#,
    "rm -rf $L; : > $L",
    "rm -rf $L; ln -s /sandbox/victim $L",
    "rm -rf $L; mkdir $L",
];

const ORDERS: [&str; 6] =
    ["crash", "crash:1", "exit-0", "exit-78", "fork,crash:1", "leave-lock,ignore-sigterm,exit-0"];

impl Fault {
    pub fn draw(rng: &mut Rng, files: usize) -> Self {
        match rng.within(0..100) {
            0..14 => Self::KillGateway,
            14..28 => Self::KillAtStart { after: Duration::from_micros(rng.within(0..60_000)) },
            28..36 => Self::KillAllInside,
            36..46 => Self::KillInit,
            46..56 => Self::Wipe { times: rng.within(1..4) },
            56..72 => {
                let file = usize::try_from(rng.within(0..files as u64)).unwrap();
                Self::Tamper { file, how: rng.pick::<&str>(&TAMPERINGS) }
            }
            72..80 => Self::Lock { how: rng.pick::<&str>(&LOCKS) },
            80..86 => Self::KillDaemon { parent: rng.percent(40) },
            86..88 => Self::KillParent,
            _ => Self::Order(rng.pick::<&str>(&ORDERS)),
        }
    }

    /// Whether a running gateway must not outlive it.
    pub fn ends_the_gateway(self) -> bool {
        match self {
            Self::KillGateway
            | Self::KillAtStart { .. }
            | Self::KillAllInside
            | Self::KillInit
            | Self::Order(_) => true,
            Self::Wipe { .. }
            | Self::Tamper { .. }
            | Self::Lock { .. }
            | Self::KillDaemon { .. }
            | Self::KillParent => false,
        }
    }
}

/// The sandbox's surroundings, as whoever breaks things sees them.
pub struct Saboteur<'a> {
    pub installation: &'a Installation,
    pub port: u16,
    /// The published files.
    pub files: Vec<String>,
    /// The lock, below `/tmp`.
    pub lock: String,
    /// The daemon's parent, and how many daemons it has lost.
    deaths: (i32, u32),
}

impl<'a> Saboteur<'a> {
    pub fn new(installation: &'a Installation, port: u16) -> Self {
        let mut saboteur =
            Self { installation, port, files: Vec::new(), lock: String::new(), deaths: (0, 0) };
        let (listed, _) = installation.exec(BOX, "cd /tmp && ls -d nemoclaw-*");
        saboteur.files = listed.lines().map(str::to_owned).collect();
        let (lock, status) = installation.exec(BOX, "cd /tmp && ls openclaw-*/gateway.*.lock");
        assert_eq!(status, 0, "{lock}");
        saboteur.lock = lock.trim().to_owned();
        saboteur
    }

    pub fn commit(&mut self, fault: Fault) {
        match fault {
            Fault::KillGateway => self.kill_gateway(),
            Fault::KillAtStart { after } => {
                self.kill_gateway();
                pause(after);
                let processes = Processes::snapshot();
                let newest = inits(&processes).flat_map(|init| processes.children(init));
                if let Some(newest) = newest.max_by_key(|process| (process.start_time, process.pid)) {
                    kill(newest.pid, newest.start_time);
                }
            }
            Fault::KillAllInside => self.exec("kill -9 -1"),
            Fault::KillInit => {
                let processes = Processes::snapshot();
                for init in inits(&processes) {
                    let start_time = processes.get(init).unwrap().start_time;
                    kill(init, start_time);
                }
            }
            Fault::Wipe { times } => {
                for _ in 0..times {
                    self.in_tmp("find . -mindepth 1 -maxdepth 1 -exec rm -rf {} +");
                }
            }
            Fault::Tamper { file, how } => {
                let file = &self.files[file];
                let hostile = match file.ends_with(".js") {
                    true => "require('fs').writeFileSync('/sandbox/pwned', '')",
                    false => "touch /sandbox/pwned",
                };
                self.in_tmp(&format!("F={file}; HOSTILE=\"{hostile}\"; {how}"));
            }
            Fault::Lock { how } => {
                let dir = Path::new(&self.lock).parent().unwrap().display();
                self.exec(&format!("cd /tmp; mkdir -p -m 0700 {dir}; L={}; {how}", self.lock));
            }
            Fault::KillDaemon { parent } => self.kill_daemon(parent),
            Fault::KillParent => self.kill_parent(),
            Fault::Order(order) => self.order(order),
        }
    }

    fn kill_gateway(&self) {
        for gateway in gateways(&Processes::snapshot()) {
            if let Some(gateway) = Handle::of(gateway)
                && gateway.kill()
            {
                assert!(gateway.ends_within(LONG), "{} survives SIGKILL", gateway.process);
            }
        }
    }

    fn kill_daemon(&mut self, parent: bool) {
        let Some(daemon) = daemon("--serve") else { return };
        let own = daemon.process.parent;
        self.deaths = if self.deaths.0 == own { (own, self.deaths.1 + 1) } else { (own, 1) };
        if parent || self.deaths.1 > DEATHS_A_PARENT {
            self.kill_parent();
        }
        daemon.kill();
        assert!(daemon.ends_within(LONG), "{} survives SIGKILL", daemon.process);
    }

    fn kill_parent(&self) {
        if let Some(parent) = daemon("--parent") {
            parent.kill();
            assert!(parent.ends_within(LONG), "{} survives SIGKILL", parent.process);
        }
    }

    /// Answered before it is carried out: then the end must come. A gateway that is not there gets no order.
    fn order(&self, order: &str) {
        let ask = || {
            let stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            // What an earlier gateway left behind may hold the port, and answers never.
            stream.set_read_timeout(Some(ANSWER)).unwrap();
            let answer = testkit::http::post(stream, &format!("/fake/{order}"), b"").ok()?;
            answer.json().ok()?["start_time"].as_u64()
        };
        let Some(start_time) = ask() else { return };
        wait_until(LONG, "the gateway to do as it was told", || {
            let processes = Processes::snapshot();
            let lives = |pid: i32| processes.get(pid).is_some_and(|process| process.start_time == start_time);
            (!gateways(&processes).any(lives)).then_some(())
        });
    }

    /// As the agent. What comes of it does not matter: the sandbox may not be there.
    fn exec(&self, script: &str) {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let request = Request::Exec { name: name(BOX), argv, terminal: None, term: None };
        let null = File::options().read(true).write(true).open("/dev/null").unwrap();
        let fds = [null.as_fd(); 3];
        let mut client = ensure(&self.installation.home, Path::new(PROGRAM)).unwrap();
        rustix::net::sockopt::set_socket_timeout(client.as_fd(), Timeout::Recv, Some(LONG)).unwrap();
        client.send(&request, &fds).unwrap();
        loop {
            match client.next().expect("an answer in time") {
                Some(Answer::Done(Value::Ended { .. }) | Answer::Failed(_)) | None => return,
                Some(Answer::Session { .. }) => {}
                Some(other) => panic!("{other:?}"),
            }
        }
    }

    /// As the host's root in the sandbox's `/tmp`; where there is no root, as the agent. Gives the output.
    pub fn in_tmp(&self, script: &str) -> Option<String> {
        // With an end: whoever opens a named pipe that was put in a file's place would wait for ever.
        let shell = ["timeout", "-s", "KILL", "2", "/bin/sh", "-c"];
        if !rustix::process::geteuid().is_root() {
            let script = format!("cd /tmp; {script}");
            let words = [&[BOX, "exec", "--"], &shell[..], &[script.as_str()]].concat();
            return Some(String::from_utf8_lossy(&self.installation.clawkeep(&words).stdout).into_owned());
        }
        let tmp = tmp()?;
        // Through the descriptor: a pid can be another process's by now.
        let here = format!("/proc/self/fd/{}", tmp.as_raw_fd());
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).arg(script).current_dir(here).stdin(Stdio::null()).stderr(Stdio::null());
        Some(String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned())
    }
}

/// The `/tmp` of the sandbox, and surely not the host's.
fn tmp() -> Option<OwnedFd> {
    let processes = Processes::snapshot();
    let init = inits(&processes).next()?;
    let tmp = File::open(format!("/proc/{init}/root/tmp")).ok()?;
    let device = tmp.metadata().unwrap().dev();
    for ours in ["/", "/tmp"] {
        // Before it has entered its own root an init still sees ours.
        if device == std::fs::metadata(ours).unwrap().dev() {
            return None;
        }
    }
    Some(tmp.into())
}

/// The first processes of our sandboxes.
pub fn inits(processes: &Processes) -> impl Iterator<Item = i32> {
    let inits = processes.descendants().filter(|process| {
        process.command == "clawkeep-init"
            && process.state != 'Z'
            // A process that init has just forked bears its name.
            && processes.get(process.parent).is_none_or(|parent| parent.command != "clawkeep-init")
    });
    inits.map(|process| process.pid)
}

/// The gateways in our sandboxes.
pub fn gateways(processes: &Processes) -> impl Iterator<Item = i32> {
    let living = processes.descendants().filter(|process| process.state != 'Z');
    living.filter(|process| process.command == "fake-gateway").map(|process| process.pid)
}

/// Our daemon or its parent, by its role.
fn daemon(role: &str) -> Option<Handle> {
    let processes = Processes::snapshot();
    let ours = processes.descendants().filter(|process| process.command == "clawkeep");
    ours.filter_map(|process| Handle::of(process.pid)).find(|handle| {
        let line = std::fs::read(format!("/proc/{}/cmdline", handle.process.pid)).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == role.as_bytes())
    })
}

fn kill(pid: i32, start_time: u64) {
    if let Some(handle) = Handle::of(pid)
        && handle.process.start_time == start_time
        && handle.kill()
    {
        assert!(handle.ends_within(LONG), "{} survives SIGKILL", handle.process);
    }
}
