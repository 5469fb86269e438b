use std::fmt;
use std::io::Read;

/// The token that a client shows to the gateway. Safe in an address as it is; never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// A text that cannot be a token. It does not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a gateway token: 1 to 512 letters, digits and the characters - . _ ~ are needed")]
pub struct TokenError;

impl Token {
    /// A new one: 32 bytes of the kernel's randomness, in hexadecimal.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn generate() -> std::io::Result<Self> {
        let mut bytes = [0_u8; 32];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Take a text for a token: 1 to 512 of the characters that an address leaves as they are (RFC 3986,
    /// unreserved).
    ///
    /// # Errors
    /// [`TokenError`] for any other.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        let fits = (1..=512).contains(&text.len()) && text.bytes().all(plain);
        if fits { Ok(Self(text.to_owned())) } else { Err(TokenError) }
    }

    /// The secret itself. Only for the agent's configuration, its clients and the address below.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The address at which a browser on this host opens the dashboard through the forwarded port. The part
    /// after `#` is not sent to a server.
    pub fn dashboard_url(&self, port: u16) -> String {
        format!("http://127.0.0.1:{port}/#token={}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_random_plain_and_not_shown() {
        let (a, b) = (Token::generate().unwrap(), Token::generate().unwrap());
        assert!(a != b && a.expose().len() == 64);
        assert_eq!(Token::parse(a.expose()).as_ref(), Ok(&a));
        assert_eq!(format!("{a:?}"), "Token(..)");
        assert_eq!(Token::parse("t0").unwrap().dashboard_url(18790), "http://127.0.0.1:18790/#token=t0");
        for bad in ["", "a b", "a\n", "a#b", "a/b", "é", &"a".repeat(513)] {
            assert_eq!(Token::parse(bad), Err(TokenError));
        }
    }
}
