//! Patterns as OpenShell's policy schema documents them ("Matcher Semantics"): a text is cut into segments at a
//! separator; `*` and `?` and `[a-z]` stay within one segment, `**` as a whole segment stands for one or more.

use std::fmt;

/// A pattern over a text that is cut at one separator. Matching takes at most text times pattern steps, whatever
/// the text: there is no pattern that a hostile text can make slow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    text: String,
    separator: u8,
    parts: Vec<Part>,
}

/// One segment of a pattern, or any number of them.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Segment(Vec<Piece>),
    /// Zero or more whole segments. Written `**` together with the one segment that it needs at least.
    Segments,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Byte(u8),
    One,
    Many,
    Class { negated: bool, ranges: Vec<(u8, u8)> },
}

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GlobError {
    #[error("it is longer than {MAX_PATTERN} characters")]
    TooLong,
    #[error("a bracket class is not closed, or is empty, or holds a separator")]
    BadClass,
    #[error("it holds a character that such a text never has")]
    BadCharacter,
}

const MAX_PATTERN: usize = 1024;

impl Glob {
    pub(crate) fn parse(text: &str, separator: u8) -> Result<Self, GlobError> {
        if text.len() > MAX_PATTERN {
            return Err(GlobError::TooLong);
        }
        if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return Err(GlobError::BadCharacter);
        }
        let mut parts = Vec::new();
        let mut rest = text.as_bytes();
        loop {
            let (segment, more) = cut_segment(rest, separator)?;
            if segment == b"**" {
                parts.extend([Part::Segment(vec![Piece::Many]), Part::Segments]);
            } else {
                parts.push(Part::Segment(pieces(segment)?));
            }
            match more {
                Some(more) => rest = more,
                None => return Ok(Self { text: text.to_owned(), separator, parts }),
            }
        }
    }

    /// The pattern as it was written.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// A pattern that matches this text and no other.
    pub(crate) fn escape(text: &str) -> String {
        let mut pattern = String::with_capacity(text.len());
        for character in text.chars() {
            match character {
                '*' | '?' | '[' => pattern.extend(['[', character, ']']),
                _ => pattern.push(character),
            }
        }
        pattern
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        let mut segments = text.as_bytes().split(|byte| *byte == self.separator);
        let mut parts = self.parts.as_slice();
        // The last `Segments` that was passed, and where the text went on behind it: a later one makes every
        // earlier one's choice final, so one place to come back to is enough.
        let mut back: Option<(&[Part], std::slice::Split<'_, u8, _>)> = None;
        loop {
            let ahead = segments.clone().next();
            match (parts.split_first(), ahead) {
                (None, None) => return true,
                (Some((Part::Segments, rest)), _) => {
                    back = Some((rest, segments.clone()));
                    parts = rest;
                    continue;
                }
                (Some((Part::Segment(pieces), rest)), Some(segment)) if segment_matches(pieces, segment) => {
                    segments.next();
                    parts = rest;
                    continue;
                }
                _ => {}
            }
            let Some((rest, mut from)) = back.take() else { return false };
            if from.next().is_none() {
                return false;
            }
            parts = rest;
            segments = from.clone();
            back = Some((rest, from));
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The first segment, and what follows its separator. A separator in brackets is none.
fn cut_segment(text: &[u8], separator: u8) -> Result<(&[u8], Option<&[u8]>), GlobError> {
    let mut at = 0;
    while at < text.len() {
        if text[at] == separator {
            return Ok((&text[..at], Some(&text[at + 1..])));
        }
        at += if text[at] == b'[' { class(&text[at..], separator)?.1 } else { 1 };
    }
    Ok((text, None))
}

fn pieces(segment: &[u8]) -> Result<Vec<Piece>, GlobError> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < segment.len() {
        let (piece, length) = match segment[at] {
            b'*' => (Piece::Many, 1),
            b'?' => (Piece::One, 1),
            b'[' => class(&segment[at..], 0)?,
            byte => (Piece::Byte(byte), 1),
        };
        if !(piece == Piece::Many && pieces.last() == Some(&Piece::Many)) {
            pieces.push(piece);
        }
        at += length;
    }
    Ok(pieces)
}

/// A bracket class and its length. A `]` right behind the opening is a member, as in shells.
fn class(text: &[u8], separator: u8) -> Result<(Piece, usize), GlobError> {
    let mut at = 1;
    let negated = matches!(text.get(at), Some(b'!' | b'^'));
    at += usize::from(negated);
    let first = at;
    let mut ranges = Vec::new();
    loop {
        let byte = *text.get(at).ok_or(GlobError::BadClass)?;
        if byte == b']' && at > first {
            break;
        }
        let (end, length) = match text.get(at + 1..at + 3) {
            Some([b'-', end]) if *end != b']' => (*end, 3),
            _ => (byte, 1),
        };
        if end < byte || (byte..=end).contains(&separator) || !byte.is_ascii() || !end.is_ascii() {
            return Err(GlobError::BadClass);
        }
        ranges.push((byte, end));
        at += length;
    }
    Ok((Piece::Class { negated, ranges }, at + 1))
}

fn segment_matches(pieces: &[Piece], segment: &[u8]) -> bool {
    let (mut piece, mut byte) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        match pieces.get(piece) {
            None if byte == segment.len() => return true,
            Some(Piece::Many) => {
                piece += 1;
                back = Some((piece, byte));
                continue;
            }
            Some(one) if byte < segment.len() && one.matches(segment[byte]) => {
                piece += 1;
                byte += 1;
                continue;
            }
            _ => {}
        }
        match back {
            Some((after, from)) if from < segment.len() => {
                back = Some((after, from + 1));
                (piece, byte) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

impl Piece {
    fn matches(&self, byte: u8) -> bool {
        match self {
            Self::Byte(own) => *own == byte,
            Self::One | Self::Many => true,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte)) != *negated
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_what_the_schema_documents() {
        for (pattern, separator, yes, no) in [
            ("/**", b'/', &["/", "/a", "/a/b", "/a/"][..], &["", "a"][..]),
            ("/repos/**", b'/', &["/repos/", "/repos/a", "/repos/a/b"], &["/repos", "/reposx", "/x/repos/a"]),
            (
                "/repos/*/hooks",
                b'/',
                &["/repos/a/hooks", "/repos//hooks"],
                &["/repos/a/b/hooks", "/repos/hooks"],
            ),
            ("/a/**/z", b'/', &["/a/b/z", "/a/b/c/z", "/a/z/z"], &["/a/z", "/a/b/zz"]),
            ("/**/a/**/b", b'/', &["/x/a/y/b", "/a/a/a/b/b"], &["/a/y/b", "/x/a/b"]),
            ("/**secret**", b'/', &["/secret", "/my-secrets"], &["/a/secret"]),
            ("/bot*/**", b'/', &["/bot1:x/getMe", "/bot/"], &["/bot1", "/file/bot1/x"]),
            ("/v?/x", b'/', &["/v1/x"], &["/v/x", "/v11/x", "/v//x"]),
            ("/[a-c]/[!0-9]", b'/', &["/a/x", "/c/-"], &["/d/x", "/a/1"]),
            ("/[*]", b'/', &["/*"], &["/a"]),
            ("/[]-]", b'/', &["/]", "/-"], &["/a"]),
            ("", b'/', &[""], &["/"]),
            ("1.*", b'.', &["1.2"], &["1.2.3", "1"]),
            ("**", b'.', &["", "a", "a.b.c"], &[]),
            ("a*b*c", b'/', &["abc", "axxbxxc", "abbcc"], &["ab", "abcd", "a/b/c"]),
            ("/usr/lib/jvm/*/bin/java", b'/', &["/usr/lib/jvm/17/bin/java"], &["/usr/lib/jvm/a/b/bin/java"]),
        ] {
            let glob = Glob::parse(pattern, separator).unwrap();
            for text in yes {
                assert!(glob.matches(text), "{pattern} matches {text}");
            }
            for text in no {
                assert!(!glob.matches(text), "{pattern} does not match {text}");
            }
        }
    }

    #[test]
    fn refuses_what_is_no_pattern() {
        for text in ["/[", "/[]", "/[a", "/[z-a]", "/[a/b]", "/[+-0]", "/\u{7f}", "/a\0b"] {
            assert!(Glob::parse(text, b'/').is_err(), "{text:?}");
        }
        assert_eq!(Glob::parse(&"a".repeat(1025), b'/'), Err(GlobError::TooLong));
    }

    #[test]
    fn stays_quick_on_hostile_texts() {
        let glob = Glob::parse(&"/**/a*a*a*a*b".repeat(20), b'/').unwrap();
        let text = "/aaaaaaaaaaaaaaaa".repeat(400);
        let begin = std::time::Instant::now();
        assert!(!glob.matches(&text));
        assert!(begin.elapsed().as_secs() < 2);
    }

    proptest::proptest! {
        #[test]
        fn an_escaped_text_matches_itself_alone(text in "[ -~]{0,40}", other in "[ -~]{0,40}") {
            let glob = Glob::parse(&Glob::escape(&text), b'/').unwrap();
            proptest::prop_assert!(glob.matches(&text));
            proptest::prop_assert_eq!(glob.matches(&other), text == other);
        }
    }
}
