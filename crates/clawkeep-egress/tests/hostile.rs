//! What is not allowed is refused, said so, and never dialed.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clawkeep_egress::{Action, Limits, Reason};
use common::{read_answer, read_to_end, start, start_only_for, status};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

/// A listener on the host that nothing may reach.
async fn trap() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hits = Arc::new(AtomicUsize::new(0));
    let counter = hits.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, hits)
}

fn answers_in(text: &str) -> usize {
    text.match_indices("HTTP/1.1 ")
        .filter(|(at, found)| text[at + found.len()..].starts_with(|c: char| c.is_ascii_digit()))
        .count()
}

/// On a loopback that a whole host shares.
#[tokio::test]
async fn strangers_on_a_shared_loopback_are_not_served() {
    use std::os::unix::fs::MetadataExt as _;
    let us = std::fs::metadata("/proc/self").unwrap().uid();
    let head = b"CONNECT inference.local:443 HTTP/1.1\r\nHost: inference.local:443\r\n\r\n";
    let proxy = start_only_for(us + 1).await;
    assert_eq!(proxy.exchange(head).await, "", "hung up on, unheard");
    let proxy = start_only_for(us).await;
    drop(proxy.tunnel("inference.local:443").await);
}

#[tokio::test]
async fn hostile_targets_are_refused_and_never_dialed() {
    let mut proxy = start(Limits::default()).await;
    let (trap, hits) = trap().await;
    let port = trap.port();
    let hosts = [
        "169.254.169.254",
        "127.0.0.1",
        "0.0.0.0",
        "0",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[fd00:ec2::254]",
        "localhost",
        "localhost.",
        "LOCALHOST",
        "inference.local.evil.com",
        "evil.inference.local",
        "inference-local",
        "metadata.google.internal",
        "xn--nferance-c5a.local",
    ];
    let mut refused = 0;
    for host in hosts {
        for (request, code) in [
            (format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: inference.local:443\r\n\r\n"), 403),
            (format!("GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"), 403),
            (format!("GET http://{host}:{port}/ HTTP/1.1\r\nHost: inference.local\r\n\r\n"), 421),
            (format!("GET / HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"), 403),
        ] {
            let answer = proxy.exchange(request.as_bytes()).await;
            assert_eq!(status(&answer), code, "{request:?}: {answer}");
            assert!(answer.contains("\"code\":\"egress_denied\""), "{answer}");
            let next = if code == 403 { "clawkeep NAME policy requests" } else { "name it in Host" };
            assert!(answer.contains(next), "{answer}");
            let event = proxy.event().await;
            assert_eq!((event.action, event.port), (Action::Deny, port), "{request:?}");
            refused += 1;
        }
    }
    assert_eq!((refused, hits.load(Ordering::SeqCst)), (hosts.len() * 4, 0));
    proxy.stop().await;
}

#[tokio::test]
async fn malformed_targets_are_refused() {
    let mut proxy = start(Limits::default()).await;
    for target in [
        "inference.local@evil:443",
        "user:hunter2@inference.local:443",
        "inference.local",
        "inference.local:",
        "inference.local:0",
        "inference.local:00443",
        "inference.local:443:80",
        "inference.local:99999",
        "inference..local:443",
        "inference%2elocal:443",
        "inference.local/:443",
        "https://inference.local:443",
        "/",
        "*",
        "::1:443",
        "[::1:443",
        "[::1%25eth0]:443",
        "[inference.local]:443",
        &format!("{}.local:443", "a".repeat(64)),
        &format!("{}:443", "a.".repeat(3000)),
    ] {
        let answer = proxy.exchange(format!("CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        assert_eq!(status(&answer), 400, "{target}: {answer}");
        let event = proxy.event().await;
        assert_eq!((event.action, event.reason), (Action::Deny, Reason::Malformed), "{target}");
        assert!(event.host.len() <= 128 && !event.host.contains("hunter2"), "{event:?}");
        assert!(!answer.contains("hunter2"), "{answer}");
    }
    for port in [1, 22, 8080, 3128, 18789, 65535] {
        let answer = proxy
            .exchange(format!("CONNECT inference.local:{port} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
            .await;
        assert_eq!(status(&answer), 403, "{port}: {answer}");
        assert_eq!(proxy.event().await.reason, Reason::ModelPort);
    }
    proxy.stop().await;
}

#[tokio::test]
async fn requests_for_another_host_than_agreed_are_misdirected() {
    let mut proxy = start(Limits::default()).await;
    for head in [
        "GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: inference.local:81\r\n\r\n",
        "GET http://evil.example/ HTTP/1.1\r\nHost: inference.local\r\n\r\n",
        "GET http://inference.local/v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ] {
        let mut stream = proxy.tunnel("inference.local:80").await;
        assert_eq!(proxy.event().await.action, Action::Allow);
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert_eq!(status(&answer), 421, "{head:?}: {answer}");
        assert_eq!(proxy.event().await.reason, Reason::OtherHost);
    }
    let mut stream = proxy.tls("inference.local").await.unwrap();
    stream.write_all(b"GET /v1/models HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_to_end(&mut stream).await), 421);
    let mixed = b"GET http://inference.local/v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    assert_eq!(status(&proxy.exchange(mixed).await), 421);
    // The scheme must be the connection's own, and no proxy request asks for https.
    let schemed = b"GET https://inference.local/v1/models HTTP/1.1\r\nHost: inference.local\r\n\r\n";
    assert_eq!(status(&proxy.exchange(schemed).await), 400);
    proxy.stop().await;
}

#[tokio::test]
async fn what_could_be_read_two_ways_is_refused_and_closed() {
    let proxy = start(Limits::default()).await;
    let good = "GET /v1/models HTTP/1.1\r\nHost: inference.local\r\n\r\n";
    let post = "POST /v1/chat/completions HTTP/1.1\r\nHost: inference.local\r\n";
    for bad in [
        format!("{post}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{good}"),
        format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{good}"),
        format!("{post}Content-Length: 0\r\nContent-Length: 60\r\n\r\n{good}"),
        format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{good}"),
        format!("{post}Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n{good}"),
        "GET /v1/models HTTP/1.1\nHost: inference.local\n\n".to_owned(),
        "GET /v1/models HTTP/1.1\r\nHost: inference.local\nX: y\r\n\r\n".to_owned(),
        "GET /v1/models HTTP/1.1\r\nHost: inference.local\r\n evil.example\r\n\r\n".to_owned(),
        "GET /v1/models HTTP/1.1\r\nHost: inference.local\r\nHost: evil.example\r\n\r\n".to_owned(),
        "GET /v1/models HTTP/1.1\r\nHost: inference.local\0evil\r\n\r\n".to_owned(),
        "GET /v1/models HTTP/1.1\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "GET /v1/models HTTP/1.1\r\nHost: inference.local\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".to_owned(),
    ] {
        // As the first request, and behind one that is well: there the first is answered, the second is not.
        let answer = proxy.exchange(bad.as_bytes()).await;
        assert_eq!(status(&answer), 400, "{bad:?}: {answer}");
        assert!(answer.contains("\"code\":\"bad_request\""), "{answer}");
        assert_eq!(answers_in(&answer), 1, "{bad:?}: {answer}");
        for mut stream in [proxy.connect().await, proxy.tunnel("inference.local:80").await] {
            stream.write_all(format!("{good}{bad}").as_bytes()).await.unwrap();
            let answer = read_to_end(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{bad:?}: {answer}");
            let rest = &answer[answer.find("HTTP/1.1 400 ").unwrap_or_else(|| panic!("{bad:?}: {answer}"))..];
            assert_eq!(answers_in(rest), 1, "{bad:?}: {answer}");
        }
    }
    let large = format!("GET / HTTP/1.1\r\nHost: inference.local\r\nX: {}", "y".repeat(40 << 10));
    assert_eq!(status(&proxy.exchange(large.as_bytes()).await), 431);
    let broken = format!("{post}Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n{good}");
    assert!(!proxy.exchange(broken.as_bytes()).await.contains(" 200 "));
    proxy.stop().await;
}

#[tokio::test]
async fn a_refused_connect_is_not_followed_by_another_request() {
    let proxy = start(Limits::default()).await;
    let answer = proxy
        .exchange(
            b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n\
              GET /v1/models HTTP/1.1\r\nHost: inference.local\r\n\r\n",
        )
        .await;
    assert_eq!((status(&answer), answers_in(&answer)), (403, 1), "{answer}");
    // Nor may a CONNECT come later on a connection that has served requests.
    let mut stream = proxy.connect().await;
    stream.write_all(b"GET /v1/models HTTP/1.1\r\nHost: inference.local\r\n\r\n").await.unwrap();
    assert!(read_answer(&mut stream).await.0.starts_with("HTTP/1.1 200 "));
    stream.write_all(b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_to_end(&mut stream).await), 400);
    proxy.stop().await;
}

#[tokio::test]
async fn slow_heads_and_handshakes_are_closed() {
    let limits = Limits { head: Duration::from_millis(700), ..Limits::default() };
    let proxy = start(limits).await;
    assert_eq!(status(&proxy.exchange(b"GET / HTTP/1.1\r\nHost: infer").await), 408);
    assert_eq!(status(&proxy.exchange(b"").await), 408);
    let mut handshake = proxy.tunnel("inference.local:443").await;
    handshake.write_all(&[0x16, 3, 1]).await.unwrap();
    assert_eq!(read_to_end(&mut handshake).await, "");
    let mut inside = proxy.tls("inference.local").await.unwrap();
    inside.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    assert_eq!(read_to_end(&mut inside).await, "");
    // A drop at a time does not buy more time.
    let mut stream = proxy.connect().await;
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    let drip = async {
        for byte in b"GET / HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'y')) {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            pace.tick().await;
        }
    };
    tokio::time::timeout(common::DEADLINE, drip).await.expect("the slow head is cut off");
    proxy.stop().await;
}

#[tokio::test]
async fn idle_connections_are_closed_and_busy_ones_are_not() {
    let limits = Limits { head: Duration::from_secs(20), idle: Duration::from_secs(1), ..Limits::default() };
    let proxy = start(limits).await;
    let mut stream = proxy.tls("inference.local").await.unwrap();
    let begin = std::time::Instant::now();
    while begin.elapsed() < limits.idle * 2 {
        stream.write_all(b"GET /v1/models HTTP/1.1\r\nHost: inference.local\r\n\r\n").await.unwrap();
        assert!(read_answer(&mut stream).await.1.contains("canary"));
    }
    assert_eq!(read_to_end(&mut stream).await, "");
    proxy.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let mut proxy = start(Limits { connections: 4, ..Limits::default() }).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        // An answered request proves that the connection has its place.
        let mut stream = proxy.connect().await;
        stream.write_all(b"GET /v1/models HTTP/1.1\r\nHost: inference.local\r\n\r\n").await.unwrap();
        read_answer(&mut stream).await;
        assert_eq!(proxy.event().await.action, Action::Allow);
        open.push(stream);
    }
    let answer = proxy.exchange(b"CONNECT inference.local:443 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status(&answer), 503, "{answer}");
    assert!(answer.contains("\"too_many_connections\""), "{answer}");
    assert_eq!(proxy.event().await.reason, Reason::Connections);
    drop(open);
    let served = async {
        loop {
            let answer = proxy
                .exchange(b"GET /v1/models HTTP/1.1\r\nHost: inference.local\r\nConnection: close\r\n\r\n")
                .await;
            if status(&answer) == 200 {
                break;
            }
        }
    };
    tokio::time::timeout(common::DEADLINE, served).await.expect("closed connections free their places");
    proxy.stop().await;
}

/// A sandbox that asks a thousand things, and nobody who listens to the events: nothing stops.
#[tokio::test]
async fn unread_events_stop_nothing() {
    let proxy = start(Limits::default()).await;
    for _ in 0..1_200 {
        let answer = proxy.exchange(b"CONNECT evil:1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(status(&answer), 403);
    }
    proxy.stop().await;
}
