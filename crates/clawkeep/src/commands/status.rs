use clawkeep_daemon::api::{Request, SandboxStatus, Value};
use clawkeep_plan::SandboxName;
use serde_json::json;

use super::name_in;
use crate::host::{Host, sandbox_of, unexpected};
use crate::problem::{Outcome, Problem};
use crate::{output, view};

/// What `status` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The sandbox; without it all of them
    name: Option<String>,
    /// Prove the model's route now, from inside, instead of telling the last proof
    #[arg(long)]
    probe: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How it is, with its route proven just now.
pub fn probe(host: &Host, name: &SandboxName) -> Result<SandboxStatus, Problem> {
    sandbox_of(host.ask(&Request::Prove { name: name.clone() }, |_| ())?)
}

/// `status [NAME]`. Makes nothing where there is nothing; 1 when something that should run is not ready.
pub fn run(host: &Host, options: &Options) -> Outcome {
    if let Some(name) = name_in(options.name.as_ref())? {
        let mut status = host.sandbox(Some(&name))?;
        // One that is down has nothing to prove; how it is, is told.
        if options.probe && status.phase == "ready" {
            status = probe(host, &name)?;
        }
        if options.json {
            output::print_json(&status);
        } else {
            output::print(&view::sandbox(&status));
        }
        return Ok(u8::from(!view::is_well(&status)));
    }
    let mut status = match host.existing()? {
        None => None,
        Some(_) => match host.ask(&Request::Status, |_| ())? {
            Value::Status(status) => Some(*status),
            _ => return Err(unexpected()),
        },
    };
    if options.probe {
        for sandbox in status.iter_mut().flat_map(|status| &mut status.sandboxes) {
            // One that is down has nothing to prove; how it is, is told.
            if sandbox.phase == "ready" {
                *sandbox = probe(host, &sandbox.name)?;
            }
        }
    }
    match (&status, options.json) {
        (Some(status), true) => output::print_json(status),
        (None, true) => output::print_json(&json!({"schema": 1, "daemon": null, "sandboxes": []})),
        (Some(status), false) => output::print(&view::all(status, host.root())),
        (None, false) => output::print(&view::list(&[], host.root())),
    }
    Ok(u8::from(!status.iter().flat_map(|status| &status.sandboxes).all(view::is_well)))
}
