//! What the model route adds, as a table: `cargo bench -p clawkeep-egress --bench inference`. A provider on loopback that
//! streams events of a known pace is asked directly, through a `Service`, and as an agent asks: over the TLS of a
//! sandbox's proxy in front of that service. In turns in the same run, each on a connection that is kept.

#[path = "table.rs"]
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clawkeep_egress::{Authority, LivePolicy, NoCallers, Proxy};
use clawkeep_inference::{BoxBody, HOST, LiveService, Provider, Route, Secret, Service};
use clawkeep_policy::Matcher;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use table::{machine, row};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
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
    let route = Route::new(Provider::Custom, Some(&format!("http://{address}/v1")), "m", true).unwrap();
    let key = Secret::new("sk-of-the-usual-length-0123456789abcdef".to_owned());
    let service = LiveService::new(Service::new(route, Some(key)).unwrap());
    let mut connection = connect(address).await;
    let proxy = Front::start(&service).await;
    let mut agent = proxy.connect().await;

    println!("{}\n\n| figure | n | p50 | p99 | max |\n|---|---|---|---|---|", machine());
    let (mut direct, mut routed, mut inside) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STREAMS {
        direct.push(over(&mut connection).await);
        routed.push(through(&service.current()).await);
        inside.push(over(&mut agent).await);
    }
    rows("directly", direct);
    rows("by the route", routed);
    rows("as an agent asks", inside);

    // Connected before anything is timed.
    let (mut straight, mut agents) = (Vec::new(), Vec::new());
    for _ in 0..PARALLEL {
        straight.push(connect(address).await);
        agents.push(proxy.connect().await);
    }
    rows(&format!("directly, {PARALLEL} at once"), together(straight).await.0);
    let before = resident_kib();
    let (times, peak) = together(agents).await;
    rows(&format!("as an agent asks, {PARALLEL} at once"), times);
    println!(
        "\nRSS of this process, the provider in it: {before} KiB before those {PARALLEL}, {peak} KiB at most after"
    );
}

/// Each of these connections asked once, all at the same time; and the most memory that this took, in KiB.
async fn together(connections: Vec<SendRequest<BoxBody>>) -> (Vec<Times>, u64) {
    let asked = connections.into_iter().map(|mut connection| {
        tokio::spawn(async move {
            let times = over(&mut connection).await;
            (times, resident_kib())
        })
    });
    let (mut times, mut peak) = (Vec::new(), 0);
    for stream in asked.collect::<Vec<_>>() {
        let (one, resident) = stream.await.unwrap();
        times.push(one);
        peak = peak.max(resident);
    }
    (times, peak)
}

/// A sandbox's proxy, as it is in front of the route.
struct Front {
    address: std::net::SocketAddr,
    tls: tokio_rustls::TlsConnector,
}

impl Front {
    async fn start(service: &LiveService) -> Self {
        let authority = Authority::generate().unwrap();
        let (events, mut told) = tokio::sync::mpsc::channel(1024);
        let policy = LivePolicy::new(Matcher::nothing());
        let proxy = Proxy::new(&authority, service.clone(), policy, Arc::new(NoCallers), events).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { while told.recv().await.is_some() {} });
        tokio::spawn(proxy.serve(listener, std::future::pending()));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.cert_pem().as_bytes()).unwrap()).unwrap();
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        Self { address, tls: tokio_rustls::TlsConnector::from(Arc::new(config)) }
    }

    async fn connect(&self) -> SendRequest<BoxBody> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let head = format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
        let name = ServerName::try_from(HOST).unwrap();
        kept(self.tls.connect(name, stream).await.unwrap()).await
    }
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
    let head = Request::post("/v1/chat/completions").header("host", HOST);
    head.header("content-type", "application/json").body(body).unwrap()
}

async fn over(connection: &mut SendRequest<BoxBody>) -> Times {
    connection.ready().await.unwrap();
    let asked = Instant::now();
    let answer = connection.send_request(request()).await.unwrap();
    assert_eq!(answer.status(), 200);
    read(asked, answer.into_body()).await
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
    let (mut first, mut rest, mut held) = (None, Vec::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        held.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
        while let Some(end) = held.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = held.drain(..end + 2).collect();
            match first {
                None => first = Some(asked.elapsed()),
                // The provider writes when it wrote.
                Some(_) => rest.push(now().saturating_sub(written(&event))),
            }
        }
    }
    assert_eq!(rest.len(), EVENTS - 1, "a stream is whole");
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

async fn connect(address: std::net::SocketAddr) -> SendRequest<BoxBody> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    kept(stream).await
}

async fn kept(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> SendRequest<BoxBody> {
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
