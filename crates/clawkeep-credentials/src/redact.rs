//! Takes secrets out of what is written down.

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::memmem;
use zeroize::Zeroizing;

use crate::Secret;

/// What stands in a secret's place.
pub const REDACTED: &str = "[redacted]";

/// The shortest secret that is looked for, in bytes. A shorter one would be found in ordinary words.
pub const MIN_REDACTED: usize = 8;

/// Finds some secrets in texts: as they are, in base64 (both alphabets, also in the middle of more, as Basic has
/// it), and with any of their bytes percent-encoded. A text that breaks off inside a secret is cut before it. Time
/// is linear in the text for each secret.
#[derive(Default)]
pub struct Redactor {
    plain: Vec<Zeroizing<Vec<u8>>>,
    encoded: Vec<Zeroizing<Vec<u8>>>,
}

impl Redactor {
    /// For these secrets; those under [`MIN_REDACTED`] bytes are left out.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut redactor = Self { plain: Vec::new(), encoded: Vec::new() };
        for secret in secrets {
            let secret = secret.expose();
            if secret.len() < MIN_REDACTED {
                continue;
            }
            redactor.plain.push(Zeroizing::new(secret.to_vec()));
            for alignment in 0..3 {
                let mut shifted = Zeroizing::new(vec![0; alignment]);
                shifted.reserve_exact(secret.len());
                shifted.extend_from_slice(secret);
                for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                    let encoded = Zeroizing::new(engine.encode(&*shifted));
                    // Characters that carry bits of what stands before or after say something else there.
                    let first = if alignment == 0 { 0 } else { alignment + 1 };
                    let whole = first..shifted.len() * 8 / 6;
                    redactor.encoded.push(Zeroizing::new(encoded.as_bytes()[whole].to_vec()));
                }
            }
        }
        redactor
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.plain.is_empty()
    }

    /// The text without the secrets.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.is_empty() || text.len() < MIN_REDACTED {
            return Cow::Borrowed(text);
        }
        let mut found: Vec<Range<usize>> = Vec::new();
        let bytes = text.as_bytes();
        for pattern in self.plain.iter().chain(&self.encoded) {
            found.extend(all_of(pattern, bytes));
        }
        if bytes.contains(&b'%') {
            let (decoded, places) = percent_decoded(bytes);
            for pattern in &self.plain {
                found.extend(all_of(pattern, &decoded).map(|range| places[range.start]..places[range.end]));
            }
        }
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        found.sort_by_key(|range| range.start);
        let mut out = Vec::with_capacity(text.len());
        let mut done = 0;
        for range in found {
            if range.start >= done {
                out.extend_from_slice(&bytes[done..range.start]);
                out.extend_from_slice(REDACTED.as_bytes());
            }
            done = done.max(range.end);
        }
        out.extend_from_slice(&bytes[done..]);
        Cow::Owned(String::from_utf8_lossy(&out).into_owned())
    }
}

/// Where the pattern is, and where the text breaks off inside one.
fn all_of<'a>(pattern: &'a [u8], text: &'a [u8]) -> impl Iterator<Item = Range<usize>> + 'a {
    let whole = memmem::find_iter(text, pattern).map(|start| start..start + pattern.len());
    let longest = (pattern.len() - 1).min(text.len());
    let broken = (MIN_REDACTED..=longest).rev().find(|length| text.ends_with(&pattern[..*length]));
    whole.chain(broken.map(|length| text.len() - length..text.len()))
}

/// The bytes with `%XX` decoded, and for each of them, and for the end, where it stood.
fn percent_decoded(bytes: &[u8]) -> (Zeroizing<Vec<u8>>, Vec<usize>) {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Zeroizing::new(Vec::with_capacity(bytes.len()));
    let mut places = Vec::with_capacity(bytes.len() + 1);
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        places.push(at);
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    places.push(bytes.len());
    (decoded, places)
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    use proptest::prelude::*;

    use super::*;

    fn redact(secret: &str, text: &str) -> String {
        Redactor::new([&Secret::new(secret)]).redact(text).into_owned()
    }

    #[test]
    fn each_form_goes_and_the_rest_stays() {
        let secret = "sk-live/+=?~1234";
        for text in [
            secret.to_owned(),
            STANDARD.encode(secret),
            "sk%2Dlive%2F%2b=%3F~1234".into(),
            secret.bytes().map(|byte| format!("%{byte:02x}")).collect(),
        ] {
            let said = redact(secret, &format!("key {text} is wrong, \u{e9}"));
            assert!(said.starts_with("key [redacted]") && said.ends_with(" is wrong, \u{e9}"), "{said}");
            assert!(!said.contains("1234") && said.len() < 45, "{said}");
        }
        assert_eq!(redact(secret, "nothing of it"), "nothing of it");
        assert_eq!(redact(secret, &format!("{secret}{secret}")), "[redacted][redacted]");
        assert_eq!(redact("aaaaaaaa", "baaaaaaaaaaab"), "b[redacted]aaab");
        assert_eq!(redact(secret, "it was sk-live/+="), "it was [redacted]", "cut off inside");
        assert_eq!(redact(secret, "it was sk-live"), "it was sk-live", "too short to tell");
        assert_eq!(redact("short", "too short"), "too short");
        assert_eq!(redact(secret, "100%"), "100%");
    }

    proptest! {
        #[test]
        fn nothing_of_it_is_left_in_any_form(
            secret in "[ -~]{8,40}", before: Vec<u8>, after: Vec<u8>, mask: u64,
        ) {
            let whole = [&before[..], secret.as_bytes(), &after].concat();
            for engine in [STANDARD, URL_SAFE] {
                let text = engine.encode(&whole);
                let said = redact(&secret, &text);
                prop_assert!(said.contains(REDACTED), "{}", said);
                // Two characters at each end may carry bits of it, and none between.
                prop_assert!(said.len() <= text.len() - secret.len() * 8 / 6 + 4 + REDACTED.len());
            }
            let url: String = secret.bytes().enumerate().map(|(at, byte)| {
                if mask >> (at % 64) & 1 == 1 || byte == b'%' { format!("%{byte:02X}") } else { char::from(byte).to_string() }
            }).collect();
            prop_assert_eq!(redact(&secret, &format!("\u{e9}{url}\u{e9}")), format!("\u{e9}{REDACTED}\u{e9}"));
        }

        #[test]
        fn no_text_panics(secrets in proptest::collection::vec(".{0,20}", 0..4), text in any::<String>()) {
            let secrets: Vec<Secret> = secrets.into_iter().map(Secret::new).collect();
            let said = Redactor::new(&secrets).redact(&text).into_owned();
            for secret in secrets.iter().filter_map(Secret::expose_str).filter(|secret| secret.len() >= MIN_REDACTED) {
                prop_assert!(!said.contains(secret) || REDACTED.contains(secret));
            }
        }
    }
}
