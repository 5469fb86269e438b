use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Action, Event, Settings, State, step};

/// A decision of the core, as the journal keeps it: the data of a record of kind `step`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The version of the core that decided; its own where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<String>,
    /// The state before.
    pub before: State,
    /// What happened.
    pub event: Event,
    /// When, in milliseconds of the supervisor's clock.
    pub now: u64,
    /// What was gone by.
    pub settings: Settings,
    /// The state after.
    pub after: State,
    /// What was to be done.
    pub actions: Vec<Action>,
}

/// The version of this core. Another one may decide otherwise, so its decisions are not made once more.
///
/// Raised with every change of what [`step`] decides or of the types that it takes; a test in `tests/life.rs` fails
/// until it is.
pub const CORE: &str = "1";

/// Why a record is no decision that can be looked at.
pub(super) enum Unusable {
    /// Another version made it.
    OtherVersion,
    /// It cannot be read.
    Unreadable(String),
}

impl Step {
    pub(super) fn read(data: &Value) -> Result<Self, Unusable> {
        let core = data.get("core").and_then(Value::as_str);
        if core.is_some_and(|core| core != CORE) {
            return Err(Unusable::OtherVersion);
        }
        Self::deserialize(data).map_err(|error| Unusable::Unreadable(error.to_string()))
    }

    /// Decide once more. `Err` with what is different.
    pub(super) fn replay(&self) -> Result<(), String> {
        let (state, actions) = step(self.before.clone(), self.event.clone(), self.now, &self.settings);
        let differs = |what: &str, recorded: &dyn std::fmt::Debug, replayed: &dyn std::fmt::Debug| {
            Err(format!("{what} recorded as {recorded:?}, and the core gives {replayed:?}"))
        };
        if state != self.after {
            return differs("the state is", &self.after, &state);
        }
        if actions != self.actions {
            return differs("the actions are", &self.actions, &actions);
        }
        Ok(())
    }

    /// Whether a supervisor that has just begun made it: nothing was known before.
    pub(super) fn is_first(&self) -> bool {
        let State { launches, .. } = self.before;
        let fresh = State { launches, backoff: self.before.backoff.clone(), ..State::new(0) };
        self.before == fresh && self.before.backoff.failures() == 0
    }
}
