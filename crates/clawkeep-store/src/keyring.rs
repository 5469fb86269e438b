//! Where the key to the secrets is kept, and how it comes to be.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::Mode;

use crate::private::{self, PrivateError};
use crate::seal::{KEY_BYTES, SealingKey};
use crate::{Home, SecretError, atomic};

/// The key's file in the home. Outside the directory of the secrets, so that a copy of that one says nothing.
const FILE: &str = "secrets.key";

/// The name of a service's credential (systemd.exec(5), `LoadCredentialEncrypted=`) that is the key where it is given.
const CREDENTIAL: &str = "clawkeep.key";

/// The keys of a home: that which the service manager hands over, else the one in the home's file. Read anew each
/// time: one that is put back is found at once. Both open; the first one seals.
///
/// A keyring of the desktop is not asked: a daemon that starts at boot has no session to unlock one, and the
/// kernel's own forgets with the power.
#[derive(Debug, Clone)]
pub(crate) struct Keyring {
    home: PathBuf,
    credential: Option<PathBuf>,
    making: Arc<Mutex<()>>,
}

impl Keyring {
    /// Those of this home, and what this process was handed over in `$CREDENTIALS_DIRECTORY`.
    pub(crate) fn of(home: &Home) -> Self {
        let directory = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        Self::at(home.root(), directory.filter(|path| path.is_absolute()).as_deref())
    }

    pub(crate) fn at(home: &Path, credentials: Option<&Path>) -> Self {
        let credential = credentials.map(|directory| directory.join(CREDENTIAL));
        Self { home: home.to_owned(), credential, making: Arc::default() }
    }

    /// The key's file.
    pub(crate) fn file(&self) -> PathBuf {
        self.home.join(FILE)
    }

    /// Every key that is there, that which seals first.
    pub(crate) fn held(&self) -> Result<Vec<SealingKey>, SecretError> {
        let mut held = Vec::new();
        if let Some(path) = &self.credential {
            // The service manager sees to who may read it, with modes of its own.
            match std::fs::read(path) {
                Ok(bytes) => held.push(key(path, &zeroize::Zeroizing::new(bytes))?),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(SecretError::Io { path: path.clone(), source }),
            }
        }
        let path = self.file();
        let home = self.open_home()?;
        match private::read(&home, FILE, KEY_BYTES) {
            Ok(Some(bytes)) => held.push(key(&path, bytes.expose())?),
            Ok(None) => {}
            Err(PrivateError::Io(source)) => return Err(SecretError::Io { path, source }),
            Err(PrivateError::Exposed) => {
                return Err(SecretError::BadKeyFile { path, why: "not a private file of ours" });
            }
            Err(PrivateError::TooLarge) => return Err(wrong_size(&path)),
        }
        Ok(held)
    }

    /// The key that seals. Where there is none one is made, on the disk before anything is sealed by it.
    pub(crate) fn sealing(&self) -> Result<SealingKey, SecretError> {
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = self.held()?.into_iter().next() {
            return Ok(key);
        }
        let path = self.file();
        let failed = |source| SecretError::Io { path: path.clone(), source };
        let bytes = SealingKey::generate().map_err(failed)?;
        atomic::write(self.open_home()?, FILE, &bytes, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        key(&path, &bytes)
    }

    fn open_home(&self) -> Result<std::os::fd::OwnedFd, SecretError> {
        atomic::open_dir(&self.home).map_err(|source| SecretError::Io { path: self.home.clone(), source })
    }
}

fn key(path: &Path, bytes: &[u8]) -> Result<SealingKey, SecretError> {
    SealingKey::new(bytes).ok_or_else(|| wrong_size(path))
}

fn wrong_size(path: &Path) -> SecretError {
    SecretError::BadKeyFile { path: path.to_owned(), why: "not 32 bytes long" }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::Secret;

    #[test]
    fn the_key_is_made_once_and_is_private() {
        let temp = tempfile::tempdir().unwrap();
        let keyring = Keyring::at(temp.path(), None);
        assert!(keyring.held().unwrap().is_empty());
        let sealed = keyring.sealing().unwrap().seal("p", &Secret::new("x")).unwrap();
        assert_eq!(keyring.sealing().unwrap().open("p", &sealed).unwrap().expose(), b"x");
        let mode = std::fs::metadata(keyring.file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn a_damaged_key_is_never_written_over() {
        let temp = tempfile::tempdir().unwrap();
        let keyring = Keyring::at(temp.path(), None);
        keyring.sealing().unwrap();
        for (bytes, mode, why) in [
            (vec![1; 31], 0o600, "not 32 bytes long"),
            (vec![1; 33], 0o600, "not 32 bytes long"),
            (vec![1; 32], 0o640, "not a private file of ours"),
        ] {
            std::fs::write(keyring.file(), &bytes).unwrap();
            std::fs::set_permissions(keyring.file(), std::fs::Permissions::from_mode(mode)).unwrap();
            let error = keyring.sealing().err().unwrap();
            assert!(matches!(error, SecretError::BadKeyFile { why: said, .. } if said == why), "{error}");
            assert_eq!(std::fs::read(keyring.file()).unwrap(), bytes);
        }
    }

    #[test]
    fn the_service_managers_key_comes_first_and_the_file_still_opens() {
        let (temp, given) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sealed = Keyring::at(temp.path(), None).sealing().unwrap().seal("p", &Secret::new("x")).unwrap();
        let keyring = Keyring::at(temp.path(), Some(given.path()));
        assert_eq!(keyring.held().unwrap().len(), 1);
        std::fs::write(given.path().join(CREDENTIAL), [7; 32]).unwrap();
        let held = keyring.held().unwrap();
        assert!(held.len() == 2 && held[1].open("p", &sealed).is_some());
        assert!(keyring.sealing().unwrap().open("p", &sealed).is_none());
        std::fs::write(given.path().join(CREDENTIAL), [7; 4]).unwrap();
        assert!(keyring.sealing().is_err());
    }
}
