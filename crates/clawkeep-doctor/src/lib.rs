//! What a sandbox needs of this host.
//!
//! [`Facts`] are what was found; [`examine`] decides, without looking at anything else, what is missing, why, and
//! which command mends it; [`prove`] makes a sandbox with every layer, runs `/bin/true` in it and gives back the
//! level that it read about itself. A sandbox that was made is the proof; the checks explain one that was not.
#![forbid(unsafe_code)]

mod apparmor;
mod check;
mod explain;
mod facts;
mod gather;
mod kernel;
mod lower;
mod namespaces;
mod proof;

pub use check::{Check, State, examine};
pub use explain::explain;
pub use facts::{Cgroups, Facts, Landlock, Seccomp};
pub use lower::{examine_lower, lower_instead};
pub use proof::{Proof, Unproven, prove};
