use std::collections::BTreeMap;
use std::path::PathBuf;

use clawkeep_agents::{Document, HealthUrl, Release};
use clawkeep_daemon::api::policy::PolicyChoice;
use clawkeep_daemon::api::{HostMount, RouteChoice};
use clawkeep_inference::Provider;
use clawkeep_isolation::Limits;
use clawkeep_plan::{SandboxName, Tier};

use super::ask::Ask;
use super::limits;
use super::mounts;
use super::options::{AgentKind, Options};
use super::policy;
use crate::commands::route;
use crate::env::Env;
use crate::problem::Problem;

/// The name of a sandbox that nobody named.
const NAME: &str = "my-assistant";

/// What is to be made, all of it checked as far as that goes without touching anything.
#[derive(Debug)]
pub struct Settings {
    /// The sandbox.
    pub name: SandboxName,
    /// Its agent.
    pub agent: AgentPlan,
    /// Its model; `None` is the canary.
    pub route: Option<RouteChoice>,
    /// The settle window, in seconds.
    pub settle_secs: Option<u64>,
    /// The strict profile.
    pub strict: bool,
    /// What its walls are made of.
    pub tier: Tier,
    /// What it may take of the host.
    pub limits: Limits,
    /// The layout of the image that is to be its system.
    pub from: Option<PathBuf>,
    /// What else of the host it sees.
    pub mounts: Vec<HostMount>,
    /// What may leave it besides the model's route.
    pub policy: PolicyChoice,
    /// The port that is wanted.
    pub dashboard_port: Option<u16>,
    /// A finished sandbox of this name may be removed.
    pub recreate: bool,
    /// Without asking.
    pub yes: bool,
    /// A person can be asked.
    pub interactive: bool,
    /// What was said and has no effect.
    pub notes: Vec<Problem>,
}

/// The agent.
#[derive(Debug)]
pub enum AgentPlan {
    /// OpenClaw in this release.
    OpenClaw(&'static Release),
    /// A command.
    Command {
        /// Program, as seen inside, and arguments; none where the image names them.
        argv: Vec<String>,
        /// Where its health is asked.
        health_url: Option<String>,
        /// Its configuration, below `/sandbox`.
        config: Option<String>,
        /// It has a safe mode.
        safe_mode: bool,
        /// Run with the guards.
        node_guards: bool,
        /// Shown read-only.
        bundle: Option<PathBuf>,
        /// Added to its environment.
        env: BTreeMap<String, String>,
    },
}

impl AgentPlan {
    /// Whether it is what the image is started with.
    pub fn is_the_images(&self) -> bool {
        matches!(self, Self::Command { argv, .. } if argv.is_empty())
    }
}

const HELP: &str = "clawkeep onboard --help";

impl Settings {
    /// Options first, then the variables, then the person, then the defaults.
    ///
    /// # Errors
    /// What cannot be used, and why.
    pub fn resolve(options: Options, env: &Env, terminal: bool, ask: &mut dyn Ask) -> Result<Self, Problem> {
        let interactive = terminal && !options.non_interactive && !env.flag("NON_INTERACTIVE")?;
        let recreate_by_variable = env.flag("RECREATE_SANDBOX")?;
        let name = match (options.name.clone(), env.text("SANDBOX_NAME")?) {
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) if interactive => ask.line("Name of the sandbox", Some(NAME))?,
            (None, None) => NAME.to_owned(),
        };
        let name = name.parse().map_err(|error| Problem::bad_name(&error))?;
        let dashboard_port = match options.dashboard_port {
            Some(port) => Some(port),
            None => env.port("DASHBOARD_PORT")?,
        };
        let agent = agent(&options)?;
        let limits = limits::resolve(&options, env)?;
        let mounts = options.mount.iter().map(|text| mounts::parse(text)).collect::<Result<_, _>>()?;
        let (policy, notes) = policy::resolve(&options, env)?;
        let route = model_route(&options, env, interactive, ask)?;
        Ok(Self {
            name,
            agent,
            route,
            settle_secs: options.settle,
            strict: options.strict,
            tier: options.isolation.into(),
            limits,
            from: options.from,
            mounts,
            policy,
            dashboard_port,
            recreate: options.recreate_sandbox || recreate_by_variable,
            yes: options.yes || recreate_by_variable || env.flag("YES")?,
            interactive,
            notes,
        })
    }
}

fn agent(options: &Options) -> Result<AgentPlan, Problem> {
    let usage = |message: &str| Err(Problem::usage("usage", message, HELP));
    if options.agent == AgentKind::Openclaw {
        let only_for_commands = [
            (!options.command.is_empty(), "a command"),
            (options.health_url.is_some(), "--health-url"),
            (options.config_file.is_some(), "--config-file"),
            (options.safe_mode, "--safe-mode"),
            (options.node_guards, "--node-guards"),
            (options.bundle.is_some(), "--bundle"),
            (!options.env.is_empty(), "--env"),
        ];
        if let Some((_, what)) = only_for_commands.iter().find(|(given, _)| *given) {
            return usage(&format!("{what} needs --agent command"));
        }
        let Some(version) = &options.agent_version else { return Ok(AgentPlan::OpenClaw(Release::pinned())) };
        return Release::find(version)
            .map(AgentPlan::OpenClaw)
            .ok_or_else(|| Problem::unknown_version(version, "clawkeep onboard"));
    }
    if options.agent_version.is_some() {
        return usage("--agent-version is for openclaw");
    }
    if options.command.is_empty() && options.from.is_none() {
        return usage(
            "--agent command needs the command: -- CMD ARG..., or an image that names one: --from PATH",
        );
    }
    if let Some(url) = &options.health_url {
        url.parse::<HealthUrl>().map_err(|error| {
            Problem::usage("bad-health-url", format!("--health-url {url}: {error}"), HELP)
        })?;
    }
    if let Some(path) = &options.config_file {
        path.parse::<Document>().map_err(|error| {
            Problem::usage("bad-config-file", format!("--config-file {path}: it is {error}"), HELP)
        })?;
    }
    let mut argv = options.command.clone();
    if let Some(first) = argv.first_mut() {
        *first = program(first, options.from.is_some())?;
    }
    let bundle = options.bundle.as_ref().map(|dir| {
        let found = dir.canonicalize().and_then(|dir| {
            if dir.is_dir() { Ok(dir) } else { Err(std::io::ErrorKind::NotADirectory.into()) }
        });
        found.map_err(|error| {
            Problem::usage("bad-bundle", format!("--bundle {}: {error}", dir.display()), HELP)
        })
    });
    let mut env = BTreeMap::new();
    for pair in &options.env {
        match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() => drop(env.insert(name.to_owned(), value.to_owned())),
            // The value may be a secret: only the start is shown.
            _ => return usage("--env takes K=V"),
        }
    }
    Ok(AgentPlan::Command {
        argv,
        health_url: options.health_url.clone(),
        config: options.config_file.clone(),
        safe_mode: options.safe_mode,
        node_guards: options.node_guards,
        bundle: bundle.transpose()?,
        env,
    })
}

/// Inside there is the same system as outside, so a bare name is looked for here as it would be there; but for an
/// image's.
fn program(word: &str, image: bool) -> Result<String, Problem> {
    if word.starts_with('/') {
        return Ok(word.to_owned());
    }
    if image {
        let message =
            format!("{word:?} is no absolute path: with --from, name the program as it is in the image");
        return Err(Problem::usage("no-such-program", message, HELP));
    }
    let places = ["/usr/local/bin", "/usr/bin", "/bin"];
    let found =
        places.iter().map(|dir| format!("{dir}/{word}")).find(|path| std::path::Path::new(path).is_file());
    found.filter(|_| !word.contains('/')).ok_or_else(|| {
        let message = format!("{word:?} is no program in {}; one of your own goes in with --bundle DIR and /opt/clawkeep/agent/...", places.join(", "));
        Problem::usage("no-such-program", message, HELP)
    })
}

fn model_route(
    options: &Options,
    env: &Env,
    interactive: bool,
    ask: &mut dyn Ask,
) -> Result<Option<RouteChoice>, Problem> {
    let given = |option: &Option<String>, x: &str| match option {
        Some(value) => Ok(Some(value.clone())),
        None => env.text(x),
    };
    let (mut name, model, mut url) = (
        given(&options.provider, "PROVIDER")?,
        given(&options.model, "MODEL")?,
        given(&options.endpoint_url, "ENDPOINT_URL")?,
    );
    if name.is_none() && url.is_some() {
        name = Some("custom".to_owned());
    }
    if name.is_none() && interactive {
        name = Some(
            ask.line("Model provider (ollama, openai, custom, ...; canary needs none)", Some("canary"))?,
        );
    }
    let Some(name) = name else {
        return match model {
            None => Ok(None),
            Some(model) => {
                let message = format!("model {model:?} was given, but no provider");
                Err(Problem::usage(
                    "provider-missing",
                    message,
                    "add --provider, see clawkeep onboard --help",
                ))
            }
        };
    };
    let provider = route::provider(&name, HELP)?;
    if interactive && provider != Provider::Canary && url.is_none() {
        let default = provider.default_base_url();
        url = Some(ask.line("Base URL of its endpoint", default)?)
            .filter(|url| !url.is_empty() && Some(url.as_str()) != default);
    }
    route::Wanted::new(&name, model, url, interactive, HELP)?
        .map(|wanted| wanted.with_key(env, interactive, ask))
        .transpose()
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
