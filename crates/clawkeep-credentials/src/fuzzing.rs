//! What an agent's headers are read with, for the fuzzer in `fuzz/`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::{PREFIX, Placeholder, Redactor, Secret, mentioned};

/// Whatever a header's value is, it is left alone, refused, or filled in one place only.
///
/// # Panics
/// When it is not.
pub fn placeholder(value: &[u8]) {
    const STAMP: &str = "wax-and-signet";
    match Placeholder::find("Authorization", value) {
        Ok(Some(found)) => {
            let secret = Secret::new(STAMP);
            let filled = found.fill(&secret).expect("a plain secret fits each form");
            let inside = format!("{PREFIX}{}", found.name());
            // Basic is compared by what it says.
            let basic = |bytes: &[u8]| match bytes.split_at_checked(6) {
                Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"Basic ") => STANDARD.decode(rest).ok(),
                _ => None,
            };
            let (before, after) = match (basic(value), basic(filled.expose())) {
                (Some(before), Some(after)) => (before, after),
                _ => (value.to_vec(), filled.expose().to_vec()),
            };
            let [before, after] = [before, after].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            assert_eq!(before.replacen(&inside, STAMP, 1), after, "nothing else was changed");
            let shown =
                Redactor::new([&secret]).redact(&String::from_utf8_lossy(filled.expose())).into_owned();
            assert!(!shown.contains(STAMP), "what was put in is taken out again");
        }
        Ok(None) => assert!(!mentioned(value), "what is mentioned is told"),
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
}
