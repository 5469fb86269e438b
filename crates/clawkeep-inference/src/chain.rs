use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use crate::body::{Answer, BoxBody, BoxError, Held, Limited, Stalled, empty, full, hold};
use crate::breaker::{Attempt, Outcome, Permit, Shared};
use crate::edit::{edit, model_of};
use crate::forward::{Upstream, clean_answer_headers, safe_query, safe_request_headers, unreachable_reply};
use crate::limit::Limiter;
use crate::meter::{End, Meter, RouteSeen, Turn};
use crate::problem::RouteProblem;
use crate::reply::{error_reply, too_large};
use crate::route::{Route, RouteError};
use crate::service::{Call, Timeouts};
use crate::watch::{News, Watch, Well};
use crate::{MAX_FORWARDED_BODY, MAX_HELD_BODY, PROOF_HEADER, Secret};

/// The routes of a sandbox, in the order in which they are asked.
pub(crate) struct Chain {
    legs: Vec<Leg>,
    timeouts: Timeouts,
}

struct Leg {
    upstream: Upstream,
    provider: &'static str,
    model: String,
    breaker: Shared,
    watch: Arc<Watch>,
}

/// A request that has its place, and whose body is there. Until then it belongs to no route: one that waited must not
/// show a provider a key that was replaced meanwhile.
pub(crate) struct Admitted {
    place: OwnedSemaphorePermit,
    held: Held,
    /// The body turned out to be too long.
    exceeded: Arc<AtomicBool>,
}

/// A request, ready for whichever route.
struct Asked<'a> {
    parts: &'a Parts,
    call: Call,
    path: String,
    headers: HeaderMap,
    /// The model that it names.
    named: Option<String>,
}

/// Why another route is asked.
enum Unwell {
    /// An answer that says so: 429, or a status of the 500s.
    Says(Box<Response<Answer>>),
    Fails(RouteProblem),
}

impl Admitted {
    /// Wait for a place, and for the body; the latter at most `patience`.
    ///
    /// # Errors
    /// What the request is answered instead.
    pub(crate) async fn wait(
        body: BoxBody,
        limiter: &Limiter,
        patience: Duration,
        crowded: impl FnOnce(&'static str),
    ) -> Result<Self, Response<BoxBody>> {
        if body.size_hint().lower() > MAX_FORWARDED_BODY {
            return Err(too_large(MAX_FORWARDED_BODY));
        }
        let place = limiter.enter().await.map_err(|why| {
            crowded(why.cause());
            limiter.reply(why)
        })?;
        let exceeded = Arc::new(AtomicBool::new(false));
        let body = Limited::new(body, MAX_FORWARDED_BODY, exceeded.clone()).boxed_unsync();
        match tokio::time::timeout(patience, hold(body, MAX_HELD_BODY, limiter.held())).await {
            Ok(Ok(held)) => Ok(Self { place, held, exceeded }),
            Ok(Err(_)) => Err(incomplete(StatusCode::BAD_REQUEST)),
            Err(_) => Err(incomplete(StatusCode::REQUEST_TIMEOUT)),
        }
    }

    /// The body alone.
    pub(crate) fn into_body(self) -> BoxBody {
        match self.held {
            Held::Whole(body, _) => full(body),
            Held::Streamed(body) => body,
        }
    }
}

impl Chain {
    /// The chain of a route and its fall-backs, with the keys of each in this order.
    pub(crate) fn new(
        route: &Route,
        keys: &[Option<Secret>],
        timeouts: Timeouts,
    ) -> Result<Self, RouteError> {
        let mut keys = keys.iter().map(Option::as_ref).chain(std::iter::repeat(None));
        let routes = std::iter::once(route).chain(&route.fallbacks);
        let legs = routes.map(|route| {
            Ok(Leg {
                upstream: Upstream::new(route, keys.next().flatten(), timeouts)?,
                provider: route.provider.name(),
                model: route.model.clone(),
                breaker: Shared::default(),
                watch: Arc::new(Watch::new(route.provider.name(), route.model.clone())),
            })
        });
        Ok(Self { legs: legs.collect::<Result<_, _>>()?, timeouts })
    }

    /// The route that is asked first.
    pub(crate) fn first(&self) -> &Upstream {
        &self.legs[0].upstream
    }

    /// Each route, and whether it is asked.
    pub(crate) fn seen(&self) -> Vec<RouteSeen> {
        let seen = |leg: &Leg| {
            let (answered_ms, failing) = leg.watch.seen();
            let breaker = leg.breaker.lock().state();
            let (provider, model) = (leg.provider.to_owned(), leg.model.clone());
            RouteSeen { provider, model, breaker, answered_ms, failing }
        };
        self.legs.iter().map(seen).collect()
    }

    /// Ask each route of which nothing newer is known for its list of models, which costs nothing. Who wants to be left
    /// alone is.
    pub(crate) async fn look(&self, older_than: Duration, meter: &Meter) {
        for leg in self.legs.iter().filter(|leg| !leg.watch.is_fresh(older_than)) {
            let permit = leg.breaker.lock().ask(Instant::now());
            if matches!(permit, Permit::No(_)) {
                continue;
            }
            let attempt = leg.breaker.begin(permit);
            let path = Call::Models.path();
            let asked =
                leg.upstream.send(Method::GET, path, HeaderMap::new(), empty(), None, self.timeouts.list);
            match asked.await {
                Ok(response) => {
                    let status = response.status();
                    leg.told(status, meter.news());
                    if !says_unwell(status) && !matches!(status.as_u16(), 401 | 403) {
                        leg.watch.well(Well::Whole, meter.news());
                    }
                    let outcome = if says_unwell(status) { Outcome::Failed } else { Outcome::Answered };
                    leg.ended(attempt, outcome, meter.news());
                }
                Err(problem) => {
                    leg.watch.failed(problem.class(), &problem, false, meter.news());
                    leg.ended(attempt, Outcome::Failed, meter.news());
                }
            }
        }
    }

    /// Pass on a request from inside, and the answer of the first route that has one.
    pub(crate) async fn answer(
        &self,
        parts: &Parts,
        call: Call,
        Admitted { place, held, exceeded }: Admitted,
        meter: &Meter,
    ) -> Response<BoxBody> {
        let uncounted = is_proof(parts, meter).then(|| meter.uncounted());
        let meter = uncounted.as_ref().unwrap_or(meter);
        let path = match parts.uri.query().and_then(safe_query) {
            Some(query) => format!("{}?{query}", call.path()),
            None => call.path().to_owned(),
        };
        let headers = safe_request_headers(&parts.headers);
        let named = if let Held::Whole(body, _) = &held { model_of(body) } else { None };
        let asked = Asked { parts, call, path, headers, named };
        let begun = Instant::now();
        match self.ask_in_turn(&asked, held, meter).await {
            Ok((leg, response)) => {
                let (model, status) = (asked.label(leg, self.is_first(leg)), response.status());
                // What made another route be asked is counted already.
                if !status.is_success() && !says_unwell(status) {
                    meter.failed(model, &status_cause(status));
                }
                if status.is_success() {
                    meter.answered();
                }
                let costs = !matches!(call, Call::Models | Call::CountTokens);
                if status.is_success() && !costs {
                    leg.watch.well(Well::Whole, meter.news());
                }
                deliver(response, place, |content_type| {
                    let route = (Arc::clone(&leg.watch), leg.upstream.address());
                    costs.then(|| Turn::new(meter.clone(), route, model.to_owned(), content_type, begun))
                })
            }
            Err(_) if exceeded.load(Ordering::Relaxed) => too_large(MAX_FORWARDED_BODY),
            Err(reply) => *reply,
        }
    }

    /// Ask one route after the other until one is well. Each is asked once; one whose breaker is open is asked last;
    /// one that asked for a wait is not asked.
    async fn ask_in_turn<'a>(
        &'a self,
        asked: &Asked<'_>,
        held: Held,
        meter: &Meter,
    ) -> Result<(&'a Leg, Response<Answer>), Box<Response<BoxBody>>> {
        // What was not held can be sent once only, and as it is.
        let (whole, mut stream, legs) = match held {
            Held::Whole(body, permit) => (Some((body, permit)), None, &self.legs[..]),
            Held::Streamed(body) => (None, Some(body), &self.legs[..1]),
        };
        let mut order: VecDeque<_> = legs.iter().map(|leg| (leg, None)).collect();
        let (mut said, mut failed, mut wait) = (None, None, None::<Duration>);
        while let Some((leg, permit)) = order.pop_front() {
            let permit = match permit.unwrap_or_else(|| leg.breaker.lock().ask(Instant::now())) {
                Permit::No(rest) => {
                    wait = Some(wait.map_or(rest, |wait| wait.min(rest)));
                    continue;
                }
                Permit::Last if permit.is_none() && legs.len() > 1 => {
                    order.push_back((leg, Some(Permit::Last)));
                    continue;
                }
                permit => permit,
            };
            let put = (!self.is_first(leg)).then_some(leg.model.as_str());
            let replay = whole.as_ref().map(|(body, _)| edit(body, asked.call, asked.named.as_deref(), put));
            let Some(body) = replay.clone().map(full).or_else(|| stream.take()) else { break };
            match self.ask(leg, permit, asked, body, replay.as_ref(), meter.news()).await {
                Ok(response) => return Ok((leg, response)),
                Err(unwell) => {
                    meter.failed(asked.label(leg, self.is_first(leg)), &unwell.cause());
                    match unwell {
                        Unwell::Says(response) => drop(said.get_or_insert((leg, *response))),
                        Unwell::Fails(problem) => drop(failed.get_or_insert(problem)),
                    }
                }
            }
        }
        // Nobody is well. What a provider said is more than what can be said of it.
        match (said, failed) {
            (Some(said), _) => Ok(said),
            (None, Some(problem)) => Err(Box::new(unreachable_reply(&problem))),
            (None, None) => {
                meter.failed(asked.named.as_deref().unwrap_or(&self.legs[0].model), "waiting");
                Err(Box::new(told_to_wait(wait.unwrap_or_default())))
            }
        }
    }

    async fn ask(
        &self,
        leg: &Leg,
        permit: Permit,
        asked: &Asked<'_>,
        body: BoxBody,
        replay: Option<&Bytes>,
        news: &News,
    ) -> Result<Response<Answer>, Unwell> {
        let attempt = leg.breaker.begin(permit);
        let (method, headers) = (asked.parts.method.clone(), asked.headers.clone());
        let sent = leg.upstream.send(method, &asked.path, headers, body, replay, self.timeouts.head).await;
        match sent {
            Ok(response) => {
                let unwell = says_unwell(response.status());
                let outcome = match retry_after(response.headers()) {
                    Some(wait) if unwell => Outcome::ToldToWait(wait),
                    _ if unwell => Outcome::Failed,
                    _ => Outcome::Answered,
                };
                leg.told(response.status(), news);
                leg.ended(attempt, outcome, news);
                if unwell { Err(Unwell::Says(Box::new(response))) } else { Ok(response) }
            }
            Err(problem) => {
                leg.watch.failed(problem.class(), &problem, false, news);
                leg.ended(attempt, Outcome::Failed, news);
                Err(Unwell::Fails(problem))
            }
        }
    }

    fn is_first(&self, leg: &Leg) -> bool {
        std::ptr::eq(leg, &raw const self.legs[0])
    }
}

impl Leg {
    /// What an answer's status says of the route.
    fn told(&self, status: StatusCode, news: &News) {
        let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if !refused && !says_unwell(status) {
            return self.watch.well(Well::Answered, news);
        }
        let (address, number) = (self.upstream.address(), status.as_u16());
        let problem = if refused {
            let key_sent = self.upstream.sends_key();
            RouteProblem::Unauthorized { address, status: number, key_sent }
        } else {
            RouteProblem::UpstreamStatus { address, status: number, message: String::new() }
        };
        self.watch.failed(&status_cause(status), &problem, false, news);
    }

    fn ended(&self, attempt: Attempt, outcome: Outcome, news: &News) {
        if let Some(wait) = attempt.end(outcome) {
            self.watch.opened(wait, matches!(outcome, Outcome::ToldToWait(_)), news);
        }
    }
}

impl Asked<'_> {
    /// The model that is counted.
    fn label<'a>(&'a self, leg: &'a Leg, first: bool) -> &'a str {
        self.named.as_deref().filter(|_| first).unwrap_or(&leg.model)
    }
}

impl Unwell {
    fn cause(&self) -> String {
        match self {
            Self::Says(response) => status_cause(response.status()),
            Self::Fails(problem) => problem.class().to_owned(),
        }
    }
}

/// Whether this is the daemon's own proof of the route, which is no request of the agent's and not counted.
pub(crate) fn is_proof(parts: &Parts, meter: &Meter) -> bool {
    parts.headers.get(PROOF_HEADER).is_some_and(|word| word == meter.proof())
}

/// Whether it is the provider that is not well, whatever the request.
fn says_unwell(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

fn status_cause(status: StatusCode) -> String {
    match status.as_u16() {
        401 | 403 => "unauthorized".to_owned(),
        429 => "rate_limited".to_owned(),
        other => format!("status_{other}"),
    }
}

/// How long the provider wants to be left alone (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

fn told_to_wait(wait: Duration) -> Response<BoxBody> {
    let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
    let message = format!("the model's provider asked for no request before {seconds} s have passed");
    let mut reply = error_reply(StatusCode::TOO_MANY_REQUESTS, "upstream_wait", &message);
    reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    reply
}

fn incomplete(status: StatusCode) -> Response<BoxBody> {
    error_reply(status, "invalid_request", "the request body did not arrive whole")
}

/// The answer as the agent gets it, watched over as it passes.
fn deliver(
    response: Response<Answer>,
    place: OwnedSemaphorePermit,
    turn: impl FnOnce(&[u8]) -> Option<Turn>,
) -> Response<BoxBody> {
    if response.status().is_redirection() {
        // The key must not follow, and the agent could not.
        return error_reply(
            StatusCode::BAD_GATEWAY,
            "upstream_redirect",
            "the provider redirects to another address; the operator must correct the endpoint URL",
        );
    }
    let (mut head, answer) = response.into_parts();
    clean_answer_headers(&mut head.headers);
    head.extensions.clear();
    let content_type = head.headers.get(header::CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    let turn = if head.status.is_success() { turn(content_type) } else { None };
    let watched = Watched { answer, turn, _place: place };
    Response::from_parts(head, watched.boxed_unsync())
}

/// An answer that keeps its place until its end, and is counted.
struct Watched {
    answer: Answer,
    turn: Option<Turn>,
    _place: OwnedSemaphorePermit,
}

impl Watched {
    fn ends(&mut self, end: End) {
        if let Some(turn) = &mut self.turn {
            turn.ends(end);
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.answer).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(turn)) = (frame.data_ref(), &mut self.turn) {
                    turn.passes(data);
                }
                // Of a known length nobody asks for more than the last byte.
                if self.answer.is_end_stream() {
                    self.ends(End::Whole);
                }
            }
            Poll::Ready(Some(Err(error))) if error.is::<Stalled>() => self.ends(End::Stalled),
            Poll::Ready(Some(Err(_))) => self.ends(End::Cut),
            Poll::Ready(None) => self.ends(End::Whole),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_a_number_of_seconds_or_a_date() {
        let wait = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            retry_after(&headers)
        };
        assert_eq!(wait(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(wait("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        let soon = wait(&httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100))).unwrap();
        assert!((90..=100).contains(&soon.as_secs()), "{soon:?}");
        for nonsense in ["", "-1", "1.5", "soon", "99999999999999999999999"] {
            assert_eq!(wait(nonsense), None, "{nonsense}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds() {
        let reply = told_to_wait(Duration::from_millis(1200));
        assert_eq!(
            (reply.status().as_u16(), &reply.headers()["retry-after"]),
            (429, &"2".parse::<HeaderValue>().unwrap())
        );
        assert_eq!(told_to_wait(Duration::ZERO).headers()["retry-after"], "1");
    }
}
