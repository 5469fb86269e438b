//! The agent of a sandbox put back to what was healthy: its files, or its version.

use std::path::PathBuf;
use std::sync::Arc;

use clawkeep_agents::Adapter;
use clawkeep_plan::SandboxName;
use clawkeep_store::{Home, Snapshots, Store};
use clawkeep_supervisor::Blueprint;
use tokio::sync::watch;

use crate::config::{Config, blueprint};
use crate::create::to_value;
use crate::server::Daemon;

/// What it takes to make the blueprint of one sandbox anew.
pub struct Agents {
    home: Home,
    store: Arc<Store>,
    program: PathBuf,
    name: SandboxName,
    ca_bundle: PathBuf,
    tell: watch::Sender<Arc<Blueprint>>,
}

impl Agents {
    pub fn of(
        daemon: &Daemon,
        record: &clawkeep_store::SandboxRecord,
        ca_bundle: PathBuf,
        tell: watch::Sender<Arc<Blueprint>>,
    ) -> Self {
        Self {
            home: daemon.home.clone(),
            store: Arc::clone(&daemon.store),
            program: daemon.program.clone(),
            name: record.name.clone(),
            ca_bundle,
            tell,
        }
    }

    /// Go back to the adapter of the last healthy launch, where another is in use. Gives the blueprint that
    /// follows, `None` where it is the same.
    pub async fn restore(&self) -> Result<Option<Blueprint>, String> {
        let record = self.store.get(&self.name).map_err(|e| e.to_string())?;
        let mut config = Config::of(&record).map_err(|e| e.message)?;
        let healthy =
            Snapshots::of(&self.home.sandbox(&self.name)).mark("agent").map_err(|e| e.to_string())?;
        let Some(healthy) = healthy else { return Ok(None) };
        let healthy: Adapter =
            serde_json::from_value(healthy).map_err(|e| format!("the last healthy agent: {e}"))?;
        if healthy == config.agent.adapter {
            return Ok(None);
        }
        config.agent.adapter = healthy;
        // Before anything is written: what cannot be launched is no way back.
        let made =
            blueprint(&self.home, &self.program, &record, &config, &self.ca_bundle).map_err(|e| e.message)?;
        self.store
            .update(&self.name, |record| record.adapter = to_value(&config.agent))
            .map_err(|e| e.to_string())?;
        self.tell.send_replace(Arc::new(made.clone()));
        Ok(Some(made))
    }
}
