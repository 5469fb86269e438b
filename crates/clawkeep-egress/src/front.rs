use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::head::{Chunks, Framing, Head, HeadError, MAX_HEAD, find_end, parse};

/// Bytes that no HTTP reader takes for the start of a request: hyper answers them with 400 and closes, after
/// it has finished the answers before.
const NO_REQUEST: &[u8] = b"\0\r\n\r\n";

const READ_SIZE: usize = 16 << 10;

/// While a head is waited for: ten thousand that wait must not hold what ten thousand bodies would.
const HEAD_READ_SIZE: usize = 2 << 10;

/// A connection of which hyper sees only whole heads that passed the strict reading, and bodies that end where
/// that reading says. A head that stays unfinished too long fails the connection.
pub(crate) struct Front<T> {
    inner: T,
    /// What was read and not handed on; of it the first `passed` bytes may be.
    buffer: BytesMut,
    passed: usize,
    looked_at: usize,
    state: State,
    head: Option<Head>,
    head_limit: Duration,
    timer: Pin<Box<Sleep>>,
    timing: bool,
    opened: Opened,
}

/// Says that the other side has agreed to leave HTTP, so that everything passes from now on.
#[derive(Clone, Default)]
pub(crate) struct Opened(Arc<AtomicBool>);

impl Opened {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Clone, Copy)]
enum State {
    Head,
    Sized(u64),
    Chunked(Chunks),
    /// After a request to leave HTTP, until that is agreed to. If it is not, the connection ends: what came
    /// after it could be read in two ways.
    Held,
    /// A tunnel: everything passes.
    Opaque,
    Refused(HeadError),
}

/// How waiting for the first head ended.
pub(crate) enum First {
    Head(Head),
    Refused(HeadError),
    TooSlow,
    Closed,
}

impl<T: AsyncRead + Unpin> Front<T> {
    /// The first head must be whole within `head_limit`, each later one within that time of its first byte.
    pub(crate) fn new(inner: T, head_limit: Duration) -> Self {
        Self {
            inner,
            buffer: BytesMut::new(),
            passed: 0,
            looked_at: 0,
            state: State::Head,
            head: None,
            head_limit,
            timer: Box::pin(tokio::time::sleep(head_limit)),
            timing: true,
            opened: Opened::default(),
        }
    }

    /// To be set when the upgrade that a head asked for is agreed to.
    pub(crate) fn opened(&self) -> Opened {
        self.opened.clone()
    }

    /// Wait for the first head without handing it on.
    pub(crate) async fn first_head(&mut self) -> First {
        match std::future::poll_fn(|cx| self.poll_pass(cx)).await {
            Ok(()) => match (self.head.take(), self.state) {
                (_, State::Refused(error)) => First::Refused(error),
                (Some(head), _) => First::Head(head),
                (None, _) => First::Closed,
            },
            Err(error) if error.kind() == io::ErrorKind::TimedOut => First::TooSlow,
            Err(_) => First::Closed,
        }
    }

    /// Drop the first head, which was a CONNECT: what follows is the tunnel's.
    pub(crate) fn into_tunnel(mut self) -> Self {
        self.buffer.advance(self.passed);
        self.passed = 0;
        self.state = State::Opaque;
        self
    }

    /// In a tunnel: read more without handing it on; 0 at the end. The caller bounds how much.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// In a tunnel: what was read and not handed on.
    pub(crate) fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// The connection, and what was read and not handed on.
    pub(crate) fn into_parts(self) -> (T, BytesMut) {
        (self.inner, self.buffer)
    }

    /// Until something may be handed on, the connection has ended, or it was refused.
    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.passed == 0 {
            self.judge()?;
            if self.passed > 0 || matches!(self.state, State::Refused(_)) {
                break;
            }
            if matches!(self.state, State::Head) && !self.timing && !self.buffer.is_empty() {
                self.timing = true;
                let deadline = Instant::now() + self.head_limit;
                self.timer.as_mut().reset(deadline);
            }
            if self.timing && self.timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "slow request head")));
            }
            // Only looked at for the sake of its end. What has come already is enough to wait with.
            if matches!(self.state, State::Held) && self.buffer.len() >= READ_SIZE {
                return Poll::Pending;
            }
            if ready!(self.poll_fill(cx))? == 0 {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Decide how many of the buffered bytes may be handed on.
    fn judge(&mut self) -> io::Result<()> {
        match &mut self.state {
            State::Head => {
                let found = find_end(&self.buffer, self.looked_at);
                self.looked_at = self.buffer.len();
                match found.and_then(|end| end.map(|end| Ok((end, parse(&self.buffer[..end])?))).transpose())
                {
                    Ok(None) => {}
                    Ok(Some((end, head))) => {
                        self.passed = end;
                        self.looked_at = 0;
                        self.timing = false;
                        self.state = match head.framing {
                            _ if head.upgrade => State::Held,
                            Framing::Sized(0) => State::Head,
                            Framing::Sized(length) => State::Sized(length),
                            Framing::Chunked => State::Chunked(Chunks::new()),
                        };
                        self.head = Some(head);
                    }
                    Err(error) => {
                        self.timing = false;
                        self.state = State::Refused(error);
                    }
                }
            }
            State::Sized(left) => {
                let taken = (*left).min(self.buffer.len() as u64);
                self.passed = usize::try_from(taken).unwrap_or(usize::MAX);
                *left -= taken;
                if *left == 0 {
                    self.state = State::Head;
                }
            }
            State::Chunked(chunks) => {
                let fed = chunks.feed(&self.buffer);
                self.passed = fed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                if *chunks == Chunks::Done {
                    self.state = State::Head;
                }
            }
            State::Held if self.opened.is_set() => {
                self.state = State::Opaque;
                self.passed = self.buffer.len();
            }
            State::Held => {}
            State::Opaque => self.passed = self.buffer.len(),
            State::Refused(_) => {}
        }
        Ok(())
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        debug_assert!(self.buffer.len() < MAX_HEAD + READ_SIZE);
        let had = self.buffer.len();
        let size = if matches!(self.state, State::Head) { HEAD_READ_SIZE } else { READ_SIZE };
        self.buffer.resize(had + size, 0);
        let mut space = ReadBuf::new(&mut self.buffer[had..]);
        let polled = Pin::new(&mut self.inner).poll_read(cx, &mut space);
        let got = space.filled().len();
        self.buffer.truncate(had + got);
        ready!(polled)?;
        Poll::Ready(Ok(got))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Front<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_pass(cx))?;
        if this.passed > 0 {
            let taken = this.passed.min(out.remaining());
            out.put_slice(&this.buffer[..taken]);
            this.buffer.advance(taken);
            this.passed -= taken;
        } else if matches!(this.state, State::Refused(_)) {
            out.put_slice(&NO_REQUEST[..NO_REQUEST.len().min(out.remaining())]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Front<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
