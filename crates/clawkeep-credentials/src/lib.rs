//! Secrets that an agent uses and never holds.
//!
//! Inside a sandbox there is a [`Placeholder`], `clawkeep:secret:NAME`. On its way out the proxy asks two questions:
//! [`Placeholder::find`], is there one in this header, and [`Binding::admits`], may it become the secret toward that
//! host? What is not plainly yes is a [`Refusal`]. A secret that comes back is taken out of whatever is written
//! down by a [`Redactor`].
//!
//! Everything here is a function of its arguments; what an agent can influence is bounded and hostile.
#![forbid(unsafe_code)]

mod binding;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod name;
mod placeholder;
mod redact;
mod refusal;
mod secret;

pub use binding::{Binding, BoundHost, HostError, MAX_HOSTS, Toward};
pub use name::{CredentialName, CredentialNameError};
pub use placeholder::{Filled, PREFIX, Placeholder, mentioned};
pub use redact::{MIN_REDACTED, REDACTED, Redactor};
pub use refusal::Refusal;
pub use secret::Secret;
