use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output;
use crate::problem::Outcome;

/// What `completion` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The shell
    shell: Shell,
}

/// `completion SHELL`.
pub fn run(options: &Options) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "clawkeep", &mut script);
    output::write(&script);
    Ok(0)
}
