use clawkeep_daemon::api::{Request, Value};

use super::sandbox;
use crate::host::{Host, unexpected};
use crate::output;
use crate::problem::Outcome;

/// What `agent` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The sandbox; without it the default one
    name: Option<String>,
    /// The question
    #[arg(long, short, value_name = "TEXT")]
    message: String,
}

/// `agent [NAME] -m TEXT`.
pub fn run(host: &Host, options: &Options) -> Outcome {
    let name = sandbox(host, options.name.as_ref())?.name;
    let Value::Text(answer) = host.ask(&Request::Turn { name, message: options.message.clone() }, |_| ())?
    else {
        return Err(unexpected());
    };
    let answer = if output::is_terminal() { output::clean(&answer) } else { answer };
    output::print(&answer);
    if !answer.ends_with('\n') {
        output::print("\n");
    }
    Ok(0)
}
