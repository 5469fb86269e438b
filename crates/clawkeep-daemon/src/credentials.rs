//! What the command line asks about credentials.

use clawkeep_credentials::{Binding, CredentialName, MAX_HOSTS, Secret};
use clawkeep_store::{Credential, Credentials, Entry, SecretError, Source, unix_ms};

use crate::api::credentials::{CredentialOrder, CredentialStatus, NewCredential};
use crate::api::{Failure, Value};
use crate::config::Config;
use crate::redaction::redaction;
use crate::server::{Daemon, ROUTE_KEY, store_failed};
use crate::status::rfc3339;
use crate::vault::fit;

/// The longest that a command's value is used, in seconds: a day.
const MAX_TTL: u64 = 24 * 60 * 60;

fn failed(error: &SecretError) -> Failure {
    let next = match error {
        SecretError::BadKeyFile { path, .. } => format!("restore {} from a copy", path.display()),
        SecretError::TooMany => "clawkeep credentials list".to_owned(),
        SecretError::Io { .. } => "df -h, and clawkeep status".to_owned(),
        _ => "clawkeep credentials add --help".to_owned(),
    };
    Failure::new("credential-failed", error.to_string(), next)
}

fn no_such(name: &CredentialName) -> Failure {
    let what = format!("there is no credential {name}");
    Failure::new("no-such-credential", what, "clawkeep credentials list".to_owned())
}

/// Change one.
pub async fn carry_out(daemon: &Daemon, order: CredentialOrder) -> Result<Value, Failure> {
    let credentials = Credentials::new(&daemon.secrets);
    // One at a time, and not while a sandbox is made or removed.
    let _one = daemon.creating.lock().await;
    let commanded =
        matches!(&order, CredentialOrder::Add(new) if matches!(new.source, Source::Command { .. }));
    let (name, did) = match order {
        CredentialOrder::Add(new) => {
            let name = new.credential.clone();
            add(daemon, &credentials, *new)?;
            (name, "credential-set")
        }
        CredentialOrder::Reset { credential: name } => {
            let (mut credential, _) =
                credentials.get(&name).map_err(|e| failed(&e))?.ok_or_else(|| no_such(&name))?;
            // A command gives it anew; what a person gave has to be given again.
            if !matches!(credential.source, Source::Command { .. }) {
                credential.set_at = None;
            }
            credentials.put(&name, &credential, None).map_err(|e| failed(&e))?;
            (name, "credential-reset")
        }
        CredentialOrder::Remove { credential: name } => {
            if !credentials.remove(&name).map_err(|e| failed(&e))? {
                return Err(no_such(&name));
            }
            (name, "credential-removed")
        }
    };
    daemon.vault.forget(&name);
    daemon.journal.record(Entry {
        at_ms: unix_ms(),
        sandbox: None,
        kind: did.into(),
        cause: name.to_string(),
        data: serde_json::json!({}),
    });
    if commanded && let Err(why) = daemon.vault.check(&name).await {
        let what = format!("{name} is set, but {why}");
        return Err(Failure::new("command-failed", what, "clawkeep credentials add --help".to_owned()));
    }
    Ok(Value::Nothing)
}

fn add(daemon: &Daemon, credentials: &Credentials, new: NewCredential) -> Result<(), Failure> {
    let bad =
        |code: &str, what: String| Failure::new(code, what, "clawkeep credentials add --help".to_owned());
    let NewCredential { credential: name, hosts, sandbox, source, value } = new;
    if name.as_str() == ROUTE_KEY {
        return Err(bad(
            "bad-credential",
            format!("{ROUTE_KEY} is the name of the keys behind inference.local"),
        ));
    }
    if let Some(sandbox) = &sandbox {
        daemon.record(sandbox)?;
    }
    let before = match credentials.get(&name) {
        Ok(before) => before.map(|(before, _)| before.binding),
        // Whom it was for is lost with its key: it has to be said again.
        Err(SecretError::NoKey { .. } | SecretError::Altered(_)) => None,
        Err(error) => return Err(failed(&error)),
    };
    let binding = match before {
        Some(before) => Binding {
            hosts: if hosts.is_empty() { before.hosts } else { hosts },
            sandbox: sandbox.or(before.sandbox),
        },
        None if hosts.is_empty() => {
            return Err(bad(
                "host-missing",
                format!("say toward which host {name} may be sent: --host HOST"),
            ));
        }
        None => Binding { hosts, sandbox },
    };
    if binding.hosts.len() > MAX_HOSTS {
        return Err(bad("bad-credential", format!("a credential is bound to at most {MAX_HOSTS} hosts")));
    }
    match (&source, &value) {
        (Source::Command { argv, ttl }, None) => {
            if !argv.first().is_some_and(|program| program.starts_with('/')) || !(1..=MAX_TTL).contains(ttl) {
                let what = format!(
                    "a command needs the absolute path of its program, and a time from 1 to {MAX_TTL} s"
                );
                return Err(bad("bad-credential", what));
            }
        }
        (Source::Command { .. }, Some(_)) | (_, None) => {
            return Err(bad("bad-credential", format!("{name} needs a value or a command")));
        }
        (_, Some(value)) => {
            let what = |why| format!("what was given for {name} {why}");
            fit(value.expose().as_bytes()).map_err(|why| bad("bad-value", what(why)))?;
        }
    }
    let value = value.map(|value| Secret::new(value.expose()));
    redaction().learn(value.clone());
    let credential = Credential { binding, source, set_at: Some(unix_ms()) };
    credentials.put(&name, &credential, value.as_ref()).map_err(|e| failed(&e))
}

/// Tell of all, and of the keys behind `inference.local`.
pub fn list(daemon: &Daemon) -> Result<Value, Failure> {
    let credentials = Credentials::new(&daemon.secrets);
    let mut all = Vec::new();
    for (name, found) in credentials.all().map_err(|e| failed(&e))? {
        let name = name.to_string();
        all.push(match found {
            Ok(Credential { binding, source, set_at }) => CredentialStatus {
                name,
                hosts: binding.hosts.iter().map(ToString::to_string).collect(),
                sandbox: binding.sandbox,
                source: match source {
                    Source::Typed => "typed".into(),
                    Source::Stdin => "stdin".into(),
                    Source::Variable { variable } => format!("variable {variable}"),
                    Source::Command { .. } => "command".into(),
                },
                state: if set_at.is_some() { "set" } else { "empty" }.into(),
                set_at: set_at.map(rfc3339),
            },
            Err(_) => CredentialStatus {
                name,
                hosts: Vec::new(),
                sandbox: None,
                source: "unknown".into(),
                set_at: None,
                state: "unreadable".into(),
            },
        });
    }
    for record in daemon.store.list().map_err(store_failed)? {
        if !daemon.secrets.keys(&record.name).map_err(|e| failed(&e))?.iter().any(|key| key == ROUTE_KEY) {
            continue;
        }
        let readable = daemon.secrets.get(&record.name, ROUTE_KEY).is_ok();
        let route = Config::of(&record)?.route;
        all.push(CredentialStatus {
            name: ROUTE_KEY.into(),
            hosts: route.effective_base_url().map(|url| url.to_string()).into_iter().collect(),
            sandbox: Some(record.name),
            source: "route".into(),
            set_at: None,
            state: if readable { "set" } else { "unreadable" }.into(),
        });
    }
    Ok(Value::Credentials(all))
}

/// Forget those that were this sandbox's alone: another of its name must not get them.
pub fn forget_sandbox(daemon: &Daemon, sandbox: &clawkeep_plan::SandboxName) -> Result<(), SecretError> {
    let credentials = Credentials::new(&daemon.secrets);
    for (name, found) in credentials.all()? {
        if found.is_ok_and(|found| found.binding.sandbox.as_ref() == Some(sandbox)) {
            credentials.remove(&name)?;
            daemon.vault.forget(&name);
        }
    }
    Ok(())
}
