use clap::{Parser, Subcommand};

use crate::commands::{
    agent, completion, connect, credentials, destroy, doctor, drill, events, exec, gateway, inference, list,
    logs, metrics, onboard, policy, rebuild, recover, service, status, why,
};

/// Keeps always-on AI agents running in locked-down sandboxes that heal themselves.
#[derive(Debug, Parser)]
#[command(
    name = "clawkeep",
    version,
    propagate_version = false,
    after_help = "A sandbox may come first or last: `clawkeep my-assistant connect` is `clawkeep connect my-assistant`.\n\
        Without a name the default sandbox is meant; a name alone shows its status.\n\
        State is kept in $CLAWKEEP_HOME, else /var/lib/clawkeep for root and $XDG_DATA_HOME/clawkeep for a user."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A sandbox, by its name.
#[derive(Debug, Clone, clap::Args)]
pub struct Which {
    /// The sandbox; without it the default one
    pub name: Option<String>,
}

/// The commands, one file each.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a sandbox with an agent in it, and see it run
    Onboard(Box<onboard::Options>),
    /// List the sandboxes
    List(list::Options),
    /// Make a sandbox the default one
    Use {
        /// The sandbox
        name: String,
    },
    /// Show how the sandboxes are; exits 1 when one that should run is not ready
    Status(status::Options),
    /// Open a shell in a sandbox, after healing it if need be
    Connect(connect::Options),
    /// Run a command in a sandbox; its exit status is passed through
    Exec(exec::Options),
    /// Repair what needs repair; a healthy gateway is left alone
    Recover(recover::Options),
    /// Make everything of a sandbox but its files anew, with another version of its agent if you like
    Rebuild(rebuild::Options),
    /// The agent's main process
    Gateway(gateway::Options),
    /// The model behind a sandbox
    Inference(inference::Options),
    /// What may leave a sandbox
    Policy(policy::Options),
    /// Secrets that agents use and never hold
    Credentials(credentials::Options),
    /// Show the gateway's log
    Logs(logs::Options),
    /// Tell what went wrong, what was tried and what helped; exits 1 when the journal does not add up
    Why(why::Options),
    /// Show the journal: what happened, and what was decided
    Events(events::Options),
    /// Attack a sandbox from inside, before and after its agent is ended; exits 1 when anything is open or untold
    Drill(drill::Options),
    /// Stop a sandbox; its files stay
    Stop(Which),
    /// Start a sandbox
    Start(Which),
    /// Remove a sandbox and all of its files
    Destroy(destroy::Options),
    /// Ask the agent one question
    Agent(agent::Options),
    /// Look at this host and prove that sandboxes can be made here; exits 1 when they cannot
    Doctor(doctor::Options),
    /// Print figures for Prometheus, or serve them on the loopback
    Metrics(metrics::Options),
    /// The daemon as a service that starts at boot
    Service(service::Options),
    /// Print a completion script for a shell
    Completion(completion::Options),
    /// Print the version
    Version,
}
