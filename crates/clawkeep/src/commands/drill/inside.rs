//! A running sandbox as the drill's target: each attempt is a session, as `exec` makes them.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use clawkeep_daemon::Client;
use clawkeep_daemon::api::{Answer, Rehearsal, Request, SandboxStatus, Value};
use clawkeep_drill::{
    Places, Program, Recovered, Runtime, Said, Target, TargetError, Traits, Walls, sealed_payload,
};
use clawkeep_guards::Package;
use clawkeep_isolation::Programs;
use clawkeep_plan::{NetlinkRule, Tier};
use clawkeep_store::Home;
use rustix::pipe::{PipeFlags, pipe_with};

use super::super::{launch, wait_ready, wait_relaunched};
use crate::host::Host;
use crate::problem::Problem;

/// The port of the proxy in every sandbox that has a loopback of its own.
const PROXY: u16 = 3128;

/// The authorities that a sandbox's programs trust, in the directory of its own.
const BUNDLE: &str = "bundle.pem";

/// The socket of its first process, in its run directory.
const SOCKET: &str = "init.sock";

/// How long an attempt may take. Those that use something up need seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much of what it writes is looked at; more than a pipe holds without being read.
const MOST: u64 = 1 << 20;

/// Where an end of the agent's main process must have been noticed, had there been one.
const NOTICED: Duration = Duration::from_secs(3);

/// One sandbox.
pub struct Inside<'a> {
    host: &'a Host,
    found: &'a SandboxStatus,
    places: Places,
    payload: OwnedFd,
    null: File,
}

impl<'a> Inside<'a> {
    /// This one, which is ready.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(host: &'a Host, home: &Home, found: &'a SandboxStatus) -> io::Result<Self> {
        Ok(Self {
            host,
            found,
            places: places(home, found),
            payload: sealed_payload()?,
            null: File::open("/dev/null")?,
        })
    }

    fn status(&self) -> Result<SandboxStatus, TargetError> {
        self.host.sandbox(Some(&self.found.name)).map_err(unasked)
    }

    /// To its end: its exit status, or `None` when it took too long.
    fn follow(&self, client: &mut Client) -> Result<Option<i32>, TargetError> {
        loop {
            match client.next() {
                Ok(Some(Answer::Session { .. } | Answer::Phase(_))) => {}
                Ok(Some(Answer::Done(Value::Ended { status }))) => return Ok(Some(status)),
                Ok(Some(Answer::Done(_))) => return Err(unasked(crate::host::unexpected())),
                Ok(Some(Answer::Failed(failure))) => return Err(unasked(failure.into())),
                Ok(None) => return Err(TargetError("the daemon went away".to_owned())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(TargetError(error.to_string())),
            }
        }
    }
}

/// In the lower tier everything is at its place on the host.
fn places(home: &Home, found: &SandboxStatus) -> Places {
    let config = found.agent.config.clone();
    if found.tier == Tier::Namespaces {
        return Places { config, ..Places::default() };
    }
    let dirs = home.sandbox(&found.name);
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    Places {
        home: text(dirs.home()),
        tmp: text(dirs.tmp()),
        guards: text(Package::place(&home.guards())),
        trust: text(dirs.ca().join(BUNDLE)),
        control: text(dirs.run().join(SOCKET)),
        config: config.and_then(|path| Some(text(dirs.home().join(path.strip_prefix("/sandbox/")?)))),
    }
}

/// What a launch must have to be called guarded.
fn judged(status: &SandboxStatus) -> Recovered {
    let unguarded: Vec<_> =
        status.guards.iter().filter(|guard| guard.critical && guard.state != "verified").collect();
    let detail = match (&status.receipt, unguarded.first()) {
        _ if status.phase != "ready" => format!("it is {}", status.phase),
        (None, _) => "its receipt is missing".to_owned(),
        (_, Some(guard)) => format!("its guard {} is {}", guard.name, guard.state),
        (Some(_), None) => String::new(),
    };
    Recovered { guarded: detail.is_empty(), detail }
}

fn unasked(problem: Problem) -> TargetError {
    TargetError(format!("{} ({})", problem.failure.message, problem.failure.code))
}

impl Target for Inside<'_> {
    fn traits(&self) -> Traits {
        let limits = self.found.limits.as_ref().map(|limits| &limits.enforced);
        let walls = match self.found.tier {
            Tier::Namespaces => Walls::Namespaces,
            Tier::Landlock => Walls::Landlock { own_user: rustix::process::geteuid().is_root() },
        };
        let strict = Programs::of(NetlinkRule::Refused).map(|programs| programs.digest()).ok();
        let seccomp = self.found.level.as_ref().map(|level| level.seccomp.digest);
        Traits {
            walls,
            proxy: Some(self.found.egress.port.unwrap_or(PROXY)),
            name_server: walls == Walls::Namespaces,
            netlink: walls == Walls::Namespaces && seccomp.is_some() && seccomp != strict,
            exact: true,
            own_processes: self.found.tier == Tier::Namespaces,
            own_network: true,
            read_only_system: true,
            own_system: false,
            processes: limits.and_then(|limits| limits.pids),
            memory_bytes: limits.and_then(|limits| limits.memory_bytes),
            file_bytes: limits.and_then(|limits| limits.file_bytes),
            keeps_groups: self.found.level.as_ref().is_some_and(|level| !level.ids.groups.is_empty()),
            guards: !self.found.guards.is_empty(),
            heals: true,
            asked: self.found.dashboard_port.is_some(),
        }
    }

    fn places(&self) -> Places {
        self.places.clone()
    }

    fn run(&mut self, program: &Program) -> Result<Said, TargetError> {
        let own = |error: io::Error| TargetError(error.to_string());
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| own(error.into()))?;
        let input = match program.runtime {
            Runtime::Static => self.payload.as_fd(),
            _ => self.null.as_fd(),
        };
        let mut client = self.host.client().map_err(unasked)?;
        let fd = client.as_fd().try_clone_to_owned().map_err(own)?;
        let _watch = self.host.interrupt.watch(fd.as_fd());
        client.set_patience(PATIENCE).map_err(own)?;
        let name = self.found.name.clone();
        let argv = program.argv("/proc/self/fd/0");
        let request = Request::Exec { name, argv, terminal: None, term: None };
        client.send(&request, &[input, theirs.as_fd(), theirs.as_fd()]).map_err(own)?;
        drop(theirs);
        let status = self.follow(&mut client)?;
        // If it still runs: with the connection it ends.
        drop(client);
        // What it wrote is in the pipe, which holds more than any attempt says. Children that it left may keep it
        // open, and whoever writes more than that waits for a reader that does not come.
        rustix::io::ioctl_fionbio(&ours, true).map_err(|error| own(error.into()))?;
        let mut output = Vec::new();
        match File::from(ours).take(MOST).read_to_end(&mut output) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(own(error)),
            Ok(_) | Err(_) => {}
        }
        Ok(Said { output, status: status.unwrap_or(0), timed_out: status.is_none() })
    }

    fn undisturbed(&mut self) -> Result<bool, TargetError> {
        let now = self.status()?;
        Ok(now.phase == "ready" && launch(&now) == launch(self.found))
    }

    fn wait_well(&mut self) -> Result<Recovered, TargetError> {
        let until = Instant::now() + NOTICED;
        loop {
            // A start that was given up on a busy machine is followed by another one.
            let ready = || wait_ready(self.host, &self.found.name, |_| ());
            let now = match ready().or_else(|_| ready()) {
                Ok(now) => now,
                Err(problem) => {
                    return Ok(Recovered { guarded: false, detail: unasked(problem).to_string() });
                }
            };
            // Either it was ended and is back, or nothing had happened to it.
            if launch(&now) != launch(self.found) || Instant::now() >= until {
                return Ok(judged(&now));
            }
            let moment = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            let _ = rustix::event::poll(&mut [], Some(&moment));
        }
    }

    fn main_process(&mut self) -> Result<Option<i32>, TargetError> {
        let Some(gateway) = self.status()?.gateway else { return Ok(None) };
        let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid)).unwrap_or_default();
        // Its numbers from the host's namespace to its own (proc_pid_status(5)).
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        Ok(numbers.and_then(|numbers| numbers.split_whitespace().next_back()?.parse().ok()))
    }

    fn replaced_after(&mut self, program: &Program) -> Result<(Said, Recovered), TargetError> {
        let before = self.status()?;
        let said = self.run(program)?;
        Ok(match wait_relaunched(self.host, &before) {
            Ok(now) => (said, judged(&now)),
            Err(problem) => (said, Recovered { guarded: false, detail: unasked(problem).to_string() }),
        })
    }

    fn recover(&mut self) -> Result<Recovered, TargetError> {
        let request = Request::Rehearse { name: self.found.name.clone(), failure: Rehearsal::KillGateway };
        match self.host.ask(&request, |_| ()) {
            Ok(_) => Ok(judged(&self.status()?)),
            Err(problem) => Ok(Recovered { guarded: false, detail: unasked(problem).to_string() }),
        }
    }
}
