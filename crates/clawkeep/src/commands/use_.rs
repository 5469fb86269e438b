use clawkeep_daemon::api::Request;

use super::name_of;
use crate::host::Host;
use crate::output;
use crate::problem::Outcome;

/// `use NAME`.
pub fn run(host: &Host, name: &str) -> Outcome {
    let name = name_of(name)?;
    host.ask(&Request::Use { name: name.clone() }, |_| ())?;
    output::print(&format!("{name} is the default sandbox\n"));
    Ok(0)
}
