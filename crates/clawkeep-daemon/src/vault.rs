//! The credentials at work: who may have one, and what it is now.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clawkeep_credentials::{CredentialName, Filled, Placeholder, Refusal, Secret, Toward};
use clawkeep_egress::{Filling, Secrets};
use clawkeep_plan::SandboxName;
use clawkeep_store::{Credentials, SecretError, Source};
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use crate::redaction::redaction;

/// The most that a credential's value may have, in bytes: servers take no longer headers.
pub const MAX_VALUE: usize = 4096;

/// How long a command may take to give a value.
const COMMAND_PATIENCE: Duration = Duration::from_secs(10);

/// How long a command that failed is not asked again: an agent decides how often a value is needed.
const FAILED_FOR: Duration = Duration::from_secs(5);

/// What a command gets of the daemon's environment: enough to find its own files and helpers.
const PASSED_ON: [&str; 5] = ["HOME", "LANG", "PATH", "USER", "XDG_RUNTIME_DIR"];

/// Why a placeholder was not filled. Its text holds names only: it may be told inside a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// It may not be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It was reset, and not set again.
    #[error("the credential {0} has no value: the operator has to set it again")]
    Empty(CredentialName),
    /// It is there and cannot be read.
    #[error("the credential {0} cannot be read: the operator has to set it again")]
    Unreadable(CredentialName),
    /// Its command gives nothing.
    #[error("the command of the credential {name} {why}")]
    Command {
        /// The credential.
        name: CredentialName,
        /// What it did instead.
        why: &'static str,
    },
    /// What its command gives is no value.
    #[error("what the command of the credential {name} gives {why}")]
    BadValue {
        /// The credential.
        name: CredentialName,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// What a command gave, or why it gave nothing, and until when that counts.
struct Given {
    /// Which command: one that was replaced while it ran must not give the new credential its value.
    argv: Vec<String>,
    until: Instant,
    value: Result<Secret, VaultError>,
}

/// The credentials of the installation, with what their commands gave in memory only.
pub struct Vault {
    credentials: Credentials,
    given: Arc<Mutex<BTreeMap<CredentialName, Given>>>,
    /// Each is held while its command runs, so that many requests make one run of it.
    running: Mutex<BTreeMap<CredentialName, Arc<tokio::sync::Mutex<()>>>>,
}

/// The vault, as one sandbox has it.
pub struct SandboxSecrets {
    pub vault: Arc<Vault>,
    pub name: SandboxName,
}

impl Secrets for SandboxSecrets {
    fn fill<'a>(&'a self, placeholder: &'a Placeholder, toward: Toward<'a>) -> Filling<'a> {
        Box::pin(async move {
            self.vault.fill(&self.name, placeholder, toward).await.map_err(|why| why.to_string())
        })
    }
}

impl Vault {
    /// Those that are stored.
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials, given: Arc::default(), running: Mutex::default() }
    }

    /// The header's value to send instead of the one with this placeholder, which this sandbox wants to send there.
    ///
    /// # Errors
    /// [`VaultError`]: then nothing is sent.
    pub async fn fill(
        &self,
        sandbox: &SandboxName,
        placeholder: &Placeholder,
        toward: Toward<'_>,
    ) -> Result<Filled, VaultError> {
        let name = placeholder.name();
        let (credential, stored) = self.get(name).await?;
        credential.binding.admits(name, sandbox, toward)?;
        let secret = self.value(name, credential.source, stored).await?;
        Ok(placeholder.fill(&secret)?)
    }

    /// See that there is a value now.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn check(&self, name: &CredentialName) -> Result<(), VaultError> {
        let (credential, stored) = self.get(name).await?;
        self.value(name, credential.source, stored).await.map(drop)
    }

    /// Forget what its command gave.
    pub fn forget(&self, name: &CredentialName) {
        locked(&self.given).remove(name);
    }

    async fn get(
        &self,
        name: &CredentialName,
    ) -> Result<(clawkeep_store::Credential, Option<Secret>), VaultError> {
        let (credentials, wanted) = (self.credentials.clone(), name.clone());
        match blocking(move || credentials.get(&wanted)).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(Refusal::Unknown(name.clone()).into()),
            Err(_) => Err(VaultError::Unreadable(name.clone())),
        }
    }

    /// Its value now. Whoever gets it may send it back: from here on it is looked for in what is written down.
    async fn value(
        &self,
        name: &CredentialName,
        source: Source,
        stored: Option<Secret>,
    ) -> Result<Secret, VaultError> {
        let given = matches!(source, Source::Command { .. });
        let value = self.value_of(name, source, stored).await?;
        match given {
            true => redaction().learn_given(value.clone()),
            false => redaction().learn([value.clone()]),
        }
        Ok(value)
    }

    async fn value_of(
        &self,
        name: &CredentialName,
        source: Source,
        stored: Option<Secret>,
    ) -> Result<Secret, VaultError> {
        let Source::Command { argv, ttl } = source else {
            return stored.ok_or_else(|| VaultError::Empty(name.clone()));
        };
        let running = Arc::clone(locked(&self.running).entry(name.clone()).or_default());
        let one = running.lock_owned().await;
        let now = Instant::now();
        if let Some(given) =
            locked(&self.given).get(name).filter(|given| given.until > now && given.argv == argv)
        {
            return given.value.clone();
        }
        // In a task of its own: an agent that asks and hangs up, again and again, must neither cut a command short,
        // whose children would be left, nor have it run once for each time.
        let (all, name_of) = (Arc::clone(&self.given), name.clone());
        let asked = tokio::spawn(async move {
            let _one = one;
            let value = run(&name_of, &argv).await;
            let lasts = if value.is_ok() { Duration::from_secs(ttl) } else { FAILED_FOR };
            let given = Given { argv, until: Instant::now() + lasts, value: value.clone() };
            locked(&all).insert(name_of, given);
            value
        });
        let ended = |_| Err(VaultError::Command { name: name.clone(), why: "was interrupted" });
        asked.await.unwrap_or_else(ended)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SecretError> + Send + 'static,
) -> Result<T, SecretError> {
    let failed = |error| SecretError::Io { path: "secrets".into(), source: std::io::Error::other(error) };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(failed(error)))
}

/// What the command prints, without the end of its line. What it says besides is shown to nobody: it may be the
/// secret.
async fn run(name: &CredentialName, argv: &[String]) -> Result<Secret, VaultError> {
    let failed = |why| VaultError::Command { name: name.clone(), why };
    let (program, arguments) = argv.split_first().ok_or_else(|| failed("is empty"))?;
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).current_dir("/").env_clear();
    command.envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // Its children end with it when it takes too long.
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|_| failed("cannot be started"))?;
    let mut said = Zeroizing::new(Vec::with_capacity(MAX_VALUE + 2));
    let whole = async {
        let out = child.stdout.take().ok_or("cannot be read")?;
        out.take(MAX_VALUE as u64 + 2).read_to_end(&mut said).await.map_err(|_| "cannot be read")?;
        if said.len() > MAX_VALUE + 1 {
            return Err("gives more than a value can have");
        }
        match child.wait().await {
            Ok(status) if status.success() => Ok(()),
            _ => Err("failed"),
        }
    };
    let ended = tokio::time::timeout(COMMAND_PATIENCE, whole).await.unwrap_or(Err("takes too long"));
    if ended.is_err()
        && let Some(group) = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()))
    {
        // It has an id for as long as it is not reaped: until then the group is its own.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    ended.map_err(failed)?;
    if said.last() == Some(&b'\n') {
        said.pop();
    }
    fit(&said).map_err(|why| VaultError::BadValue { name: name.clone(), why })?;
    Ok(Secret::from(said))
}

/// Whether a value can stand in a header and be found in a log.
///
/// # Errors
/// What is wrong with it.
pub fn fit(value: &[u8]) -> Result<(), &'static str> {
    match value {
        [] => Err("is empty"),
        _ if value.len() > MAX_VALUE => Err("is longer than 4096 characters"),
        _ if value.len() < clawkeep_credentials::MIN_REDACTED => Err("is shorter than 8 characters"),
        [b' ', ..] | [.., b' '] => Err("has spaces around it"),
        _ if !value.iter().all(|byte| matches!(byte, b' '..=b'~')) => Err("is not one line of plain text"),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "vault_tests.rs"]
mod tests;
