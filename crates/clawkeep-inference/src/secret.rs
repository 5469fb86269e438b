use std::fmt;

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

    /// `text` with every occurrence of this secret replaced.
    pub(crate) fn redact(&self, text: &str) -> String {
        let shown = self.0.trim();
        if shown.is_empty() { text.to_owned() } else { text.replace(shown, "[redacted]") }
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
        assert_eq!(Secret::new(String::new()).redact("ab"), "ab");
    }
}
