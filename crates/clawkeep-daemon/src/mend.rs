//! An agent's files on the host that are missing or altered, installed again by the daemon itself.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clawkeep_agents::{AGENT_MOUNT, Cancel, Npm, Release, repair};
use clawkeep_plan::SandboxName;
use clawkeep_store::{Entry, Home, JournalWriter, Store, unix_ms};
use clawkeep_supervisor::Wish;
use serde_json::json;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::say::say;

/// Between two attempts for one sandbox: an installation takes a minute and hundreds of megabytes.
const PAUSE: Duration = Duration::from_secs(300);

/// What it takes to install the agent of one sandbox again.
#[derive(Clone)]
pub struct Mender {
    home: Home,
    store: Arc<Store>,
    journal: Arc<JournalWriter>,
    name: SandboxName,
    /// Weak: a supervisor ends with its wishes.
    wishes: mpsc::WeakUnboundedSender<Wish>,
    last: Arc<Mutex<Option<Instant>>>,
}

impl Mender {
    pub fn new(
        home: &Home,
        store: &Arc<Store>,
        journal: &Arc<JournalWriter>,
        name: &SandboxName,
        wishes: &mpsc::UnboundedSender<Wish>,
    ) -> Self {
        Self {
            home: home.clone(),
            store: Arc::clone(store),
            journal: Arc::clone(journal),
            name: name.clone(),
            wishes: wishes.downgrade(),
            last: Arc::default(),
        }
    }

    /// A launch was refused for this reason: if it names a file of the agent, install the agent again in the
    /// background, once in a while, and have the launch tried again.
    pub fn refused(&self, reason: &str) {
        if !names_the_agent(reason, &self.home.bundles()) {
            return;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        let Some(release) = self.release() else { return };
        *last = Some(Instant::now());
        let mender = self.clone();
        tokio::task::spawn_blocking(move || mender.mend(release));
    }

    /// `None` where the agent is a command: its files are the operator's.
    fn release(&self) -> Option<&'static Release> {
        let record = self.store.get(&self.name).ok()?;
        Config::of(&record).ok()?.agent.adapter.release().ok()?
    }

    fn mend(&self, release: &Release) {
        let version = release.version;
        self.tell(
            "mending",
            format!("files of openclaw {version} are missing or altered: installing it again"),
        );
        let root = self.home.bundles();
        let mended =
            Npm::on_path().and_then(|npm| repair(&root, release, &npm, &Cancel::default(), &mut |_| ()));
        match mended {
            Ok(bundle) => {
                self.tell("mended", format!("openclaw {version} is whole again: {}", bundle.name()));
                if let Some(wishes) = self.wishes.upgrade() {
                    let _ = wishes.send(Wish::Recover);
                }
            }
            Err(error) => {
                self.tell("mend-failed", format!("openclaw {version} cannot be installed: {error}"))
            }
        }
    }

    fn tell(&self, kind: &str, cause: String) {
        say(format_args!("{}: {kind}: {cause}", self.name));
        let (sandbox, kind) = (Some(self.name.clone()), kind.to_owned());
        self.journal.record(Entry { at_ms: unix_ms(), sandbox, kind, cause, data: json!({}) });
    }
}

/// Whether a reason names a file of the agent: by its place inside or, where nothing is mounted, on the host.
fn names_the_agent(reason: &str, bundles: &Path) -> bool {
    reason.contains(AGENT_MOUNT) || reason.contains(&format!("{}/", bundles.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_agents_is_known_wherever_it_lies() {
        let bundles = Path::new("/var/lib/clawkeep/bundles");
        let names = |file: &str| names_the_agent(&format!("launch refused: file {file}: missing"), bundles);
        assert!(names("/opt/clawkeep/agent/bin/node"));
        assert!(names("/var/lib/clawkeep/bundles/openclaw-2026.9.6-node-24.21.0-c712fb0e/bin/node"));
        assert!(!names("/opt/clawkeep/ca.pem") && !names("/var/lib/clawkeep/bundles.txt"));
    }
}
