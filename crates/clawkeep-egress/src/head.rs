//! A strict reading of HTTP/1.1 heads and chunked framing (RFC 9112), in front of hyper's more lenient one.
//! Whatever two readers could take differently is refused: the framing of a request is then the same for all.

/// The largest head, in bytes.
pub(crate) const MAX_HEAD: usize = 32 << 10;

/// The most header fields.
pub(crate) const MAX_HEADERS: usize = 100;

/// What the front needs to know of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub method: String,
    pub target: Vec<u8>,
    pub framing: Framing,
    /// It asks for a WebSocket.
    pub upgrade: bool,
}

/// How the body after a head is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Sized(u64),
    Chunked,
}

/// Why a head or a chunk is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("the request head is larger than 32 KiB or has more than 100 fields")]
    TooLarge,
    #[error("the request head has a line end or a control character where none may be")]
    BadBytes,
    #[error("the request line is not METHOD TARGET HTTP/1.1")]
    RequestLine,
    #[error("a header field is malformed")]
    Field,
    #[error("the request has no Host field, or several")]
    Host,
    #[error("the length of the request body is given badly, twice or in two ways")]
    Length,
    #[error("no protocol upgrade is carried but that of a GET without a body to `websocket`")]
    Upgrade,
    #[error("a chunk of the request body is malformed")]
    Chunk,
}

/// Look at the bytes of an unfinished head from `from` on: the length of the whole head if it ends here.
/// Only new bytes need a look, so a slow sender costs no more than a quick one.
pub(crate) fn find_end(bytes: &[u8], from: usize) -> Result<Option<usize>, HeadError> {
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        match byte {
            b'\n' if at == 0 || bytes[at - 1] != b'\r' => return Err(HeadError::BadBytes),
            b'\n' if bytes[..=at].ends_with(b"\r\n\r\n") => {
                return if at < MAX_HEAD { Ok(Some(at + 1)) } else { Err(HeadError::TooLarge) };
            }
            b'\n' => {}
            _ if at > 0 && bytes[at - 1] == b'\r' => return Err(HeadError::BadBytes),
            b'\r' | b'\t' | b' '..=b'~' | 0x80.. => {}
            _ => return Err(HeadError::BadBytes),
        }
    }
    if bytes.len() >= MAX_HEAD { Err(HeadError::TooLarge) } else { Ok(None) }
}

/// Read a whole head that [`find_end`] has found.
pub(crate) fn parse(head: &[u8]) -> Result<Head, HeadError> {
    let mut lines = head[..head.len() - 4].split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
    let (method, target, http10) = request_line(lines.next().unwrap_or_default())?;
    let mut hosts = 0_usize;
    let mut length = None;
    let (mut chunked, mut upgrade, mut upgrade_named) = (false, false, false);
    for (index, line) in lines.enumerate() {
        if index >= MAX_HEADERS {
            return Err(HeadError::TooLarge);
        }
        let colon = line.iter().position(|b| *b == b':').ok_or(HeadError::Field)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // Also refuses folded lines and a space before the colon: a space is no token character.
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err(HeadError::Field);
        }
        match name.to_ascii_lowercase().as_slice() {
            b"host" => hosts += 1,
            b"content-length" => {
                let plain = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
                if length.is_some() || !plain {
                    return Err(HeadError::Length);
                }
                length = Some(value.iter().fold(0_u64, |n, digit| n * 10 + u64::from(digit - b'0')));
            }
            b"transfer-encoding" => {
                if chunked || http10 || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadError::Length);
                }
                chunked = true;
            }
            b"connection" => {
                let mut options = value.split(|b| *b == b',');
                upgrade_named |= options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
            }
            b"upgrade" if !upgrade && value.eq_ignore_ascii_case(b"websocket") => upgrade = true,
            b"upgrade" | b"http2-settings" => return Err(HeadError::Upgrade),
            _ => {}
        }
    }
    if hosts > 1 || (hosts == 0 && !http10) {
        return Err(HeadError::Host);
    }
    let framing = match (chunked, length) {
        (true, Some(_)) => return Err(HeadError::Length),
        (true, None) => Framing::Chunked,
        (false, length) => Framing::Sized(length.unwrap_or(0)),
    };
    if method == "CONNECT" && framing != Framing::Sized(0) {
        return Err(HeadError::Length);
    }
    let fits = method == "GET" && framing == Framing::Sized(0) && !http10 && upgrade_named;
    if upgrade && !fits {
        return Err(HeadError::Upgrade);
    }
    Ok(Head { method, target, framing, upgrade })
}

fn request_line(line: &[u8]) -> Result<(String, Vec<u8>, bool), HeadError> {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(HeadError::RequestLine);
    };
    let http10 = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ => return Err(HeadError::RequestLine),
    };
    let method_fits = (1..=16).contains(&method.len()) && method.iter().all(u8::is_ascii_uppercase);
    if !method_fits || target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err(HeadError::RequestLine);
    }
    Ok((String::from_utf8_lossy(method).into_owned(), target.to_vec(), http10))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Follows chunked framing to its end. No chunk extensions and no trailers: no client of a model needs them,
/// and readers differ about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunks {
    Size { value: u64, digits: u8 },
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataLf,
    LastCr,
    LastLf,
    Done,
}

impl Chunks {
    pub(crate) fn new() -> Self {
        Self::Size { value: 0, digits: 0 }
    }

    /// Take in bytes; how many of them belong to this body. It is whole when the state is [`Chunks::Done`].
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<usize, HeadError> {
        let mut at = 0;
        while at < bytes.len() && *self != Self::Done {
            let byte = bytes[at];
            *self = match (*self, byte) {
                (Self::Size { value, digits }, _) if byte.is_ascii_hexdigit() && digits < 8 => {
                    let digit = char::from(byte).to_digit(16).unwrap_or(0);
                    Self::Size { value: value << 4 | u64::from(digit), digits: digits + 1 }
                }
                (Self::Size { value, digits: 1.. }, b'\r') => Self::SizeEnd(value),
                (Self::SizeEnd(0), b'\n') => Self::LastCr,
                (Self::SizeEnd(value), b'\n') => Self::Data(value),
                (Self::Data(left), _) => {
                    let taken = left.min((bytes.len() - at) as u64);
                    at += usize::try_from(taken).unwrap_or(usize::MAX) - 1;
                    if taken == left { Self::DataCr } else { Self::Data(left - taken) }
                }
                (Self::DataCr, b'\r') => Self::DataLf,
                (Self::DataLf, b'\n') => Self::new(),
                (Self::LastCr, b'\r') => Self::LastLf,
                (Self::LastLf, b'\n') => Self::Done,
                _ => return Err(HeadError::Chunk),
            };
            at += 1;
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Head, HeadError> {
        let end = find_end(text.as_bytes(), 0)?.expect("the head ends");
        parse(&text.as_bytes()[..end])
    }

    #[test]
    fn reads_ordinary_heads() {
        let head =
            read("POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length:  12 \r\nX: \t\u{e9}\r\n\r\n").unwrap();
        assert_eq!((head.method.as_str(), head.target.as_slice()), ("POST", &b"/v1/x"[..]));
        assert_eq!(head.framing, Framing::Sized(12));
        let head = read("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n").unwrap();
        assert_eq!(head.framing, Framing::Chunked);
        assert!(read("GET http://a/ HTTP/1.0\r\n\r\n").is_ok());
        let upgrade = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n";
        assert!(read(&format!("GET / HTTP/1.1\r\nHost: a\r\n{upgrade}")).unwrap().upgrade);
        assert!(!head.upgrade);
        assert!(read("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n").is_ok());
    }

    #[test]
    fn refuses_what_two_readers_could_take_differently() {
        use HeadError::*;
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(MAX_HEADERS));
        let large = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(MAX_HEAD));
        for (text, error) in [
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Length),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", Length),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", Length),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n", Length),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n", Length),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\n", Length),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Length),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n", Length),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Length),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", Length),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                Length,
            ),
            ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Length),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", Length),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", Field),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded: x\r\n\r\n", Field),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\tfolded\r\n\r\n", Field),
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Field),
            ("GET / HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n", Field),
            ("GET / HTTP/1.1\r\nHost: a\r\n: v\r\n\r\n", Field),
            ("GET / HTTP/1.1\r\n\r\n", Host),
            ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", Host),
            ("GET / HTTP/1.1\nHost: a\n\n", BadBytes),
            ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", BadBytes),
            ("GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", BadBytes),
            ("GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", BadBytes),
            ("GET / HTTP/1.1\r\nHost: a\x7f\r\n\r\n", BadBytes),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
            ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", RequestLine),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", RequestLine),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", RequestLine),
            ("PRI * HTTP/2.0\r\n\r\n", RequestLine),
            ("get / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
            ("GET /\r\nHost: a\r\n\r\n", RequestLine),
            ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
            ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
            ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", Upgrade),
            ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", Upgrade),
            ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket, h2c\r\nConnection: upgrade\r\n\r\n", Upgrade),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
                Upgrade,
            ),
            ("POST / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", Upgrade),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\n",
                Upgrade,
            ),
            ("GET / HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", Upgrade),
            (&many, TooLarge),
            (&large, TooLarge),
        ] {
            assert_eq!(read(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn chunks_end_where_they_end() {
        let mut chunks = Chunks::new();
        let body = b"3\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n";
        let with_next = [&body[..], b"GET /"].concat();
        assert_eq!(chunks.feed(&with_next), Ok(body.len()));
        assert_eq!(chunks, Chunks::Done);
        for bad in [
            "\r\n",
            "3;x=y\r\n",
            "3\nabc",
            "g\r\n",
            "3\r\nabcd",
            "0\r\nTrailer: x\r\n",
            "123456789\r\n",
            " 3\r\n",
        ] {
            assert_eq!(Chunks::new().feed(bad.as_bytes()), Err(HeadError::Chunk), "{bad:?}");
        }
    }

    proptest! {
        /// The end is found at the same place, and the same bytes are refused, however the bytes arrive.
        #[test]
        fn pieces_make_no_difference(text in "[A-Z: /.a\r\n]{0,60}(\r\n\r\n)?", cut in 0_usize..64) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let whole = find_end(bytes, 0);
            let pieces = match find_end(&bytes[..cut], 0) {
                Ok(None) => find_end(bytes, cut),
                found => found,
            };
            prop_assert_eq!(whole, pieces);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = [b"GET / HTTP/1.1\r\n", bytes.as_slice(), b"\r\n\r\n"].concat();
            if let Ok(Some(end)) = find_end(&text, 0) {
                let _ = parse(&text[..end]);
            }
            let _ = parse(&text);
            let mut chunks = Chunks::new();
            if let Ok(taken) = chunks.feed(&bytes) {
                prop_assert!(taken <= bytes.len());
            }
        }

        #[test]
        fn chunked_bodies_of_any_shape_are_followed(sizes in proptest::collection::vec(1_usize..50, 0..8), cut in 0_usize..300) {
            let mut body = Vec::new();
            for size in sizes {
                body.extend(format!("{size:x}\r\n").bytes());
                body.extend(std::iter::repeat_n(b'\r', size));
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\n\r\n");
            let cut = cut.min(body.len());
            let mut chunks = Chunks::new();
            prop_assert_eq!(chunks.feed(&body[..cut]), Ok(cut));
            prop_assert_eq!(chunks.feed(&body[cut..]), Ok(body.len() - cut));
            prop_assert_eq!(chunks, Chunks::Done);
        }
    }
}
