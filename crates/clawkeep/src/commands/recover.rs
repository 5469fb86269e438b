use clawkeep_daemon::api::{Request, SandboxStatus};

use super::{brief, launch, sandbox, wait_ready};
use crate::host::{Host, sandbox_of};
use crate::output;
use crate::problem::{Outcome, Problem};

/// What `recover` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The sandbox; without it the default one
    name: Option<String>,
}

/// `recover [NAME]`: idempotent; a healthy gateway is left alone.
pub fn run(host: &Host, options: &Options) -> Outcome {
    let found = sandbox(host, options.name.as_ref())?;
    let status = heal(host, &found)?;
    output::print(&output::clean(&told(&found, &status)));
    Ok(0)
}

/// See that it is ready, repairing what needs it.
///
/// # Errors
/// `stopped` when it is not to run; what kept it from being ready.
pub fn heal(host: &Host, found: &SandboxStatus) -> Result<SandboxStatus, Problem> {
    let name = &found.name;
    if !found.should_run {
        let message = format!("sandbox {name} is stopped, as it was told to be");
        return Err(Problem::new("stopped", message, &format!("clawkeep {name} start")));
    }
    let status = sandbox_of(host.ask(&Request::Recover { name: name.clone() }, |_| ())?)?;
    if status.phase == "ready" { Ok(status) } else { wait_ready(host, name, |_| ()) }
}

/// What was found and done, in one line.
pub fn told(found: &SandboxStatus, now: &SandboxStatus) -> String {
    let name = &found.name;
    if found.phase == "ready" && launch(found) == launch(now) {
        format!("{name} is {}: nothing to repair\n", brief(now))
    } else {
        format!("{name} was {}, is {}\n", brief(found), brief(now))
    }
}
