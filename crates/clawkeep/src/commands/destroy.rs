use clawkeep_daemon::api::Request;

use super::sandbox;
use crate::commands::onboard::ask;
use crate::host::Host;
use crate::problem::{Outcome, Problem};
use crate::{output, terminal};

/// What `destroy` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The sandbox; without it the default one
    name: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// The same
    #[arg(long)]
    force: bool,
}

/// `destroy [NAME]`.
pub fn run(host: &Host, options: &Options) -> Outcome {
    let yes = options.yes || options.force || host.env.flag("YES")?;
    let found = sandbox(host, options.name.as_ref())?;
    let name = &found.name;
    if !yes {
        if !terminal::is_interactive() {
            let message = format!("this removes sandbox {name} and all of its files for ever");
            return Err(Problem::usage("needs-yes", message, &format!("clawkeep {name} destroy --yes")));
        }
        if !ask::yes(&format!("Remove {name} and all of its files for ever?"))? {
            output::print("nothing was removed\n");
            return Ok(1);
        }
    }
    host.ask(&Request::Destroy { name: name.clone() }, |_| ())?;
    output::print(&format!("{name} is removed\n"));
    Ok(0)
}
