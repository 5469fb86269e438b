//! A state directory that takes nothing: told aloud, and mended when it takes something again.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use clawkeep_store::{Entry, unix_ms};
use serde_json::json;

use crate::say::say;
use crate::server::Daemon;

/// Between two attempts to bring what is in memory only to the disk.
pub const MEND_EVERY: Duration = Duration::from_secs(5);

/// How long what a trial of the disk gave is believed.
const PROBE_AGAIN: Duration = Duration::from_secs(5);

impl Daemon {
    /// What is degraded now, each for a person.
    pub fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        if let Some(trouble) = self.probed() {
            troubles.push(format!("{trouble}: nothing can be changed"));
        }
        if self.store.in_memory() {
            troubles
                .push("the registry was read from the record files; the journal is in memory only".into());
        }
        let health = self.journal.health();
        if let Some(error) = health.error {
            let lost = health.failed + health.dropped;
            troubles.push(format!("the journal is not written ({lost} entries lost so far): {error}"));
        }
        troubles.extend(self.metrics.served().trouble);
        let running: Vec<_> = self.slots().values().filter_map(|slot| slot.clone().ok()).collect();
        for running in running {
            if let Some(cause) = running.inference.current().key_trouble() {
                let name = &running.blueprint().name;
                troubles.push(format!("{name} has no model: its key cannot be read: {cause}"));
            }
        }
        troubles
    }

    /// What the disk said the last time that it was tried.
    fn probed(&self) -> Option<String> {
        let mut last = self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((at, said)) if at.elapsed() < PROBE_AGAIN => said.clone(),
            _ => {
                let said = self.home.probe().err().map(|error| error.to_string());
                *last = Some((Instant::now(), said.clone()));
                said
            }
        }
    }

    /// Seal what is not sealed yet, by the key that the daemon has now. What cannot be is told and left.
    pub fn seal_secrets(&self) {
        match self.secrets.seal_all() {
            Ok(done) => {
                if done.changed > 0 {
                    self.note("secrets-sealed", &format!("{} stored secrets were sealed", done.changed));
                }
                for error in done.left {
                    self.note("secret-not-sealed", &error.to_string());
                }
            }
            Err(error) => self.note("secret-not-sealed", &error.to_string()),
        }
    }

    /// Something about the whole installation, for the log and for the journal.
    pub fn note(&self, kind: &str, cause: &str) {
        say(format_args!("clawkeep daemon: {kind}: {cause}"));
        self.journal.record(Entry {
            at_ms: unix_ms(),
            sandbox: None,
            kind: kind.to_owned(),
            cause: cause.to_owned(),
            data: json!({}),
        });
    }

    /// Bring what is in memory only to the disk, if it takes it.
    pub fn mend(&self) {
        // One that fails is tried again; that it is degraded was told when it began.
        if self.store.in_memory()
            && let Ok(note) = self.store.mend()
        {
            self.note("mended", "the state directory can be written again");
            if let Some(note) = note {
                self.note("repaired", &note.to_string());
            }
        }
    }
}
