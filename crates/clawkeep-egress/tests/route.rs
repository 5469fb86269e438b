//! What is allowed works, in every form in which clients ask for it.

mod common;

use clawkeep_egress::{Action, Authority, Limits, Reason};
use clawkeep_inference::{CANARY_ANSWER, Provider, Route, Service};
use common::{DEADLINE, read_answer, read_head, read_to_end, start, start_with};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

const CHAT: &str = r#"{"messages":[{"role":"user","content":"hi"}]}"#;
const STREAM: &str = r#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#;

fn chat(target: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: inference.local\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Several turns on one connection, whole and streamed.
async fn turns<T: AsyncRead + AsyncWrite + Unpin>(stream: &mut T, prefix: &str) {
    let target = format!("{prefix}/v1/chat/completions");
    for _ in 0..3 {
        for body in [CHAT, STREAM] {
            stream.write_all(chat(&target, body).as_bytes()).await.unwrap();
            let (head, text) = read_answer(stream).await;
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            assert!(text.contains(&CANARY_ANSWER[..30]), "{text}");
            assert_eq!(text.ends_with("data: [DONE]\n\n"), body == STREAM);
        }
    }
}

#[tokio::test]
async fn over_tls_in_a_tunnel() {
    let mut proxy = start(Limits::default()).await;
    let mut stream = proxy.tls("inference.local").await.unwrap();
    turns(&mut stream, "").await;
    turns(&mut stream, "https://inference.local").await;
    let event = proxy.event().await;
    assert_eq!((event.action, event.reason, event.port), (Action::Allow, Reason::ModelRoute, 443));
    proxy.stop().await;
}

#[tokio::test]
async fn in_plain_text_in_a_tunnel_as_openclaw_asks() {
    let proxy = start(Limits::default()).await;
    turns(&mut proxy.tunnel("inference.local:80").await, "").await;
    turns(&mut proxy.tunnel("INFERENCE.LOCAL.:80").await, "http://inference.local").await;
    proxy.stop().await;
}

#[tokio::test]
async fn as_a_proxy_request_and_as_a_plain_one() {
    let mut proxy = start(Limits::default()).await;
    turns(&mut proxy.connect().await, "http://inference.local").await;
    turns(&mut proxy.connect().await, "").await;
    let event = proxy.event().await;
    assert_eq!((event.action, event.host.as_str(), event.port), (Action::Allow, "inference.local", 80));
    proxy.stop().await;
}

#[tokio::test]
async fn chunked_bodies_in_small_pieces_and_pipelined_requests() {
    let proxy = start(Limits::default()).await;
    let mut stream = proxy.connect().await;
    let head =
        "POST /v1/chat/completions HTTP/1.1\r\nHost: inference.local\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (one, two) = CHAT.split_at(7);
    let chunked = format!("{head}{:x}\r\n{one}\r\n{:X}\r\n{two}\r\n0\r\n\r\n", one.len(), two.len());
    for byte in chunked.bytes() {
        stream.write_all(&[byte]).await.unwrap();
    }
    assert!(read_answer(&mut stream).await.1.contains("canary"));
    let many = format!("{chunked}{}{chunked}", chat("/v1/chat/completions", CHAT));
    stream.write_all(many.as_bytes()).await.unwrap();
    for _ in 0..3 {
        assert!(read_answer(&mut stream).await.0.starts_with("HTTP/1.1 200 "));
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_tunnel_may_begin_before_the_proxy_has_agreed() {
    let proxy = start(Limits::default()).await;
    let mut stream = proxy.connect().await;
    let both = format!(
        "CONNECT inference.local:80 HTTP/1.1\r\nHost: inference.local:80\r\n\r\n{}",
        chat("/v1/chat/completions", CHAT)
    );
    stream.write_all(both.as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    assert!(read_answer(&mut stream).await.1.contains("canary"));
    proxy.stop().await;
}

#[tokio::test]
async fn a_handshake_for_another_name_or_another_trust_fails() {
    let proxy = start(Limits::default()).await;
    assert!(proxy.tls("evil.example").await.is_err());
    // No name at all: the certificate still is for inference.local, and this client wants an address.
    assert!(proxy.tls("127.0.0.1").await.is_err());
    let mut stranger = start(Limits::default()).await;
    stranger.ca_pem.clone_from(&proxy.ca_pem);
    assert!(stranger.tls("inference.local").await.is_err());
    proxy.stop().await;
    stranger.stop().await;
}

#[tokio::test]
async fn the_route_can_change_under_an_open_connection() {
    let proxy = start(Limits::default()).await;
    let mut stream = proxy.tls("inference.local").await.unwrap();
    turns(&mut stream, "").await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", gone.local_addr().unwrap());
    drop(gone);
    let route = Route::new(Provider::Custom, Some(&url), "m", false).unwrap();
    proxy.inference.replace(Service::new(route, None).unwrap());
    stream.write_all(chat("/v1/chat/completions", CHAT).as_bytes()).await.unwrap();
    let (head, body) = read_answer(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 502 ") && body.contains("upstream_connect"), "{head}{body}");
    proxy.inference.replace(Service::canary());
    turns(&mut stream, "").await;
    proxy.stop().await;
}

/// What a daemon's death means: the listener lives elsewhere, what connects meanwhile waits in its backlog,
/// and the next daemon serves it with the same authority.
#[tokio::test]
async fn the_next_server_of_the_same_listener_serves_what_waited() {
    let authority = Authority::generate().unwrap();
    let kept = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    kept.set_nonblocking(true).unwrap();
    let hand_over = || TcpListener::from_std(kept.try_clone().unwrap()).unwrap();
    let first = start_with(&authority, hand_over(), Limits::default());
    let mut cut = first.connect().await;
    turns(&mut cut, "").await;
    first.stop().await;
    assert_eq!(read_to_end(&mut cut).await, "");

    let mut waiting = tokio::net::TcpStream::connect(kept.local_addr().unwrap()).await.unwrap();
    waiting.write_all(chat("/v1/chat/completions", CHAT).as_bytes()).await.unwrap();
    let again = Authority::load(authority.cert_pem(), authority.key_pem()).unwrap();
    let mut second = start_with(&again, hand_over(), Limits::default());
    assert!(read_answer(&mut waiting).await.1.contains("canary"));
    second.ca_pem = authority.cert_pem().to_owned();
    turns(&mut second.tls("inference.local").await.unwrap(), "").await;
    second.stop().await;
}

#[tokio::test]
async fn an_old_client_without_keep_alive_gets_its_whole_answer() {
    let proxy = start(Limits::default()).await;
    let text = proxy.exchange(b"GET http://inference.local/v1/models HTTP/1.0\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.0 200 OK\r\n") && text.contains("\"canary\""), "{text}");
    let text = proxy
        .exchange(b"GET /v1/models HTTP/1.1\r\nHost: inference.local\r\nConnection: close\r\n\r\n")
        .await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("\"canary\""), "{text}");
    assert!(DEADLINE > Limits::default().head, "the deadline outlasts the limits that it watches");
    proxy.stop().await;
}
