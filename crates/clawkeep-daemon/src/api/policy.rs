//! What may leave a sandbox: asked for, changed, and what was refused.

use clawkeep_plan::Digest;
use serde::{Deserialize, Serialize};

/// What a sandbox is to be allowed from its beginning. Nothing of it: the model's route alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChoice {
    /// A policy file's text.
    #[serde(default)]
    pub file: Option<String>,
    /// The presets of a tier.
    #[serde(default)]
    pub tier: Option<String>,
    /// Presets, by name.
    #[serde(default)]
    pub presets: Vec<String>,
    /// Hosts that anything in it may reach, each as `HOST:PORT`.
    #[serde(default)]
    pub allow: Vec<String>,
}

/// A change of a sandbox's policy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyChange {
    /// This file's text takes the place of all of it.
    File {
        /// The text.
        yaml: String,
    },
    /// A built-in preset comes in addition.
    Preset {
        /// Its name.
        name: String,
    },
    /// The rules of a file, a preset of one's own, come in addition.
    Rules {
        /// Its text.
        yaml: String,
    },
    /// A preset, a rule, or an approval for a time goes.
    Remove {
        /// Its name.
        name: String,
    },
    /// The presets of a tier take the place of all built-in presets.
    Tier {
        /// `restricted`, `balanced` or `open`.
        name: String,
    },
    /// The least rule that would have allowed what was refused under this name.
    Approve {
        /// As [`RefusedRequest::id`].
        id: String,
        /// For so long, in seconds; for good where it is not said.
        seconds: Option<u64>,
    },
}

/// What may leave a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// 1.
    pub schema: u32,
    /// Whose.
    pub name: String,
    /// The built-in presets that are whole in it.
    pub presets: Vec<String>,
    /// Its other rules.
    pub rules: Vec<String>,
    /// What is approved for a time.
    pub approvals: Vec<TimedApproval>,
    /// All of it together, as a policy file.
    pub yaml: String,
    /// Digest of that.
    pub digest: Digest,
}

/// An approval that ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedApproval {
    /// The request's.
    pub id: String,
    /// What is approved: `GET https://host/path`, or `host:port`.
    pub what: String,
    /// When it ends, RFC 3339, UTC.
    pub until: String,
}

/// A policy was changed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySet {
    /// As it is now.
    pub report: PolicyReport,
    /// The lines that went and came.
    pub difference: String,
    /// Where the file relied on something that is stricter here.
    pub notes: Vec<String>,
}

/// A request that was refused, and may be approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRequest {
    /// What it is approved by: the same for the same request.
    pub id: String,
    /// The host that was asked for.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The method, where requests were looked into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The path, without its query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The program that asked, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// Why, in a word that does not change.
    pub reason: String,
    /// The same, for a person.
    pub message: String,
    /// How often.
    pub times: u64,
    /// When for the first time, RFC 3339, UTC.
    pub first_at: String,
    /// When for the last time.
    pub last_at: String,
}
