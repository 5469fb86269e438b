//! Connections that speak HTTP with origins.

use std::sync::Arc;

use clawkeep_inference::BoxBody;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::event::printable;
use crate::head::MAX_HEAD;
use crate::idle::Idle;
use crate::proxy::{Limits, Shared};
use crate::refusal::Refusal;

/// What an HTTP/2 stream, and a connection, may have sent before somebody reads it.
pub(crate) const STREAM_WINDOW: u32 = 256 << 10;
pub(crate) const CONNECTION_WINDOW: u32 = 1 << 20;

/// The sending half of a connection.
pub(crate) enum Sender {
    Http1(Mutex<http1::SendRequest<BoxBody>>),
    Http2(http2::SendRequest<BoxBody>),
}

/// A connection to an origin. It is driven by a task that ends with it.
pub(crate) struct Origin {
    pub(crate) sender: Sender,
    driver: JoinSet<()>,
}

/// Why a request has no answer; with the request, if nothing of it was sent.
pub(crate) struct Unsent(pub(crate) Option<Request<BoxBody>>);

impl Origin {
    /// Plain HTTP/1.1.
    pub(crate) async fn plain(stream: TcpStream, limits: &Limits) -> Result<Self, Refusal> {
        Self::http1(Idle::new(stream, limits.idle, Arc::default())).await
    }

    /// TLS with a certificate for this host, held to the host's roots; HTTP/2 where both sides want it.
    pub(crate) async fn tls(
        stream: TcpStream,
        host: &str,
        http2: bool,
        shared: &Shared,
    ) -> Result<Self, Refusal> {
        // May hold what the origin's certificate says.
        let untrusted =
            |error: &dyn std::fmt::Display| Refusal::Untrusted(printable(error.to_string().as_bytes()));
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare).map_err(|error| untrusted(&error))?;
        let connector = tokio_rustls::TlsConnector::from(shared.outside.tls(http2)?);
        let stream = Idle::new(stream, shared.limits.idle, Arc::default());
        let greeted = timeout(shared.limits.connect, connector.connect(name, stream)).await;
        let stream = greeted
            .map_err(|_| untrusted(&"the handshake took too long"))?
            .map_err(|error| untrusted(&error))?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            Self::http2(stream).await
        } else {
            Self::http1(stream).await
        }
    }

    async fn http1<T>(stream: T) -> Result<Self, Refusal>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(2 * MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Refusal::BadAnswer)?;
        let connection = connection.with_upgrades();
        Ok(Self::driven(Sender::Http1(Mutex::new(sender)), connection))
    }

    async fn http2<T>(stream: T) -> Result<Self, Refusal>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD as u32)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Refusal::BadAnswer)?;
        Ok(Self::driven(Sender::Http2(sender), connection))
    }

    fn driven(sender: Sender, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) -> Self {
        let mut driver = JoinSet::new();
        // What goes wrong here is seen by the request or the body that it happens to.
        driver.spawn(async move {
            let _ = connection.await;
        });
        Self { sender, driver }
    }

    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// The two halves: for requests, and to know when the connection has ended.
    pub(crate) fn split(self) -> (Sender, JoinSet<()>) {
        (self.sender, self.driver)
    }
}

impl Sender {
    /// Whether nothing can be sent any more.
    pub(crate) async fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.lock().await.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    /// Send a request and wait for the head of its answer.
    pub(crate) async fn send(&self, request: Request<BoxBody>) -> Result<Response<Incoming>, Unsent> {
        let sent = match self {
            Self::Http1(sender) => {
                let mut sender = sender.lock().await;
                if sender.ready().await.is_err() {
                    return Err(Unsent(Some(request)));
                }
                let answer = sender.try_send_request(request);
                drop(sender);
                answer.await
            }
            Self::Http2(sender) => {
                let mut sender = sender.clone();
                if sender.ready().await.is_err() {
                    return Err(Unsent(Some(request)));
                }
                sender.try_send_request(request).await
            }
        };
        sent.map_err(|mut error| Unsent(error.take_message()))
    }
}
