use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use crate::body::BoxBody;
use crate::connect::{Sender, connect};
use crate::problem::RouteProblem;
use crate::route::Origin;

/// Connections that are kept for the next request.
const MAX_IDLE: usize = 8;

/// How long they are kept: less than the five seconds after which common model servers close theirs, so that
/// a request rarely meets a closing connection.
const IDLE_AGE: Duration = Duration::from_secs(4);

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
        if self.sender.is_closed() {
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
        idle.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < IDLE_AGE);
        let ready = idle.iter().rposition(|(sender, _)| sender.is_ready())?;
        Some(idle.swap_remove(ready).0)
    }

    /// Send a request and wait for the head of its answer, at most `limit`. It is sent twice only if nothing
    /// of it was sent the first time.
    pub(crate) async fn send(
        self: &Arc<Self>,
        request: Request<BoxBody>,
        limit: Duration,
    ) -> Result<(Response<Incoming>, Lease), RouteProblem> {
        let mut request = request;
        loop {
            let (mut sender, kept) = match self.take() {
                Some(sender) => (sender, true),
                None => (connect(&self.origin, self.connect_timeout.min(limit)).await?, false),
            };
            let sent = timeout(limit, sender.try_send_request(request)).await;
            let mut failure = match sent {
                Ok(Ok(response)) => {
                    return Ok((response, Lease { sender, pool: Arc::downgrade(self) }));
                }
                Ok(Err(failure)) => failure,
                Err(_) => {
                    return Err(RouteProblem::Timeout {
                        address: self.origin.display(),
                        what: "answer",
                        after: limit,
                    });
                }
            };
            match failure.take_message() {
                Some(unsent) if kept => request = unsent,
                _ => return Err(self.broken(failure.error())),
            }
        }
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
