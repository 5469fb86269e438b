use std::collections::BTreeMap;

use clawkeep_plan::{Agent, PinnedFile};

use crate::{AGENT_MOUNT, Bundle, Generation};

/// The port on which the gateway listens where the sandbox has a loopback of its own.
pub const GATEWAY_PORT: u16 = 18789;

/// The configuration of safe mode, below the home.
pub const SAFE_CONFIG: &str = ".openclaw/safe-mode.json";

/// What a launch needs to know about the sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaunchContext {
    /// The proxy as the agent sees it (`http://127.0.0.1:3128`), if there is one.
    pub proxy_url: Option<String>,
}

/// The adapter's part of a launch plan. Paths are those inside the sandbox, but for `files`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentLaunch {
    /// For people and for the record.
    pub agent: Agent,
    /// The program, then its arguments.
    pub argv: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// What the adapter adds to the environment that the supervisor composes.
    pub env: BTreeMap<String, String>,
    /// Host files whose bytes the launch depends on.
    pub files: Vec<PinnedFile>,
}

/// A directory that must exist in the sandbox before a launch, owned by the sandbox's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeDir {
    /// Name below `/tmp`, a plain file name.
    pub name: String,
    /// Mode bits.
    pub mode: u32,
}

/// How the gateway of this bundle is launched, to listen on this port.
pub fn launch(bundle: &Bundle, generation: Generation, port: u16, context: &LaunchContext) -> AgentLaunch {
    let inside = |path: &str| format!("{AGENT_MOUNT}/{path}");
    let mut env: BTreeMap<String, String> = [
        ("HOME", "/sandbox".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("PATH", format!("{AGENT_MOUNT}/bin:/usr/local/bin:/usr/bin:/bin")),
        ("OPENCLAW_STATE_DIR", "/sandbox/.openclaw".to_owned()),
        ("OPENCLAW_CONFIG_PATH", "/sandbox/.openclaw/openclaw.json".to_owned()),
        // Else the pid that we launch is a launcher, and killing it leaves the gateway with lock and port.
        ("OPENCLAW_NO_RESPAWN", "1".to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    // NODE_COMPILE_CACHE is not set, and must never be: Node would take compiled code for the guards, which it
    // loads first, from a directory that the agent can write. OpenClaw turns its own cache (below /tmp) on
    // after the guards have loaded.
    // Without it the new one's web tools connect by addresses that they look up themselves, and there is no way
    // there. Its price: a SIGTERM ends the gateway with 143 before it has drained its work.
    if let (Generation::New, Some(url)) = (generation, &context.proxy_url) {
        env.insert("OPENCLAW_PROXY_URL".to_owned(), url.clone());
    }
    AgentLaunch {
        agent: Agent {
            name: "openclaw".to_owned(),
            version: bundle.version().to_owned(),
            runtime: format!("node {}", bundle.node_version()),
        },
        argv: vec![
            inside("bin/node"),
            inside("app/node_modules/openclaw/openclaw.mjs"),
            "gateway".to_owned(),
            "run".to_owned(),
            // What the probes and the dashboard's forward rely on, whatever the configuration says.
            "--port".to_owned(),
            port.to_string(),
            "--bind".to_owned(),
            "loopback".to_owned(),
        ],
        cwd: "/sandbox".to_owned(),
        env,
        files: bundle.pinned_files(),
    }
}

/// What safe mode changes in the environment of a launch.
pub fn safe_env() -> BTreeMap<String, String> {
    [("OPENCLAW_CONFIG_PATH".to_owned(), format!("/sandbox/{SAFE_CONFIG}"))].into()
}

/// The directories that the gateway insists on, for the uid that it sees itself running as. The old one dies at
/// import when they are another's; the new one cannot make its own where `/tmp` is read-only.
pub fn runtime_dirs(generation: Generation, uid: u32) -> Vec<RuntimeDir> {
    let second = match generation {
        Generation::Old => format!("openclaw-{uid}"),
        Generation::New => format!("openclaw-state-locks-{uid}"),
    };
    ["openclaw".to_owned(), second].into_iter().map(|name| RuntimeDir { name, mode: 0o700 }).collect()
}
