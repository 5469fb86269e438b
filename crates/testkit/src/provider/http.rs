//! HTTP/1.1 as a server has it (RFC 9112), as far as clients of models use it.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;

use super::Asked;

/// The largest body that is read, in bytes.
const MAX_BODY: usize = 80 << 20;

/// The longest line of a head.
const MAX_LINE: u64 = 64 << 10;

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

fn line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    reader.take(MAX_LINE).read_line(&mut line)?;
    line.ends_with('\n').then(|| line.trim_end().to_owned()).ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

/// The next request of a connection; `None` at its end.
pub(super) fn read(reader: &mut BufReader<TcpStream>) -> Result<Option<Asked>> {
    if reader.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let first = line(reader)?;
    let mut words = first.split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1")) = (words.next(), words.next(), words.next()) else {
        return Err(bad("no HTTP/1.1"));
    };
    let mut headers = Vec::new();
    loop {
        let line = line(reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad("a header without a colon"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let asked = Asked { method: method.into(), target: target.into(), headers, ..Asked::default() };
    let body = match (asked.header("transfer-encoding"), asked.header("content-length")) {
        (Some(_), _) => chunks(reader)?,
        (None, Some(length)) => {
            let length = length.parse().ok().filter(|length| *length <= MAX_BODY);
            let mut body = vec![0; length.ok_or_else(|| bad("a length that cannot be"))?];
            reader.read_exact(&mut body)?;
            body
        }
        (None, None) => Vec::new(),
    };
    Ok(Some(Asked { body, ..asked }))
}

fn chunks(reader: &mut BufReader<TcpStream>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(reader)?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16);
        let size = size.map_err(|_| bad("a chunk size that is no number"))?;
        if body.len() + size > MAX_BODY {
            return Err(bad("too much"));
        }
        let from = body.len();
        body.resize(from + size, 0);
        reader.read_exact(&mut body[from..])?;
        if !line(reader)?.is_empty() {
            return Err(bad("a chunk without its end"));
        }
        if size == 0 {
            return Ok(body);
        }
    }
}

/// The head of an answer. Of no known length: in chunks.
pub(super) fn head(
    stream: &mut TcpStream,
    status: u16,
    content_type: &str,
    more: &[(&str, String)],
    length: Option<usize>,
) -> Result<()> {
    let mut head = format!("HTTP/1.1 {status} {}\r\nContent-Type: {content_type}\r\n", reason(status));
    for (name, value) in more {
        head += &format!("{name}: {value}\r\n");
    }
    head += &match length {
        Some(length) => format!("Content-Length: {length}\r\n\r\n"),
        None => "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
    };
    stream.write_all(head.as_bytes())
}

/// One chunk; an empty one is the end.
pub(super) fn chunk(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    stream.write_all(&chunk)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        529 => "Overloaded",
        _ => "Status",
    }
}
