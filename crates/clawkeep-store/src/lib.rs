//! Everything that must outlive a reboot: the home directory, the registry of sandboxes, the journal, the
//! secrets, and the snapshots that recovery goes back to.
//!
//! All calls block and may wait for the disk; call them where that is allowed. The one exception is
//! [`JournalWriter::record`], which never waits.
#![forbid(unsafe_code)]

pub mod atomic;
mod credentials;
mod error;
mod home;
mod journal;
mod keyring;
mod lock;
mod mirror;
mod private;
mod reader;
mod record;
mod registry;
mod repair;
mod schema;
mod seal;
mod secrets;
mod snapshots;
pub mod staging;
mod store;
mod time;
mod tree;
mod writer;

pub use clawkeep_credentials::Secret;
pub use credentials::{Credential, Credentials, MAX_CREDENTIALS, Source};
pub use error::StoreError;
pub use home::{Home, HomeError, SandboxDirs};
pub use journal::{Entry, Event, MAX_CAUSE, MAX_DATA, MAX_PAGE, PER_SANDBOX, Page, Span};
pub use lock::{DaemonLock, LockError};
pub use reader::JournalReader;
pub use record::{Desired, NewSandbox, SandboxRecord};
pub use repair::{Lost, RepairNote};
pub use secrets::{MAX_SECRET, Sealed, SecretError, Secrets};
pub use snapshots::{
    Healthy, KEPT_ASIDE, KEPT_HEALTHY, MAX_MARK, MAX_SNAPSHOT, SnapshotError, Snapshots, why_aside,
};
pub use store::{Opened, SCHEMA, Store};
pub use time::unix_ms;
pub use tree::remove_tree;
pub use writer::{Filter, JournalHealth, JournalWriter, Notice};
