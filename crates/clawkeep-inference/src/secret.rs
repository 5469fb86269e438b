use std::fmt;

use clawkeep_credentials::{REDACTED, Redactor};
use zeroize::Zeroizing;

/// A text that is never shown: its `Debug` and `Display` are redacted and its memory is wiped on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wrap a text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself. Do not log it, do not put it into an error.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `text` with every occurrence of this secret replaced, in whatever form a provider sends it back.
    pub(crate) fn redact(&self, text: &str) -> String {
        let shown = self.0.trim();
        if shown.is_empty() {
            return text.to_owned();
        }
        let text = Redactor::new([&clawkeep_credentials::Secret::new(shown)]).redact(text);
        // One that is too short for the search, which would find it in ordinary words, is a key all the same.
        text.replace(shown, REDACTED)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_itself_to_nobody() {
        let secret = Secret::new("sk-123".into());
        assert_eq!(format!("{secret} {secret:?}"), "[redacted] Secret([redacted])");
        assert_eq!(secret.redact("bad key sk-123."), "bad key [redacted].");
        let long = Secret::new(" sk-4711-secret\n".into());
        let forms = "sk-4711-secret, c2stNDcxMS1zZWNyZXQ=, sk%2D4711-secret";
        assert_eq!(long.redact(forms), "[redacted], [redacted]Q=, [redacted]");
        assert_eq!(Secret::new(String::new()).redact("ab"), "ab");
    }
}
