//! Tunnels that are passed through untouched, and plain requests to the proxy.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::world::{DEADLINE, World, matcher, read_exactly, read_head, read_to_end, status, text};
use crate::{Action, Reason};

/// A tunnel's world: one endpoint without requests to look at.
async fn passing() -> (World, tokio::net::TcpListener, String) {
    let (listener, port) = World::origin().await;
    let world = World::new(matcher(&[format!("{{host: a.example, port: {port}}}")])).await;
    (world, listener, format!("a.example:{port}"))
}

#[tokio::test]
async fn tls_passes_untouched_and_its_end_is_told() {
    let (mut world, listener, target) = passing().await;
    world.http(listener, Some(("a.example", false)), |_| async { text("hello") });
    // The client trusts the origin's CA, not the sandbox's: nobody stands between.
    let mut stream = world.passed(&target, "a.example").await.unwrap();
    let get = format!("GET /?secret HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    assert!(read_to_end(&mut stream).await.ends_with("hello"));
    drop(stream);
    let event = world.event(Action::Allow).await;
    assert_eq!((event.reason, event.rule.as_deref()), (Reason::Rule, Some("site0[0]")));
    let event = world.event(Action::End).await;
    let end = event.end.unwrap();
    assert!(end.sent > 300 && end.received > 300, "{event:?}");
}

#[tokio::test]
async fn the_name_in_tls_is_the_tunnels() {
    let (mut world, listener, target) = passing().await;
    let heard = tokio::spawn(async move {
        let mut heard = Vec::new();
        for _ in 0..2 {
            listener.accept().await.unwrap().0.read_to_end(&mut heard).await.unwrap();
        }
        heard
    });
    for (name, reason) in [("b.example", Reason::OtherHost), ("127.0.0.1", Reason::Protocol)] {
        let error = world.passed(&target, name).await.unwrap_err();
        assert!(
            error.to_string().contains("UnrecognizedName") || error.to_string().contains("alert"),
            "{error}"
        );
        assert_eq!(world.event(Action::Deny).await.reason, reason);
    }
    assert_eq!(heard.await.unwrap(), b"", "the origin has heard nothing");
}

#[tokio::test]
async fn port_443_carries_tls_or_http() {
    let mut world = World::new(matcher(&["{host: a.example, port: 443}".to_owned()])).await;
    let (listener, port) = World::origin().await;
    world.reroute_to(port);
    let mut stream = world.tunnel("a.example:443").await;
    stream.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, "");
    assert_eq!(world.event(Action::Deny).await.reason, Reason::Protocol);
    drop(listener);
}

#[tokio::test]
async fn another_protocol_passes_and_each_side_may_end_alone() {
    let (world, listener, target) = passing().await;
    let mut stream = world.tunnel(&target).await;
    stream.write_all(b"SSH-2.0-client\r\n").await.unwrap();
    let (mut origin, _) = listener.accept().await.unwrap();
    assert_eq!(read_exactly(&mut origin, 16).await, "SSH-2.0-client\r\n");
    stream.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut origin).await, "");
    origin.write_all(b"still here").await.unwrap();
    drop(origin);
    assert_eq!(read_to_end(&mut stream).await, "still here");
}

#[tokio::test]
async fn much_passes_whole_both_ways_at_once() {
    const MUCH: usize = 24 << 20;
    let pattern = |from: usize| (0..64 << 10).map(move |at| ((from + at) % 251) as u8).collect::<Vec<_>>();
    async fn send(mut to: impl tokio::io::AsyncWrite + Unpin, pattern: impl Fn(usize) -> Vec<u8>) {
        for block in 0..MUCH / (64 << 10) {
            to.write_all(&pattern(block * (64 << 10))).await.unwrap();
        }
        to.shutdown().await.unwrap();
    }
    async fn check(mut from: impl tokio::io::AsyncRead + Unpin, pattern: impl Fn(usize) -> Vec<u8>) {
        let mut block = vec![0; 64 << 10];
        for index in 0..MUCH / block.len() {
            from.read_exact(&mut block).await.unwrap();
            assert!(block == pattern(index * block.len()), "block {index}");
        }
        assert_eq!(from.read(&mut block).await.unwrap(), 0);
    }
    let (mut world, listener, target) = passing().await;
    let mut stream = world.tunnel(&target).await;
    // A first byte that is no greeting.
    stream.write_all(b"\0").await.unwrap();
    let (mut origin, _) = listener.accept().await.unwrap();
    assert_eq!(origin.read_u8().await.unwrap(), 0);
    let ((from_client, to_client), (from_origin, to_origin)) = (stream.split(), origin.split());
    let all = async {
        tokio::join!(
            send(to_client, pattern),
            send(to_origin, pattern),
            check(from_client, pattern),
            check(from_origin, pattern)
        )
    };
    tokio::time::timeout(DEADLINE, all).await.expect("all of it in time");
    let end = world.event(Action::End).await.end.unwrap();
    assert!(end.sent > MUCH as u64 && end.received >= MUCH as u64, "{end:?}");
}

#[tokio::test]
async fn plain_requests_in_a_tunnel_keep_to_its_host() {
    let (mut world, listener, target) = passing().await;
    world.http(listener, None, |request| async move { text(request.uri().path().to_owned()) });
    let mut stream = world.tunnel(&target).await;
    for path in ["/one", "/two"] {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
        assert_eq!(read_exactly(&mut stream, 4).await, path);
    }
    stream.write_all(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_to_end(&mut stream).await), 421);
    assert_eq!(world.event(Action::Deny).await.reason, Reason::OtherHost);
    for hostile in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        format!("\r\nGET / HTTP/1.1\r\nHost: {target}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {target}\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"),
    ] {
        let mut stream = world.tunnel(&target).await;
        stream.write_all(hostile.as_bytes()).await.unwrap();
        assert_eq!(status(&read_to_end(&mut stream).await), 400, "{hostile:?}");
    }
}

#[tokio::test]
async fn a_proxy_request_loses_what_was_for_the_proxy() {
    let (mut world, listener, target) = passing().await;
    world.http(listener, None, |request| async move {
        let names: Vec<&str> = request.headers().keys().map(http::HeaderName::as_str).collect();
        text(format!("{} {} {names:?}", request.method(), request.uri()))
    });
    let mut stream = world.connect().await;
    for _ in 0..3 {
        let get = format!(
            "GET http://{target}/a/%63?q=1 HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic eA==\r\n\
             Proxy-Connection: keep-alive\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nX-End: 1\r\n\r\n"
        );
        stream.write_all(get.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let body = r#"GET /a/c?q=1 ["x-end", "host"]"#;
        assert_eq!(read_exactly(&mut stream, body.len()).await, body);
        let event = world.event(Action::Allow).await;
        assert_eq!((event.method.as_deref(), event.path.as_deref()), (Some("GET"), Some("/a/c")));
    }
    assert_eq!(world.dialed().len(), 1, "one connection for all three");
    let answer = world.exchange("GET http://other.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n").await;
    assert_eq!(status(&answer), 403);
    // An origin that closes its connections is asked again on a new one.
    let (listener, port) = World::origin().await;
    world.policy.replace(matcher(&[format!("{{host: a.example, port: {port}}}")]));
    world.http(listener, None, |_| async {
        let mut answer = text("bye");
        answer.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
        answer
    });
    let mut stream = world.connect().await;
    for _ in 0..3 {
        let get = format!("GET http://a.example:{port}/ HTTP/1.1\r\nHost: a.example:{port}\r\n\r\n");
        stream.write_all(get.as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
        assert_eq!(read_exactly(&mut stream, 3).await, "bye");
    }
}
