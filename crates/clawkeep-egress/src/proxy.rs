use std::sync::Arc;
use std::time::Duration;

use clawkeep_inference::LiveService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, AuthorityError};
use crate::connection::{close_gently, serve};
use crate::refusal;
use crate::verdict::{Reason, Verdict};

/// What one sandbox may use of its proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; one more is answered with 503.
    pub connections: usize,
    /// The longest time for a request head, and for a TLS handshake.
    pub head: Duration,
    /// The longest time in which nothing moves on a connection.
    pub idle: Duration,
}

impl Default for Limits {
    /// 256 connections, 10 s for a head, 10 minutes idle.
    fn default() -> Self {
        Self { connections: 256, head: Duration::from_secs(10), idle: Duration::from_secs(600) }
    }
}

/// Connections over the limit that are being told so at once. Over this they are just closed.
const BEING_REFUSED: usize = 64;

/// One sandbox's proxy.
pub struct Proxy {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) tls: TlsAcceptor,
    pub(crate) inference: LiveService,
    pub(crate) limits: Limits,
    events: mpsc::Sender<Verdict>,
}

impl Shared {
    /// Never waits: a sandbox that floods its proxy loses records, it does not stop it.
    pub(crate) fn tell(&self, verdict: Verdict) {
        let _ = self.events.try_send(verdict);
    }
}

impl Proxy {
    /// A proxy that answers with this authority's certificate and leads to `inference`, which can be exchanged
    /// while it serves. Each verdict is sent to `events`; when that channel is full, verdicts are dropped.
    ///
    /// # Errors
    /// [`AuthorityError`], when no leaf certificate can be made.
    pub fn new(
        authority: &Authority,
        inference: LiveService,
        events: mpsc::Sender<Verdict>,
    ) -> Result<Self, AuthorityError> {
        let tls = TlsAcceptor::from(Arc::new(authority.server_config()?));
        Ok(Self { shared: Arc::new(Shared { tls, inference, limits: Limits::default(), events }) })
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        let Shared { tls, inference, events, .. } = &*self.shared;
        let shared =
            Shared { tls: tls.clone(), inference: inference.clone(), limits, events: events.clone() };
        Self { shared: Arc::new(shared) }
    }

    /// Serve a listener until `shutdown` is ready; then every connection is closed at once. The listener may be
    /// any that is bound, also one that another process made and keeps: what waits in its backlog is served, and
    /// it stays open there when this returns.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        let places = Arc::new(Semaphore::new(self.shared.limits.connections));
        let refusals = Arc::new(Semaphore::new(BEING_REFUSED));
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = listener.accept() => accepted,
            };
            while tasks.try_join_next().is_some() {}
            let Ok((stream, _)) = accepted else {
                // Out of descriptors, mostly. Waiting a little lets others close some; spinning would not.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            if let Ok(place) = places.clone().try_acquire_owned() {
                let shared = self.shared.clone();
                tasks.spawn(async move {
                    serve(stream, shared).await;
                    drop(place);
                });
            } else if let Ok(place) = refusals.clone().try_acquire_owned() {
                let shared = self.shared.clone();
                tasks.spawn(async move {
                    refuse_for_want_of_places(stream, &shared).await;
                    drop(place);
                });
            }
        }
        tasks.shutdown().await;
    }
}

async fn refuse_for_want_of_places(stream: TcpStream, shared: &Shared) {
    let verdict = Verdict::deny(Reason::Connections, String::new(), 0);
    let answer = refusal::raw(refusal::status_of(&verdict), &verdict, None);
    shared.tell(verdict);
    // The socket's buffer is empty, so this takes it all or the connection is gone.
    let written =
        stream.writable().await.is_ok() && matches!(stream.try_write(&answer), Ok(n) if n == answer.len());
    if written {
        close_gently(stream).await;
    }
}
