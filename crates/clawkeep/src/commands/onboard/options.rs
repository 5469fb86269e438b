use std::path::PathBuf;

use clap::ValueEnum;
use clawkeep_plan::Tier;

/// What `onboard` takes.
#[derive(Debug, Default, clap::Args)]
#[command(
    after_help = "A key is only taken from its variable: COMPATIBLE_API_KEY for custom, COMPATIBLE_ANTHROPIC_API_KEY for\n\
    anthropicCompatible, and NVIDIA_API_KEY (build), OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY,\n\
    OPENROUTER_API_KEY. Every CLAWKEEP_ variable is also read by its old name, NEMOCLAW_ in its place."
)]
pub struct Options {
    /// The sandbox's name [default: my-assistant] [env: CLAWKEEP_SANDBOX_NAME]
    #[arg(long)]
    pub(super) name: Option<String>,
    /// What runs in it
    #[arg(long, value_enum, default_value_t)]
    pub(super) agent: AgentKind,
    /// The version of OpenClaw, if not the pinned one
    #[arg(long, value_name = "VERSION")]
    pub(super) agent_version: Option<String>,
    /// Who answers for the model [default: the built-in canary] [env: CLAWKEEP_PROVIDER]
    #[arg(long)]
    pub(super) provider: Option<String>,
    /// The model's name at the provider [env: CLAWKEEP_MODEL]
    #[arg(long)]
    pub(super) model: Option<String>,
    /// The provider's base URL, if not its usual one [env: CLAWKEEP_ENDPOINT_URL]
    #[arg(long, value_name = "URL")]
    pub(super) endpoint_url: Option<String>,
    /// Command agents: http://127.0.0.1:PORT/PATH or tcp://127.0.0.1:PORT that answers when it is well,
    /// asked every 10 s, or as #every=30s says
    #[arg(long, value_name = "URL")]
    pub(super) health_url: Option<String>,
    /// Command agents: its configuration below /sandbox; the last healthy one is put back when it fails with it
    #[arg(long, value_name = "PATH")]
    pub(super) config_file: Option<String>,
    /// Command agents: it has a safe mode, which CLAWKEEP_SAFE_MODE=1 in its environment asks for
    #[arg(long)]
    pub(super) safe_mode: bool,
    /// Command agents: it is a Node program, to be run with the guards or not at all
    #[arg(long)]
    pub(super) node_guards: bool,
    /// Command agents: a directory to show read-only at /opt/clawkeep/agent
    #[arg(long, value_name = "DIR")]
    pub(super) bundle: Option<PathBuf>,
    /// Command agents: added to its environment
    #[arg(long, value_name = "K=V")]
    pub(super) env: Vec<String>,
    /// The sandbox's system: an OCI image layout (a directory, or a tar of one), instead of this host's /usr
    #[arg(long, value_name = "PATH")]
    pub(super) from: Option<PathBuf>,
    /// A directory or file of this host to show inside, at the same place or at DST; written to only with :rw
    #[arg(long, value_name = "SRC[:DST][:rw]")]
    pub(super) mount: Vec<String>,
    /// A policy file: what else may leave the sandbox. Without any of these four the model's route alone does
    #[arg(long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
    /// The presets of a tier: restricted (none), balanced, open [env: CLAWKEEP_POLICY_TIER]
    #[arg(long, value_name = "TIER")]
    pub(super) tier: Option<String>,
    /// Presets, as `policy list` names them [env: CLAWKEEP_POLICY_PRESETS]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) preset: Vec<String>,
    /// A host that everything in it may reach
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) allow: Vec<String>,
    /// Seconds of readiness that prove a start; what it was started with is then kept as healthy [default: 25]
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(super) settle: Option<u64>,
    /// What the walls are made of: landlock is for hosts that refuse user namespaces, and is less (docs/TIERS.md)
    #[arg(long, value_enum, default_value_t)]
    pub(super) isolation: Walls,
    /// Refuse netlink sockets inside as well; only guarded agents bear it
    #[arg(long)]
    pub(super) strict: bool,
    /// Memory of all that runs in it, as 512M or 4G [default: 3/4 of the host's] [env: CLAWKEEP_MEMORY]
    #[arg(long, value_name = "SIZE")]
    pub(super) memory: Option<String>,
    /// Processes and threads in it [default: 4096] [env: CLAWKEEP_PIDS]
    #[arg(long, value_name = "N")]
    pub(super) pids: Option<String>,
    /// Processors, as 2 or 1.5 [default: all] [env: CLAWKEEP_CPUS]
    #[arg(long, value_name = "N")]
    pub(super) cpus: Option<String>,
    /// The largest file that can be written in it [default: 64G] [env: CLAWKEEP_FILE_SIZE]
    #[arg(long, value_name = "SIZE")]
    pub(super) file_size: Option<String>,
    /// Port on 127.0.0.1 for the agent's page [default: 18789 or the next free one] [env: CLAWKEEP_DASHBOARD_PORT]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) dashboard_port: Option<u16>,
    /// Ask nothing [env: CLAWKEEP_NON_INTERACTIVE]
    #[arg(long)]
    pub(super) non_interactive: bool,
    /// Answer questions with yes [env: CLAWKEEP_YES]
    #[arg(long, short)]
    pub(super) yes: bool,
    /// Go on after an interruption: what was fetched is kept (as always)
    #[arg(long, conflicts_with = "fresh")]
    pub(super) resume: bool,
    /// Begin anew: an unfinished sandbox of this name is removed first (as always)
    #[arg(long)]
    pub(super) fresh: bool,
    /// Remove a finished sandbox of this name first [env: CLAWKEEP_RECREATE_SANDBOX]
    #[arg(long)]
    pub(super) recreate_sandbox: bool,
    /// Command agents: program and arguments, as seen in the sandbox
    #[arg(last = true, value_name = "CMD")]
    pub(super) command: Vec<String>,
}

/// What the walls around an agent are made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Walls {
    // Without descriptions, or the help takes three lines for each option.
    #[default]
    Namespaces,
    Landlock,
}

impl From<Walls> for Tier {
    fn from(walls: Walls) -> Self {
        match walls {
            Walls::Namespaces => Self::Namespaces,
            Walls::Landlock => Self::Landlock,
        }
    }
}

/// The kinds of agents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum AgentKind {
    // Without descriptions, or the help takes three lines for each option.
    #[default]
    Openclaw,
    Command,
}
