//! Credentials over the wire. Their values travel one way.

use std::fmt;

use clawkeep_credentials::{BoundHost, CredentialName};
use clawkeep_plan::SandboxName;
use clawkeep_store::Source;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// The name of the key behind a sandbox's `inference.local`, which is no credential's.
pub const ROUTE_KEY: &str = "route-key";

/// What can be done to a credential.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum CredentialOrder {
    /// Store one, or another value of one that is there.
    Add(Box<NewCredential>),
    /// Forget its value and keep the rest.
    Reset {
        /// Which.
        credential: CredentialName,
    },
    /// Forget it.
    Remove {
        /// Which.
        credential: CredentialName,
    },
}

/// A credential to store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewCredential {
    /// Its name.
    pub credential: CredentialName,
    /// The hosts that it is for; empty: as before.
    pub hosts: Vec<BoundHost>,
    /// The one sandbox that may use it; `None`: as before, and each where there is none before.
    pub sandbox: Option<SandboxName>,
    /// Where it is from.
    pub source: Source,
    /// Its value; `None` where a command gives it.
    pub value: Option<SecretText>,
}

/// A secret on its way to the daemon, wiped from memory afterwards.
#[derive(Clone)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Keep this text secret.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for the one place that stores it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(hidden)")
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// What is told of a credential: everything but its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialStatus {
    /// Its name; `route-key` is the key behind a sandbox's `inference.local`.
    pub name: String,
    /// The hosts that it is sent to.
    pub hosts: Vec<String>,
    /// The one sandbox that may use it; `None`: each may.
    pub sandbox: Option<SandboxName>,
    /// `typed`, `stdin`, `variable NAME`, `command`, `route`.
    pub source: String,
    /// When it was last set, RFC 3339, UTC.
    pub set_at: Option<String>,
    /// `set`; `empty`, after a reset; `unreadable`, with its key gone or altered.
    pub state: String,
}
