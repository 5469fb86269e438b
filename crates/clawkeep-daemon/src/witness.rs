//! Writes down what the proxy decided: every decision in the audit log, what is news of the refusals in the journal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clawkeep_egress::{Budget, Event};
use clawkeep_plan::SandboxName;
use clawkeep_store::{Entry, JournalWriter, unix_ms};
use tokio::sync::mpsc;

use crate::audit::AuditLog;
use crate::ocsf;
use crate::redaction::redaction;
use crate::refused::{Asked, Refused};

/// As many decisions are written in one go.
const BATCH: usize = 256;

/// One sandbox's.
pub struct Witness {
    pub name: SandboxName,
    pub journal: Arc<JournalWriter>,
    pub refused: Arc<Refused>,
    /// The directory of the audit log.
    pub audit: PathBuf,
}

impl Witness {
    /// Until the proxy is gone.
    pub async fn watch(self, mut told: mpsc::Receiver<Event>) {
        let mut budget = Budget::new(30, Duration::from_secs(60));
        let mut troubles = Budget::new(1, Duration::from_secs(3_600));
        let mut log = None;
        loop {
            // Made anew each time: what one burst took is not held for as long as the sandbox lives.
            let mut events = Vec::new();
            if told.recv_many(&mut events, BATCH).await == 0 {
                return;
            }
            let now_ms = unix_ms();
            // Every secret is looked for in every event: an agent that asks for ever must not hold up others with it.
            let cleaned = tokio::task::spawn_blocking(move || {
                events.iter_mut().for_each(|event| redaction().event(event));
                events
            });
            let Ok(events) = cleaned.await else { continue };
            let lines: String = events.iter().map(|event| ocsf::line(&self.name, now_ms, event)).collect();
            for event in events.into_iter().filter(Event::denies) {
                let asked = Asked::of(&event);
                let data = serde_json::json!({ "asked": asked, "event": event });
                // The same again is told once, and others at a bounded rate: an agent that asks for ever must not
                // push the sandbox's history out of the journal.
                if self.refused.note(asked, event.message.clone(), now_ms) && budget.take() {
                    self.record("denied", event.message, data);
                }
            }
            // The disk may hang, and nobody else should.
            let (dir, mut open) = (self.audit.clone(), log.take());
            let written = tokio::task::spawn_blocking(move || -> std::io::Result<AuditLog> {
                let mut log = match open.take() {
                    Some(log) => log,
                    None => AuditLog::open(dir)?,
                };
                log.append(lines.as_bytes())?;
                Ok(log)
            });
            match written.await {
                Ok(Ok(open)) => log = Some(open),
                // A full disk stops no agent: what is not written down is told as such.
                Ok(Err(error)) if troubles.take() => {
                    let what =
                        format!("the audit log cannot be written, decisions are missing in it: {error}");
                    self.record("audit-failed", what, serde_json::Value::Null);
                }
                _ => {}
            }
        }
    }

    fn record(&self, kind: &str, cause: String, data: serde_json::Value) {
        let sandbox = Some(self.name.clone());
        self.journal.record(Entry { at_ms: unix_ms(), sandbox, kind: kind.into(), cause, data });
    }
}
