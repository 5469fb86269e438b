//! What the model route adds, as a table: `cargo bench -p clawkeep-inference --bench inference`. A provider on loopback
//! that streams events of a known pace is asked directly and through a `Service`, in turns in the same run. Without the
//! proxy's TLS in front of it.

#[path = "table.rs"]
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clawkeep_inference::{BoxBody, Provider, Route, Service};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body;
use hyper_util::rt::TokioIo;
use table::{machine, row};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Streams that are asked for each way.
const STREAMS: usize = 400;

/// Events of a stream.
const EVENTS: usize = 16;

/// How long the provider takes for each.
const PACE: Duration = Duration::from_millis(2);

/// Streams at once.
const PARALLEL: usize = 64;

const BODY: &str = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hello"}]}"#;

/// Times of one stream, as its reader sees them.
struct Times {
    first: Duration,
    rest: Vec<Duration>,
}

#[tokio::main]
async fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(provide(stream));
        }
    });
    let route = Route::new(Provider::Custom, Some(&format!("http://{address}/v1")), "m", false).unwrap();
    let service = Arc::new(Service::new(route, None).unwrap());
    let mut connection = connect(address).await;

    println!("{}\n\n| figure | n | p50 | p99 | max |\n|---|---|---|---|---|", machine());
    let (mut direct, mut routed) = (Vec::new(), Vec::new());
    for _ in 0..STREAMS {
        let asked = Instant::now();
        direct.push(read(asked, connection.send_request(request()).await.unwrap().into_body()).await);
        routed.push(through(&service).await);
    }
    rows("directly", direct);
    rows("by the route", routed);

    let before = resident_kib();
    let asked = (0..PARALLEL).map(|_| {
        let service = Arc::clone(&service);
        tokio::spawn(async move { through(&service).await })
    });
    let (mut together, mut peak) = (Vec::new(), before);
    for stream in asked.collect::<Vec<_>>() {
        together.push(stream.await.unwrap());
        peak = peak.max(resident_kib());
    }
    rows(&format!("by the route, {PARALLEL} at once"), together);
    println!(
        "\nRSS of this process, the provider in it: {before} KiB before those {PARALLEL}, {peak} KiB at most after"
    );
}

fn rows(how: &str, times: Vec<Times>) {
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for stream in times {
        first.push(stream.first);
        rest.extend(stream.rest);
    }
    row(&format!("{how}: asked, to the first event"), &mut first);
    row(&format!("{how}: written, to read, a later event"), &mut rest);
}

fn request() -> Request<BoxBody> {
    let body = Full::new(Bytes::from_static(BODY.as_bytes())).map_err(|never| match never {}).boxed_unsync();
    let head = Request::post("/v1/chat/completions").header("host", "bench");
    head.header("content-type", "application/json").body(body).unwrap()
}

async fn through(service: &Service) -> Times {
    let asked = Instant::now();
    let answer = service.respond(request()).await;
    assert_eq!(answer.status(), 200);
    read(asked, answer.into_body()).await
}

async fn read<B: Body<Data = Bytes> + Unpin>(asked: Instant, mut body: B) -> Times
where
    B::Error: std::fmt::Debug,
{
    let (mut first, mut rest) = (None, Vec::new());
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap_or_default();
        match first {
            None => first = Some(asked.elapsed()),
            // The provider writes when it wrote.
            Some(_) => rest.push(now().saturating_sub(written(&data))),
        }
    }
    assert_eq!(rest.len(), EVENTS - 1, "each event comes in a frame of its own");
    Times { first: first.unwrap(), rest }
}

/// Since the first call in this process.
fn now() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed()
}

fn written(event: &[u8]) -> Duration {
    let digits: String =
        event.iter().filter(|byte| byte.is_ascii_digit()).map(|byte| *byte as char).collect();
    Duration::from_nanos(digits.parse().expect("the time of writing"))
}

async fn connect(address: std::net::SocketAddr) -> hyper::client::conn::http1::SendRequest<BoxBody> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Answers request after request with a stream of events.
async fn provide(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut held = Vec::new();
    loop {
        while !held.windows(BODY.len()).any(|part| part == BODY.as_bytes()) {
            let read = stream.read_buf(&mut held).await.ok()?;
            (read > 0).then_some(())?;
        }
        held.clear();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut write = head.to_owned();
        for _ in 0..EVENTS {
            let event = format!("data: {{\"at\":{}}}\n\n", now().as_nanos());
            write += &format!("{:x}\r\n{event}\r\n", event.len());
            stream.write_all(write.as_bytes()).await.ok()?;
            write.clear();
            tokio::time::sleep(PACE).await;
        }
        stream.write_all(b"0\r\n\r\n").await.ok()?;
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
}
