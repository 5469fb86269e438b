use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::body::BoxBody;
use crate::reply::error_reply;

/// How much of a route one sandbox may use at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests that are with a provider.
    pub concurrent: usize,
    /// Requests that wait for one of those to end.
    pub queued: usize,
    /// How long they wait.
    pub patience: Duration,
    /// Request bodies that are held to be sent again, all together, in KiB.
    pub held_kib: usize,
}

impl Default for Limits {
    /// 64 at once, 64 more that wait 30 s, and 64 MiB.
    fn default() -> Self {
        Self { concurrent: 64, queued: 64, patience: Duration::from_secs(30), held_kib: 64 << 10 }
    }
}

/// Keeps the limits of one sandbox.
#[derive(Debug)]
pub(crate) struct Limiter {
    running: Arc<Semaphore>,
    queue: Semaphore,
    held: Arc<Semaphore>,
    limits: Limits,
}

/// Why a request does not get its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crowded {
    QueueFull,
    Waited,
}

impl Crowded {
    /// A stable word for it.
    pub(crate) fn cause(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Waited => "queue_timeout",
        }
    }
}

impl Limiter {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            running: Arc::new(Semaphore::new(limits.concurrent)),
            queue: Semaphore::new(limits.queued),
            held: Arc::new(Semaphore::new(limits.held_kib)),
            limits,
        }
    }

    /// A place, kept until it is dropped. Places are given in the order of asking.
    pub(crate) async fn enter(&self) -> Result<OwnedSemaphorePermit, Crowded> {
        if let Ok(place) = Arc::clone(&self.running).try_acquire_owned() {
            return Ok(place);
        }
        let _waiting = self.queue.try_acquire().map_err(|_| Crowded::QueueFull)?;
        let place = timeout(self.limits.patience, Arc::clone(&self.running).acquire_owned()).await;
        place.ok().and_then(Result::ok).ok_or(Crowded::Waited)
    }

    /// What bodies that are held are taken from, a permit a KiB.
    pub(crate) fn held(&self) -> &Arc<Semaphore> {
        &self.held
    }

    /// Requests that are with a provider now.
    pub(crate) fn running(&self) -> usize {
        self.limits.concurrent.saturating_sub(self.running.available_permits())
    }

    /// What a request without a place is answered.
    pub(crate) fn reply(&self, why: Crowded) -> Response<BoxBody> {
        let Limits { concurrent, queued, patience, .. } = self.limits;
        let mut reply = match why {
            Crowded::QueueFull => error_reply(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_requests",
                &format!(
                    "{concurrent} requests of this sandbox are with the model and {queued} wait; this one is too \
                     many"
                ),
            ),
            Crowded::Waited => error_reply(
                StatusCode::SERVICE_UNAVAILABLE,
                "queue_timeout",
                &format!(
                    "{concurrent} requests of this sandbox are with the model, and none ended within {} s",
                    patience.as_secs_f32()
                ),
            ),
        };
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        reply
    }
}
