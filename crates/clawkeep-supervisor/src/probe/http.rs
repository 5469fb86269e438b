//! Questions over HTTP/1.1 and the hello of a WebSocket. Whoever answers is not trusted: everything is bounded.

use bytes::Bytes;
use clawkeep_agents::MAX_PROBE_BODY;
use http::header::{CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, UPGRADE, USER_AGENT};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The key of a handshake and what it must be answered with, as RFC 6455 gives them in section 1.3. The key only
/// tells caches and servers that speak something else: it need not be a secret.
const KEY: (&str, &str) = ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

/// Control frames before the hello at most.
const MAX_PINGS: u32 = 8;

/// "I am leaving" (RFC 6455 5.5.1, 7.4.1: 1000), masked with zeros.
const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

/// `GET`: status and body.
pub(super) async fn get(stream: TcpStream, port: u16, path: &str) -> Option<(u16, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = http::Request::get(path)
        .header(HOST, format!("127.0.0.1:{port}"))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .ok()?;
    // Beside the exchange: a short answer and the end of its connection come in one piece.
    let _driver = Driver(tokio::spawn(async {
        // Its end is seen by whoever waits for the answer.
        let _ = connection.await;
    }));
    let response = sender.send_request(request).await.ok()?;
    let status = response.status().as_u16();
    // One byte over the limit is as good as a wrong answer; what came before it is not kept.
    let body = Limited::new(response.into_body(), MAX_PROBE_BODY).collect().await.ok()?;
    Some((status, body.to_bytes()))
}

/// Open a WebSocket (RFC 6455), wait for its first message, which must be the JSON event of this name, and leave.
/// An error says what came instead.
pub(super) async fn hello(stream: TcpStream, port: u16, path: &str, event: &str) -> Result<(), String> {
    let broken = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = http::Request::get(path)
        .header(HOST, format!("127.0.0.1:{port}"))
        // The gateway's log names who came and left again.
        .header(USER_AGENT, "clawkeep")
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", KEY.0)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let _driver = Driver(tokio::spawn(async {
        // As above.
        let _ = connection.with_upgrades().await;
    }));
    let response = sender.send_request(request).await.map_err(broken)?;
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("the WebSocket was answered with status {}", response.status().as_u16()));
    }
    if response.headers().get(SEC_WEBSOCKET_ACCEPT).is_none_or(|accept| accept != KEY.1) {
        return Err("whoever answered does not speak WebSocket".into());
    }
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.map_err(broken)?);
    let message = message(&mut stream).await?;
    // The hello is what counts; whether it hears that we leave does not.
    let _ = stream.write_all(&CLOSE).await;
    let _ = stream.shutdown().await;
    let said = serde_json::from_slice::<serde_json::Value>(&message).ok();
    match said.as_ref().and_then(|said| said["event"].as_str()) {
        Some(said) if said == event => Ok(()),
        _ => Err(format!("the WebSocket's first message is not {event}")),
    }
}

/// The first text message, of one frame (RFC 6455 5.2).
async fn message(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, String> {
    let ended = |_| "the WebSocket was closed without a hello".to_owned();
    for _ in 0..=MAX_PINGS {
        let mut head = [0_u8; 2];
        stream.read_exact(&mut head).await.map_err(ended)?;
        let length = match head[1] {
            126 => u64::from(stream.read_u16().await.map_err(ended)?),
            127 => stream.read_u64().await.map_err(ended)?,
            short @ 0..=125 => u64::from(short),
            // A server must not mask.
            _ => return Err("the WebSocket's first frame is not one of a server".into()),
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_PROBE_BODY {
            return Err("the WebSocket's first message is too large".into());
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.map_err(ended)?;
        match head[0] {
            0x81 => return Ok(payload),
            // Ping, pong.
            0x89 | 0x8a => {}
            0x88 => return Err("the WebSocket was closed without a hello".into()),
            _ => return Err("the WebSocket's first frame is no text".into()),
        }
    }
    Err("nothing but pings came over the WebSocket".into())
}

/// Ends what drives a connection when nobody waits for the answer any more.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(message(&mut &*bytes))
    }

    #[test]
    fn the_first_text_counts_and_nothing_else_does() {
        assert_eq!(read(b"\x81\x02{}"), Ok(b"{}".to_vec()));
        assert_eq!(read(b"\x89\x01x\x8a\x00\x81\x7e\x00\x02{}"), Ok(b"{}".to_vec()));
        assert_eq!(read(b"\x81\x7f\0\0\0\0\0\0\0\x02{}"), Ok(b"{}".to_vec()));
        for (bytes, wrong) in [
            (&b"\x88\x02\x03\xe8"[..], "closed"),
            (b"", "closed"),
            (b"\x81\x05ab", "closed"),
            (b"\x01\x02{}", "no text"),
            (b"\xc1\x02{}", "no text"),
            (b"\x81\x82\0\0\0\0{}", "not one of a server"),
            (b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff", "too large"),
            (&[0x89, 0].repeat(9), "nothing but pings"),
        ] {
            assert!(read(bytes).unwrap_err().contains(wrong), "{bytes:?}: {:?}", read(bytes));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
