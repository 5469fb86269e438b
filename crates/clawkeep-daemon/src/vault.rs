//! The credentials at work: who may have one, and what it is now.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use clawkeep_credentials::{CredentialName, Filled, Placeholder, Redactor, Refusal, Secret, Toward};
use clawkeep_plan::SandboxName;
use clawkeep_store::{Credentials, SecretError, Source};
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

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
    /// Its command gives no value.
    #[error("the command of the credential {name} {why}")]
    Command {
        /// The credential.
        name: CredentialName,
        /// What it did instead.
        why: &'static str,
    },
}

/// A value, or why there is none, and until when that counts.
type Given = (Instant, Result<Secret, &'static str>);

/// The credentials of the installation, with what their commands gave in memory only.
pub struct Vault {
    credentials: Credentials,
    /// Held while a command runs, so that many requests make one of it.
    given: tokio::sync::Mutex<BTreeMap<CredentialName, Given>>,
}

impl Vault {
    /// Those that are stored.
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials, given: Default::default() }
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
    pub async fn forget(&self, name: &CredentialName) {
        self.given.lock().await.remove(name);
    }

    /// Takes every value that is known now out of texts.
    pub async fn redactor(&self) -> Redactor {
        let mut known: Vec<Secret> =
            self.given.lock().await.values().filter_map(|(_, given)| given.clone().ok()).collect();
        let credentials = self.credentials.clone();
        let stored = blocking(move || {
            let stored = |name| credentials.get(&name).ok()??.1;
            Ok(credentials.names()?.into_iter().filter_map(stored).collect::<Vec<_>>())
        });
        known.extend(stored.await.unwrap_or_default());
        Redactor::new(&known)
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

    async fn value(
        &self,
        name: &CredentialName,
        source: Source,
        stored: Option<Secret>,
    ) -> Result<Secret, VaultError> {
        let Source::Command { argv, ttl } = source else {
            return stored.ok_or_else(|| VaultError::Empty(name.clone()));
        };
        let mut given = self.given.lock().await;
        let now = Instant::now();
        given.retain(|_, (until, _)| *until > now);
        let value = match given.get(name) {
            Some((_, value)) => value.clone(),
            None => {
                let value = run(&argv).await;
                let lasts = if value.is_ok() { Duration::from_secs(ttl) } else { FAILED_FOR };
                given.insert(name.clone(), (Instant::now() + lasts, value.clone()));
                value
            }
        };
        value.map_err(|why| VaultError::Command { name: name.clone(), why })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SecretError> + Send + 'static,
) -> Result<T, SecretError> {
    let failed = |error| SecretError::Io { path: "secrets".into(), source: std::io::Error::other(error) };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(failed(error)))
}

/// What the command prints, without the end of its line. What it says besides is shown to nobody: it may be the
/// secret.
async fn run(argv: &[String]) -> Result<Secret, &'static str> {
    let (program, arguments) = argv.split_first().ok_or("is empty")?;
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).current_dir("/").env_clear();
    command.envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // Its children end with it when it takes too long.
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|_| "cannot be started")?;
    let mut said = Zeroizing::new(Vec::with_capacity(MAX_VALUE + 2));
    let whole = async {
        let out = child.stdout.take().ok_or("cannot be read")?;
        out.take(MAX_VALUE as u64 + 2).read_to_end(&mut said).await.map_err(|_| "cannot be read")?;
        if said.len() > MAX_VALUE + 1 {
            return Err("gives more than a value");
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
    ended?;
    if said.last() == Some(&b'\n') {
        said.pop();
    }
    fit(&said)?;
    Ok(Secret::from(said))
}

/// What a value has to be to stand in a header and to be found in a log.
///
/// # Errors
/// What it is instead.
pub fn fit(value: &[u8]) -> Result<(), &'static str> {
    match value {
        [] => Err("gives nothing"),
        _ if value.len() > MAX_VALUE => Err("gives more than a value"),
        _ if value.len() < clawkeep_credentials::MIN_REDACTED => Err("gives less than 8 characters"),
        [b' ', ..] | [.., b' '] => Err("gives a value with spaces around it"),
        _ if !value.iter().all(|byte| matches!(byte, b' '..=b'~')) => {
            Err("gives more than one line of plain text")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "vault_tests.rs"]
mod tests;
