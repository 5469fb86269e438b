//! The route's key taken out of what a provider sends back. The agent holds no key, and must not be handed one by a
//! server that shows what it was sent: in an error, an echo, a header.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderValue};
use memchr::memmem::Finder;
use zeroize::Zeroizing;

use crate::Secret;

/// The shortest key that is looked for, in bytes. Local servers are given words for keys (`none`, `lm-studio`),
/// which an answer may hold by right; nobody has to be kept from guessing those.
const MIN_HIDDEN: usize = 12;

/// A key to be hidden.
#[derive(Clone)]
pub(crate) struct Hidden(Arc<Zeroizing<Vec<u8>>>);

impl Hidden {
    /// `None` for one that is too short to be told from words.
    pub(crate) fn new(key: &Secret) -> Option<Self> {
        let key = key.expose().trim().as_bytes();
        (key.len() >= MIN_HIDDEN).then(|| Self(Arc::new(Zeroizing::new(key.to_vec()))))
    }

    /// As many asterisks in each place of the key: no length changes.
    fn cover(&self, bytes: &mut [u8]) {
        let key = &self.0[..];
        let finder = Finder::new(key);
        let mut from = 0;
        while let Some(at) = finder.find(&bytes[from..]) {
            bytes[from + at..from + at + key.len()].fill(b'*');
            from += at + key.len();
        }
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        memchr::memmem::find(bytes, &self.0).is_some()
    }

    /// How many of the last bytes wait for what follows: by what kind of bytes they are, never by which. How much waits
    /// can be seen inside, and would tell an agent whose text the provider repeats how much of the key it has guessed.
    fn begun(&self, bytes: &[u8]) -> usize {
        let longest = (self.0.len() - 1).min(bytes.len());
        let spaced = self.0.iter().any(|byte| *byte <= b' ');
        bytes.iter().rev().take(longest).take_while(|byte| spaced || **byte > b' ').count()
    }

    /// Out of the fields of an answer's head.
    pub(crate) fn cover_headers(&self, headers: &mut HeaderMap) {
        for value in headers.values_mut().filter(|value| self.is_in(value.as_bytes())) {
            let mut bytes = value.as_bytes().to_vec();
            self.cover(&mut bytes);
            *value = HeaderValue::from_bytes(&bytes).unwrap_or(HeaderValue::from_static("*"));
        }
    }
}

/// A body as it passes, without the key in it.
pub(crate) struct Passing {
    hidden: Hidden,
    /// The beginning of the key, perhaps: kept until more has come, or nothing more comes.
    kept: BytesMut,
}

impl Passing {
    pub(crate) fn new(hidden: Hidden) -> Self {
        Self { hidden, kept: BytesMut::new() }
    }

    /// The next bytes; what may pass of them, with those that were kept before. Where the key is not there nothing
    /// is copied.
    pub(crate) fn pass(&mut self, mut bytes: Bytes) -> Bytes {
        if !self.kept.is_empty() || self.hidden.is_in(&bytes) {
            let mut whole = std::mem::take(&mut self.kept);
            whole.extend_from_slice(&bytes);
            self.hidden.cover(&mut whole);
            bytes = whole.freeze();
        }
        let kept = bytes.split_off(bytes.len() - self.hidden.begun(&bytes));
        self.kept.extend_from_slice(&kept);
        bytes
    }

    /// What was kept, when nothing more comes.
    pub(crate) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.kept).freeze()
    }

    /// How many bytes are kept.
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "sk-sk-sk-sk-4711";

    fn hidden() -> Hidden {
        Hidden::new(&Secret::new(format!(" {KEY}\n"))).unwrap()
    }

    #[test]
    fn a_word_for_a_key_hides_nothing() {
        for word in ["", "none", "lm-studio", "placeholder"] {
            assert!(Hidden::new(&Secret::new(word.into())).is_none(), "{word}");
        }
    }

    #[test]
    fn it_is_taken_out_of_headers() {
        let mut headers = HeaderMap::new();
        headers.append("x-echo", format!("Bearer {KEY}, {KEY}").parse().unwrap());
        headers.append("x-echo", "sk-sk".parse().unwrap());
        hidden().cover_headers(&mut headers);
        let values: Vec<_> = headers.values().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(values, ["Bearer ****************, ****************", "sk-sk"]);
    }

    #[test]
    fn only_what_may_be_its_beginning_waits() {
        let mut passing = Passing::new(hidden());
        let event = Bytes::from_static(b"data: {\"a\":\"sk-\"}\n\n");
        let passed = passing.pass(event.clone());
        assert_eq!((passed.as_ptr(), &passed), (event.as_ptr(), &event), "neither copied nor kept");
        // What may be the beginning and what cannot be wait alike.
        for guess in ["sk-sk", "zz-zz"] {
            assert_eq!((passing.pass(format!("x {guess}").into()), passing.kept()), ("x ".into(), 5));
            assert_eq!((passing.pass(" ".into()), passing.kept()), (format!("{guess} ").into(), 0));
        }
        assert_eq!((passing.pass("sk".into()), passing.rest(), passing.kept()), ("".into(), "sk".into(), 0));
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_is_covered_and_nothing_else_changes(
            parts in prop::collection::vec(prop_oneof![Just(KEY), Just("sk-"), Just("sk-sk-sk-sk-471"), Just("a"), Just("1")], 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let text = parts.concat();
            let mut want = text.clone().into_bytes();
            hidden().cover(&mut want);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut passing = Passing::new(hidden());
            let mut passed = Vec::new();
            for cut in cuts.windows(2) {
                passed.extend_from_slice(&passing.pass(Bytes::copy_from_slice(&text.as_bytes()[cut[0]..cut[1]])));
            }
            passed.extend_from_slice(&passing.rest());
            prop_assert_eq!(&passed, &want);
            prop_assert!(!String::from_utf8(passed).unwrap().contains(KEY));
        }
    }
}
