//! What is in force, why it decides as it does, and what it refused.

use clawkeep_daemon::api::policy::{PolicyReport, RefusedRequest};
use clawkeep_daemon::api::{Request, Value};
use clawkeep_plan::SandboxName;
use clawkeep_policy::{Caller, Matcher, Policy, RequestPath, Target};
use serde_json::json;

use super::words;
use crate::cli::Which;
use crate::commands::sandbox;
use crate::host::{Host, unexpected};
use crate::problem::{Outcome, Problem};
use crate::{output, view};

#[derive(Debug, clap::Args)]
pub struct Get {
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Requests {
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(override_usage = "clawkeep policy explain [NAME] HOST[:PORT] [METHOD PATH] [OPTIONS]\n       \
    clawkeep NAME policy explain HOST[:PORT] [METHOD PATH] [OPTIONS]")]
pub struct Explain {
    /// The sandbox (without it the default one), a host, and a request to it
    #[arg(value_name = "[NAME] HOST[:PORT] [METHOD PATH]", required = true, num_args = 1..=4)]
    words: Vec<String>,
    /// The program that asks, as it is called inside; without it one that no rule names
    #[arg(long, value_name = "PATH")]
    binary: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn report(host: &Host, name: &SandboxName) -> Result<PolicyReport, Problem> {
    match host.ask(&Request::Policy { name: name.clone() }, |_| ())? {
        Value::Policy(report) => Ok(*report),
        _ => Err(unexpected()),
    }
}

pub fn get(host: &Host, options: &Get) -> Outcome {
    let name = sandbox(host, options.which.name.as_ref())?.name;
    let report = report(host, &name)?;
    match options.json {
        true => output::print_json(&report),
        false => output::print(&output::clean(&report.yaml)),
    }
    Ok(0)
}

pub fn list(host: &Host, options: &List) -> Outcome {
    // Without any sandbox there is still the list of presets.
    let report = match sandbox(host, options.which.name.as_ref()) {
        Ok(status) => Some(report(host, &status.name)?),
        Err(problem) if options.which.name.is_none() && problem.failure.code == "no-such-sandbox" => None,
        Err(problem) => return Err(problem),
    };
    if options.json {
        let presets: Vec<_> = clawkeep_policy::presets()
            .iter()
            .map(|preset| json!({ "name": preset.name, "description": preset.description }))
            .collect();
        output::print_json(&json!({ "schema": 1, "presets": presets, "sandbox": report }));
    } else {
        output::print(&view::policy::list(report.as_ref()));
    }
    Ok(0)
}

pub fn explain(host: &Host, options: &Explain) -> Outcome {
    let needed = if options.words.len() > 2 { 3 } else { 1 };
    let (name, rest) = words(host, &options.words, needed)?;
    let bad = |message: String| {
        Problem::usage("bad-argument", message, &format!("clawkeep {name} policy explain HOST:443 GET /path"))
    };
    let target = Target::parse(rest[0].as_bytes(), Some(443))
        .map_err(|error| bad(format!("{:?} is no host: {error}", rest[0])))?;
    let path = rest.get(2).map(|path| RequestPath::parse(path)).transpose();
    let path = path.map_err(|error| bad(format!("{:?} is no path that is sent on: {error}", rest[2])))?;
    let request = rest.get(1).map(String::as_str).zip(path.as_ref());
    let report = report(host, &name)?;
    let policy = Policy::read(&report.yaml).map_err(|error| {
        Problem::new("policy-unreadable", error.to_string(), "run the clawkeep that started the daemon")
    })?;
    let caller = options.binary.as_deref().map_or(Caller::Unknown, Caller::Executable);
    let explanation = Matcher::new(&policy.policy).explain(&target, caller, request);
    match options.json {
        true => output::print_json(&explanation),
        false => output::print(&output::clean(&explanation.to_string())),
    }
    Ok(0)
}

pub fn requests(host: &Host, options: &Requests) -> Outcome {
    let name = sandbox(host, options.which.name.as_ref())?.name;
    let refused = refused(host, &name)?;
    match options.json {
        true => output::print_json(&json!({ "schema": 1, "name": name, "requests": refused })),
        false => output::print(&view::policy::requests(&name, &refused)),
    }
    Ok(0)
}

fn refused(host: &Host, name: &SandboxName) -> Result<Vec<RefusedRequest>, Problem> {
    match host.ask(&Request::Refused { name: name.clone() }, |_| ())? {
        Value::Refused(refused) => Ok(refused),
        _ => Err(unexpected()),
    }
}
