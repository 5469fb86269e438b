//! What a tunnel begins with: TLS and for which name, HTTP, or something else. Only looked at, never taken.

use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::front::Front;
use crate::head::MAX_HEAD;
use crate::refusal::Refusal;

/// The first thing that is said in a tunnel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    Tls(Hello),
    Http,
    /// Another protocol, or one in which the server speaks first.
    Other,
    /// The client has gone.
    Closed,
}

/// What a TLS greeting (ClientHello) asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) name: Option<String>,
    pub(crate) http2: bool,
}

/// Wait for the first bytes from the client; where `server` may speak first, from either.
pub(crate) async fn opening<T: AsyncRead + Unpin>(
    front: &mut Front<T>,
    limit: Duration,
    server: Option<&TcpStream>,
) -> Result<Opening, Refusal> {
    timeout(limit, wait(front, server)).await.map_err(|_| Refusal::Slow)?
}

async fn wait<T: AsyncRead + Unpin>(
    front: &mut Front<T>,
    server: Option<&TcpStream>,
) -> Result<Opening, Refusal> {
    let mut greeting = Greeting::default();
    loop {
        let found = match kind(front.buffered()) {
            Kind::Unclear => None,
            Kind::Tls => greeting.read(front.buffered())?.map(Opening::Tls),
            Kind::Http => Some(Opening::Http),
            Kind::Other => Some(Opening::Other),
        };
        if let Some(opening) = found {
            return Ok(opening);
        }
        if front.buffered().len() >= MAX_HEAD {
            return Err(Refusal::Protocol("the TLS greeting is larger than 32 KiB"));
        }
        // Once the client has begun, it is the one that speaks first.
        let silent = front.buffered().is_empty();
        let speaks = async {
            match server {
                Some(server) if silent => {
                    let _ = server.peek(&mut [0]).await;
                }
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            filled = front.fill() => if !matches!(filled, Ok(1..)) {
                return Ok(Opening::Closed);
            },
            () = speaks => return Ok(Opening::Other),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Unclear,
    Tls,
    Http,
    Other,
}

/// The record type of a TLS handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// The longest method that the strict reading takes.
const MAX_METHOD: usize = 16;

/// What begins so. An HTTP method is capital letters and a space; line ends before it are taken by some servers, so
/// they count as HTTP, where they are refused.
fn kind(bytes: &[u8]) -> Kind {
    match bytes.first() {
        None => Kind::Unclear,
        Some(&TLS_HANDSHAKE) => Kind::Tls,
        Some(b'\r' | b'\n') => Kind::Http,
        Some(_) => match bytes.iter().take(MAX_METHOD + 1).position(|b| !b.is_ascii_uppercase()) {
            Some(at) if at > 0 && bytes[at] == b' ' => Kind::Http,
            None if bytes.len() <= MAX_METHOD => Kind::Unclear,
            _ => Kind::Other,
        },
    }
}

/// Reads a ClientHello with rustls, in the pieces in which it comes.
#[derive(Default)]
struct Greeting {
    acceptor: Acceptor,
    fed: usize,
}

impl Greeting {
    fn read(&mut self, bytes: &[u8]) -> Result<Option<Hello>, Refusal> {
        let bad = || Refusal::Protocol("the TLS greeting is malformed");
        while self.fed < bytes.len() {
            self.fed += self.acceptor.read_tls(&mut &bytes[self.fed..]).map_err(|_| bad())?;
            if let Some(accepted) = self.acceptor.accept().map_err(|_| bad())? {
                let hello = accepted.client_hello();
                let http2 = hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == b"h2"));
                return Ok(Some(Hello { name: hello.server_name().map(str::to_owned), http2 }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_told_by_their_first_bytes() {
        for (bytes, expected) in [
            (&b""[..], Kind::Unclear),
            (b"GE", Kind::Unclear),
            (b"GET / HTTP/1.1", Kind::Http),
            (b"PRI * HTTP/2.0", Kind::Http),
            (b"\r\nGET / HTTP/1.1", Kind::Http),
            (b"\x16\x03\x01", Kind::Tls),
            (b"SSH-2.0-OpenSSH_9.6", Kind::Other),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Kind::Other),
            (b" GET /", Kind::Other),
            (b"get / HTTP/1.1", Kind::Other),
            (b"AAAAAAAAAAAAAAAA", Kind::Unclear),
            (b"AAAAAAAAAAAAAAAAA", Kind::Other),
        ] {
            assert_eq!(kind(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_greeting_is_read_in_any_pieces() {
        let mut config = clawkeep_outbound::client_config(rustls::RootCertStore::empty().into(), &[b"h2"]);
        config.enable_sni = true;
        let name = rustls::pki_types::ServerName::try_from("a.example").unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        let mut greeting = Greeting::default();
        for end in 0..bytes.len() {
            assert_eq!(greeting.read(&bytes[..end]).unwrap(), None, "{end}");
        }
        let hello = greeting.read(&bytes).unwrap().unwrap();
        assert_eq!(hello, Hello { name: Some("a.example".to_owned()), http2: true });
        bytes[5] = 2;
        assert!(Greeting::default().read(&bytes).is_err());
    }
}
