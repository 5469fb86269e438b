use std::fmt;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clawkeep_plan::SandboxName;
use rustix::fs::{Mode, OFlags, openat};
use zeroize::Zeroizing;

use crate::{Home, HomeError, atomic, home};

/// The most that a secret may be, in bytes.
pub const MAX_SECRET: usize = 64 * 1024;

/// Bytes that must not be seen: not in `Debug`, not in JSON; wiped from memory on drop.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Keep these bytes secret.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes, for the one place that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, `None` when they are not UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

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

/// The secrets of a home: one file each, mode 0600, `secrets/SANDBOX/KEY`.
///
/// They lie in the clear, guarded by the file's and the home's mode alone. Encryption at rest comes with
/// issue 6; nothing outside this type knows the form of the files.
#[derive(Debug, Clone)]
pub struct Secrets {
    root: PathBuf,
}

impl Secrets {
    /// The secrets of this home.
    pub fn new(home: &Home) -> Self {
        Self { root: home.secrets() }
    }

    /// Store a secret, over an older one of the key. On the disk, whole, when this returns.
    ///
    /// # Errors
    /// [`SecretError`]; the older one is untouched then.
    pub fn put(&self, sandbox: &SandboxName, key: &str, secret: &Secret) -> Result<(), SecretError> {
        check(key)?;
        if secret.expose().len() > MAX_SECRET {
            return Err(SecretError::TooLarge);
        }
        let root = self.root.join(sandbox.as_str());
        home::own_dir(&root)?;
        let failed = |source| SecretError::Io { path: root.join(key), source };
        let dir = atomic::open_dir(&root).map_err(failed)?;
        let _ = atomic::sweep(&dir);
        atomic::write(&dir, key, secret.expose(), Mode::RUSR | Mode::WUSR).map_err(failed)
    }

    /// A secret, `None` when there is none of this key.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn get(&self, sandbox: &SandboxName, key: &str) -> Result<Option<Secret>, SecretError> {
        check(key)?;
        let Some(dir) = self.dir(sandbox)? else { return Ok(None) };
        let path = self.root.join(sandbox.as_str()).join(key);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match openat(&dir, key, flags, Mode::empty()) {
            Ok(file) => std::fs::File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => return Err(SecretError::Exposed(path)),
            Err(error) => return Err(SecretError::Io { path, source: error.into() }),
        };
        read(&file, &path).map(Some)
    }

    /// Forget a secret; whether it was there.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn remove(&self, sandbox: &SandboxName, key: &str) -> Result<bool, SecretError> {
        check(key)?;
        let Some(dir) = self.dir(sandbox)? else { return Ok(false) };
        let path = self.root.join(sandbox.as_str()).join(key);
        atomic::remove(&dir, key).map_err(|source| SecretError::Io { path, source })
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
        let path = self.root.join(sandbox.as_str());
        let failed = |source| SecretError::Io { path: path.clone(), source };
        let entries = match std::fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut keys = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            keys.extend(name.to_str().filter(|key| check(key).is_ok()).map(str::to_owned));
        }
        keys.sort();
        Ok(keys)
    }

    fn dir(&self, sandbox: &SandboxName) -> Result<Option<OwnedFd>, SecretError> {
        let path = self.root.join(sandbox.as_str());
        match atomic::open_dir(&path) {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SecretError::Io { path, source }),
        }
    }
}

/// Read a secret's file, with one buffer of the right size so that no copy of it is left behind in memory.
fn read(file: &std::fs::File, path: &Path) -> Result<Secret, SecretError> {
    let failed = |source| SecretError::Io { path: path.to_owned(), source };
    let found = file.metadata().map_err(failed)?;
    let us = rustix::process::geteuid().as_raw();
    if !found.is_file() || found.uid() != us || found.mode() & 0o077 != 0 || found.nlink() != 1 {
        return Err(SecretError::Exposed(path.to_owned()));
    }
    let size = usize::try_from(found.len()).unwrap_or(usize::MAX);
    if size > MAX_SECRET {
        return Err(SecretError::TooLarge);
    }
    let mut bytes = Zeroizing::new(vec![0_u8; size]);
    let mut file = file;
    file.read_exact(&mut bytes).map_err(failed)?;
    Ok(Secret(bytes))
}

fn check(key: &str) -> Result<(), SecretError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if key.is_empty() || key.len() > 64 || key.starts_with('.') || !key.bytes().all(good) {
        return Err(SecretError::BadKey(key.chars().take(80).collect()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;

    use super::*;

    fn secrets() -> (tempfile::TempDir, Secrets, SandboxName) {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::open(&temp.path().join("home")).unwrap();
        (temp, Secrets::new(&home), "box".parse().unwrap())
    }

    fn text(secret: Option<Secret>) -> Option<String> {
        secret.map(|secret| secret.expose_str().unwrap().to_owned())
    }

    #[test]
    fn stores_replaces_lists_and_forgets() {
        let (_temp, secrets, name) = secrets();
        assert_eq!(text(secrets.get(&name, "KEY").unwrap()), None);
        assert!(!secrets.remove(&name, "KEY").unwrap());
        secrets.put(&name, "KEY", &Secret::new("one")).unwrap();
        secrets.put(&name, "KEY", &Secret::new("two")).unwrap();
        secrets.put(&name, "ca.key", &Secret::new([0xff])).unwrap();
        assert_eq!(text(secrets.get(&name, "KEY").unwrap()), Some("two".into()));
        assert_eq!(secrets.get(&name, "ca.key").unwrap().unwrap().expose_str(), None);
        assert_eq!(secrets.keys(&name).unwrap(), ["KEY", "ca.key"]);
        let file = secrets.root.join("box/KEY");
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::metadata(file.parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
        assert!(secrets.remove(&name, "KEY").unwrap());
        assert_eq!(secrets.keys(&name).unwrap(), ["ca.key"]);
        secrets.remove_all(&name).unwrap();
        secrets.remove_all(&name).unwrap();
        assert_eq!(secrets.keys(&name).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn refuses_a_file_that_others_could_have_made_or_seen() {
        let (_temp, secrets, name) = secrets();
        secrets.put(&name, "K", &Secret::new("x")).unwrap();
        let file = secrets.root.join("box/K");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(secrets.get(&name, "K"), Err(SecretError::Exposed(_))));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::hard_link(&file, secrets.root.join("box/L")).unwrap();
        assert!(matches!(secrets.get(&name, "K"), Err(SecretError::Exposed(_))));
        symlink("K", secrets.root.join("box/M")).unwrap();
        assert!(matches!(secrets.get(&name, "M"), Err(SecretError::Exposed(_))));
        std::fs::create_dir(secrets.root.join("box/N")).unwrap();
        assert!(matches!(secrets.get(&name, "N"), Err(SecretError::Exposed(_))));
        secrets.put(&name, "K", &Secret::new("y")).unwrap();
        assert_eq!(text(secrets.get(&name, "K").unwrap()), Some("y".into()));
    }

    #[test]
    fn bounds_keys_and_sizes_and_shows_nothing() {
        let (_temp, secrets, name) = secrets();
        for bad in ["", ".x", "..", "a/b", "a b", "é", "a\0", &"x".repeat(65)] {
            assert!(matches!(secrets.get(&name, bad), Err(SecretError::BadKey(_))), "{bad:?}");
            assert!(matches!(secrets.put(&name, bad, &Secret::new("")), Err(SecretError::BadKey(_))));
        }
        let large = Secret::new(vec![b'x'; MAX_SECRET + 1]);
        assert!(matches!(secrets.put(&name, "K", &large), Err(SecretError::TooLarge)));
        std::fs::create_dir_all(secrets.root.join("box")).unwrap();
        std::fs::write(secrets.root.join("box/K"), large.expose()).unwrap();
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(secrets.root.join("box/K"), private).unwrap();
        assert!(matches!(secrets.get(&name, "K"), Err(SecretError::TooLarge)));
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some(Secret(redacted))");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_bytes_come_back(bytes: Vec<u8>) {
            let (_temp, secrets, name) = secrets();
            secrets.put(&name, "K", &Secret::new(bytes.clone())).unwrap();
            let back = secrets.get(&name, "K").unwrap().unwrap();
            prop_assert_eq!(back.expose(), &bytes[..]);
        }
    }
}
