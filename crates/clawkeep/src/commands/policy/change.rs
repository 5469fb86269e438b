//! Changes: validated whole by the daemon, in force at once, or nothing is changed.

use std::time::Duration;

use clawkeep_daemon::api::policy::{PolicyChange, PolicySet};
use clawkeep_daemon::api::{Request, Value};
use clawkeep_plan::SandboxName;

use super::words;
use crate::commands::onboard::ask;
use crate::host::{Host, unexpected};
use crate::problem::{Outcome, Problem};
use crate::{output, terminal, view};

/// The largest file that is read; the policy's reader takes no more.
const MOST: u64 = 4 << 20;

#[derive(Debug, clap::Args)]
#[command(override_usage = "clawkeep policy set [NAME] FILE\n       clawkeep NAME policy set FILE")]
pub struct Set {
    /// The sandbox (without it the default one), and the file, or - for standard input
    #[arg(value_name = "[NAME] FILE", required = true, num_args = 1..=2)]
    words: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(override_usage = "clawkeep policy add [NAME] PRESET\n       clawkeep NAME policy add PRESET")]
pub struct Add {
    /// The sandbox (without it the default one), and a preset's name, or a file (anything with a slash or a dot)
    #[arg(value_name = "[NAME] PRESET", required = true, num_args = 1..=2)]
    words: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(override_usage = "clawkeep policy remove [NAME] PART\n       clawkeep NAME policy remove PART")]
pub struct Remove {
    /// The sandbox (without it the default one), and a preset, a rule or an approval, as `policy list` names it
    #[arg(value_name = "[NAME] PART", required = true, num_args = 1..=2)]
    words: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(override_usage = "clawkeep policy tier [NAME] TIER\n       clawkeep NAME policy tier TIER")]
pub struct Tier {
    /// The sandbox (without it the default one), and restricted, balanced or open
    #[arg(value_name = "[NAME] TIER", required = true, num_args = 1..=2)]
    words: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "clawkeep policy approve [NAME] ID [OPTIONS]\n       clawkeep NAME policy approve ID [OPTIONS]"
)]
pub struct Approve {
    /// The sandbox (without it the default one), and what `policy requests` lists
    #[arg(value_name = "[NAME] ID", required = true, num_args = 1..=2)]
    words: Vec<String>,
    /// For so long, as 1h or 30m; without it for good
    #[arg(long = "for", value_name = "TIME")]
    time: Option<humantime::Duration>,
    /// Without asking
    #[arg(long)]
    yes: bool,
}

pub fn set(host: &Host, options: &Set) -> Outcome {
    let (name, rest) = words(host, &options.words, 1)?;
    let yaml = read(&rest[0])?;
    tell(&name, &order(host, &name, PolicyChange::File { yaml }, false)?)
}

pub fn add(host: &Host, options: &Add) -> Outcome {
    let (name, rest) = words(host, &options.words, 1)?;
    let change = match rest[0].contains(['/', '.']) {
        true => PolicyChange::Rules { yaml: read(&rest[0])? },
        false => PolicyChange::Preset { name: rest[0].clone() },
    };
    tell(&name, &order(host, &name, change, false)?)
}

pub fn remove(host: &Host, options: &Remove) -> Outcome {
    let (name, rest) = words(host, &options.words, 1)?;
    tell(&name, &order(host, &name, PolicyChange::Remove { name: rest[0].clone() }, false)?)
}

pub fn tier(host: &Host, options: &Tier) -> Outcome {
    let (name, rest) = words(host, &options.words, 1)?;
    tell(&name, &order(host, &name, PolicyChange::Tier { name: rest[0].clone() }, false)?)
}

pub fn approve(host: &Host, options: &Approve) -> Outcome {
    let (name, rest) = words(host, &options.words, 1)?;
    let seconds = options.time.map(|time| Duration::from(time).as_secs());
    let change = PolicyChange::Approve { id: rest[0].clone(), seconds };
    if !options.yes {
        let would = order(host, &name, change.clone(), true)?;
        output::print(&view::policy::difference(&would.difference));
        if !terminal::is_interactive() {
            return Err(Problem::usage("needs-yes", "nothing was changed: nobody can be asked", "add --yes"));
        }
        let time = options.time.map_or_else(|| "for good".to_owned(), |time| format!("for {time}"));
        if !ask::yes(&format!("Allow this {time}?"))? {
            let next = format!("clawkeep {name} policy requests");
            return Err(Problem::new("declined", "nothing was changed", &next));
        }
    }
    let set = order(host, &name, change, false)?;
    match options.yes {
        true => tell(&name, &set),
        false => Ok(0),
    }
}

fn order(host: &Host, name: &SandboxName, change: PolicyChange, dry_run: bool) -> Result<PolicySet, Problem> {
    match host.ask(&Request::SetPolicy { name: name.clone(), change, dry_run }, |_| ())? {
        Value::PolicySet(set) => Ok(*set),
        _ => Err(unexpected()),
    }
}

fn tell(name: &SandboxName, set: &PolicySet) -> Outcome {
    for note in &set.notes {
        output::error(&output::clean(&format!("note: {note}\n")));
    }
    match set.difference.is_empty() {
        true => output::print(&format!("{name}: nothing changes\n")),
        false => output::print(&view::policy::difference(&set.difference)),
    }
    Ok(0)
}

/// The text of a policy file.
pub fn read(file: &str) -> Result<String, Problem> {
    let failed = |why: String| {
        Problem::new("policy-unreadable", format!("{file} cannot be read: {why}"), &format!("ls -l {file}"))
    };
    let open = || -> std::io::Result<Box<dyn std::io::Read>> {
        Ok(if file == "-" { Box::new(std::io::stdin()) } else { Box::new(std::fs::File::open(file)?) })
    };
    let mut bytes = Vec::new();
    open()
        .and_then(|from| std::io::Read::read_to_end(&mut std::io::Read::take(from, MOST + 1), &mut bytes))
        .map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > MOST {
        return Err(failed(format!("it is larger than {} MiB", MOST >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| failed("it is not UTF-8".to_owned()))
}
