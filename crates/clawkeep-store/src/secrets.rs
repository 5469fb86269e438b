use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use clawkeep_credentials::Secret;
use clawkeep_plan::SandboxName;
use rustix::fs::Mode;

use crate::keyring::Keyring;
use crate::private::{self, PrivateError};
use crate::seal::{self, OVERHEAD};
use crate::{Home, HomeError, atomic, home};

/// The most that a secret may be, in bytes.
pub const MAX_SECRET: usize = 64 * 1024;

/// Why a secret was not stored or read. Never holds a part of one.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Not a name for a secret.
    #[error("{0:?} cannot name a secret: use letters, digits, '_', '-' and '.', at most 64, no '.' first")]
    BadKey(String),
    /// More than [`MAX_SECRET`] bytes.
    #[error("a secret has at most {MAX_SECRET} bytes")]
    TooLarge,
    /// The file is not as this store leaves it: not ours, readable by others, or no file.
    #[error("{} is not a private file of ours: remove it and store the secret again", .0.display())]
    Exposed(PathBuf),
    /// Sealed by a key that is not here.
    #[error("{} is sealed by a key that is gone: put {} back, or store the secret again", .secret.display(), .key.display())]
    NoKey {
        /// The secret.
        secret: PathBuf,
        /// Where the key is kept.
        key: PathBuf,
    },
    /// The key to the secrets is no key.
    #[error(
        "the key to the secrets, {}, is {why}: put it back from a copy, or remove it and store each secret again",
        .path.display()
    )]
    BadKeyFile {
        /// The key's file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Not what was stored at this place.
    #[error("{} was altered: remove it and store the secret again", .0.display())]
    Altered(PathBuf),
    /// There are as many as there may be.
    #[error("there are {} credentials: remove one first", crate::MAX_CREDENTIALS)]
    TooMany,
    /// The directory is not as it must be.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A file operation failed.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// That everything in the directory of the secrets is sealed, and nothing in the clear is taken for one.
const SEALED: &str = ".sealed";

/// The secrets of a home: one file each, mode 0600, `secrets/OWNER/KEY`, sealed by the home's key.
///
/// An owner is a sandbox or, with a name that no sandbox has, a part of this crate. Nothing outside this type
/// knows the form of the files.
#[derive(Debug, Clone)]
pub struct Secrets {
    root: PathBuf,
    keyring: Keyring,
}

/// What [`Secrets::seal_all`] did.
#[derive(Debug, Default)]
pub struct Sealed {
    /// How many were sealed, or sealed by another key.
    pub changed: usize,
    /// Those that are left as they are, and why.
    pub left: Vec<SecretError>,
}

impl Secrets {
    /// The secrets of this home.
    pub fn new(home: &Home) -> Self {
        Self { root: home.secrets(), keyring: Keyring::of(home) }
    }

    /// Store a secret, over an older one of the key. On the disk, whole, when this returns.
    ///
    /// # Errors
    /// [`SecretError`]; the older one is untouched then.
    pub fn put(&self, sandbox: &SandboxName, key: &str, secret: &Secret) -> Result<(), SecretError> {
        self.put_of(sandbox.as_str(), key, secret)
    }

    /// A secret, `None` when there is none of this key.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn get(&self, sandbox: &SandboxName, key: &str) -> Result<Option<Secret>, SecretError> {
        self.get_of(sandbox.as_str(), key)
    }

    /// Forget a secret; whether it was there.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn remove(&self, sandbox: &SandboxName, key: &str) -> Result<bool, SecretError> {
        self.remove_of(sandbox.as_str(), key)
    }

    /// Forget all secrets of a sandbox.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn remove_all(&self, sandbox: &SandboxName) -> Result<(), SecretError> {
        let path = self.root.join(sandbox.as_str());
        let removed = match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => Err(error),
            Ok(()) => atomic::open_dir(&self.root).and_then(|root| Ok(rustix::fs::fsync(root)?)),
        };
        removed.map_err(|source| SecretError::Io { path, source })
    }

    /// The keys of a sandbox's secrets, sorted.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn keys(&self, sandbox: &SandboxName) -> Result<Vec<String>, SecretError> {
        self.keys_of(sandbox.as_str())
    }

    /// Seal what lies in the clear (versions before encryption at rest left it so), and what another key than the
    /// first one has sealed. From when all is sealed on, nothing in the clear is a secret any more. May be
    /// interrupted anywhere and done again.
    ///
    /// # Errors
    /// When the directory cannot be read or written. A single secret's trouble is in the answer.
    pub fn seal_all(&self) -> Result<Sealed, SecretError> {
        let mut done = Sealed::default();
        for owner in self.names(&self.root)? {
            let keys = self.keys_of(&owner).unwrap_or_else(|error| {
                done.left.push(error);
                Vec::new()
            });
            for key in keys {
                match self.seal_again(&owner, &key) {
                    Ok(changed) => done.changed += usize::from(changed),
                    Err(error) => done.left.push(error),
                }
            }
        }
        let clear =
            |error: &SecretError| !matches!(error, SecretError::NoKey { .. } | SecretError::Altered(_));
        if !self.all_sealed() && !done.left.iter().any(clear) {
            let failed = |source| SecretError::Io { path: self.root.join(SEALED), source };
            let root = atomic::open_dir(&self.root).map_err(failed)?;
            atomic::write(&root, SEALED, b"", Mode::RUSR | Mode::WUSR).map_err(failed)?;
        }
        Ok(done)
    }

    fn seal_again(&self, owner: &str, key: &str) -> Result<bool, SecretError> {
        let Some(bytes) = self.read(owner, key)? else { return Ok(false) };
        let held = self.keyring.held()?;
        if held.first().is_some_and(|first| first.made(bytes.expose())) {
            return Ok(false);
        }
        let Some(secret) = self.get_of(owner, key)? else { return Ok(false) };
        self.put_of(owner, key, &secret).map(|()| true)
    }

    fn all_sealed(&self) -> bool {
        self.root.join(SEALED).exists()
    }

    pub(crate) fn put_of(&self, owner: &str, key: &str, secret: &Secret) -> Result<(), SecretError> {
        check(key)?;
        if secret.expose().len() > MAX_SECRET {
            return Err(SecretError::TooLarge);
        }
        let root = self.root.join(owner);
        home::own_dir(&root)?;
        let failed = |source| SecretError::Io { path: root.join(key), source };
        let dir = atomic::open_dir(&root).map_err(failed)?;
        let _ = atomic::sweep(&dir);
        let sealed = self.keyring.sealing()?.seal(&place(owner, key), secret).map_err(failed)?;
        atomic::write(&dir, key, &sealed, Mode::RUSR | Mode::WUSR).map_err(failed)
    }

    pub(crate) fn get_of(&self, owner: &str, key: &str) -> Result<Option<Secret>, SecretError> {
        let Some(bytes) = self.read(owner, key)? else { return Ok(None) };
        let path = || self.path_of(owner, key);
        if !seal::is_sealed(bytes.expose()) {
            // Those that came with sealing were never in the clear.
            return match bytes.expose().len() {
                _ if owner.starts_with('@') || self.all_sealed() => Err(SecretError::Altered(path())),
                ..=MAX_SECRET => Ok(Some(bytes)),
                _ => Err(SecretError::TooLarge),
            };
        }
        let held = self.keyring.held()?;
        let Some(found) = held.iter().find(|held| held.made(bytes.expose())) else {
            return Err(SecretError::NoKey { secret: path(), key: self.keyring.file() });
        };
        let opened = found.open(&place(owner, key), bytes.expose());
        opened.map(Some).ok_or_else(|| SecretError::Altered(path()))
    }

    pub(crate) fn remove_of(&self, owner: &str, key: &str) -> Result<bool, SecretError> {
        check(key)?;
        let Some(dir) = self.dir(owner)? else { return Ok(false) };
        let path = self.root.join(owner).join(key);
        atomic::remove(&dir, key).map_err(|source| SecretError::Io { path, source })
    }

    pub(crate) fn keys_of(&self, owner: &str) -> Result<Vec<String>, SecretError> {
        let mut keys = self.names(&self.root.join(owner))?;
        keys.retain(|key| check(key).is_ok());
        Ok(keys)
    }

    /// Where it is kept.
    pub(crate) fn path_of(&self, owner: &str, key: &str) -> PathBuf {
        self.root.join(owner).join(key)
    }

    /// The names in a directory that is ours, sorted, but those of its own files.
    fn names(&self, path: &std::path::Path) -> Result<Vec<String>, SecretError> {
        let failed = |source| SecretError::Io { path: path.to_owned(), source };
        let entries = match std::fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            names.extend(name.to_str().filter(|name| !name.starts_with('.')).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// The file as it lies there.
    fn read(&self, owner: &str, key: &str) -> Result<Option<Secret>, SecretError> {
        check(key)?;
        let Some(dir) = self.dir(owner)? else { return Ok(None) };
        let path = self.root.join(owner).join(key);
        private::read(&dir, key, MAX_SECRET + OVERHEAD).map_err(|error| match error {
            PrivateError::Exposed => SecretError::Exposed(path),
            PrivateError::TooLarge => SecretError::TooLarge,
            PrivateError::Io(source) => SecretError::Io { path, source },
        })
    }

    fn dir(&self, owner: &str) -> Result<Option<OwnedFd>, SecretError> {
        let path = self.root.join(owner);
        match atomic::open_dir(&path) {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SecretError::Io { path, source }),
        }
    }
}

/// What a secret is sealed for.
fn place(owner: &str, key: &str) -> String {
    format!("{owner}/{key}")
}

fn check(key: &str) -> Result<(), SecretError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if key.is_empty() || key.len() > 64 || key.starts_with('.') || !key.bytes().all(good) {
        return Err(SecretError::BadKey(key.chars().take(80).collect()));
    }
    Ok(())
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
