use super::name_in;
use crate::host::Host;
use crate::problem::{Outcome, Problem};
use crate::session;

/// What `exec` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The sandbox; without it the default one
    name: Option<String>,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// `exec [NAME] -- CMD...`.
pub fn run(host: &Host, options: Options) -> Outcome {
    let found = host.sandbox(name_in(options.name.as_ref())?.as_ref())?;
    if !found.should_run {
        let message = format!("sandbox {} is stopped: nothing can run in it", found.name);
        return Err(Problem::new("stopped", message, &format!("clawkeep {} start", found.name)));
    }
    session::run(host, &found.name, options.command)
}
