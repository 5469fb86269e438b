use super::{recover, sandbox, status};
use crate::host::Host;
use crate::problem::Outcome;
use crate::{output, session, view};

/// What `connect` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The sandbox; without it the default one
    name: Option<String>,
    /// Only heal it if need be, and say what was found and done
    #[arg(long)]
    probe_only: bool,
}

/// `connect [NAME]`: heal first, then a login shell.
pub fn run(host: &Host, options: &Options) -> Outcome {
    let found = sandbox(host, options.name.as_ref())?;
    let healthy = found.phase == "ready";
    if options.probe_only || !healthy {
        if found.should_run && !options.probe_only {
            output::error(&output::clean(&format!("{} is {}: healing it first\n", found.name, found.phase)));
        }
        let now = recover::heal(host, &found)?;
        if options.probe_only {
            output::print(&output::clean(&recover::told(&found, &now)));
            let proven = status::probe(host, &found.name)?;
            output::print(&view::proof(&proven));
            return Ok(u8::from(now.phase != "ready"));
        }
    }
    session::run(host, &found.name, Vec::new())
}
