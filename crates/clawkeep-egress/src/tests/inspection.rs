//! Requests that are decided on one by one, over HTTP/1.1 and HTTP/2.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clawkeep_inference::BoxBody;
use clawkeep_policy::Reason as Policy;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::world::{DEADLINE, Tls, World, matcher, read_exactly, read_head, read_to_end, status, text};
use crate::{Action, Reason};

const RULES: &str = "protocol: rest, rules: [{allow: {method: GET, path: \"/public/**\"}}, {allow: {method: POST, path: /post}}]";

/// An inspected endpoint whose origin speaks TLS and tells what it was asked.
async fn inspected(rules: &str, http2: bool) -> (World, String) {
    let (listener, port) = World::origin().await;
    let mut world = World::new(matcher(&[format!("{{host: a.example, port: {port}, {rules}}}")])).await;
    world.http(listener, Some(("a.example", http2)), |request| async move {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let body = request.into_body().collect().await.map(|body| body.to_bytes().len());
        text(format!("{method} {} {:?}", uri.path_and_query().unwrap(), body.ok()))
    });
    (world, format!("a.example:{port}"))
}

fn get(target: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

#[tokio::test]
async fn each_request_is_decided_on_and_sent_in_one_spelling() {
    let (mut world, target) = inspected(RULES, false).await;
    let mut stream = world.inspected(&target, &[]).await;
    for (path, sent) in [("/public/x?q=1", "/public/x?q=1"), ("/%70ublic/%78", "/public/x")] {
        stream.write_all(get(&target, path).as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
        let body = format!("GET {sent} Some(0)");
        assert_eq!(read_exactly(&mut stream, body.len()).await, body);
    }
    let refused = [
        ("GET", "/public/../secret?token=hunter2", 400, Reason::Malformed),
        ("GET", "/public/%2e%2e/secret", 400, Reason::Malformed),
        ("GET", "/public//x", 400, Reason::Malformed),
        ("OPTIONS", "*", 400, Reason::Malformed),
        ("GET", "/secret?token=hunter2", 403, Reason::Policy(Policy::Request)),
        ("HEAD", "/public/x", 403, Reason::Policy(Policy::Request)),
        ("OPTIONS", "/public/x", 403, Reason::Policy(Policy::Request)),
        ("TRACE", "/public/x", 403, Reason::Policy(Policy::Method)),
        ("GET", "/public/a%2fb", 403, Reason::Policy(Policy::EncodedSlash)),
    ];
    for (method, path, code, reason) in refused {
        let mut stream = world.inspected(&target, &[]).await;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert_eq!(status(&answer), code, "{method} {path}: {answer}");
        let event = world.event(Action::Deny).await;
        assert_eq!(event.reason, reason, "{method} {path}");
        let told = format!("{answer}{}", serde_json::to_string(&event).unwrap());
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[tokio::test]
async fn a_refusal_says_what_rule_came_nearest_and_what_to_do() {
    let (listener, port) = World::origin().await;
    let mut world =
        World::new(matcher(&[format!("{{host: a.example, ports: [443, {port}], {RULES}}}")])).await;
    world.reroute_to(port);
    world.http(listener, Some(("a.example", false)), |_| async { text("hello") });
    let mut stream = world.inspected("a.example:443", &[]).await;
    stream.write_all(b"DELETE /public/x?q HTTP/1.1\r\nHost: a.example\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/json"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&body).unwrap());
    let mut event = world.event(Action::Deny).await;
    event.address = None;
    insta::assert_snapshot!(serde_json::to_string_pretty(&event).unwrap());
}

#[tokio::test]
async fn two_requests_in_one_write_are_two_decisions() {
    let (world, target) = inspected(RULES, false).await;
    let mut stream = world.inspected(&target, &[]).await;
    let both = get(&target, "/public/x") + &get(&target, "/secret");
    stream.write_all(both.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("HTTP/1.1 403 "), "{answer}");
    assert!(!answer.contains("GET /secret Some"), "{answer}");
}

#[tokio::test]
async fn what_could_smuggle_a_request_reaches_no_origin() {
    let (listener, port) = World::origin().await;
    let mut world = World::new(matcher(&[format!("{{host: a.example, port: {port}, {RULES}}}")])).await;
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = heard.clone();
    world.http(listener, Some(("a.example", false)), move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        async { text("heard") }
    });
    let target = format!("a.example:{port}");
    let post = format!("POST /post HTTP/1.1\r\nHost: {target}\r\n");
    let inner = get(&target, "/secret");
    for hostile in [
        format!("{post}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{inner}"),
        format!("{post}Content-Length: 0\r\nContent-Length: {}\r\n\r\n{inner}", inner.len()),
        format!("{post}Content-Length: 0, 5\r\n\r\n{inner}"),
        format!("{post}Content-Length: +0\r\n\r\n{inner}"),
        format!("{post}Transfer-Encoding: xchunked\r\n\r\n{inner}"),
        format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{inner}"),
        format!("{post}Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{post} Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{post}X: y\r\n\tTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{post}X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{post}X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{post}X: \0\r\n\r\n{inner}"),
        format!("{post}Host: evil.example\r\n\r\n{inner}"),
        format!(
            "POST /post HTTP/1.0\r\nHost: {target}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
        ),
        format!("POST /post HTTP/1.1 HTTP/1.1\r\nHost: {target}\r\n\r\n{inner}"),
        format!("POST /post\tHTTP/1.1\r\nHost: {target}\r\n\r\n{inner}"),
        format!("POST /post\u{a0}x HTTP/1.1\r\nHost: {target}\r\n\r\n{inner}"),
        format!("{post}Connection: upgrade\r\nUpgrade: websocket\r\n\r\n{inner}"),
        format!(
            "GET /public/x HTTP/1.1\r\nHost: {target}\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AA\r\n\r\n{inner}"
        ),
    ] {
        let mut stream = world.inspected(&target, &[]).await;
        stream.write_all(hostile.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert_eq!(status(&answer), 400, "{hostile:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{hostile:?}: {answer}");
        assert_eq!(heard.load(Ordering::SeqCst), 0, "{hostile:?}");
    }
}

#[tokio::test]
async fn a_request_for_another_host_is_misdirected() {
    let (mut world, target) = inspected(RULES, false).await;
    for request in [
        "GET /public/x HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(),
        "GET /public/x HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(),
        format!("GET https://evil.example/public/x HTTP/1.1\r\nHost: {target}\r\n\r\n"),
    ] {
        let mut stream = world.inspected(&target, &[]).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(status(&read_to_end(&mut stream).await), 421, "{request}");
        assert_eq!(world.event(Action::Deny).await.reason, Reason::OtherHost);
    }
}

#[tokio::test]
async fn an_origin_that_is_not_trusted_is_told_in_an_answer() {
    let (listener, port) = World::origin().await;
    let mut world = World::new(matcher(&[format!("{{host: a.example, port: {port}, {RULES}}}")])).await;
    world.http(listener, Some(("b.example", true)), |_| async { text("never") });
    let target = format!("a.example:{port}");
    let mut stream = world.inspected(&target, &[b"http/1.1"]).await;
    stream.write_all(get(&target, "/public/x").as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert_eq!(status(&answer), 502, "{answer}");
    assert!(answer.contains("\"code\":\"upstream_tls\""), "{answer}");
    assert_eq!(world.event(Action::Deny).await.reason, Reason::Untrusted);
}

async fn http2(stream: Tls) -> hyper::client::conn::http2::SendRequest<BoxBody> {
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(method: &str, target: &str, path: &str, body: &'static str) -> Request<BoxBody> {
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
    Request::builder().method(method).uri(format!("https://{target}{path}")).body(body).unwrap()
}

#[tokio::test]
async fn http2_is_decided_on_request_by_request() {
    let (mut world, target) = inspected(RULES, true).await;
    let mut sender = http2(world.inspected(&target, &[b"h2", b"http/1.1"]).await).await;
    let both = (
        sender.send_request(request("GET", &target, "/public/x", "")),
        sender.send_request(request("POST", &target, "/post", "body")),
    );
    let (one, two) = tokio::join!(both.0, both.1);
    let read = async |answer: Response<Incoming>| {
        let status = answer.status().as_u16();
        (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().into()).unwrap())
    };
    assert_eq!(read(one.unwrap()).await, (200, "GET /public/x Some(0)".to_owned()));
    assert_eq!(read(two.unwrap()).await, (200, "POST /post Some(4)".to_owned()));
    let (code, body) = read(sender.send_request(request("GET", &target, "/secret", "")).await.unwrap()).await;
    assert!(code == 403 && body.contains("clawkeep box policy requests"), "{code} {body}");
    assert_eq!(world.event(Action::Deny).await.reason, Reason::Policy(Policy::Request));
    let (code, _) =
        read(sender.send_request(request("GET", "b.example", "/public/x", "")).await.unwrap()).await;
    assert_eq!(code, 421);
    let mut contradicting = request("GET", &target, "/public/x", "");
    contradicting.headers_mut().insert("host", HeaderValue::from_static("evil.example"));
    let (code, _) = read(sender.send_request(contradicting).await.unwrap()).await;
    assert_eq!(code, 421);
    // A refusal of one stream is no end of the others.
    let again = sender.send_request(request("GET", &target, "/public/y", "")).await.unwrap();
    assert_eq!(again.status(), 200);
}

#[tokio::test]
async fn what_the_origin_speaks_is_what_is_offered() {
    let (world, target) = inspected(RULES, false).await;
    let stream = world.inspected(&target, &[b"h2", b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    // A client that speaks nothing else is served, and its cookies are put into one field.
    let mut sender = http2(world.inspected(&target, &[b"h2"]).await).await;
    let answer = sender.send_request(request("POST", &target, "/post", "body")).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "POST /post Some(4)");
}

/// A body that is sent as the test says.
fn stream_of(frames: mpsc::Receiver<Frame<Bytes>>) -> BoxBody {
    let mut frames = frames;
    let stream = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx).map(|frame| frame.map(Ok)));
    StreamBody::new(stream).boxed_unsync()
}

#[tokio::test]
async fn events_arrive_before_the_next_is_sent_and_trailers_at_the_end() {
    for protocol in [&b"h2"[..], b"http/1.1"] {
        let (listener, port) = World::origin().await;
        let mut world = World::new(matcher(&[format!("{{host: a.example, port: {port}, {RULES}}}")])).await;
        let (sender, frames) = mpsc::channel(1);
        let frames = Arc::new(std::sync::Mutex::new(Some(frames)));
        world.http(listener, Some(("a.example", protocol == b"h2")), move |_| {
            let mut answer = Response::new(stream_of(frames.lock().unwrap().take().unwrap()));
            answer.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
            async { answer }
        });
        let target = format!("a.example:{port}");
        let tls = world.inspected(&target, &[protocol]).await;
        let mut asked = request("GET", &target, "/public/x", "");
        asked.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        let answer = if protocol == b"h2" {
            timeout(DEADLINE, http2(tls).await.send_request(asked)).await
        } else {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
            tokio::spawn(connection);
            *asked.uri_mut() = "/public/x".parse().unwrap();
            asked.headers_mut().insert("host", HeaderValue::from_str(&target).unwrap());
            timeout(DEADLINE, sender.send_request(asked)).await
        };
        let mut body = answer.expect("a head before the body").unwrap().into_body();
        for index in 0..3 {
            let event = Bytes::from(format!("data: {index}\n\n"));
            sender.send(Frame::data(event.clone())).await.unwrap();
            let frame = timeout(DEADLINE, body.frame()).await.expect("it arrives alone").unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), event);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("3"));
        sender.send(Frame::trailers(trailers.clone())).await.unwrap();
        let frame = timeout(DEADLINE, body.frame()).await.expect("trailers in time").unwrap().unwrap();
        assert_eq!(frame.into_trailers().unwrap(), trailers);
    }
}

/// Whoever stops reading stops the sender, after what sockets and windows hold.
#[tokio::test]
async fn a_reader_that_stops_stops_the_origin() {
    for protocol in [&b"h2"[..], b"http/1.1"] {
        let (listener, port) = World::origin().await;
        let mut world = World::new(matcher(&[format!("{{host: a.example, port: {port}, {RULES}}}")])).await;
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = sent.clone();
        world.http(listener, Some(("a.example", protocol == b"h2")), move |_| {
            let counter = counter.clone();
            let endless = futures_util::stream::repeat_with(move || {
                counter.fetch_add(64 << 10, Ordering::SeqCst);
                Ok(Frame::data(Bytes::from_static(&[0; 64 << 10])))
            });
            async { Response::new(StreamBody::new(endless).boxed_unsync()) }
        });
        let target = format!("a.example:{port}");
        let tls = world.inspected(&target, &[protocol]).await;
        let body;
        let mut raw;
        if protocol == b"h2" {
            let answer = http2(tls).await.send_request(request("GET", &target, "/public/x", "")).await;
            body = Some(answer.unwrap().into_body());
        } else {
            raw = tls;
            raw.write_all(get(&target, "/public/x").as_bytes()).await.unwrap();
            read_head(&mut raw).await;
            body = None;
        }
        // It has stopped when nothing more is sent for a while.
        let mut before = usize::MAX;
        let stopped = async {
            loop {
                let now = sent.load(Ordering::SeqCst);
                if now == before && now > 0 {
                    return now;
                }
                before = now;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let held = timeout(DEADLINE, stopped).await.expect("the origin stops");
        assert!(held < 48 << 20, "{held} bytes are on the way");
        drop(body);
    }
}

/// An origin that sends back what a WebSocket says.
async fn echo(mut request: Request<Incoming>) -> Response<BoxBody> {
    let agreed = request.uri().path() != "/no" && request.headers()["upgrade"] == "websocket";
    if !agreed {
        return text("not here");
    }
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let mut answer = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
    answer.headers_mut().insert("sec-websocket-accept", HeaderValue::from_static("x"));
    answer
}

#[tokio::test]
async fn web_sockets_pass_where_every_request_may() {
    let (listener, port) = World::origin().await;
    let mut world =
        World::new(matcher(&[format!("{{host: a.example, port: {port}, protocol: rest, access: full}}")]))
            .await;
    world.http(listener, Some(("a.example", false)), echo);
    let target = format!("a.example:{port}");
    let upgrade = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"
        )
    };
    let mut stream = world.inspected(&target, &[b"http/1.1"]).await;
    // Some of it before the answer, as no client should.
    stream.write_all((upgrade("/chat") + "early").as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("sec-websocket-accept: x"), "{head}");
    assert_eq!(read_exactly(&mut stream, 5).await, "early");
    for _ in 0..3 {
        stream.write_all(b"\x81\x05hello").await.unwrap();
        assert_eq!(read_exactly(&mut stream, 7).await, "\u{fffd}\u{5}hello");
    }
    drop(stream);
    // An origin that does not agree: its answer passes, and what came after the request is not taken for one.
    let mut stream = world.inspected(&target, &[b"http/1.1"]).await;
    stream.write_all((upgrade("/no") + &get(&target, "/smuggled")).as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.contains("connection: close") && answer.ends_with("not here"), "{answer}");
    // Where requests are told apart, nothing may leave HTTP.
    world.policy.replace(matcher(&[format!("{{host: a.example, port: {port}, {RULES}}}")]));
    let mut stream = world.inspected(&target, &[b"http/1.1"]).await;
    stream.write_all(upgrade("/public/x").as_bytes()).await.unwrap();
    assert_eq!(status(&read_to_end(&mut stream).await), 403);
    assert_eq!(world.event(Action::Deny).await.reason, Reason::Policy(Policy::Upgrade));
}

#[tokio::test]
async fn web_sockets_pass_in_plain_text_as_well() {
    let (listener, port) = World::origin().await;
    let mut world = World::new(matcher(&[format!("{{host: a.example, port: {port}}}")])).await;
    world.http(listener, None, echo);
    let target = format!("a.example:{port}");
    let mut asked_proxy = world.connect().await;
    let mut in_tunnel = world.tunnel(&target).await;
    for (stream, prefix) in [(&mut asked_proxy, format!("http://{target}")), (&mut in_tunnel, String::new())]
    {
        let upgrade = format!(
            "GET {prefix}/chat HTTP/1.1\r\nHost: {target}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        );
        stream.write_all(upgrade.as_bytes()).await.unwrap();
        assert!(read_head(stream).await.starts_with("HTTP/1.1 101 "));
        stream.write_all(b"hello").await.unwrap();
        assert_eq!(read_exactly(stream, 5).await, "hello");
    }
    // A new policy ends these as well.
    world.policy.replace(clawkeep_policy::Matcher::nothing());
    for stream in [&mut asked_proxy, &mut in_tunnel] {
        assert_eq!(read_to_end(stream).await, "");
    }
}

#[tokio::test]
async fn a_body_that_waits_for_permission_gets_it() {
    let (world, target) = inspected(RULES, false).await;
    let mut stream = world.inspected(&target, &[]).await;
    let head =
        format!("POST /post HTTP/1.1\r\nHost: {target}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut stream).await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    let mut body = [0; 18];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"POST /post Some(4)");
}

#[tokio::test]
async fn a_refusal_is_read_by_who_is_still_sending() {
    let (world, target) = inspected(RULES, false).await;
    let mut stream = world.inspected(&target, &[]).await;
    let head = format!("POST /secret HTTP/1.1\r\nHost: {target}\r\nContent-Length: 100000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..100 {
        stream.write_all(&[b'x'; 1000]).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(status(&read_to_end(&mut stream).await), 403);
    // Who waits for permission gets none, and the answer at once.
    let mut stream = world.inspected(&target, &[]).await;
    let head = head.replace("Content-Length", "Expect: 100-continue\r\nContent-Length");
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(status(&read_to_end(&mut stream).await), 403);
}

#[tokio::test]
async fn what_is_inspected_carries_tls_or_http() {
    let (mut world, target) = inspected(RULES, false).await;
    let mut stream = world.tunnel(&target).await;
    stream.write_all(b"\0\0\0\0").await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, "");
    assert_eq!(world.event(Action::Deny).await.reason, Reason::Protocol);
}
