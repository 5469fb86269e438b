//! One file a command. Each gives the exit status, or why it did not do what was asked.

pub mod agent;
pub mod completion;
pub mod connect;
pub mod credentials;
pub mod destroy;
pub mod doctor;
pub mod drill;
pub mod events;
pub mod exec;
pub mod gateway;
pub mod inference;
mod journal;
pub mod list;
pub mod logs;
pub mod metrics;
pub mod onboard;
pub mod policy;
pub mod rebuild;
pub mod recover;
mod route;
pub mod service;
pub mod start;
pub mod status;
pub mod stop;
pub mod use_;
pub mod why;

use std::time::{Duration, Instant};

use clawkeep_daemon::api::{Answer, Request, SandboxStatus};
use clawkeep_plan::SandboxName;

use crate::cli::Command;
use crate::env::Env;
use crate::host::{Host, sandbox_of};
use crate::output;
use crate::problem::{Outcome, Problem};

/// How long a sandbox may take until it is ready: two warm-ups of the slowest agent on a busy machine.
const READY: Duration = Duration::from_secs(180);

/// Carry it out.
pub fn run(command: Command, env: Env) -> Outcome {
    match command {
        Command::Completion(options) => return completion::run(&options),
        Command::Version => {
            output::print(concat!("clawkeep ", env!("CARGO_PKG_VERSION"), "\n"));
            return Ok(0);
        }
        _ => {}
    }
    let host = Host::find(env)?;
    match command {
        Command::Onboard(options) => onboard::run(&host, *options),
        Command::List(options) => list::run(&host, &options),
        Command::Use { name } => use_::run(&host, &name),
        Command::Status(options) => status::run(&host, &options),
        Command::Connect(options) => connect::run(&host, &options),
        Command::Exec(options) => exec::run(&host, options),
        Command::Recover(options) => recover::run(&host, &options),
        Command::Rebuild(options) => rebuild::run(&host, &options),
        Command::Gateway(options) => gateway::run(&host, &options),
        Command::Inference(options) => inference::run(&host, &options),
        Command::Policy(options) => policy::run(&host, &options),
        Command::Credentials(options) => credentials::run(&host, options),
        Command::Logs(options) => logs::run(&host, &options),
        Command::Why(options) => why::run(&host, &options),
        Command::Events(options) => events::run(&host, &options),
        Command::Stop(which) => stop::run(&host, &which),
        Command::Start(which) => start::run(&host, &which),
        Command::Destroy(options) => destroy::run(&host, &options),
        Command::Drill(options) => drill::run(&host, &options),
        Command::Agent(options) => agent::run(&host, &options),
        Command::Doctor(options) => doctor::run(&host, &options),
        Command::Metrics(options) => metrics::run(&host, &options),
        Command::Service(options) => service::run(&host, &options),
        Command::Completion(_) | Command::Version => Ok(0),
    }
}

/// The name that was typed, checked before anything is touched.
fn name_of(text: &str) -> Result<SandboxName, Problem> {
    text.parse().map_err(|error| Problem::bad_name(&error))
}

/// The same where it may be left out.
fn name_in(text: Option<&String>) -> Result<Option<SandboxName>, Problem> {
    text.map(|text| name_of(text)).transpose()
}

/// The sandbox that was typed, or the default one.
fn sandbox(host: &Host, text: Option<&String>) -> Result<SandboxStatus, Problem> {
    let name = name_in(text)?;
    host.sandbox(name.as_ref())
}

/// The sandbox of this name, by the directories alone.
fn known(host: &Host, name: SandboxName) -> Result<SandboxName, Problem> {
    let names = host.names()?;
    if names.contains(&name) {
        return Ok(name);
    }
    let list: Vec<&str> = names.iter().map(SandboxName::as_str).collect();
    let (there, next) = match &list[..] {
        [] => ("there is none at all".to_owned(), "clawkeep onboard"),
        list => (format!("there is {}", list.join(", ")), "clawkeep list"),
    };
    Err(Problem::new("no-such-sandbox", format!("there is no sandbox {name}; {there}"), next))
}

/// Wait until it is ready; `step` hears of each change of phase.
fn wait_ready(
    host: &Host,
    name: &SandboxName,
    mut step: impl FnMut(&SandboxStatus),
) -> Result<SandboxStatus, Problem> {
    let timeout_ms = READY.as_millis() as u64;
    let request = Request::WaitReady { name: name.clone(), timeout_ms };
    sandbox_of(host.ask(&request, |answer| {
        if let Answer::Phase(status) = answer {
            step(&status);
        }
    })?)
}

/// Wait until it is ready in another launch than the one that was found.
fn wait_relaunched(host: &Host, found: &SandboxStatus) -> Result<SandboxStatus, Problem> {
    let name = &found.name;
    let until = Instant::now() + READY;
    loop {
        let status = wait_ready(host, name, |_| ())?;
        if launch(&status) != launch(found) {
            return Ok(status);
        }
        if Instant::now() >= until {
            let message = format!("the gateway of {name} was not restarted within {} s", READY.as_secs());
            return Err(Problem::new("not-restarted", message, &format!("clawkeep {name} status")));
        }
        let moment = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let _ = rustix::event::poll(&mut [], Some(&moment));
    }
}

/// What tells one launch from another: a pid alone comes back.
fn launch(status: &SandboxStatus) -> Option<(i32, &str)> {
    status.gateway.as_ref().map(|gateway| (gateway.pid, gateway.started_at.as_str()))
}

/// `ready (pid 4711, 2 restarts)` and the like.
fn brief(status: &SandboxStatus) -> String {
    match &status.gateway {
        Some(gateway) => {
            let s = if gateway.restarts == 1 { "" } else { "s" };
            format!("{} (pid {}, {} restart{s})", status.phase, gateway.pid, gateway.restarts)
        }
        None => status.phase.clone(),
    }
}
