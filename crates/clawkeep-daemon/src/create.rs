//! Making a sandbox, and removing one: whole or not at all.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clawkeep_agents::openclaw::{self, Overwrite, Token};
use clawkeep_agents::{Adapter, Bundle, HealthUrl, Release};
use clawkeep_agents::{DocumentError, Owner};
use clawkeep_inference::{AuthScheme, Provider, Route};
use clawkeep_isolation::{Host, IdMap, Limits, etc_files};
use clawkeep_plan::{SandboxName, Tier};
use clawkeep_store::{Desired, NewSandbox, SandboxRecord, Secret, StoreError, atomic, remove_tree, unix_ms};

use crate::api::{AgentChoice, Create, Failure, RouteChoice};
use crate::config::{AgentConfig, ImageStart, IsolationConfig, model_route, own_home};
use crate::policy::Setting;
use crate::redaction::redaction;
use crate::say::say;
use crate::server::{Daemon, key_name, store_failed};
use crate::system::base;
use crate::{credentials, forward, lower_tier, mounts};

/// Make it and begin to supervise it. On a failure nothing of it is left.
pub async fn create(daemon: &Daemon, wanted: Create) -> Result<SandboxRecord, Failure> {
    // One at a time: ports and slots are chosen by looking at what is taken.
    let _one = daemon.creating.lock().await;
    let name = wanted.name.clone();
    let lower = wanted.tier == Tier::Landlock;
    if lower {
        lower_tier::check(&wanted)?;
    }
    let mut agent = AgentConfig { settle_secs: wanted.settle_secs, ..agent(daemon, wanted.agent)? };
    check_limits(&wanted.limits)?;
    let (route, key) = route(wanted.route, "clawkeep onboard --help")?;
    let (policy, _) = Setting::new(&wanted.policy)?;
    let etc = etc_files(name.as_str());
    let image = wanted.image.as_ref().map(|image| image.digest);
    let base = base(&daemon.home, &name, image, &etc)?;
    // Which ids it is made of does not matter here, only of what kind they are.
    let ids = IdMap::for_current_user(0);
    let mounts = mounts::resolve(&wanted.mounts, daemon.home.root(), &base.system, ids)?;
    let records = daemon.store.list().map_err(store_failed)?;
    let others = records.iter().filter(|record| record.name != name);
    let mut taken: Vec<u16> = others.clone().filter_map(|record| record.dashboard_port).collect();
    let proxy_port = match lower {
        true => Some(lower_tier::ports(&mut agent, others, &mut taken)?),
        false => None,
    };
    let dashboard = match agent.adapter.health() {
        Some(_) => Some(forward::choose(wanted.dashboard_port, &taken).await.ok_or_else(|| {
            let (what, next) = match wanted.dashboard_port {
                Some(port) => (format!("port {port} is taken"), "clawkeep onboard --dashboard-port PORT"),
                None => (
                    "ports 18789 to 18799 are all taken".to_owned(),
                    "clawkeep onboard --dashboard-port PORT",
                ),
            };
            Failure::new("port-taken", what, next.to_owned())
        })?),
        None => None,
    };
    let (dashboard_port, bound) = dashboard.unzip();
    let new = NewSandbox {
        name: name.clone(),
        desired: Desired::Running,
        adapter: to_value(&agent),
        route: to_value(&route),
        isolation: to_value(&IsolationConfig {
            strict: wanted.strict,
            tier: wanted.tier,
            proxy_port,
            limits: wanted.limits,
            image,
            start: wanted.image.as_ref().map(ImageStart::of).unwrap_or_default(),
            mounts,
        }),
        policy: policy.to_value(),
        dashboard_port,
        onboarding: true,
    };
    let record = daemon.store.insert(new).map_err(|error| match error {
        StoreError::NameTaken(_) => Failure::new(
            "name-taken",
            format!("there is a sandbox named {name} already"),
            format!("clawkeep {name} status"),
        ),
        other => store_failed(other),
    })?;
    if let Err(failure) = fill(daemon, &record, &agent, &route, key) {
        // The failure is what counts; what cannot be removed now is removed with the next attempt.
        let _ = remove_files(daemon, &name).await;
        daemon.tally.forget(&name);
        let _ = daemon.store.remove(&name);
        return Err(failure);
    }
    daemon.supervise(&record, bound);
    Ok(record)
}

pub fn to_value<T: serde::Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// What is asked for must make sense, and this host must be able to keep it.
fn check_limits(limits: &Limits) -> Result<(), Failure> {
    let help = || "clawkeep onboard --help".to_owned();
    limits.check().map_err(|error| Failure::new("bad-limit", error.to_string(), help()))?;
    match Host::look().refusal(limits) {
        Some(why) => {
            Err(Failure::new("limit-unenforceable", why, "clawkeep onboard without that limit".to_owned()))
        }
        None => Ok(()),
    }
}

fn agent(daemon: &Daemon, choice: AgentChoice) -> Result<AgentConfig, Failure> {
    match choice {
        AgentChoice::Openclaw { version } => {
            let known = || Release::all().iter().map(|r| r.version).collect::<Vec<_>>().join(", ");
            let release = Release::find(&version).ok_or_else(|| {
                let what = format!(
                    "openclaw {version} is not a release that this version knows; it knows {}",
                    known()
                );
                Failure::new("agent-unknown", what, "clawkeep onboard".to_owned())
            })?;
            if Bundle::find(&daemon.home.bundles(), release).is_none() {
                let what = format!("the bundle of openclaw {version} is not installed");
                return Err(Failure::new("agent-missing", what, "clawkeep onboard".to_owned()));
            }
            Ok(AgentConfig {
                adapter: Adapter::OpenClaw { version, port: None },
                node_guards: true,
                bundle: None,
                env: Default::default(),
                settle_secs: None,
            })
        }
        AgentChoice::Command { argv, health_url, config, safe_mode, node_guards, bundle, env } => {
            let bad = |what: String| Failure::new("bad-argument", what, "clawkeep onboard --help".to_owned());
            let health =
                health_url.map(|url| url.parse::<HealthUrl>()).transpose().map_err(|e| bad(e.to_string()))?;
            let config =
                config.map(|path| path.parse()).transpose().map_err(|e: DocumentError| bad(e.to_string()))?;
            match argv.first() {
                Some(program) if program.starts_with('/') => {}
                Some(program) => {
                    return Err(bad(format!("{program:?} is not an absolute path, as seen in the sandbox")));
                }
                None => return Err(bad("a command needs a program".into())),
            }
            let real = |dir: PathBuf| match dir.canonicalize() {
                Ok(real) if dir.is_absolute() && real.is_dir() => Ok(real),
                _ => Err(bad(format!("{} is not an absolute path of a directory", dir.display()))),
            };
            let bundle = bundle.map(real).transpose()?;
            Ok(AgentConfig {
                adapter: Adapter::Command { argv, health, config, safe_mode },
                node_guards,
                bundle,
                env,
                settle_secs: None,
            })
        }
    }
}

/// The route and its key, if it shows one. `next` is what to do about one that cannot be used.
pub fn route(choice: Option<RouteChoice>, next: &str) -> Result<(Route, Option<String>), Failure> {
    let Some(RouteChoice { provider, endpoint_url, model, key }) = choice else {
        return Ok((Route::canary(), None));
    };
    let bad =
        |error: &dyn std::fmt::Display| Failure::new("route-unusable", error.to_string(), next.to_owned());
    // Before anybody is asked with it.
    redaction().learn(key.clone().map(Secret::new));
    let provider = Provider::parse(&provider).map_err(|e| bad(&e))?;
    let route = Route::new(provider, endpoint_url.as_deref(), &model, key.is_some()).map_err(|e| bad(&e))?;
    let key = key.filter(|_| route.auth != AuthScheme::None);
    Ok((route, key))
}

/// The sandbox's directories, its key and its agent's first configuration.
fn fill(
    daemon: &Daemon,
    record: &SandboxRecord,
    agent: &AgentConfig,
    route: &Route,
    key: Option<String>,
) -> Result<(), Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new("create-failed", format!("{what}: {error}"), "clawkeep status".to_owned())
    };
    let dirs = daemon.home.sandbox(&record.name);
    dirs.create().map_err(|e| failed("make the sandbox's directories", &e))?;
    let ids = IdMap::for_current_user(record.slot);
    own_home(&dirs.home(), ids).map_err(|e| failed("hand over the home", &e))?;
    if let Some(key) = key {
        daemon
            .secrets
            .put(&record.name, &key_name(0), &Secret::new(key))
            .map_err(|e| failed("store the key", &e))?;
    }
    if let Adapter::OpenClaw { .. } = agent.adapter {
        let home = atomic::open_dir(&dirs.home()).map_err(|e| failed("open the home", &e))?;
        let token = Token::generate().map_err(|e| failed("make a token", &e))?;
        let model = model_route(route);
        let (uid, gid) = ids.host_agent();
        let port = agent.adapter.health().map_or(openclaw::GATEWAY_PORT, |spec| spec.port);
        let config = openclaw::initial_config(&token, port, &model);
        openclaw::write_config(home.as_fd(), Owner { uid, gid }, &config, Overwrite::Never)
            .map_err(|e| failed("write the agent's configuration", &e))?;
    }
    Ok(())
}

/// Remove all files of a sandbox: moved away whole first, so that nothing half is ever in its place.
pub async fn remove_files(daemon: &Daemon, name: &SandboxName) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(
            "remove-failed",
            format!("the files of {name} cannot be removed: {error}"),
            format!("clawkeep {name} destroy --yes"),
        )
    };
    daemon.secrets.remove_all(name).map_err(|e| failed(&e))?;
    credentials::forget_sandbox(daemon, name).map_err(|e| failed(&e))?;
    // Nobody supervises it any more, whether somebody could or not: what still runs in it ends here.
    let run = daemon.home.sandbox(name).run();
    let ended = tokio::task::spawn_blocking(move || clawkeep_isolation::remove(&run));
    ended.await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
    let from = daemon.home.sandbox(name).root().to_owned();
    // No sandbox's name begins with a dot.
    let to = daemon.home.sandboxes().join(format!(".removed-{name}-{}", unix_ms()));
    match std::fs::rename(&from, &to) {
        // On the disk before the registry forgets it: else a power cut could bring the sandbox back.
        Ok(()) => atomic::sync_at(&daemon.home.sandboxes()).map_err(|e| failed(&e))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&error)),
    }
    tokio::task::spawn_blocking(move || remove_tree(&to))
        .await
        .map_err(|e| failed(&e))?
        .map_err(|e| failed(&e))
}

/// Remove what earlier removals could not finish.
pub fn sweep_removed(sandboxes: &Path) {
    for entry in std::fs::read_dir(sandboxes).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".removed-")
            && let Err(error) = remove_tree(&entry.path())
        {
            say(format_args!("{}: {error}", entry.path().display()));
        }
    }
}
