//! The life cycle of a sandbox as a pure state machine with a virtual clock: [`step`] takes a state, an event
//! and the time, and gives the next state and what to do. No I/O: the supervisor, the tests and a replay of
//! the journal all run this same function.
//!
//! The rules that it keeps, each with a property test:
//!
//! - a launch is only ever ordered when no process of an earlier one is left ([`Action::Launch`] follows a
//!   confirmed [`Event::Cleared`] or [`Event::Prepared`]);
//! - there is no state without a way out: every state either runs, or has a timer, or waits for an event that
//!   the supervisor owes, or is [`Phase::Held`] with a command;
//! - failures delay the next start, they never forbid it; the delay is reset by sustained readiness only;
//! - a repair widens only on evidence, rung by rung ([`Rung`]); when no rung has helped, the sandbox is held and
//!   the ladder is climbed again after a while.
#![forbid(unsafe_code)]

mod backoff;
mod fingerprint;
mod ladder;
mod machine;
pub mod story;
mod types;

pub use backoff::Backoff;
pub use fingerprint::{Cause, Confidence, Diagnosis, Evidence, ExitHow, MAX_EVIDENCE, Remedy, diagnose};
pub use ladder::{Blame, Ladder, Restore, Rung, Unproven};
pub use machine::step;
pub use types::{Action, Event, Health, Phase, Settings, State, Verdict};
