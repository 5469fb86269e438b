//! The metrics over HTTP, on the loopback, where somebody wants that.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clawkeep_store::{Home, atomic};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::format::MEDIA_TYPE;
use super::page;
use crate::api::{Failure, MetricsStatus, Value};
use crate::server::Daemon;

/// Where it is kept that they are served.
const FILE: &str = "metrics.json";

/// Connections at once; one more waits.
const CONNECTIONS: usize = 8;

/// The longest that one may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one page serves all: who reads it as often as it can costs no more than this.
const FRESH: Duration = Duration::from_millis(500);

/// Between two attempts to listen where somebody else does.
const AGAIN: Duration = Duration::from_secs(5);

/// Where the metrics are served.
pub struct Metrics {
    dir: PathBuf,
    state: Mutex<State>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    status: MetricsStatus,
    task: Option<JoinHandle<()>>,
}

/// The form of the file.
#[derive(Serialize, Deserialize)]
struct Stored {
    listen: SocketAddr,
}

impl Metrics {
    /// Of this home, nowhere yet.
    pub fn new(home: &Home) -> Self {
        Self { dir: home.root().to_owned(), state: Mutex::default(), changing: tokio::sync::Mutex::default() }
    }

    /// Where they are served.
    pub fn served(&self) -> MetricsStatus {
        self.state().status.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, status: MetricsStatus, task: Option<JoinHandle<()>>) {
        let mut state = self.state();
        state.status = status;
        if let Some(old) = std::mem::replace(&mut state.task, task) {
            old.abort();
        }
    }

    fn stored(&self) -> io::Result<Option<SocketAddr>> {
        match std::fs::read(self.dir.join(FILE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice::<Stored>(&bytes)?.listen)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn store(&self, listen: Option<SocketAddr>) -> Result<(), Failure> {
        let stored = || {
            let dir = atomic::open_dir(&self.dir)?;
            match listen {
                Some(listen) => {
                    let text = serde_json::to_vec(&Stored { listen })?;
                    atomic::write(&dir, FILE, &text, Mode::RUSR | Mode::WUSR)
                }
                None => atomic::remove(&dir, FILE).map(drop),
            }
        };
        stored().map_err(|error: io::Error| {
            let what = format!("{}: {error}", self.dir.join(FILE).display());
            Failure::new("metrics-not-set", what, "df -h, and clawkeep status".to_owned())
        })
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.put(MetricsStatus::default(), None);
    }
}

/// Serve them there from now on, or nowhere. On a failure it is as it was.
pub async fn serve(daemon: &Arc<Daemon>, listen: Option<SocketAddr>) -> Result<Value, Failure> {
    let metrics = &daemon.metrics;
    let _one = metrics.changing.lock().await;
    let Some(wanted) = listen else {
        metrics.store(None)?;
        metrics.put(MetricsStatus::default(), None);
        return Ok(Value::Metrics(metrics.served()));
    };
    let now = metrics.served();
    if now.listen == Some(wanted) && now.trouble.is_none() {
        return Ok(Value::Metrics(now));
    }
    let listener = bind(wanted).await.map_err(|error| taken(wanted, &error))?;
    let listen = listener.local_addr().unwrap_or(wanted);
    metrics.store(Some(listen))?;
    let task = tokio::spawn(accept(listener, Arc::downgrade(daemon)));
    metrics.put(MetricsStatus { listen: Some(listen), trouble: None }, Some(task));
    Ok(Value::Metrics(metrics.served()))
}

/// As the last daemon did. Where somebody else has the port it is tried until it is free, and told meanwhile.
pub fn resume(daemon: &Arc<Daemon>) {
    let listen = match daemon.metrics.stored() {
        Ok(Some(listen)) => listen,
        Ok(None) => return,
        Err(error) => {
            let trouble = format!("metrics are not served: {FILE}: {error}");
            daemon.note("metrics-not-served", &trouble);
            return daemon.metrics.put(MetricsStatus { listen: None, trouble: Some(trouble) }, None);
        }
    };
    // Before the task is there, which says otherwise as soon as it can.
    let trouble = Some("metrics are not served yet".to_owned());
    daemon.metrics.put(MetricsStatus { listen: Some(listen), trouble }, None);
    let weak = Arc::downgrade(daemon);
    let task = tokio::spawn(async move {
        let mut told = false;
        loop {
            let bound = bind(listen).await;
            let Some(daemon) = weak.upgrade() else { return };
            match bound {
                Ok(listener) => {
                    daemon.metrics.state().status.trouble = None;
                    drop(daemon);
                    return accept(listener, weak).await;
                }
                Err(error) => {
                    let why = taken(listen, &error);
                    let next = why.next.unwrap_or_default();
                    let trouble = format!("metrics are not served: {} (tried again; or {next})", why.message);
                    if !std::mem::replace(&mut told, true) {
                        daemon.note("metrics-not-served", &trouble);
                    }
                    daemon.metrics.state().status.trouble = Some(trouble);
                }
            }
            drop(daemon);
            tokio::time::sleep(AGAIN).await;
        }
    });
    daemon.metrics.state().task = Some(task);
}

async fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    if !listen.ip().is_loopback() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not an address of the loopback"));
    }
    TcpListener::bind(listen).await
}

fn taken(listen: SocketAddr, error: &io::Error) -> Failure {
    let next = "clawkeep metrics --listen 127.0.0.1:PORT".to_owned();
    match error.kind() {
        ErrorKind::AddrInUse => {
            Failure::new("port-taken", format!("{listen} is taken by another program"), next)
        }
        _ => Failure::new("metrics-not-set", format!("cannot listen at {listen}: {error}"), next),
    }
}

/// Serve until the daemon is no more.
async fn accept(listener: TcpListener, daemon: Weak<Daemon>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let fresh = Arc::new(Mutex::new(None));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, mostly.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if daemon.strong_count() == 0 {
            return;
        }
        let (daemon, fresh) = (daemon.clone(), Arc::clone(&fresh));
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| {
                let answer = answer(&request, || current(&daemon, &fresh));
                async { Ok::<_, Infallible>(answer) }
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            server
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .max_buf_size(16 << 10);
            // One that breaks off is the asker's matter.
            let _ =
                tokio::time::timeout(PATIENCE, server.serve_connection(TokioIo::new(stream), service)).await;
            drop(place);
        });
    }
}

/// The page of now, or of a moment ago.
fn current(daemon: &Weak<Daemon>, fresh: &Mutex<Option<(Instant, Bytes)>>) -> Bytes {
    let mut fresh = fresh.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, text)) = &*fresh
        && at.elapsed() < FRESH
    {
        return text.clone();
    }
    let text = Bytes::from(daemon.upgrade().map(|daemon| page(&daemon)).unwrap_or_default());
    *fresh = Some((Instant::now(), text.clone()));
    text
}

fn answer<B>(request: &Request<B>, page: impl FnOnce() -> Bytes) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        // A page in a browser whose name was led here after it was loaded must not read them.
        _ if !is_for_us(request.headers()) => {
            (StatusCode::MISDIRECTED_REQUEST, "this is not that host\n".into())
        }
        "/metrics" if matches!(*request.method(), Method::GET | Method::HEAD) => (StatusCode::OK, page()),
        "/metrics" => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into()),
        _ => (StatusCode::NOT_FOUND, "there is /metrics and nothing else\n".into()),
    };
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

/// Whether it names this host by an address of the loopback, or as `localhost`, or not at all (HTTP/1.0).
fn is_for_us(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_page_is_there_and_only_for_this_host() {
        let ask = |method: &str, path: &str, host: &str| {
            let request = Request::builder().method(method).uri(path).header("host", host).body(()).unwrap();
            answer(&request, || "page".into()).status().as_u16()
        };
        for host in ["127.0.0.1:9464", "localhost", "[::1]:1", "127.9.9.9", "LOCALHOST:9464"] {
            assert_eq!(ask("GET", "/metrics", host), 200, "{host}");
        }
        for host in ["evil.example:9464", "127.0.0.1.evil.example", "10.0.0.1", "", "::1]", "localhost:x"] {
            assert_eq!(ask("GET", "/metrics", host), 421, "{host}");
        }
        assert_eq!(ask("POST", "/metrics", "localhost"), 405);
        assert_eq!(ask("GET", "/", "localhost"), 404);
        assert_eq!(ask("GET", "/metrics/../metrics", "localhost"), 404);
    }
}
