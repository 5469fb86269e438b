//! What stands for a secret inside a sandbox, and the few places of a request in which it counts.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::{CredentialName, Refusal, Secret};

/// How every placeholder begins; a credential's name follows, and nothing after it.
pub const PREFIX: &str = "clawkeep:secret:";

/// The longest value that is read as Basic's, in bytes: base64 of a user and a placeholder, with room.
const MAX_BASIC: usize = 1024;

/// The longest scheme before a placeholder, in bytes.
const MAX_SCHEME: usize = 32;

/// A placeholder in a header's value, and what stands around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placeholder {
    name: CredentialName,
    form: Form,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// The whole value.
    Alone,
    /// After a scheme and one space (RFC 9110, section 11.4): `Bearer`, `token`, `Bot`, ...
    After(String),
    /// Basic's user, before this password (RFC 7617); the scheme as it was spelled.
    User(String, Zeroizing<Vec<u8>>),
    /// Basic's password, after this user.
    Password(String, Zeroizing<Vec<u8>>),
}

/// A header's value with the secret in it. Sensitive: mark it so wherever it goes (never indexed, never logged).
pub struct Filled(Zeroizing<Vec<u8>>);

impl Filled {
    /// The value, for the one place that sends it.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Filled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Filled(redacted)")
    }
}

impl Placeholder {
    /// The placeholder in this header; `None` where there is nothing like one. It counts only in these forms, with
    /// nothing before or after: `clawkeep:secret:NAME`, `SCHEME clawkeep:secret:NAME`, and `Basic` with a user or
    /// a password of `clawkeep:secret:NAME`.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] when it is there in another form or spelling, [`Refusal::WrongHeader`] when this is
    /// not a header for credentials.
    pub fn find(header: &str, value: &[u8]) -> Result<Option<Self>, Refusal> {
        let basic = Basic::read(value);
        if !mentioned(value) && !basic.as_ref().is_some_and(|basic| mentioned(&basic.decoded)) {
            return Ok(None);
        }
        if !carries_credentials(header) {
            let shown = header.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
            return Err(Refusal::WrongHeader(shown));
        }
        let found = match basic {
            Some(basic) => basic.placeholder(),
            None => plain(value),
        };
        found.map(Some).ok_or(Refusal::Malformed)
    }

    /// Which credential it stands for.
    pub fn name(&self) -> &CredentialName {
        &self.name
    }

    /// The header's value with the secret in the placeholder's place.
    ///
    /// # Errors
    /// [`Refusal::Unfit`] when the secret would end the header or be read as more than a part of it.
    pub fn fill(&self, secret: &Secret) -> Result<Filled, Refusal> {
        let unfit = || Refusal::Unfit(self.name.clone());
        let secret = secret.expose();
        // Visible ASCII and inner spaces (RFC 9110, section 5.5, without its obsolete part).
        let plain = secret.iter().all(|byte| matches!(byte, b' '..=b'~'));
        if secret.is_empty() || !plain || secret.starts_with(b" ") || secret.ends_with(b" ") {
            return Err(unfit());
        }
        let credentials = |scheme: &str, user: &[u8], password: &[u8]| {
            let pair = Zeroizing::new([user, b":", password].concat());
            // Once of its full size: growing would leave copies of the secret behind.
            let mut value =
                Zeroizing::new(String::with_capacity(scheme.len() + 1 + pair.len().div_ceil(3) * 4));
            value.push_str(scheme);
            value.push(' ');
            STANDARD.encode_string(&pair, &mut value);
            Zeroizing::new(std::mem::take(&mut *value).into_bytes())
        };
        Ok(Filled(match &self.form {
            Form::Alone => Zeroizing::new(secret.to_vec()),
            Form::After(scheme) => Zeroizing::new([scheme.as_bytes(), b" ", secret].concat()),
            // A colon would move a part of the user into the password.
            Form::User(..) if secret.contains(&b':') => return Err(unfit()),
            Form::User(scheme, password) => credentials(scheme, secret, password),
            Form::Password(scheme, user) => credentials(scheme, user, secret),
        }))
    }
}

/// Whether these bytes name something like a placeholder, in any case of letters, also with `%3A` for its colons.
pub fn mentioned(bytes: &[u8]) -> bool {
    let word = b"clawkeep";
    let starts =
        |rest: &[u8], with: &[u8]| rest.get(..with.len()).is_some_and(|rest| rest.eq_ignore_ascii_case(with));
    let colon = |rest: &[u8]| match rest {
        [b':', ..] => Some(1),
        [b'%', b'3', b'a' | b'A', ..] => Some(3),
        _ => None,
    };
    memchr::memchr2_iter(b'c', b'C', bytes).any(|at| {
        let rest = &bytes[at..];
        starts(rest, word)
            && colon(&rest[word.len()..]).is_some_and(|length| {
                let rest = &rest[word.len() + length..];
                starts(rest, b"secret") && colon(&rest[6..]).is_some()
            })
    })
}

/// Whether servers take this header for credentials, and so neither log nor reflect it. Of an unknown one they may
/// do both, and the agent would read the secret in the answer. `Idempotency-Key` is sent back by those that know it,
/// and keys of caches are written down.
fn carries_credentials(header: &str) -> bool {
    const HOP: [&str; 2] = ["proxy-authorization", "sec-websocket-key"];
    const OTHER_KEYS: [&str; 4] = ["idempoten", "cache", "surrogate", "request-key"];
    let header = header.to_ascii_lowercase();
    let header = header.as_str();
    !HOP.contains(&header)
        && !OTHER_KEYS.iter().any(|word| header.contains(word))
        && ["auth", "key", "secret", "token"].iter().any(|word| header.contains(word))
        // Whose the text is, not whose the request.
        && (!header.contains("author") || header.contains("authoriz"))
}

/// What exactly these bytes are a placeholder for.
fn exactly(bytes: &[u8]) -> Option<CredentialName> {
    let name = bytes.strip_prefix(PREFIX.as_bytes())?;
    std::str::from_utf8(name).ok()?.parse().ok()
}

fn plain(value: &[u8]) -> Option<Placeholder> {
    let Some(at) = memchr::memchr(b' ', value) else {
        return Some(Placeholder { name: exactly(value)?, form: Form::Alone });
    };
    let scheme = std::str::from_utf8(&value[..at]).ok()?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if scheme.is_empty() || scheme.len() > MAX_SCHEME || !scheme.bytes().all(token) {
        return None;
    }
    Some(Placeholder { name: exactly(&value[at + 1..])?, form: Form::After(scheme.to_owned()) })
}

/// The credentials of `Basic`.
struct Basic {
    scheme: String,
    decoded: Zeroizing<Vec<u8>>,
}

impl Basic {
    fn read(value: &[u8]) -> Option<Self> {
        if value.len() > MAX_BASIC {
            return None;
        }
        let (scheme, encoded) = value.split_at_checked(6)?;
        if !scheme.eq_ignore_ascii_case(b"Basic ") {
            return None;
        }
        let decoded = Zeroizing::new(STANDARD.decode(encoded).ok()?);
        Some(Self { scheme: String::from_utf8_lossy(&scheme[..5]).into_owned(), decoded })
    }

    fn placeholder(self) -> Option<Placeholder> {
        let Self { scheme, decoded } = self;
        let (name, form) = if decoded.starts_with(PREFIX.as_bytes()) {
            let at = PREFIX.len() + memchr::memchr(b':', &decoded[PREFIX.len()..])?;
            let password = Zeroizing::new(decoded[at + 1..].to_vec());
            if mentioned(&password) {
                return None;
            }
            (exactly(&decoded[..at])?, Form::User(scheme, password))
        } else {
            let at = memchr::memchr(b':', &decoded)?;
            let user = Zeroizing::new(decoded[..at].to_vec());
            (exactly(&decoded[at + 1..])?, Form::Password(scheme, user))
        };
        Some(Placeholder { name, form })
    }
}

#[cfg(test)]
#[path = "placeholder_tests.rs"]
mod tests;
