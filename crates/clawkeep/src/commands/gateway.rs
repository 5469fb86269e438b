use clap::Subcommand;
use clawkeep_daemon::api::Request;

use super::{brief, sandbox, wait_relaunched};
use crate::cli::Which;
use crate::host::Host;
use crate::output;
use crate::problem::Outcome;

/// What `gateway` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What to do with it.
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Restart it whether it is healthy or not, and see it ready again
    Restart(Which),
}

/// `gateway restart [NAME]`.
pub fn run(host: &Host, options: &Options) -> Outcome {
    let Action::Restart(which) = &options.action;
    let found = sandbox(host, which.name.as_ref())?;
    let name = &found.name;
    host.ask(&Request::Restart { name: name.clone() }, |_| ())?;
    let status = wait_relaunched(host, &found)?;
    output::print(&output::clean(&format!("{name} was {}, is {}\n", brief(&found), brief(&status))));
    Ok(0)
}
