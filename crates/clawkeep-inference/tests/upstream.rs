//! What passes to a provider and back, over real connections.

mod common;

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::http::{Request, Response};
use bytes::Bytes;
use clawkeep_inference::{BoxBody, MAX_FORWARDED_BODY, Timeouts};
use common::{DEADLINE, KEY, chat, full, get, http, raw, refused_url, reply, service, service_within, whole};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::timeout;

#[tokio::test]
async fn the_key_arrives_and_what_the_agent_said_about_itself_does_not() {
    let seen = Arc::new(Mutex::new(None));
    let record = seen.clone();
    let provider = http(move |request: Request<Incoming>| {
        let record = record.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            *record.lock().unwrap() = Some((parts, body));
            let mut answer = reply(200, "{\"ok\":true}");
            for (name, value) in [("set-cookie", "a=b"), ("x-request-id", "r1"), ("alt-svc", "h3=\":443\"")] {
                answer.headers_mut().insert(name, value.parse().unwrap());
            }
            answer
        }
    })
    .await;
    let request = Request::post("/v1/chat/completions?api-version=1&key=inside-key")
        .header("host", "inference.local")
        .header("authorization", "Bearer inside-token")
        .header("x-api-key", "inside-key")
        .header("cookie", "inside=1")
        .header("proxy-authorization", "Basic aW5zaWRl")
        .header("x-forwarded-for", "10.0.0.1")
        .header("connection", "x-custom")
        .header("x-custom", "1")
        .header("content-type", "application/json")
        .header("user-agent", "agent/1")
        .header("x-stainless-lang", "js")
        .body(full("{\"model\":\"as-said\"}"))
        .unwrap();
    let response = service(&provider.url).respond(request).await;
    assert_eq!(response.headers()["x-request-id"], "r1");
    assert!(!response.headers().contains_key("set-cookie") && !response.headers().contains_key("alt-svc"));
    assert_eq!(whole(response).await, (200, "{\"ok\":true}".to_owned()));

    let (parts, body) = seen.lock().unwrap().take().unwrap();
    assert_eq!(parts.uri, "/base/v1/chat/completions?api-version=1");
    assert_eq!(body, "{\"model\":\"as-said\"}");
    assert_eq!(parts.headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!(parts.headers["host"], provider.url["http://".len()..].strip_suffix("/base/v1").unwrap());
    let mut names: Vec<_> = parts.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    let expected =
        ["authorization", "content-length", "content-type", "host", "user-agent", "x-stainless-lang"];
    assert_eq!(names, expected);
}

/// A body that gives what is sent into its channel.
struct Channel(tokio::sync::mpsc::Receiver<Bytes>);

impl Body for Channel {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn channel() -> (tokio::sync::mpsc::Sender<Bytes>, BoxBody) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    (sender, Channel(receiver).map_err(|never| match never {}).boxed_unsync())
}

async fn next(body: &mut BoxBody) -> Option<Result<Bytes, String>> {
    let frame = timeout(DEADLINE, body.frame()).await.expect("a frame or an end in time")?;
    Some(frame.map(|frame| frame.into_data().unwrap()).map_err(|error| error.to_string()))
}

#[tokio::test]
async fn pieces_arrive_while_the_provider_still_writes() {
    let written = Arc::new(Notify::new());
    let proceed = written.clone();
    let provider = http(move |_| {
        let proceed = proceed.clone();
        async move {
            let (sender, body) = channel();
            tokio::spawn(async move {
                for index in 0..5 {
                    sender.send(Bytes::from(format!("data: {index}\n\n"))).await.unwrap();
                    // The next piece is written only after the reader has this one.
                    proceed.notified().await;
                }
            });
            Response::new(body)
        }
    })
    .await;
    let mut body = service(&provider.url).respond(chat("{}")).await.into_body();
    for index in 0..5 {
        assert_eq!(next(&mut body).await, Some(Ok(Bytes::from(format!("data: {index}\n\n")))));
        written.notify_one();
    }
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test]
async fn a_slow_reader_slows_the_provider_down() {
    let (report, stalled) = tokio::sync::oneshot::channel();
    let report = Arc::new(Mutex::new(Some(report)));
    let provider = raw(move |mut stream| {
        let report = report.clone();
        async move {
            let mut head = [0_u8; 4096];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await.unwrap();
            let block = vec![b'x'; 1 << 20];
            let mut sent = 0_usize;
            while let Ok(Ok(n)) = timeout(Duration::from_secs(1), stream.write(&block)).await {
                sent += n;
            }
            report.lock().unwrap().take().unwrap().send(sent).unwrap();
        }
    })
    .await;
    let response = service(&provider.url).respond(chat("{}")).await;
    let sent = timeout(DEADLINE, stalled).await.unwrap().unwrap();
    assert!(sent < 64 << 20, "{sent} bytes were taken from the provider though nobody reads");
    drop(response);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_and_no_end() {
    let provider = raw(|mut stream| async move {
        let mut head = [0_u8; 4096];
        assert!(stream.read(&mut head).await.unwrap() > 0);
        let part = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
        stream.write_all(part).await.unwrap();
    })
    .await;
    let mut body = service(&provider.url).respond(chat("{}")).await.into_body();
    assert_eq!(next(&mut body).await, Some(Ok(Bytes::from("hello"))));
    assert!(matches!(next(&mut body).await, Some(Err(_))));
}

#[tokio::test]
async fn what_takes_too_long_ends() {
    let timeouts = Timeouts { head: Duration::from_millis(100), ..Timeouts::default() };
    let silent = http(|_| std::future::pending()).await;
    let (status, body) = whole(service_within(&silent.url, timeouts).respond(chat("{}")).await).await;
    assert_eq!(status, 504);
    assert!(body.contains("upstream_timeout"), "{body}");

    let stalling = http(|_| async {
        let (sender, body) = channel();
        sender.send(Bytes::from("a")).await.unwrap();
        tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(sender);
        });
        Response::new(body)
    })
    .await;
    let timeouts = Timeouts { idle: Duration::from_millis(100), ..Timeouts::default() };
    let mut body = service_within(&stalling.url, timeouts).respond(chat("{}")).await.into_body();
    assert_eq!(next(&mut body).await, Some(Ok(Bytes::from("a"))));
    assert_eq!(next(&mut body).await, Some(Err("the provider stopped sending".to_owned())));
}

#[tokio::test]
async fn failures_are_told_by_class_without_address_or_key() {
    let gone = raw(|stream| async move { drop(stream) }).await;
    let babbling = raw(|mut stream| async move {
        let _ = stream.write_all(b"SSH-2.0-hello\r\n\r\n").await;
        let _ = stream.read(&mut [0_u8; 4096]).await;
    })
    .await;
    let redirecting = http(|_| async {
        let mut answer = reply(302, "");
        answer.headers_mut().insert("location", "http://169.254.169.254/".parse().unwrap());
        answer
    })
    .await;
    let plain_for_tls = gone.url.replace("http://", "https://");
    for (url, code) in [
        (refused_url().await.as_str(), "upstream_connect"),
        ("http://no-such-host.invalid/v1", "upstream_dns"),
        (&plain_for_tls, "upstream_tls"),
        (&gone.url, "upstream_protocol"),
        (&babbling.url, "upstream_protocol"),
        (&redirecting.url, "upstream_redirect"),
    ] {
        let (status, body) = whole(service(url).respond(chat("{}")).await).await;
        assert_eq!(status, 502, "{url}: {body}");
        assert!(body.contains(code), "{url}: {body}");
        let hidden = [KEY, "127.0.0.1", "invalid/", "169.254"];
        assert!(hidden.iter().all(|hidden| !body.contains(hidden)), "{url}: {body}");
    }
}

#[tokio::test]
async fn statuses_of_the_provider_pass_unchanged() {
    let provider = http(|_| async { reply(429, "slow down") }).await;
    assert_eq!(whole(service(&provider.url).respond(chat("{}")).await).await, (429, "slow down".to_owned()));
}

#[tokio::test]
async fn unknown_calls_never_reach_the_provider() {
    let provider = http(|_| async { reply(200, "") }).await;
    let service = service(&provider.url);
    for path in ["/", "/v1/files", "/v1/models/../files", "/v1/models%2f..", "/v1//models", "/base/v1/models"]
    {
        assert_eq!(service.respond(get(path)).await.status(), 404, "{path}");
    }
    assert_eq!(provider.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn connections_are_kept_and_replaced_when_the_provider_closes_them() {
    let provider = http(|_| async { reply(200, "ok") }).await;
    let keeping = service(&provider.url);
    for _ in 0..5 {
        assert_eq!(whole(keeping.respond(chat("{}")).await).await.0, 200);
    }
    assert_eq!(provider.connections.load(Ordering::SeqCst), 1);

    // Says that it keeps the connection, and closes it after one answer.
    let closing = raw(|mut stream| async move {
        let mut head = [0_u8; 4096];
        if stream.read(&mut head).await.is_ok() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let replacing = service(&closing.url);
    for round in 0..20 {
        let (status, body) = whole(replacing.respond(get("/v1/models")).await).await;
        // A request that meets the close itself fails; it may not be sent twice. The next one works.
        assert!(status == 200 || status == 502, "{round}: {status} {body}");
    }
    assert!(closing.connections.load(Ordering::SeqCst) >= 2);
}

#[tokio::test]
async fn a_request_without_end_is_cut_off() {
    let provider = http(|request: Request<Incoming>| async {
        let mut body = request.into_body();
        while let Some(Ok(_)) = body.frame().await {}
        reply(200, "read it all")
    })
    .await;
    let (sender, body) = channel();
    tokio::spawn(async move {
        let block = Bytes::from(vec![b'x'; 1 << 20]);
        for _ in 0..=MAX_FORWARDED_BODY >> 20 {
            if sender.send(block.clone()).await.is_err() {
                break;
            }
        }
    });
    let request = Request::post("/v1/chat/completions").body(body).unwrap();
    let (status, body) = whole(service(&provider.url).respond(request).await).await;
    assert_eq!(status, 413, "{body}");
}

#[tokio::test]
async fn a_provider_that_sends_the_key_back_does_not_show_it_to_the_agent() {
    let provider = http(|request: Request<Incoming>| async move {
        let shown = request.headers()["authorization"].to_str().unwrap().to_owned();
        let (sender, body) = channel();
        let status = if request.uri().path().ends_with("models") { 401 } else { 200 };
        let text = format!("data: {{\"error\":\"{shown} is wrong\"}}\n\n");
        let answer = Response::builder().status(status).header("x-echo", &shown);
        tokio::spawn(async move {
            // Cut in every place of it.
            for byte in text.bytes() {
                if sender.send(Bytes::from(vec![byte])).await.is_err() {
                    return;
                }
            }
            let _ = sender.send(Bytes::from(text)).await;
        });
        answer.body(body).unwrap()
    })
    .await;
    let service = service(&provider.url);
    for request in [chat("{}"), get("/v1/models")] {
        let answer = service.respond(request).await;
        let covered = "*".repeat(KEY.len());
        assert_eq!(answer.headers()["x-echo"], format!("Bearer {covered}"));
        let (_, body) = whole(answer).await;
        assert_eq!(body, format!("data: {{\"error\":\"Bearer {covered} is wrong\"}}\n\n").repeat(2));
    }
}
