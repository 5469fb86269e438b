//! What the registry keeps about a sandbox, typed, and the blueprint that is derived from it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clawkeep_agents::openclaw::{self, LaunchContext, ModelApi};
use clawkeep_agents::{AGENT_MOUNT, Adapter, Bundle};
use clawkeep_guards::{
    CA_BUNDLE, EnvFile, GUARDS_MOUNT, Guard, Package, private_tmp, published_files, select,
};
use clawkeep_isolation::{IdMap, LOG, Limits, Mount, MountAccess, SandboxSpec, System, etc_files, read_only};
use clawkeep_plan::{
    Digest, LaunchPlan, NetlinkRule, PinnedFile, PublishedFile, RECEIPT_FD, SCHEMA, SandboxName, Sealing,
    Tier,
};
use clawkeep_store::{Home, SandboxRecord, Snapshots};
use clawkeep_supervisor::{Blueprint, LOG_INSIDE, SafeMode};
use serde::{Deserialize, Serialize};

use crate::api::{Failure, ImageChoice};
use crate::layout::Layout;
use crate::system::{Base, base};

/// The proxy's port on the loopback of every sandbox that has its own.
pub const PROXY_PORT: u16 = 3128;

/// Port of the sandbox's name server, which every resolver takes.
pub const DNS_PORT: u16 = 53;
/// The least Landlock ABI that a plan of the lower tier accepts: that of scopes for signals and abstract sockets.
pub const LANDLOCK_BESIDE: u32 = 6;

/// The oldest Node that guards are selected for where the version is not known.
const UNKNOWN_NODE: u32 = 20;

/// How long a gateway must stay ready before what it was launched with counts as healthy.
const SETTLE_SECS: u64 = 25;

const TMP_BYTES: u64 = 2 << 30;
const LOG_BYTES: u64 = 8 << 20;

/// `adapter` of a [`SandboxRecord`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentConfig {
    /// The agent.
    pub adapter: Adapter,
    /// A command that is a Node program, guarded like OpenClaw.
    #[serde(default)]
    pub node_guards: bool,
    /// Directory on the host shown at [`AGENT_MOUNT`], for a command.
    #[serde(default)]
    pub bundle: Option<PathBuf>,
    /// Added to the environment of a command.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Readiness that lasts this long proves a launch, in seconds; [`SETTLE_SECS`] where it is not said.
    #[serde(default)]
    pub settle_secs: Option<u64>,
}

/// `isolation` of a [`SandboxRecord`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct IsolationConfig {
    /// Netlink sockets are refused.
    pub strict: bool,
    /// What its walls are made of; records of before have none but the first.
    #[serde(default)]
    pub tier: Tier,
    /// In the lower tier, where on the host's loopback its proxy is; [`PROXY_PORT`] elsewhere.
    #[serde(default)]
    pub proxy_port: Option<u16>,
    /// What was asked for of its limits; records of before have none.
    #[serde(default)]
    pub limits: Limits,
    /// The image that is its system; this host's where there is none.
    #[serde(default)]
    pub image: Option<Digest>,
    /// What that image says of a start.
    #[serde(default)]
    pub start: ImageStart,
    /// What else of this host it sees.
    #[serde(default)]
    pub mounts: Vec<Mount>,
}

/// What an image says of a start, as far as it is taken up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageStart {
    /// The lowest layer of the environment.
    pub env: BTreeMap<String, String>,
    /// Where a command begins; `None`: `/sandbox`.
    pub cwd: Option<String>,
    /// The command is the image's.
    pub command: bool,
}

impl ImageStart {
    /// Of the image that was chosen.
    pub fn of(choice: &ImageChoice) -> Self {
        Self { env: choice.env.clone(), cwd: choice.cwd.clone(), command: choice.command.is_some() }
    }

    /// An environment, with that of the image below. Programs are looked for in the directories of both; a command finds
    /// the image's first, which are those that are there, and OpenClaw its own.
    fn below(&self, env: BTreeMap<String, String>, command: bool) -> BTreeMap<String, String> {
        let mut both = self.env.clone();
        let path = both.get("PATH").zip(env.get("PATH")).map(|(image, ours)| {
            let (first, last) = if command { (image, ours) } else { (ours, image) };
            let rest = last.split(':').filter(|dir| first.split(':').all(|there| there != *dir));
            let all = first.split(':').chain(rest).filter(|dir| dir.starts_with('/'));
            all.collect::<Vec<_>>().join(":")
        });
        both.extend(env);
        both.extend(path.map(|path| ("PATH".to_owned(), path)));
        both
    }
}

/// The registry's opaque parts, read.
pub struct Config {
    pub agent: AgentConfig,
    pub isolation: IsolationConfig,
    pub route: clawkeep_inference::Route,
}

impl Config {
    pub fn of(record: &SandboxRecord) -> Result<Self, Failure> {
        let broken = |what: &str, error: serde_json::Error| {
            Failure::new(
                "registry-unreadable",
                format!("the registry's {what} of {} cannot be read: {error}", record.name),
                format!("clawkeep {} destroy --force", record.name),
            )
        };
        Ok(Self {
            agent: serde_json::from_value(record.adapter.clone()).map_err(|e| broken("agent", e))?,
            isolation: serde_json::from_value(record.isolation.clone())
                .map_err(|e| broken("isolation", e))?,
            route: serde_json::from_value(record.route.clone()).map_err(|e| broken("route", e))?,
        })
    }

    /// The bundle of the agent, where it needs one.
    fn bundle(&self, home: &Home, name: &SandboxName) -> Result<Option<Bundle>, Failure> {
        let unknown = |error: clawkeep_agents::AdapterError| {
            Failure::new("agent-unknown", error.to_string(), "clawkeep onboard --help".to_owned())
        };
        let Some(release) = self.agent.adapter.release().map_err(unknown)? else { return Ok(None) };
        match Bundle::find(&home.bundles(), release) {
            Some(bundle) => Ok(Some(bundle)),
            None => Err(Failure::new(
                "agent-missing",
                format!("the bundle of openclaw {} is not installed", release.version),
                format!("clawkeep {name} rebuild --yes --agent-version {}", release.version),
            )),
        }
    }

    fn guards(&self, bundle: Option<&Bundle>) -> Vec<&'static Guard> {
        let node = match (&self.agent.adapter, bundle) {
            (Adapter::OpenClaw { .. }, Some(bundle)) => {
                bundle.node_version().split('.').next().and_then(|major| major.parse().ok())
            }
            (Adapter::Command { .. }, _) if self.agent.node_guards => Some(UNKNOWN_NODE),
            _ => None,
        };
        let mut guards = node.map_or_else(Vec::new, |major| select(major, Some(&self.route.model)));
        if self.has_no_tmp() {
            guards.push(private_tmp());
        }
        guards
    }

    /// Whether it is OpenClaw where `/tmp` is the host's.
    fn has_no_tmp(&self) -> bool {
        self.isolation.tier == Tier::Landlock && matches!(self.agent.adapter, Adapter::OpenClaw { .. })
    }

    /// The port on the loopback as the agent sees it where its proxy is.
    pub fn proxy_port(&self) -> u16 {
        self.isolation.proxy_port.unwrap_or(PROXY_PORT)
    }

    /// The TCP ports that are served from outside. The lower tier has no port 53 of its own.
    pub fn listeners(&self) -> Vec<u16> {
        match self.isolation.tier {
            Tier::Namespaces => vec![PROXY_PORT, DNS_PORT],
            Tier::Landlock => vec![self.proxy_port()],
        }
    }

    /// The UDP ports that are served from outside.
    fn datagrams(&self) -> Vec<u16> {
        match self.isolation.tier {
            Tier::Namespaces => vec![DNS_PORT],
            Tier::Landlock => vec![],
        }
    }

    /// Port inside to which the dashboard's forward leads.
    pub fn inner_port(&self) -> Option<u16> {
        self.agent.adapter.health().map(|spec| spec.port)
    }
}

/// Everything that the sandbox and its launches are made of.
pub fn blueprint(
    home: &Home,
    program: &Path,
    record: &SandboxRecord,
    config: &Config,
    ca_bundle: &Path,
) -> Result<Blueprint, Failure> {
    let dirs = home.sandbox(&record.name);
    let bundle = config.bundle(home, &record.name)?;
    let guards = config.guards(bundle.as_ref());
    let IsolationConfig { tier, .. } = config.isolation;
    let proxy = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, config.proxy_port()));
    let env_file = EnvFile { proxy, guards: &guards };
    let mut published = published_files(&env_file);

    let context = LaunchContext { proxy_url: Some(format!("http://{proxy}")) };
    let unfit = |error: clawkeep_agents::AdapterError| {
        Failure::new("agent-unfit", error.to_string(), "clawkeep onboard --help".to_owned())
    };
    let agent = config.agent.adapter.launch(bundle.as_ref(), &context).map_err(unfit)?;
    let ImageStart { cwd: image_cwd, .. } = &config.isolation.start;
    let mut env =
        config.isolation.start.below(agent.env, matches!(config.agent.adapter, Adapter::Command { .. }));
    env.extend(clawkeep_guards::environment(&env_file));
    env.extend(config.agent.env.clone());
    env.insert("USER".into(), "sandbox".into());
    if tier == Tier::Landlock {
        // Elsewhere that is where every program looks by itself.
        env.insert("TMPDIR".into(), "/tmp".into());
    }
    if config.has_no_tmp()
        && let Some(options) = env.get("NODE_OPTIONS")
    {
        // For its own command line among its tools, from which it takes the other one.
        env.insert("CLAWKEEP_NODE_OPTIONS".into(), options.clone());
    }
    if !guards.is_empty() {
        env.insert(clawkeep_guards::PROCESS_ENV.into(), "openclaw-gateway".into());
        env.insert(clawkeep_guards::RECEIPT_FD_ENV.into(), RECEIPT_FD.to_string());
        env.insert(clawkeep_guards::RECEIPT_GUARDS_ENV.into(), guards.len().to_string());
    }
    let ca_digest = std::fs::read(ca_bundle).map(|bytes| Digest::of(&bytes)).map_err(|error| {
        Failure::new("ca-failed", format!("{}: {error}", ca_bundle.display()), "clawkeep status".to_owned())
    })?;
    // As they are seen inside: what is verified is what is mounted.
    let inside = |file: PinnedFile| match bundle
        .as_ref()
        .and_then(|b| Path::new(&file.path).strip_prefix(b.dir()).ok())
    {
        Some(below) => PinnedFile { path: format!("{AGENT_MOUNT}/{}", below.display()), digest: file.digest },
        None => file,
    };
    let mut files: Vec<_> = agent.files.into_iter().map(inside).collect();
    files.push(PinnedFile { path: CA_BUNDLE.into(), digest: ca_digest });
    let etc = etc_files(record.name.as_str());
    let Base { mut system, pin } = base(home, &record.name, config.isolation.image, &etc)?;
    let (image, image_pin) = pin.unzip();
    files.extend(image_pin);

    // On the host's own network there would be something to learn from it (and the filter has none there).
    let refused = config.isolation.strict || tier == Tier::Landlock;
    let netlink = if refused { NetlinkRule::Refused } else { NetlinkRule::RouteOnly };
    let landlock_abi_min = if tier == Tier::Landlock { LANDLOCK_BESIDE } else { 1 };
    let safe_env = config.agent.adapter.safe_env();
    let cwd = match (&config.agent.adapter, image_cwd) {
        (Adapter::Command { .. }, Some(cwd)) => cwd.clone(),
        _ => agent.cwd,
    };
    let mut plan = LaunchPlan {
        schema: SCHEMA,
        sandbox: record.name.clone(),
        agent: agent.agent,
        argv: agent.argv,
        cwd,
        env,
        guards: guards.iter().map(|guard| guard.input()).collect(),
        files,
        published: Vec::new(),
        listeners: config.listeners(),
        sealing: Sealing { tier, netlink, landlock_abi_min },
    };

    let ids = IdMap::for_current_user(record.slot);
    if tier == Tier::Landlock {
        system = System::beside_this_host();
    }
    let mut mounts = system.mounts;
    mounts.push(Mount { source: dirs.home(), target: "/sandbox".into(), access: MountAccess::ReadWrite });
    mounts.push(read_only(ca_bundle, CA_BUNDLE));
    // Not below /tmp, which is wiped: a mount goes with the file that it is on.
    mounts.push(read_only(dirs.run().join(LOG), LOG_INSIDE));
    if let Some(bundle) = bundle {
        mounts.push(read_only(bundle.dir(), AGENT_MOUNT));
    } else if let Some(source) = config.agent.bundle.clone() {
        // The operator's, and perhaps in a directory that an agent may write to.
        mounts.push(Mount { source, target: AGENT_MOUNT.into(), access: MountAccess::Shown });
    }
    mounts.extend(image);
    mounts.extend(config.isolation.mounts.clone());
    if tier == Tier::Landlock {
        let tmp = Mount { source: dirs.tmp(), target: "/tmp".into(), access: MountAccess::ReadWrite };
        mounts.push(tmp);
    }
    let spec = SandboxSpec {
        name: record.name.to_string(),
        tier,
        ids,
        mounts,
        symlinks: system.symlinks,
        files: etc,
        listeners: config.listeners(),
        datagrams: config.datagrams(),
        own_ports: config.inner_port().into_iter().collect(),
        tmp_bytes: TMP_BYTES,
        log_bytes: LOG_BYTES,
        limits: config.isolation.limits,
    };
    let mut layout = Layout::of(&spec);
    if tier == Tier::Landlock {
        layout.add(GUARDS_MOUNT, &Package::place(&home.guards()));
    }
    layout.relocate_plan(&mut plan);
    layout.relocate_published(&mut published);
    plan.published = published
        .iter()
        .map(|(name, bytes)| PublishedFile { name: name.clone(), digest: Digest::of(bytes) })
        .collect();
    let safe = safe_env.map(|mut env| {
        layout.relocate_env(&mut env);
        let mut plan = plan.clone();
        plan.env.extend(env);
        let openclaw = matches!(config.agent.adapter, Adapter::OpenClaw { .. });
        let route = openclaw.then(|| model_route(&config.route));
        SafeMode { plan, route }
    });

    Ok(Blueprint {
        name: record.name.clone(),
        program: program.to_owned(),
        run: dirs.run(),
        home: dirs.home(),
        guards_root: home.guards(),
        spec,
        plan,
        published,
        adapter: config.agent.adapter.clone(),
        settle: Duration::from_secs(config.agent.settle_secs.unwrap_or(SETTLE_SECS)),
        safe,
        snapshots: Snapshots::of(&dirs),
    })
}

/// The route as the agent's own configuration names it.
pub fn model_route(route: &clawkeep_inference::Route) -> openclaw::Route {
    let api = match route.provider.api() {
        clawkeep_inference::Api::OpenAi => ModelApi::OpenAiCompletions,
        clawkeep_inference::Api::Anthropic => ModelApi::AnthropicMessages,
    };
    openclaw::Route { model: route.model.clone(), api }
}

/// Hand the home over to the sandbox's user.
pub fn own_home(home: &Path, ids: IdMap) -> std::io::Result<()> {
    let (uid, gid) = ids.host_agent();
    std::os::unix::fs::chown(home, Some(uid), Some(gid))?;
    std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_variables_are_below_all_others_and_its_programs_before_a_commands() {
        let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let env = pairs(&[("PATH", "/opt/bin:relative::/bin"), ("LANG", "de"), ("MODE", "image")]);
        let start = ImageStart { env, ..ImageStart::default() };
        let ours = pairs(&[("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8")]);
        let wanted = |path| pairs(&[("PATH", path), ("LANG", "C.UTF-8"), ("MODE", "image")]);
        assert_eq!(start.below(ours.clone(), true), wanted("/opt/bin:/bin:/usr/bin"));
        assert_eq!(start.below(ours.clone(), false), wanted("/usr/bin:/bin:/opt/bin"));
        assert_eq!(ImageStart::default().below(ours.clone(), true), ours);
    }
}
