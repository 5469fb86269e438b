use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use crate::hide::{Hidden, Passing};
use crate::pool::Lease;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer, and of a request that is passed on.
pub type BoxBody = UnsyncBoxBody<Bytes, BoxError>;

pub(crate) fn full(bytes: Bytes) -> BoxBody {
    http_body_util::Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn empty() -> BoxBody {
    full(Bytes::new())
}

/// Why a body was not read whole.
pub(crate) enum Unread {
    TooLarge,
    Broken,
}

/// Read a whole body of at most `limit` bytes.
pub(crate) async fn read_whole(body: BoxBody, limit: u64) -> Result<Bytes, Unread> {
    let exceeded = Arc::new(AtomicBool::new(false));
    match Limited::new(body, limit, exceeded.clone()).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(_) if exceeded.load(Ordering::Relaxed) => Err(Unread::TooLarge),
        Err(_) => Err(Unread::Broken),
    }
}

/// A request body that is to be sent on.
pub(crate) enum Held {
    /// All of it, so that it can be changed and sent again. What it takes of the budget is given back with it.
    Whole(Bytes, Option<OwnedSemaphorePermit>),
    /// Too long for that.
    Streamed(BoxBody),
}

/// Hold a body, if it has at most `limit` bytes and `budget` has a permit for each KiB.
pub(crate) async fn hold(mut body: BoxBody, limit: u64, budget: &Arc<Semaphore>) -> Result<Held, BoxError> {
    let mut held = BytesMut::new();
    let mut taken: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        // Trailers have no meaning in any call that is known.
        let Ok(data) = frame?.into_data() else { continue };
        held.extend_from_slice(&data);
        let kib = u32::try_from(held.len().div_ceil(1024)).unwrap_or(u32::MAX);
        let more = kib - taken.as_ref().map_or(0, |taken| taken.num_permits() as u32);
        match Arc::clone(budget).try_acquire_many_owned(more) {
            Ok(permit) if held.len() as u64 <= limit => match &mut taken {
                Some(taken) => taken.merge(permit),
                None => taken = Some(permit),
            },
            _ => return Ok(Held::Streamed(Continued { first: held.freeze(), rest: body }.boxed_unsync())),
        }
    }
    Ok(Held::Whole(held.freeze(), taken))
}

/// What was read of a body already, then the rest of it.
struct Continued {
    first: Bytes,
    rest: BoxBody,
}

impl Body for Continued {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.rest).poll_frame(cx);
        }
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.first)))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        longer(&self.rest.size_hint(), self.first.len() as u64)
    }
}

/// The size of a body with so many bytes before it.
fn longer(rest: &SizeHint, by: u64) -> SizeHint {
    let mut hint = SizeHint::new();
    hint.set_lower(rest.lower().saturating_add(by));
    if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(by)) {
        hint.set_upper(upper);
    }
    hint
}

/// A request body that fails, and says so in its flag, once it is longer than allowed.
pub(crate) struct Limited {
    inner: BoxBody,
    left: u64,
    exceeded: Arc<AtomicBool>,
}

impl Limited {
    pub(crate) fn new(inner: BoxBody, limit: u64, exceeded: Arc<AtomicBool>) -> Self {
        Self { inner, left: limit, exceeded }
    }
}

impl Body for Limited {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            match self.left.checked_sub(data.len() as u64) {
                Some(left) => self.left = left,
                None => {
                    self.exceeded.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err("the request body is too large".into())));
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Nothing came for too long.
#[derive(Debug, thiserror::Error)]
#[error("the provider stopped sending")]
pub(crate) struct Stalled;

/// A provider's answer as it comes: unbuffered, so the reader's pace is the sender's pace. Fails when nothing
/// comes for too long; gives its connection back to the pool when it ends well. The route's key is not in it, and
/// no trailers are: no client of these APIs knows any.
pub(crate) struct Answer {
    inner: Incoming,
    passing: Option<Passing>,
    /// How it failed, while what came before that has not been passed on.
    failed: Option<BoxError>,
    lease: Option<Lease>,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    armed: bool,
}

impl Answer {
    pub(crate) fn new(inner: Incoming, lease: Lease, idle: Duration, hidden: Option<Hidden>) -> Self {
        let timer = Box::pin(tokio::time::sleep(idle));
        let passing = hidden.map(Passing::new);
        let mut answer = Self { inner, passing, failed: None, lease: Some(lease), idle, timer, armed: false };
        answer.give_back_if_ended();
        answer
    }

    fn give_back_if_ended(&mut self) {
        if self.inner.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }

    /// What waited for more, when nothing more comes.
    fn rest(&mut self) -> Option<Frame<Bytes>> {
        let rest = self.passing.as_mut().map(Passing::rest)?;
        (!rest.is_empty()).then(|| Frame::data(rest))
    }

    /// It ends by this, after what waited for more.
    fn fail(&mut self, error: BoxError) -> Result<Frame<Bytes>, BoxError> {
        self.lease = None;
        match self.rest() {
            Some(rest) => {
                self.failed = Some(error);
                Ok(rest)
            }
            None => Err(error),
        }
    }

    /// How many bytes wait for what comes after them.
    fn kept(&self) -> u64 {
        self.passing.as_ref().map_or(0, |passing| passing.kept() as u64)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.armed = false;
                    self.give_back_if_ended();
                    let Ok(mut data) = frame.into_data() else { continue };
                    let ended = self.inner.is_end_stream();
                    if let Some(passing) = &mut self.passing {
                        data = passing.pass(data);
                        if ended && passing.kept() > 0 {
                            data = [data, passing.rest()].concat().into();
                        }
                    }
                    if data.is_empty() {
                        continue;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(self.fail(error.into())));
                }
                Poll::Ready(None) => {
                    if let Some(lease) = self.lease.take() {
                        lease.give_back();
                    }
                    return Poll::Ready(self.rest().map(Ok));
                }
                Poll::Pending => {
                    if !self.armed {
                        self.armed = true;
                        let deadline = Instant::now() + self.idle;
                        self.timer.as_mut().reset(deadline);
                    }
                    ready!(self.timer.as_mut().poll(cx));
                    return Poll::Ready(Some(self.fail(Stalled.into())));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.kept() == 0 && self.failed.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        longer(&self.inner.size_hint(), self.kept())
    }
}
