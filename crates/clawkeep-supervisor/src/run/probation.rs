//! What was healthy before: kept when a launch has proven itself, put back when a later one does not.

use std::os::fd::AsFd;

use clawkeep_agents::{Document, Found, Owner, openclaw};
use clawkeep_plan::Digest;
use clawkeep_recovery::{Event, Phase, Restore, Unproven};
use serde_json::{Value, json};

use super::{Hooks, Supervisor};
use crate::blueprint::Blueprint;
use crate::sandbox::open_dir;

/// Kinds of snapshots.
const CONFIG: &str = "config";
const AGENT: &str = "agent";

/// What is known of healthy launches, and what the present one was made with.
pub(super) struct Probation {
    /// The last healthy configuration.
    config: Option<Digest>,
    /// The last healthy adapter, as the registry stores it.
    agent: Option<Value>,
    /// The configuration as it was right before the present launch.
    launched: Option<Vec<u8>>,
    /// The launch that has proven itself.
    settled: Option<u64>,
}

impl Probation {
    pub fn of(blueprint: &Blueprint) -> Self {
        // What cannot be read is as good as not there: then nothing is suspected for being new.
        let healthy = blueprint.snapshots.healthy(CONFIG).ok().flatten();
        let agent = blueprint.snapshots.mark(AGENT).ok().flatten();
        Self { config: healthy.map(|healthy| healthy.digest), agent, launched: None, settled: None }
    }
}

fn owner(blueprint: &Blueprint) -> Owner {
    let (uid, gid) = blueprint.spec.ids.host_agent();
    Owner { uid, gid }
}

fn read(blueprint: &Blueprint, document: &Document) -> std::io::Result<Found> {
    document.read(open_dir(&blueprint.home)?.as_fd())
}

impl<H: Hooks> Supervisor<H> {
    /// Remember what the launch that comes now is made with.
    pub(super) fn look_at_config(&mut self) -> Unproven {
        let found =
            self.blueprint.adapter.config().and_then(|document| read(&self.blueprint, &document).ok());
        self.probation.launched = match found {
            Some(Found::Bytes(bytes)) => Some(bytes),
            Some(Found::Missing | Found::Unfit(_) | Found::NoFile) | None => None,
        };
        let launched = self.probation.launched.as_deref().map(Digest::of);
        Unproven {
            config: self.probation.config.is_some() && launched != self.probation.config,
            agent: self.probation.agent.is_some() && self.probation.agent != self.adapter(),
        }
    }

    fn adapter(&self) -> Option<Value> {
        serde_json::to_value(&self.blueprint.adapter).ok()
    }

    /// Once a launch has been ready for the settle window, keep what it was made with.
    pub(super) fn note_health(&mut self) {
        let Phase::Ready { launch, since, .. } = self.state.phase else { return };
        if self.now().saturating_sub(since) < self.settings.settle
            || self.probation.settled == Some(launch)
            || self.state.safe
        {
            return;
        }
        self.probation.settled = Some(launch);
        self.hooks.record(
            "settled",
            "it has served for the whole settle window",
            json!({ "launch": launch }),
        );
        if let Err(error) = self.keep() {
            self.incident("snapshot-failed", error.to_string(), json!({ "launch": launch }));
        }
    }

    fn keep(&mut self) -> Result<(), clawkeep_store::SnapshotError> {
        // Not what the file holds now: it may have been edited since, and the running gateway does not prove that
        // the next one would start with it.
        if let Some(bytes) = self.probation.launched.take() {
            self.probation.config = Some(self.blueprint.snapshots.put_healthy(CONFIG, &bytes)?);
        }
        let agent = self.adapter();
        if let Some(value) = agent.as_ref().filter(|_| agent != self.probation.agent) {
            self.blueprint.snapshots.set_mark(AGENT, value)?;
        }
        self.probation.agent = agent;
        Ok(())
    }

    pub(super) async fn restore_healthy(&mut self, what: Restore) {
        let outcome = match what {
            Restore::Config => self.restore_config(),
            Restore::Agent => self.restore_agent().await,
        };
        let changed = outcome.unwrap_or_else(|reason| {
            self.incident("restore-failed", reason, json!({ "what": what }));
            false
        });
        self.feed(Event::Restored { what, changed });
    }

    /// A configuration that is no file at all holds a start up and tells nothing: a named pipe would be waited for until
    /// the start's time is over, on each rung. The last healthy one is put in its place before there is a start. A link
    /// may be how somebody keeps it: whether it will do is for the agent to say.
    pub(super) fn replace_no_file(&mut self) {
        let Some(document) = self.blueprint.adapter.config() else { return };
        if !matches!(read(&self.blueprint, &document), Ok(Found::NoFile)) {
            return;
        }
        let Ok(Some(healthy)) = self.blueprint.snapshots.healthy(CONFIG) else { return };
        let put = open_dir(&self.blueprint.home)
            .map_err(std::io::Error::other)
            .and_then(|home| document.put(home.as_fd(), owner(&self.blueprint), &healthy.bytes));
        let (kind, what) = match put {
            Ok(()) => (
                "config-restored",
                "was no regular file: it was moved aside, and the last healthy one is back".to_owned(),
            ),
            Err(error) => ("restore-failed", format!("is no regular file, and stays: {error}")),
        };
        self.incident(kind, format!("{} {what}", document.shown()), json!({ "healthy": healthy.digest }));
    }

    fn restore_config(&mut self) -> Result<bool, String> {
        let Some(document) = self.blueprint.adapter.config() else { return Ok(false) };
        let Some(healthy) = self.blueprint.snapshots.healthy(CONFIG).map_err(|e| e.to_string())? else {
            return Ok(false);
        };
        for damaged in &healthy.damaged {
            let what = format!("{} is damaged: an older one is taken", damaged.display());
            self.incident("snapshot-damaged", what, json!({}));
        }
        let there = read(&self.blueprint, &document).map_err(|e| format!("{}: {e}", document.shown()))?;
        let aside = match &there {
            Found::Bytes(bytes) if Digest::of(bytes) == healthy.digest => return Ok(false),
            Found::Bytes(bytes)
                if self.probation.launched.as_ref().is_some_and(|launched| launched != bytes) =>
            {
                let what =
                    format!("{} was changed after the failed start: it is tried first", document.shown());
                self.hooks.record("config-edited", &what, json!({}));
                return Ok(true);
            }
            Found::Bytes(bytes) => {
                let why = "the agent did not stay up with it";
                let path =
                    self.blueprint.snapshots.put_aside(CONFIG, bytes, why).map_err(|e| e.to_string())?;
                format!("it is kept as {}", path.display())
            }
            Found::Missing => "it was missing".to_owned(),
            Found::Unfit(why) => format!("it {why}, and was moved aside"),
            Found::NoFile => "it was no regular file, and was moved aside".to_owned(),
        };
        let home = open_dir(&self.blueprint.home).map_err(|e| e.to_string())?;
        document
            .put(home.as_fd(), owner(&self.blueprint), &healthy.bytes)
            .map_err(|e| format!("{}: {e}", document.shown()))?;
        self.incident(
            "config-restored",
            format!(
                "the agent did not stay up with {}: the last healthy one is back; {aside}",
                document.shown()
            ),
            json!({ "healthy": healthy.digest, "since": healthy.since_ms }),
        );
        Ok(true)
    }

    async fn restore_agent(&mut self) -> Result<bool, String> {
        let Some(blueprint) = self.hooks.restore_agent().await? else { return Ok(false) };
        let from = &self.blueprint.plan.agent;
        let what = format!(
            "the agent did not stay up as {} {}: {} {} is in its place",
            from.name, from.version, blueprint.plan.agent.name, blueprint.plan.agent.version
        );
        self.incident("agent-restored", what, json!({}));
        self.settings = super::settings(&blueprint);
        self.blueprint = blueprint;
        Ok(true)
    }

    /// Safe mode has a configuration of its own, made afresh for each launch; the user's stays as it is.
    pub(super) fn write_safe_config(&self, route: &openclaw::Route) -> Result<(), String> {
        let document: Document = openclaw::SAFE_CONFIG.parse().map_err(|e| format!("{e}"))?;
        let healthy = self.blueprint.snapshots.healthy(CONFIG).ok().flatten().map(|healthy| healthy.bytes);
        let token = healthy
            .iter()
            .chain(&self.probation.launched)
            .find_map(|bytes| openclaw::token_of(&serde_json::from_slice(bytes).ok()?));
        let token = match token {
            Some(token) => token,
            None => openclaw::Token::generate().map_err(|e| e.to_string())?,
        };
        let port = self.blueprint.adapter.health().map_or(openclaw::GATEWAY_PORT, |spec| spec.port);
        let config = serde_json::to_vec_pretty(&openclaw::safe_config(&token, port, route))
            .map_err(|e| e.to_string())?;
        let home = open_dir(&self.blueprint.home).map_err(|e| e.to_string())?;
        document
            .put(home.as_fd(), owner(&self.blueprint), &config)
            .map_err(|e| format!("{}: {e}", document.shown()))
    }
}
