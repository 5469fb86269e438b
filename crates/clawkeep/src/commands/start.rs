use clawkeep_daemon::api::Request;

use super::{brief, sandbox, wait_ready};
use crate::cli::Which;
use crate::host::Host;
use crate::output;
use crate::problem::Outcome;

/// `start [NAME]`: answered when it is ready.
pub fn run(host: &Host, which: &Which) -> Outcome {
    let name = sandbox(host, which.name.as_ref())?.name;
    host.ask(&Request::Start { name: name.clone() }, |_| ())?;
    let status = wait_ready(host, &name, |_| ())?;
    output::print(&output::clean(&format!("{name} is {}\n", brief(&status))));
    Ok(0)
}
