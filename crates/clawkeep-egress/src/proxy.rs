use std::sync::Arc;
use std::time::Duration;

use clawkeep_inference::LiveService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, AuthorityError};
use crate::callers::Callers;
use crate::connection::{close_gently, refused_event, serve};
use crate::event::{Event, Verdicts};
use crate::leaves::Leaves;
use crate::live::LivePolicy;
use crate::outside::Outside;
use crate::peer::owner;
use crate::refusal::{self, Refusal, Subject};
use crate::resolver::{HostResolver, Resolver};
use crate::secrets::{NoSecrets, Secrets};

/// What one sandbox may use of its proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; one more is answered with 503.
    pub connections: usize,
    /// The longest time for a request head, and for a TLS handshake.
    pub head: Duration,
    /// The longest time to find the addresses of a name, to connect to one, and for TLS with it; for each.
    pub connect: Duration,
    /// The longest time in which nothing moves on a connection.
    pub idle: Duration,
}

impl Default for Limits {
    /// 256 connections, 10 s for a head, 10 s to connect, 10 minutes idle.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connections: 256, head: seconds(10), connect: seconds(10), idle: seconds(600) }
    }
}

/// Connections over the limit that are being told so at once. Over this they are just closed.
const BEING_REFUSED: usize = 64;

/// One sandbox's proxy.
pub struct Proxy {
    shared: Arc<Shared>,
}

#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) model_tls: TlsAcceptor,
    pub(crate) leaves: Arc<Leaves>,
    pub(crate) inference: LiveService,
    pub(crate) policy: LivePolicy,
    pub(crate) callers: Arc<dyn Callers>,
    pub(crate) outside: Arc<Outside>,
    pub(crate) secrets: Arc<dyn Secrets>,
    pub(crate) limits: Limits,
    /// The sandbox's, for the command that a refusal names.
    pub(crate) name: Arc<str>,
    /// Whom alone it serves, by uid.
    only_for: Option<u32>,
    events: mpsc::Sender<Event>,
    verdicts: Arc<Verdicts>,
}

impl Shared {
    /// Never waits: a sandbox that floods its proxy loses records, it does not stop it.
    pub(crate) fn tell(&self, event: Event) {
        self.verdicts.count(event.action);
        let _ = self.events.try_send(event);
    }
}

impl Proxy {
    /// A proxy that answers with this authority's certificates, leads `inference.local` to `inference` and
    /// everything else where `policy` allows; both can be exchanged while it serves. Each decision is sent to
    /// `events`; when that channel is full, events are dropped.
    ///
    /// # Errors
    /// [`AuthorityError`], when no leaf certificate can be made.
    pub fn new(
        authority: &Authority,
        inference: LiveService,
        policy: LivePolicy,
        callers: Arc<dyn Callers>,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, AuthorityError> {
        let shared = Shared {
            model_tls: TlsAcceptor::from(Arc::new(authority.inference_config()?)),
            leaves: authority.leaves().clone(),
            inference,
            policy,
            callers,
            outside: Arc::new(Outside::new(Arc::new(HostResolver))),
            secrets: Arc::new(NoSecrets),
            limits: Limits::default(),
            name: "NAME".into(),
            only_for: None,
            events,
            verdicts: Arc::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        self.with(|shared| shared.limits = limits)
    }

    /// The same for a listener that a whole host can reach: connections of anybody but this user are closed unheard.
    #[must_use]
    pub fn only_for(self, uid: u32) -> Self {
        self.with(|shared| shared.only_for = Some(uid))
    }

    /// The same for the sandbox of this name, which refusals then name in the command that helps.
    #[must_use]
    pub fn with_name(self, name: &str) -> Self {
        self.with(|shared| shared.name = name.into())
    }

    /// The same with another resolver than the host's.
    #[must_use]
    pub fn with_resolver(self, resolver: Arc<dyn Resolver>) -> Self {
        self.with(|shared| shared.outside = Arc::new(Outside::new(resolver)))
    }

    /// The same with these secrets for the placeholders that the agent has.
    #[must_use]
    pub fn with_secrets(self, secrets: Arc<dyn Secrets>) -> Self {
        self.with(|shared| shared.secrets = secrets)
    }

    /// The same, counting its decisions here.
    #[must_use]
    pub fn with_verdicts(self, verdicts: Arc<Verdicts>) -> Self {
        self.with(|shared| shared.verdicts = verdicts)
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        change(Arc::make_mut(&mut self.shared));
        self
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
    let (refusal, subject) = (Refusal::Connections, Subject::default());
    let answer = refusal::raw(&refusal, &subject, &shared.name);
    shared.tell(refused_event(&refusal, &subject, None));
    // The socket's buffer is empty, so this takes it all or the connection is gone.
    let written =
        stream.writable().await.is_ok() && matches!(stream.try_write(&answer), Ok(n) if n == answer.len());
    if written {
        close_gently(stream).await;
    }
}
