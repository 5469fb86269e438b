//! A small HTTP/1.1 client (RFC 9112) for probes over any stream: one request a connection, bounded.

use std::io::{Error, ErrorKind, Read, Result, Write};

/// What an answer may be at most, head and body together.
pub const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// An answer, read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header names in lowercase, with their values.
    pub headers: Vec<(String, String)>,
    /// The body, its transfer coding removed.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of this name (in lowercase).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// The body as text, what is not UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// `InvalidData` when it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).map_err(|error| Error::new(ErrorKind::InvalidData, error))
    }
}

/// `GET target`.
///
/// # Errors
/// Those of the stream (set its timeouts first); `InvalidData` when the answer is none or too large.
pub fn get(stream: impl Read + Write, target: &str) -> Result<Answer> {
    request(stream, "GET", target, &[], b"")
}

/// `POST target` with this body.
///
/// # Errors
/// As [`get`].
pub fn post(stream: impl Read + Write, target: &str, body: &[u8]) -> Result<Answer> {
    request(stream, "POST", target, &[], body)
}

/// Any request. `Host`, `Connection` and `Content-Length` are added.
///
/// # Errors
/// As [`get`].
pub fn request(
    mut stream: impl Read + Write,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat())?;
    stream.flush()?;

    let mut read = Vec::new();
    let mut block = [0_u8; 16 * 1024];
    loop {
        if let Some(answer) = parse(&read, false)? {
            return Ok(answer);
        }
        if read.len() > MAX_ANSWER {
            return Err(bad("the answer is too large"));
        }
        match stream.read(&mut block) {
            Ok(0) => return parse(&read, true)?.ok_or_else(|| ErrorKind::UnexpectedEof.into()),
            Ok(n) => read.extend_from_slice(&block[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

/// The answer in these bytes, `None` while it is not whole.
fn parse(bytes: &[u8], ended: bool) -> Result<Option<Answer>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| bad("the head is not text"))?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    if !first.next().is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err(bad("not an HTTP/1 answer"));
    }
    let status = first.next().and_then(|code| code.parse().ok()).ok_or_else(|| bad("no status code"))?;
    let headers = lines
        .map(|line| line.split_once(':').ok_or_else(|| bad("a header without a colon")))
        .map(|pair| pair.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())))
        .collect::<Result<Vec<_>>>()?;
    let mut answer = Answer { status, headers, body: Vec::new() };
    let rest = &bytes[end + 4..];
    let body = if answer.header("transfer-encoding").is_some_and(|c| c.eq_ignore_ascii_case("chunked")) {
        unchunk(rest)?
    } else if let Some(length) = answer.header("content-length") {
        let length: usize = length.parse().map_err(|_| bad("Content-Length is not a number"))?;
        rest.get(..length).map(<[u8]>::to_vec)
    } else {
        ended.then(|| rest.to_vec())
    };
    Ok(body.map(|body| {
        answer.body = body;
        answer
    }))
}

/// The bytes of a chunked body, `None` while the last chunk is not there.
fn unchunk(mut rest: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&rest[..end]).map_err(|_| bad("a chunk size that is not text"))?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| bad("a chunk size that is no number"))?;
        if size > MAX_ANSWER {
            return Err(bad("a chunk is too large"));
        }
        let Some(chunk) = rest.get(end + 2..end + 2 + size) else { return Ok(None) };
        if size == 0 {
            return Ok(Some(body));
        }
        body.extend_from_slice(chunk);
        match rest.get(end + 2 + size..) {
            Some([b'\r', b'\n', next @ ..]) => rest = next,
            Some([] | [b'\r']) | None => return Ok(None),
            Some(_) => return Err(bad("a chunk without its end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Canned(std::io::Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Canned {
        fn read(&mut self, into: &mut [u8]) -> Result<usize> {
            self.0.read(into)
        }
    }

    impl Write for Canned {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    fn ask(answer: &[u8]) -> Result<Answer> {
        get(&mut Canned(std::io::Cursor::new(answer.to_vec()), Vec::new()), "/x")
    }

    #[test]
    fn reads_the_three_ways_to_end_a_body() {
        let counted = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nhitail").unwrap();
        assert_eq!((counted.status, counted.text().as_str()), (200, "hi"));
        assert_eq!(counted.header("x-a"), Some("b"));
        let chunked =
            ask(b"HTTP/1.1 401 no\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n");
        assert_eq!(chunked.unwrap().text(), "abcd");
        assert_eq!(ask(b"HTTP/1.0 204 x\r\n\r\nto the end").unwrap().text(), "to the end");
    }

    #[test]
    fn sends_one_bounded_request() {
        let mut stream = Canned(std::io::Cursor::new(b"HTTP/1.1 200 OK\r\n\r\n{}".to_vec()), Vec::new());
        let answer = request(&mut stream, "POST", "/y", &[("A", "b")], b"body").unwrap();
        assert_eq!(answer.json().unwrap(), serde_json::json!({}));
        assert_eq!(
            String::from_utf8(stream.1).unwrap(),
            "POST /y HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nA: b\r\nContent-Length: 4\r\n\r\nbody"
        );
    }

    #[test]
    fn refuses_what_is_no_answer_or_breaks_off() {
        for bytes in [&b"SSH-2.0-x\r\n\r\n"[..], b"HTTP/1.1 xx\r\n\r\n", b"HTTP/1.1 200 OK\r\nbad\r\n\r\n"] {
            assert_eq!(ask(bytes).unwrap_err().kind(), ErrorKind::InvalidData);
        }
        for bytes in [&b""[..], b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"] {
            assert_eq!(ask(bytes).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        }
    }

    proptest! {
        #[test]
        fn never_panics(junk: Vec<u8>, size in "[0-9a-f]{0,20}") {
            let _ = ask(&junk);
            let _ = ask(&[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", size.as_bytes(), b"\r\n", &junk].concat());
        }
    }
}
