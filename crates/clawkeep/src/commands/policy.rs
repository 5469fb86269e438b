//! What may leave a sandbox: shown, changed, explained, and what was refused.

mod change;
mod show;

use clap::Subcommand;
use clawkeep_plan::SandboxName;

use super::sandbox;
use crate::host::Host;
use crate::problem::{Outcome, Problem};

pub use change::read;

/// What `policy` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What to do with it.
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show what may leave a sandbox, as a policy file
    Get(show::Get),
    /// Put a policy file in force, in place of all that is there
    Set(change::Set),
    /// Add a preset, or the rules of a file
    Add(change::Add),
    /// Remove a preset, a rule, or an approval
    Remove(change::Remove),
    /// Replace the built-in presets by those of a tier: restricted, balanced, open
    Tier(change::Tier),
    /// List the built-in presets, and what a sandbox has
    List(show::List),
    /// Tell which rule decides about a host, or about a request to it
    Explain(show::Explain),
    /// List what was refused
    Requests(show::Requests),
    /// Allow what was refused, by the least rule that covers it
    Approve(change::Approve),
}

/// `policy ACTION [NAME] ...`.
pub fn run(host: &Host, options: &Options) -> Outcome {
    match &options.action {
        Action::Get(options) => show::get(host, options),
        Action::List(options) => show::list(host, options),
        Action::Explain(options) => show::explain(host, options),
        Action::Requests(options) => show::requests(host, options),
        Action::Set(options) => change::set(host, options),
        Action::Add(options) => change::add(host, options),
        Action::Remove(options) => change::remove(host, options),
        Action::Tier(options) => change::tier(host, options),
        Action::Approve(options) => change::approve(host, options),
    }
}

/// The sandbox and the rest of words of which the first may be a sandbox: it is where there is one more than
/// `needed`.
fn words<'a>(
    host: &Host,
    words: &'a [String],
    needed: usize,
) -> Result<(SandboxName, &'a [String]), Problem> {
    let (name, rest) = match words.split_first() {
        Some((name, rest)) if words.len() == needed + 1 => (Some(name), rest),
        _ => (None, words),
    };
    Ok((sandbox(host, name)?.name, rest))
}
