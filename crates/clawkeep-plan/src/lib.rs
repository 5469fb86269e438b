//! The launch plan: what a launch is made of, its canonical form and digest, and the receipt that a launch
//! leaves.
//!
//! This crate carries the project's law in its types. A [`LaunchPlan`] is plain data. Only
//! [`LaunchPlan::verify`], which asks an inspector about every single input, makes a [`VerifiedPlan`], and
//! only a `VerifiedPlan` can be handed to the code that executes it. The [`Receipt`] is what the launched
//! process reports about itself, its [`EnforcedLevel`] above all; [`Receipt::check`] compares it with the plan
//! and with what the host side knows.
//!
//! Nothing here does I/O.
#![forbid(unsafe_code)]

mod canonical;
mod digest;
mod level;
mod name;
mod plan;
mod receipt;
mod verify;

pub use canonical::to_canonical_json;
pub use digest::{Digest, DigestError};
pub use level::{
    Capabilities, EnforcedLevel, Expected, Handled, IdRange, Ids, LandlockLevel, MountsLevel, NAMESPACES,
    Restriction, SeccompLevel,
};
pub use name::{NameError, RESERVED_NAMES, SandboxName};
pub use plan::{
    Agent, GuardInput, LaunchPlan, NetlinkRule, PinnedFile, PublishedFile, RECEIPT_FD, SCHEMA, Sealing, Tier,
};
pub use receipt::{IsolationReport, LoadedGuard, MAX_RECEIPT_BYTES, Receipt, ReceiptError, Shortfall};
pub use verify::{Fact, InputId, Inspect, Mismatch, Refusal, VerifiedPlan};
