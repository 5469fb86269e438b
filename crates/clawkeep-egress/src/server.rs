//! HTTP towards the inside.

use std::convert::Infallible;

use clawkeep_inference::BoxBody;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::front::Front;
use crate::head::{MAX_HEAD, MAX_HEADERS};
use crate::origin::{CONNECTION_WINDOW, STREAM_WINDOW};

/// Requests of one HTTP/2 connection at once.
const MAX_STREAMS: u32 = 64;

/// Serve HTTP/1.1 to the end, or to the end of the answer under way once `gone` is ready.
pub(crate) async fn http1<T, A, F>(stream: Front<T>, answer: A, gone: impl Future<Output = ()>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<BoxBody>>,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    // Heads are timed by the front, which also tells an idle connection from a slow head.
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(MAX_HEADERS)
        .max_buf_size(2 * MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    // An error here is the peer's: it went away, or sent what was refused.
    tokio::select! {
        _ = &mut connection => return,
        () = gone => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Serve HTTP/2 in the same way. There are no tunnels in it: extended CONNECT is never offered.
pub(crate) async fn http2<T, A, F>(stream: T, answer: A, gone: impl Future<Output = ()>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<BoxBody>> + Send + 'static,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        () = gone => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
