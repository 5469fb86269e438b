use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

/// A credential's name: a letter, then letters, digits, `_` and `-`, at most 64 in all. Upper and lower case are two
/// names. So it is a file name, and stands in a placeholder without any escape.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct CredentialName(String);

/// A text that cannot name a credential. It is not repeated: who mistakes the place for a name's types a key here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "that cannot name a credential: use a letter, then letters, digits, '_' and '-', at most {MAX} in all"
)]
pub struct CredentialNameError;

const MAX: usize = 64;

impl CredentialName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CredentialName {
    type Err = CredentialNameError;

    fn from_str(text: &str) -> Result<Self, CredentialNameError> {
        let good = text.len() <= MAX
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        if good { Ok(Self(text.to_owned())) } else { Err(CredentialNameError) }
    }
}

impl fmt::Display for CredentialName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for CredentialName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_names_and_repeats_nothing_of_the_rest() {
        for good in ["GITHUB_TOKEN", "x", "a-1", &"a".repeat(MAX)] {
            assert_eq!(good.parse::<CredentialName>().unwrap().as_str(), good);
        }
        for bad in ["", "1a", "-a", "_a", ".a", "a.b", "a b", "a/b", "a:b", "é", "a\0", &"a".repeat(MAX + 1)]
        {
            assert_eq!(bad.parse::<CredentialName>(), Err(CredentialNameError), "{bad:?}");
        }
        let json = serde_json::from_str::<CredentialName>("\"sk-live/abc\"").unwrap_err();
        assert!(!json.to_string().contains("abc"), "{json}");
    }
}
