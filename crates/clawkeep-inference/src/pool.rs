use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::{Instant, timeout};

use crate::body::{BoxBody, full};
use crate::connect::{Sender, connect};
use crate::problem::RouteProblem;
use crate::route::Origin;

/// Connections that are kept for the next request.
const MAX_IDLE: usize = 8;

/// How long they are kept: less than the five seconds after which common model servers close theirs, so that
/// a request rarely meets a closing connection.
const IDLE_AGE: Duration = Duration::from_secs(4);

/// The head of an answer, or a request that failed, with itself where nothing of it was sent.
type Sent = Result<Response<Incoming>, TrySendError<Request<BoxBody>>>;

/// Connections to one origin.
pub(crate) struct Pool {
    origin: Origin,
    connect_timeout: Duration,
    idle: Mutex<Vec<(Sender, Instant)>>,
}

/// A connection on loan to one answer.
pub(crate) struct Lease {
    sender: Sender,
    pool: Weak<Pool>,
}

impl Lease {
    /// The answer ended well: the connection can serve again.
    pub(crate) fn give_back(self) {
        if self.sender.inner.is_closed() {
            return;
        }
        if let Some(pool) = self.pool.upgrade() {
            let mut idle = pool.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if idle.len() >= MAX_IDLE {
                idle.remove(0);
            }
            idle.push((self.sender, Instant::now()));
        }
    }
}

impl Pool {
    pub(crate) fn new(origin: Origin, connect_timeout: Duration) -> Arc<Self> {
        Arc::new(Self { origin, connect_timeout, idle: Mutex::new(Vec::new()) })
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    fn take(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        idle.retain(|(sender, since)| !sender.inner.is_closed() && since.elapsed() < IDLE_AGE);
        let ready = idle.iter().rposition(|(sender, _)| sender.inner.is_ready())?;
        Some(idle.swap_remove(ready).0)
    }

    /// Send a request and wait for the head of its answer, at most `limit`. `replay` is its whole body, if that is
    /// known.
    ///
    /// It is sent a second time in two cases, both on a connection that was kept, which the provider may have
    /// closed just then: nothing of it was sent; or not one byte of an answer came, and its body is known. The
    /// second time is always on a new connection, and the last. (RFC 9110, 9.2.2, and RFC 9112, 9.3.1: a completion
    /// that is computed twice changes nothing at the provider.)
    pub(crate) async fn send(
        self: &Arc<Self>,
        request: Request<BoxBody>,
        replay: Option<&Bytes>,
        limit: Duration,
    ) -> Result<(Response<Incoming>, Lease), RouteProblem> {
        if let Some(mut kept) = self.take() {
            let spare = replay.map(|body| {
                (request.method().clone(), request.uri().clone(), request.headers().clone(), body)
            });
            let before = kept.received();
            let mut failure = match self.ask(&mut kept, request, limit).await? {
                Ok(response) => return Ok((response, self.lease(kept))),
                Err(failure) => failure,
            };
            let again = match (failure.take_message(), spare) {
                (Some(unsent), _) => unsent,
                (None, Some((method, uri, headers, body))) if kept.received() == before => {
                    let mut again = Request::new(full(body.clone()));
                    *again.method_mut() = method;
                    *again.uri_mut() = uri;
                    *again.headers_mut() = headers;
                    again
                }
                _ => return Err(self.broken(failure.error())),
            };
            return self.send_anew(again, limit).await;
        }
        self.send_anew(request, limit).await
    }

    async fn send_anew(
        self: &Arc<Self>,
        request: Request<BoxBody>,
        limit: Duration,
    ) -> Result<(Response<Incoming>, Lease), RouteProblem> {
        let mut sender = connect(&self.origin, self.connect_timeout.min(limit)).await?;
        match self.ask(&mut sender, request, limit).await? {
            Ok(response) => Ok((response, self.lease(sender))),
            Err(failure) => Err(self.broken(failure.error())),
        }
    }

    async fn ask(
        &self,
        sender: &mut Sender,
        request: Request<BoxBody>,
        limit: Duration,
    ) -> Result<Sent, RouteProblem> {
        timeout(limit, sender.inner.try_send_request(request)).await.map_err(|_| RouteProblem::Timeout {
            address: self.origin.display(),
            what: "answer",
            after: limit,
        })
    }

    fn lease(self: &Arc<Self>, sender: Sender) -> Lease {
        Lease { sender, pool: Arc::downgrade(self) }
    }

    fn broken(&self, error: &hyper::Error) -> RouteProblem {
        let cause = if error.is_parse() {
            "its answer is not HTTP/1.1"
        } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            "it closed the connection before answering"
        } else {
            "the connection broke before it answered"
        };
        RouteProblem::Protocol { address: self.origin.display(), cause: cause.to_owned() }
    }
}
