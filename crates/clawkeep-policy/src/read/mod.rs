//! From text to [`Policy`]. Whatever cannot be enforced as it is written is an error that says where.

mod at;
mod endpoint;
mod request;
mod walls;

use crate::error::{Note, PolicyError};
use crate::glob::Glob;
use crate::model::{NetworkRule, Policy, PresetHead};
use crate::yaml;
use at::{At, Known};

/// A policy that was read, and what has to be said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The policy.
    pub policy: Policy,
    /// Where the file relies on something that is stricter or otherwise different here.
    pub notes: Vec<Note>,
}

const TOP: Known = Known {
    fields: &["version", "preset", "filesystem_policy", "landlock", "process", "network_policies"],
    unsupported: &["network_middlewares", "inference"],
};

const PRESET: Known = Known { fields: &["name", "description"], unsupported: &[] };

const RULE: Known = Known { fields: &["name", "endpoints", "binaries"], unsupported: &[] };

const BINARY: Known = Known { fields: &["path"], unsupported: &["harness"] };

/// Rules of one name are told apart by it in logs and commands: it stays short and plain.
const MAX_KEY: usize = 128;

/// What is said on the way.
#[derive(Default)]
struct Notes(Vec<Note>);

impl Notes {
    fn say(&mut self, at: &At<'_>, code: &'static str, message: impl Into<String>) {
        self.0.push(Note { code, line: at.line, field: at.field.clone(), message: message.into() });
    }
}

impl Policy {
    /// Read a policy, or a preset in NemoClaw's form.
    ///
    /// # Errors
    /// [`PolicyError`] for the first thing that is wrong. Nothing is skipped or guessed.
    pub fn read(text: &str) -> Result<Reading, PolicyError> {
        let root = yaml::parse(text)?;
        let top = At::root(&root).fields(&TOP)?;
        let mut notes = Notes::default();
        let mut policy = Self::default();
        if let Some(head) = top.get("preset") {
            let fields = head.fields(&PRESET)?;
            policy.preset = Some(PresetHead {
                name: fields.need("name")?.text()?.to_owned(),
                description: fields.need("description")?.text()?.to_owned(),
            });
        }
        match top.get("version") {
            Some(version) => version.word(&[("1", ())])?,
            None if policy.preset.is_some() => {}
            None => {
                let message = "the file says neither `version: 1` nor `preset:`".to_owned();
                return Err(top.at.error("policy-version", message, "write `version: 1` in its first line"));
            }
        }
        if let Some(at) = top.get("filesystem_policy") {
            policy.filesystem = Some(walls::filesystem(&at, &mut notes)?);
        }
        if let Some(at) = top.get("landlock") {
            policy.landlock = Some(walls::landlock(&at, &mut notes)?);
        }
        if let Some(at) = top.get("process") {
            policy.process = Some(walls::process(&at)?);
        }
        if let Some(at) = top.get("network_policies").filter(|at| !at.is_null()) {
            for (key, at) in at.entries()? {
                policy.network.push(rule(key, &at, &mut notes)?);
            }
        }
        Ok(Reading { policy, notes: notes.0 })
    }
}

fn rule(key: &str, at: &At<'_>, notes: &mut Notes) -> Result<NetworkRule, PolicyError> {
    let plain =
        !key.is_empty() && key.len() <= MAX_KEY && key.bytes().all(|byte| (b' '..0x7f).contains(&byte));
    if !plain || key.starts_with("_provider_") {
        let message = "this is no name for a rule".to_owned();
        let next = format!("use up to {MAX_KEY} plain characters, and not `_provider_` in front");
        return Err(at.error("policy-rule-name", message, next));
    }
    let fields = at.fields(&RULE)?;
    let name = fields.get("name").map(|at| at.text().map(str::to_owned)).transpose()?;
    let mut endpoints = Vec::new();
    for at in fields.need("endpoints")?.filled_list()? {
        endpoints.push(endpoint::endpoint(&at, notes)?);
    }
    let mut binaries = Vec::new();
    for at in fields.need("binaries")?.filled_list()? {
        binaries.push(binary(&at)?);
    }
    Ok(NetworkRule { key: key.to_owned(), name, endpoints, binaries })
}

fn binary(at: &At<'_>) -> Result<Glob, PolicyError> {
    let at = at.fields(&BINARY)?.need("path")?;
    let text = at.text()?;
    let bad = |why: String| {
        at.error("policy-binary", why, "write a whole path: /usr/bin/curl, /usr/lib/jvm/*/bin/java, /**")
    };
    if !text.starts_with('/') && text != "**" {
        return Err(bad("a program is named by its whole path".to_owned()));
    }
    if text.split('/').any(|segment| matches!(segment, "." | "..")) || text.contains("//") {
        return Err(bad("no program's path holds dot segments or empty ones".to_owned()));
    }
    // One spelling for "whoever asks".
    Glob::parse(if text == "**" { "/**" } else { text }, b'/').map_err(|error| bad(error.to_string()))
}
