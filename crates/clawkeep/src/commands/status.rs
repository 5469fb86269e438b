use clawkeep_daemon::api::{Request, Value};
use serde_json::json;

use super::name_in;
use crate::host::{Host, unexpected};
use crate::problem::Outcome;
use crate::{output, view};

/// What `status` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The sandbox; without it all of them
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `status [NAME]`. Makes nothing where there is nothing; 1 when something that should run is not ready.
pub fn run(host: &Host, options: &Options) -> Outcome {
    if let Some(name) = name_in(options.name.as_ref())? {
        let status = host.sandbox(Some(&name))?;
        if options.json {
            output::print_json(&status);
        } else {
            output::print(&view::sandbox(&status));
        }
        return Ok(u8::from(!view::is_well(&status)));
    }
    let status = match host.existing()? {
        None => None,
        Some(_) => match host.ask(&Request::Status, |_| ())? {
            Value::Status(status) => Some(*status),
            _ => return Err(unexpected()),
        },
    };
    match (&status, options.json) {
        (Some(status), true) => output::print_json(status),
        (None, true) => output::print_json(&json!({"schema": 1, "daemon": null, "sandboxes": []})),
        (Some(status), false) => output::print(&view::all(status, host.root())),
        (None, false) => output::print(&view::list(&[], host.root())),
    }
    Ok(u8::from(!status.iter().flat_map(|status| &status.sandboxes).all(view::is_well)))
}
