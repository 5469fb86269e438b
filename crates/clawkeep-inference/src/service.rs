use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tokio::sync::Notify;

use crate::body::{BoxBody, BoxError};
use crate::chain::{Admitted, Chain, is_proof};
use crate::limit::{Limiter, Limits};
use crate::meter::{Meter, Seen};
use crate::reply::error_reply;
use crate::route::{Route, RouteError};
use crate::{Provider, Secret, canary};

/// How long a provider may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For name, TCP and TLS together.
    pub connect: Duration,
    /// For the head of an answer, the request's sending included.
    pub head: Duration,
    /// For silence inside an answer.
    pub idle: Duration,
    /// For the list of models in a check.
    pub list: Duration,
    /// For the turn in a check.
    pub turn: Duration,
}

impl Default for Timeouts {
    /// 10 s to connect and for the list; 300 s for head and silence, 120 s for a check's turn, since a local
    /// server may load a large model first.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(10),
            head: seconds(300),
            idle: seconds(300),
            list: seconds(10),
            turn: seconds(120),
        }
    }
}

/// Answers the requests that a sandbox sends to `inference.local`.
pub struct Service {
    route: Route,
    pub(crate) backend: Backend,
    pub(crate) secret: Option<Secret>,
    pub(crate) timeouts: Timeouts,
    limiter: Arc<Limiter>,
    meter: Meter,
}

pub(crate) enum Backend {
    Canary,
    Http(Chain),
    /// Answers nothing, for this reason.
    Keyless(String),
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("route", &self.route).finish_non_exhaustive()
    }
}

impl Service {
    /// A service for this route. Nothing is connected yet.
    ///
    /// # Errors
    /// [`RouteError`] when the route cannot be used, or needs a key and `secret` is none that fits.
    pub fn new(route: Route, secret: Option<Secret>) -> Result<Self, RouteError> {
        Self::with_keys(route, vec![secret], Timeouts::default())
    }

    /// The same with the keys of the route and of its fall-backs, in this order, and with other timeouts.
    ///
    /// # Errors
    /// Those of [`Service::new`].
    pub fn with_keys(
        route: Route,
        keys: Vec<Option<Secret>>,
        timeouts: Timeouts,
    ) -> Result<Self, RouteError> {
        route.check_fallbacks()?;
        let backend = if route.provider == Provider::Canary {
            Backend::Canary
        } else {
            Backend::Http(Chain::new(&route, &keys, timeouts)?)
        };
        let secret = keys.into_iter().next().flatten();
        Ok(Self { route, backend, secret, timeouts, ..Self::canary() })
    }

    /// A service whose key is there and cannot be read, for this reason: it connects nothing, and says so to
    /// whoever asks. What else the sandbox does goes on.
    pub fn keyless(route: Route, cause: String) -> Self {
        Self { route, backend: Backend::Keyless(cause), ..Self::canary() }
    }

    /// Why it has no key, where it should have one.
    pub fn key_trouble(&self) -> Option<&str> {
        match &self.backend {
            Backend::Keyless(cause) => Some(cause),
            Backend::Canary | Backend::Http(_) => None,
        }
    }

    /// The built-in canary.
    pub fn canary() -> Self {
        Self {
            route: Route::canary(),
            backend: Backend::Canary,
            secret: None,
            timeouts: Timeouts::default(),
            limiter: Arc::new(Limiter::new(Limits::default())),
            meter: Meter::default(),
        }
    }

    /// The same with other limits.
    pub fn limited(mut self, limits: Limits) -> Self {
        self.limiter = Arc::new(Limiter::new(limits));
        self
    }

    /// Where it leads.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// Its counters.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// See how each route is of which nothing newer is known, from outside: by its list of models, which costs nothing.
    /// What is found is in [`Service::seen`].
    pub async fn look(&self, older_than: Duration) {
        if let Backend::Http(chain) = &self.backend {
            chain.look(older_than, &self.meter).await;
        }
    }

    /// What was counted so far. The canary's answers are not.
    pub fn seen(&self) -> Seen {
        let routes = match &self.backend {
            Backend::Canary | Backend::Keyless(_) => Vec::new(),
            Backend::Http(chain) => chain.seen(),
        };
        self.meter.seen(self.limiter.running(), routes)
    }

    /// Answer one request. Of the request's URI only path and query count. What is not one of the known calls
    /// of the OpenAI and Anthropic APIs is answered with 404 here; nothing is connected for it.
    pub async fn respond<B>(&self, request: Request<B>) -> Response<BoxBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        match self.admit(request).await {
            Ok((parts, call, admitted)) => self.pass(&parts, call, admitted).await,
            Err(reply) => *reply,
        }
    }

    /// Wait until a request can be passed on, or its answer if it cannot.
    async fn admit<B>(&self, request: Request<B>) -> Result<(Parts, Call, Admitted), Box<Response<BoxBody>>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let body = body.map_err(Into::into).boxed_unsync();
        let call = Call::of(&parts.method, parts.uri.path()).ok_or_else(|| Box::new(unknown_call()))?;
        let counts = !is_proof(&parts, &self.meter);
        let crowded = |cause| {
            if counts {
                self.meter.failed(&self.route.model, cause);
            }
        };
        match Admitted::wait(body, &self.limiter, self.timeouts.head, crowded).await {
            Ok(admitted) => Ok((parts, call, admitted)),
            Err(reply) => Err(Box::new(reply)),
        }
    }

    async fn pass(&self, parts: &Parts, call: Call, admitted: Admitted) -> Response<BoxBody> {
        match (&self.backend, call) {
            (Backend::Canary, Call::Models) => canary::models(),
            (Backend::Canary, Call::Chat) => canary::chat(admitted.into_body()).await,
            (Backend::Canary, _) => unknown_call(),
            (Backend::Http(chain), call) => chain.answer(parts, call, admitted, &self.meter).await,
            // The cause names files of the host: it is for the operator alone.
            (Backend::Keyless(_), _) => error_reply(
                StatusCode::SERVICE_UNAVAILABLE,
                "key_unreadable",
                "the operator's key to this model cannot be read; the operator is told how to store it again",
            ),
        }
    }
}

/// The calls that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Models,
    Chat,
    Responses,
    Embeddings,
    Messages,
    CountTokens,
}

impl Call {
    const ALL: [Self; 6] =
        [Self::Models, Self::Chat, Self::Responses, Self::Embeddings, Self::Messages, Self::CountTokens];

    /// Whole paths, byte for byte: there is nothing to normalise and nothing to get around.
    fn of(method: &Method, path: &str) -> Option<Self> {
        let below = path.strip_prefix("/v1")?;
        let call = Self::ALL.into_iter().find(|call| call.path() == below)?;
        let wanted = if matches!(call, Self::Models) { Method::GET } else { Method::POST };
        (*method == wanted).then_some(call)
    }

    /// The path below the base URL.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Models => "/models",
            Self::Chat => "/chat/completions",
            Self::Responses => "/responses",
            Self::Embeddings => "/embeddings",
            Self::Messages => "/messages",
            Self::CountTokens => "/messages/count_tokens",
        }
    }
}

fn unknown_call() -> Response<BoxBody> {
    error_reply(
        StatusCode::NOT_FOUND,
        "not_found",
        "inference.local answers GET /v1/models and POST /v1/chat/completions, and with a provider set also \
         POST /v1/responses, /v1/embeddings, /v1/messages and /v1/messages/count_tokens",
    )
}

/// A service that can be exchanged while it is in use: answers under way go on with the old one, the next
/// request meets the new one. Limits and counters stay the same. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct LiveService(Arc<RwLock<Arc<Service>>>, Arc<Notify>);

impl LiveService {
    /// Start with this service.
    pub fn new(service: Service) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(service))), Arc::default())
    }

    /// The same, with the counters going on from where this meter is.
    pub fn counted(mut service: Service, meter: Meter) -> Self {
        service.meter = meter;
        Self::new(service)
    }

    /// The service of this moment.
    pub fn current(&self) -> Arc<Service> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Answer one request as [`Service::respond`], by the service of the moment at which it is passed on: one that
    /// waited for its turn, or whose body was slow, is for the route and the key that are set by then.
    pub async fn respond<B>(&self, request: Request<B>) -> Response<BoxBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        match self.current().admit(request).await {
            Ok((parts, call, admitted)) => self.current().pass(&parts, call, admitted).await,
            Err(reply) => *reply,
        }
    }

    /// Put another in its place.
    pub fn replace(&self, mut service: Service) {
        let mut current = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        service.limiter = Arc::clone(&current.limiter);
        service.meter = current.meter.clone();
        *current = Arc::new(service);
        drop(current);
        self.1.notify_one();
    }

    /// Wait until another is put in its place, or was since somebody waited last.
    pub async fn replaced(&self) {
        self.1.notified().await;
    }
}
