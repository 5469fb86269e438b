use std::sync::Arc;
use std::time::Duration;

use clawkeep_inference::LiveService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, AuthorityError};
use crate::connection::{close_gently, serve};
use crate::peer::owner;
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
    /// Whom alone it serves, by uid.
    only_for: Option<u32>,
    events: mpsc::Sender<Verdict>,
}

impl Shared {
    fn twin(&self) -> Self {
        let Self { tls, inference, limits, only_for, events } = self;
        let (tls, inference, events) = (tls.clone(), inference.clone(), events.clone());
        Self { tls, inference, limits: *limits, only_for: *only_for, events }
    }

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
        Ok(Self {
            shared: Arc::new(Shared { tls, inference, limits: Limits::default(), only_for: None, events }),
        })
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { shared: Arc::new(Shared { limits, ..self.shared.twin() }) }
    }

    /// The same for a listener that a whole host can reach: connections of anybody but this user are closed unheard.
    #[must_use]
    pub fn only_for(self, uid: u32) -> Self {
        Self { shared: Arc::new(Shared { only_for: Some(uid), ..self.shared.twin() }) }
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
                    if is_welcome(&stream, shared.only_for).await {
                        serve(stream, shared).await;
                    }
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

/// Whether a connection is of whom alone is served; what cannot be told is not.
async fn is_welcome(stream: &TcpStream, only_for: Option<u32>) -> bool {
    let Some(uid) = only_for else { return true };
    let (Ok(peer), Ok(here)) = (stream.peer_addr(), stream.local_addr()) else { return false };
    let owner = tokio::task::spawn_blocking(move || owner(peer, here)).await;
    owner.is_ok_and(|owner| owner == Some(uid))
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
