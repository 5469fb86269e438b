use std::collections::BTreeMap;

use clawkeep_credentials::{Binding, CredentialName, Secret};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{SecretError, Secrets};

/// The owner of all credentials among the secrets: no sandbox's name begins like it.
const OWNER: &str = "@credentials";

/// The most credentials of an installation.
pub const MAX_CREDENTIALS: usize = 64;

/// What is known of a credential besides its value. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Who may use it, and toward whom.
    pub binding: Binding,
    /// Where its value comes from.
    pub source: Source,
    /// When it was last set, in milliseconds since 1970; `None` since it was reset.
    pub set_at: Option<u64>,
}

/// Where a credential's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Source {
    /// A person typed it.
    Typed,
    /// It was read from standard input.
    Stdin,
    /// It was read from this variable of the environment, once.
    Variable {
        /// The variable.
        variable: String,
    },
    /// This command prints it when it is needed; it is not stored.
    Command {
        /// Program, by its absolute path, and arguments. No shell reads them.
        argv: Vec<String>,
        /// For how long one value is used, in seconds.
        ttl: u64,
    },
}

/// The credentials of a home, for all of its sandboxes. Each is one sealed file, so that a value and the hosts
/// that it is for are never of two times.
#[derive(Debug, Clone)]
pub struct Credentials(Secrets);

impl Credentials {
    /// Those beside these secrets.
    pub fn new(secrets: &Secrets) -> Self {
        Self(secrets.clone())
    }

    /// Store one, over an older one of the name. `value` is `None` where a command gives it, and after a reset.
    ///
    /// # Errors
    /// [`SecretError`]; the older one is untouched then.
    pub fn put(
        &self,
        name: &CredentialName,
        credential: &Credential,
        value: Option<&Secret>,
    ) -> Result<(), SecretError> {
        if self.names()?.iter().filter(|other| *other != name).count() >= MAX_CREDENTIALS {
            return Err(SecretError::TooMany);
        }
        // One line about it, then the value as it is: it goes through no text format that would leave copies.
        let mut about = serde_json::to_vec(credential).map_err(|_| SecretError::TooLarge)?;
        about.push(b'\n');
        let value = value.map(Secret::expose).unwrap_or_default();
        let bytes = Zeroizing::new([&about, value].concat());
        self.0.put_of(OWNER, name.as_str(), &Secret::from(bytes))
    }

    /// One, with its value if it is stored.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn get(&self, name: &CredentialName) -> Result<Option<(Credential, Option<Secret>)>, SecretError> {
        let Some(bytes) = self.0.get_of(OWNER, name.as_str())? else { return Ok(None) };
        let altered = || SecretError::Altered(self.0.path_of(OWNER, name.as_str()));
        let mut parts = bytes.expose().splitn(2, |byte| *byte == b'\n');
        let (Some(about), Some(value)) = (parts.next(), parts.next()) else { return Err(altered()) };
        let credential = serde_json::from_slice(about).map_err(|_| altered())?;
        Ok(Some((credential, (!value.is_empty()).then(|| Secret::new(value)))))
    }

    /// Forget one, bindings and all; whether it was there.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn remove(&self, name: &CredentialName) -> Result<bool, SecretError> {
        self.0.remove_of(OWNER, name.as_str())
    }

    /// The names of all, sorted.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn names(&self) -> Result<Vec<CredentialName>, SecretError> {
        Ok(self.0.keys_of(OWNER)?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// All, each with why it cannot be read if it cannot.
    ///
    /// # Errors
    /// When their directory cannot be read.
    pub fn all(&self) -> Result<BTreeMap<CredentialName, Result<Credential, SecretError>>, SecretError> {
        let mut all = BTreeMap::new();
        for name in self.names()? {
            match self.get(&name) {
                Ok(Some((credential, _))) => all.insert(name, Ok(credential)),
                Ok(None) => None,
                Err(error) => all.insert(name, Err(error)),
            };
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Home;

    fn credential(host: &str) -> Credential {
        let binding = Binding { hosts: vec![host.parse().unwrap()], sandbox: Some("box".parse().unwrap()) };
        Credential {
            binding,
            source: Source::Command { argv: vec!["/bin/x".into()], ttl: 60 },
            set_at: Some(1),
        }
    }

    fn value(value: Option<Secret>) -> Option<String> {
        value.map(|value| value.expose_str().unwrap().to_owned())
    }

    #[test]
    fn value_and_hosts_are_kept_together_and_nothing_of_them_is_to_be_read() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::open(&temp.path().join("home")).unwrap();
        let secrets = Secrets::new(&home);
        let credentials = Credentials::new(&secrets);
        let name: CredentialName = "GH".parse().unwrap();
        assert!(credentials.get(&name).unwrap().is_none() && !credentials.remove(&name).unwrap());
        credentials.put(&name, &credential("api.github.com"), Some(&Secret::new("a\nb"))).unwrap();
        let (about, secret) = credentials.get(&name).unwrap().unwrap();
        assert_eq!((about, value(secret)), (credential("api.github.com"), Some("a\nb".into())));
        let file = std::fs::read(home.secrets().join(OWNER).join("GH")).unwrap();
        assert!(!file.windows(6).any(|window| window == b"github"));
        credentials.put(&name, &credential("b.example"), None).unwrap();
        let (about, secret) = credentials.get(&name).unwrap().unwrap();
        assert_eq!((about, value(secret)), (credential("b.example"), None));
        assert!(secrets.seal_all().unwrap().left.is_empty(), "it is sealed with the others");
        assert!(credentials.remove(&name).unwrap() && credentials.names().unwrap().is_empty());
    }

    #[test]
    fn they_are_bounded_and_one_that_cannot_be_read_is_listed() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::open(&temp.path().join("home")).unwrap();
        let credentials = Credentials::new(&Secrets::new(&home));
        let put = |name: String| credentials.put(&name.parse().unwrap(), &credential("a.example"), None);
        (0..MAX_CREDENTIALS).try_for_each(|number| put(format!("N{number}"))).unwrap();
        assert!(matches!(put("ANOTHER".into()), Err(SecretError::TooMany)));
        put("N0".into()).unwrap();
        std::fs::remove_file(home.root().join("secrets.key")).unwrap();
        let all = credentials.all().unwrap();
        assert_eq!(all.len(), MAX_CREDENTIALS);
        assert!(all.values().all(|one| matches!(one, Err(SecretError::NoKey { .. }))));
    }
}
