//! System calls that the sandbox refused: journalled once each, and kept for whoever looks and for the diagnosis
//! of an end.

use std::collections::BTreeSet;

use clawkeep_isolation::proto::Child;
use clawkeep_isolation::refused_call;
use serde_json::json;

use super::{Hooks, Supervisor, launch_number};
use crate::client::SESSION;

/// The system calls that were refused since the present launch, by name.
#[derive(Debug, Clone, Default)]
pub struct DeniedCalls {
    /// To the agent, and to what came from it.
    pub agent: BTreeSet<String>,
    /// To what people started.
    pub sessions: BTreeSet<String>,
}

impl<H: Hooks> Supervisor<H> {
    /// A process was refused a call.
    pub(super) fn denied(&mut self, id: &str, call: i64) {
        if let Some((by, call)) = self.note_denied(id, call) {
            let launch = self.gateway.as_ref().map(|gateway| gateway.launch);
            self.hooks.record(
                "denied",
                &format!("{by} was refused the system call {call}"),
                json!({ "launch": launch, "call": call }),
            );
        }
    }

    /// What init remembers of before this supervisor listened. An earlier one has journalled it.
    pub(super) fn note_denied_before(&mut self, children: &[Child]) {
        for child in children {
            for call in &child.denied {
                self.note_denied(&child.id, *call);
            }
        }
    }

    /// Gives who was refused what, where that was not known.
    fn note_denied(&mut self, id: &str, call: i64) -> Option<(&'static str, String)> {
        let name = refused_call(call).map_or_else(|| format!("number {call}"), str::to_owned);
        let (by, known) = match launch_number(id) {
            None if id.starts_with(SESSION) => ("a session", &mut self.denied.sessions),
            // What is left of an earlier launch says nothing about this one.
            Some(launch) if self.gateway.as_ref().is_some_and(|gateway| gateway.launch == launch) => {
                ("the agent", &mut self.denied.agent)
            }
            _ => return None,
        };
        known.insert(name.clone()).then_some((by, name))
    }
}
