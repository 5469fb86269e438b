use std::fmt;

/// What a request asks for, in its one canonical spelling: the same bytes are decided on and sent on.
///
/// RFC 3986, section 6.2.2: what needs no percent encoding has none, what needs it has it in capitals. What two
/// servers may read in two ways is refused: dot segments, empty segments, a backslash, NUL, overlong UTF-8, a
/// second layer of encoding. Canonicalising again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPath {
    text: String,
    /// Where the path ends and `?` or nothing follows.
    end: usize,
    /// The path as lax servers may read it; empty for nearly every path.
    readings: Vec<String>,
    encoded_slash: bool,
}

/// Why a text is no request target that can be decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not an absolute path: another form of request target (RFC 9112, section 3.2), or nothing.
    #[error("the request target is not a path")]
    NotAPath,
    /// Longer than 8,192 bytes.
    #[error("the request target is too long")]
    TooLong,
    /// A control character, a space, a fragment, something that is not ASCII.
    #[error("the request target holds a character that it may not hold")]
    BadCharacter,
    /// A percent sign that two hexadecimal digits do not follow.
    #[error("a percent sign in the request target encodes nothing")]
    BadPercent,
    /// `.` or `..` as a segment, in any spelling, with parameters or behind an encoded slash.
    #[error("the path holds a dot segment")]
    DotSegment,
    /// `//`: some servers take it for `/`.
    #[error("the path holds an empty segment")]
    EmptySegment,
    /// `\`: some servers take it for `/`.
    #[error("the path holds a backslash")]
    Backslash,
    /// An encoded control character.
    #[error("the request target holds an encoded control character")]
    Control,
    /// Encoded bytes that are not UTF-8, overlong forms among them.
    #[error("the path's encoded bytes are not UTF-8")]
    NotUtf8,
    /// `%252e`: safe when it is decoded once, something else when it is decoded twice.
    #[error("the path is encoded twice")]
    EncodedTwice,
}

const MAX_BYTES: usize = 8192;

impl RequestPath {
    /// Read the target of a request in origin form: `/path?query`.
    ///
    /// # Errors
    /// [`PathError`]. What is not plainly one path is none.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.len() > MAX_BYTES {
            return Err(PathError::TooLong);
        }
        let (path, query) = match text.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (text, None),
        };
        if !path.starts_with('/') {
            return Err(PathError::NotAPath);
        }
        let mut canonical = String::with_capacity(text.len());
        canonical_into(&mut canonical, path, Part::Path)?;
        let end = canonical.len();
        let encoded_slash = canonical.contains("%2F");
        check_segments(&canonical)?;
        let readings = readings(&canonical, encoded_slash);
        if let Some(query) = query {
            canonical.push('?');
            canonical_into(&mut canonical, query, Part::Query)?;
        }
        // Encoding what came without it may have made it longer.
        if canonical.len() > MAX_BYTES {
            return Err(PathError::TooLong);
        }
        Ok(Self { text: canonical, end, readings, encoded_slash })
    }

    /// The path.
    pub fn path(&self) -> &str {
        &self.text[..self.end]
    }

    /// What follows the question mark, where there is one.
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.end + 1..)
    }

    /// The whole: what is decided on, and what is sent on.
    pub fn path_and_query(&self) -> &str {
        &self.text
    }

    /// Whether the path holds `%2F`, which some servers take for `/`.
    pub fn has_encoded_slash(&self) -> bool {
        self.encoded_slash
    }

    /// The path in every way in which a server may read it: as it is, with encoded slashes decoded, without
    /// parameters (RFC 3986, section 3.3). All of them have to be allowed, and none denied.
    pub(crate) fn readings(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.path()).chain(self.readings.iter().map(String::as_str))
    }
}

impl fmt::Display for RequestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Path,
    Query,
}

fn canonical_into(out: &mut String, text: &str, part: Part) -> Result<(), PathError> {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit =
                    || bytes.next().and_then(|b| char::from(b).to_digit(16)).ok_or(PathError::BadPercent);
                // Two digits of base 16 fit.
                let encoded = (digit()? * 16 + digit()?) as u8;
                put_encoded(out, encoded, part)?;
            }
            b'\\' if part == Part::Path => return Err(PathError::Backslash),
            0..=b' ' | b'#' | 0x7f.. => return Err(PathError::BadCharacter),
            // Clients send these as they are, RFC 3986 has them encoded.
            b'"' | b'<' | b'>' | b'[' | b']' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => encode(out, byte),
            _ => out.push(char::from(byte)),
        }
    }
    Ok(())
}

/// A byte that came encoded.
fn put_encoded(out: &mut String, byte: u8, part: Part) -> Result<(), PathError> {
    match byte {
        0 => return Err(PathError::Control),
        0x01..=0x1f | 0x7f if part == Part::Path => return Err(PathError::Control),
        b'\\' if part == Part::Path => return Err(PathError::Backslash),
        // RFC 3986, section 2.3. In a query, letters too stay as they came decoded: it is the same name.
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
        _ => encode(out, byte),
    }
    Ok(())
}

fn encode(out: &mut String, byte: u8) {
    use fmt::Write as _;
    // Writing to a string does not fail.
    let _ = write!(out, "%{byte:02X}");
}

/// Nothing in a canonical path that two servers read in two ways.
fn check_segments(path: &str) -> Result<(), PathError> {
    if !is_utf8_when_decoded(path) {
        return Err(PathError::NotUtf8);
    }
    // Decoding has eaten `%2E` already; what is left of a second layer is `%252E`.
    for (at, _) in path.match_indices("%25") {
        let hidden = path.as_bytes().get(at + 3..at + 5).unwrap_or_default();
        if ["2e", "2f", "5c", "25", "00", "3b"]
            .iter()
            .any(|code| hidden.eq_ignore_ascii_case(code.as_bytes()))
        {
            return Err(PathError::EncodedTwice);
        }
    }
    let slashes = path.replace("%2F", "/").replace("%3B", ";");
    let mut segments = slashes[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let name = segment.split(';').next().unwrap_or_default();
        if matches!(name, "." | "..") {
            return Err(PathError::DotSegment);
        }
        let last = segments.peek().is_none();
        if name.is_empty() && !(last && segment.is_empty()) {
            return Err(PathError::EmptySegment);
        }
    }
    Ok(())
}

fn is_utf8_when_decoded(path: &str) -> bool {
    if !path.contains('%') {
        return true;
    }
    std::str::from_utf8(&percent_decoded(path.as_bytes())).is_ok()
}

/// Decode what is well-formed; leave the rest as it is.
pub(crate) fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                // Two digits of base 16 fit.
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

fn readings(path: &str, encoded_slash: bool) -> Vec<String> {
    let parameters = path.contains(';') || path.contains("%3B");
    let mut readings = Vec::new();
    if encoded_slash {
        readings.push(path.replace("%2F", "/"));
    }
    if parameters {
        readings.push(without_parameters(path));
    }
    if encoded_slash && parameters {
        readings.push(without_parameters(&path.replace("%2F", "/")));
    }
    readings
}

fn without_parameters(path: &str) -> String {
    let names = path.split('/').map(|segment| {
        let end = [segment.find(';'), segment.find("%3B")].into_iter().flatten().min();
        &segment[..end.unwrap_or(segment.len())]
    });
    names.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_spelling_for_each_path() {
        for (text, canonical) in [
            ("/", "/"),
            ("/a/b/", "/a/b/"),
            ("/%61%2D%7e", "/a-~"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a%2fb", "/a%2Fb"),
            ("/a|b{c}", "/a%7Cb%7Bc%7D"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/a?b=%2e%2e/../\\&c=%0a", "/a?b=../../%5C&c=%0A"),
            ("/a?", "/a?"),
            ("/a?b?c", "/a?b?c"),
            ("/...", "/..."),
            ("/a%2520b", "/a%2520b"),
            ("/@types%2fnode", "/@types%2Fnode"),
        ] {
            assert_eq!(RequestPath::parse(text).unwrap().path_and_query(), canonical, "{text}");
        }
    }

    #[test]
    fn what_two_servers_read_in_two_ways_is_refused() {
        use PathError::*;
        for (text, error) in [
            ("", NotAPath),
            ("*", NotAPath),
            ("a/b", NotAPath),
            ("http://x/a", NotAPath),
            ("?a=/b", NotAPath),
            ("/public/../secret", DotSegment),
            ("/public/%2e%2e/secret", DotSegment),
            ("/public/.%2E/secret", DotSegment),
            ("/public/./secret", DotSegment),
            ("/public/..", DotSegment),
            ("/public%2f..%2fsecret", DotSegment),
            ("/public%2F%2e%2e%2fsecret", DotSegment),
            ("/public/..;/secret", DotSegment),
            ("/public/..%3b/secret", DotSegment),
            ("/public/.;x=1/secret", DotSegment),
            ("//secret", EmptySegment),
            ("/public//secret", EmptySegment),
            ("/public/%2fsecret", EmptySegment),
            ("/;/secret", EmptySegment),
            ("/public\\..\\secret", Backslash),
            ("/public%5c..%5csecret", Backslash),
            ("/a%00.png", Control),
            ("/a%0d%0ab", Control),
            ("/a?b=%00", Control),
            ("/a\0b", BadCharacter),
            ("/a b", BadCharacter),
            ("/a#b", BadCharacter),
            ("/caf\u{e9}", BadCharacter),
            ("/a%", BadPercent),
            ("/a%4", BadPercent),
            ("/a%zz", BadPercent),
            ("/a?b=%u0041", BadPercent),
            ("/%c0%ae%c0%ae/secret", NotUtf8),
            ("/%c0%afsecret", NotUtf8),
            ("/%ff", NotUtf8),
            ("/%252e%252e/secret", EncodedTwice),
            ("/a%252fb", EncodedTwice),
            ("/a%255cb", EncodedTwice),
            ("/a%25252e", EncodedTwice),
        ] {
            assert_eq!(RequestPath::parse(text), Err(error), "{text}");
        }
        let long = format!("/{}", "a".repeat(MAX_BYTES));
        assert_eq!(RequestPath::parse(&long), Err(TooLong));
        let grows = format!("/{}", "|".repeat(MAX_BYTES / 2));
        assert_eq!(RequestPath::parse(&grows), Err(TooLong));
    }

    #[test]
    fn lax_servers_readings_are_known() {
        let readings = |text: &str| -> Vec<String> {
            RequestPath::parse(text).unwrap().readings().map(str::to_owned).collect()
        };
        assert_eq!(readings("/a/b"), ["/a/b"]);
        assert_eq!(readings("/a%2fb"), ["/a%2Fb", "/a/b"]);
        assert_eq!(readings("/a;x/b"), ["/a;x/b", "/a/b"]);
        assert_eq!(readings("/a%3bx%2fb;y"), ["/a%3Bx%2Fb;y", "/a%3Bx/b;y", "/a", "/a/b"]);
    }

    proptest! {
        #[test]
        fn canonical_is_a_fixed_point(text in "/([a-z%./;?\\\\|25efEF0 -]|%2[0-9a-fA-F]){0,40}") {
            if let Ok(path) = RequestPath::parse(&text) {
                let again = RequestPath::parse(path.path_and_query()).unwrap();
                prop_assert_eq!(&again, &path);
                for reading in path.readings() {
                    let mut segments = reading.split('/');
                    prop_assert!(!segments.any(|segment| matches!(segment, "." | "..")), "{}", reading);
                }
            }
        }
    }
}
