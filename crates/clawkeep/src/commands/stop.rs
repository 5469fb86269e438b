use clawkeep_daemon::api::Request;

use super::sandbox;
use crate::cli::Which;
use crate::host::Host;
use crate::output;
use crate::problem::Outcome;

/// `stop [NAME]`: answered when it is stopped.
pub fn run(host: &Host, which: &Which) -> Outcome {
    let name = sandbox(host, which.name.as_ref())?.name;
    host.ask(&Request::Stop { name: name.clone() }, |_| ())?;
    output::print(&format!("{name} is stopped; its files are kept (clawkeep {name} start)\n"));
    Ok(0)
}
