//! The egress policy: the language in which people say what a sandbox may reach, and the decision.
//!
//! [`Policy::read`] takes OpenShell's policy files and NemoClaw's presets as they are. [`Matcher::new`] compiles a
//! policy once; [`Matcher::connect`] decides about a connection, and the [`Grant`] that it gives about each
//! address and each request on it. Nothing here does any I/O: the same questions always get the same answers.
//!
//! What the language means, and where it is stricter than OpenShell's, is in `docs/POLICY.md`.
#![forbid(unsafe_code)]

mod address;
mod cidr;
mod denial;
mod difference;
mod error;
mod explain;
mod glob;
mod grant;
mod host;
mod least;
mod matcher;
mod model;
mod names;
mod presets;
mod read;
mod request_path;
mod requests;
mod target;
mod write;
mod yaml;

pub use address::is_metadata;
pub use cidr::{Cidr, CidrError};
pub use denial::{Denial, Reason, RuleName};
pub use difference::Difference;
pub use error::{Note, PolicyError};
pub use explain::{Considered, Explanation};
pub use grant::{Destination, Grant, Handling, Permit};
pub use least::{Addition, NotApprovable, Refused, RefusedRequest, least_rule};
pub use matcher::{Caller, Matcher};
pub use model::Policy;
pub use names::Naming;
pub use presets::{Preset, RuleExists, Tier, preset, presets, tier, tiers};
pub use read::Reading;
pub use request_path::{PathError, RequestPath};
pub use target::{Target, TargetError};

/// The beginning of somebody's text, with everything visible: for messages.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(80).map(|character| if character.is_control() { '?' } else { character }).collect()
}
