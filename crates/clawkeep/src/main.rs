//! The command line: thin, one file a command, over the daemon's API. The same program is also the daemon, its
//! parent, and the first processes of a sandbox.
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod env;
mod grammar;
mod host;
mod interrupt;
mod output;
mod problem;
mod role;
mod session;
mod terminal;
mod view;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::Cli;
use crate::env::Env;
use crate::problem::{Outcome, Problem};

fn main() -> ExitCode {
    // First and before anything else is set up: this process becomes a sandbox's init, and every page that is
    // touched here is paid for by each sandbox.
    let role = std::env::args_os().nth(1);
    if role.as_deref() == Some(clawkeep_isolation::SETUP_COMMAND.as_ref()) {
        return clawkeep_isolation::sandbox_init_main();
    }
    if role.as_deref() == Some(clawkeep_isolation::TRIAL_COMMAND.as_ref()) {
        return clawkeep_isolation::sandbox_trial_main();
    }
    // Keys pass through the memory of every other process of ours. 1 and not 0: then a host's crash handler gets
    // nothing either (core(5)).
    let no_core = rustix::process::Rlimit { current: Some(1), maximum: Some(1) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, no_core);
    if role.as_deref() == Some("daemon".as_ref()) {
        return role::main();
    }
    match run() {
        Ok(status) => ExitCode::from(status),
        Err(problem) => {
            output::error(&problem.render());
            ExitCode::from(problem.status)
        }
    }
}

fn run() -> Outcome {
    let args = grammar::verb_first(std::env::args_os().collect())?;
    let command = grammar::command_of(&args);
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::error(&error.to_string());
            return Ok(2);
        }
        Err(error) if error.use_stderr() => {
            return Err(Problem::of_clap(&error, command.as_deref()));
        }
        Err(help) => {
            output::print(&help.to_string());
            return Ok(0);
        }
    };
    commands::run(cli.command, Env::of_process())
}
