use clawkeep_daemon::api::{Request, SandboxStatus, Value};
use serde_json::json;

use crate::host::{Host, unexpected};
use crate::problem::Outcome;
use crate::{output, view};

/// What `list` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `list`. Makes nothing where there is nothing.
pub fn run(host: &Host, options: &Options) -> Outcome {
    let sandboxes: Vec<SandboxStatus> = match host.existing()? {
        None => Vec::new(),
        Some(_) => match host.ask(&Request::Status, |_| ())? {
            Value::Status(status) => status.sandboxes,
            _ => return Err(unexpected()),
        },
    };
    if options.json {
        let brief = |status: &SandboxStatus| json!({"name": status.name, "phase": status.phase, "agent": status.agent, "default": status.default, "isolation": status.tier});
        output::print_json(
            &json!({"schema": 1, "sandboxes": sandboxes.iter().map(brief).collect::<Vec<_>>()}),
        );
    } else {
        output::print(&view::list(&sandboxes, host.root()));
    }
    Ok(0)
}
