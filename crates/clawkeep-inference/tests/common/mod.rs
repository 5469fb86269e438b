//! Small providers on loopback that behave, or misbehave, as a test says.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clawkeep_inference::{BoxBody, Provider, Route, Secret, Service, Timeouts};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longer than anything here takes unless it hangs.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A key that must never be seen.
pub const KEY: &str = "sk-outside-7f3a";

/// A provider; it ends when dropped.
pub struct Provided {
    pub url: String,
    pub connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Provided {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A provider that does with each connection what `each` says.
pub async fn raw<F, Fut>(each: F) -> Provided
where
    F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/base/v1", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    let task = tokio::spawn(async move {
        let mut tasks = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            tasks.spawn(each(stream));
        }
    });
    Provided { url, connections, task }
}

/// A provider that answers each request with what `each` gives.
pub async fn http<F, Fut>(each: F) -> Provided
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<BoxBody>> + Send + 'static,
{
    raw(move |stream| {
        let each = each.clone();
        async move {
            let service = hyper::service::service_fn(move |request| {
                let answer = each(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let io = TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        }
    })
    .await
}

pub fn full(text: impl Into<Bytes>) -> BoxBody {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn reply(status: u16, text: &str) -> Response<BoxBody> {
    Response::builder().status(status).body(full(text.to_owned())).unwrap()
}

/// A service for this base URL with [`KEY`].
pub fn service(url: &str) -> Service {
    service_within(url, Timeouts::default())
}

pub fn service_within(url: &str, timeouts: Timeouts) -> Service {
    let route = Route::new(Provider::Custom, Some(url), "m1", true).unwrap();
    Service::with_keys(route, vec![Some(Secret::new(KEY.to_owned()))], timeouts).unwrap()
}

pub fn get(path: &str) -> Request<BoxBody> {
    Request::get(path).body(full("")).unwrap()
}

pub fn chat(body: &str) -> Request<BoxBody> {
    Request::post("/v1/chat/completions")
        .header("content-type", "application/json")
        .body(full(body.to_owned()))
        .unwrap()
}

/// Status and whole body as text.
pub async fn whole(response: Response<BoxBody>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = tokio::time::timeout(DEADLINE, response.into_body().collect()).await.unwrap().unwrap();
    (status, String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

/// An address where nothing listens: bound once, then closed.
pub async fn refused_url() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}/v1", listener.local_addr().unwrap())
}

/// Wait until it is so.
pub async fn eventually(mut so: impl FnMut() -> bool) {
    let wait = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("it comes in time");
}
