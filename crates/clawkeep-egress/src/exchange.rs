//! One request to an origin and its answer back.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use clawkeep_inference::{BoxBody, BoxError};
use clawkeep_policy::Target;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::addressed::Scheme;
use crate::front::Opened;
use crate::hold::{Asked, UnderWay};
use crate::origin::Sender;
use crate::refusal::Refusal;

/// Both sides of a connection that has left HTTP.
struct Switched {
    client: OnUpgrade,
    origin: OnUpgrade,
    under_way: UnderWay,
}

/// Where a connection from inside goes on when it has left HTTP.
pub(crate) struct Switch {
    opened: Opened,
    asked: AtomicBool,
    switched: Mutex<Option<Switched>>,
}

/// Why there is no answer; with the request, if nothing of it was sent.
pub(crate) type Failed = (Refusal, Option<(Request<BoxBody>, UnderWay)>);

impl Switch {
    pub(crate) fn new(opened: Opened) -> Self {
        Self { opened, asked: AtomicBool::new(false), switched: Mutex::new(None) }
    }

    /// Whether an upgrade was asked for. The connection ends with the answer, or leaves HTTP.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// After the HTTP connection has ended: if it was for an upgrade, pass bytes both ways to the end.
    pub(crate) async fn go_on(&self) {
        let switched = self.switched.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Switched { client, origin, under_way }) = switched else { return };
        if let (Ok(client), Ok(origin)) = (client.await, origin.await) {
            // Each side watches over its own silence. An error is the end, whoever's it is.
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(origin)).await;
        }
        drop(under_way);
    }
}

/// The request as it goes to the origin: to the canonical target and path, without what belongs to this hop.
pub(crate) fn outgoing(
    request: Request<Incoming>,
    target: &Target,
    scheme: Scheme,
    asked: &Asked,
    http2: bool,
) -> Result<Request<BoxBody>, Refusal> {
    let (mut parts, body) = request.into_parts();
    let authority = match target.port() {
        port if port == scheme.default_port() => target.host().to_owned(),
        port => format!("{}:{port}", target.host()),
    };
    let trailers = wants_trailers(&parts.headers);
    clawkeep_outbound::strip(&mut parts.headers);
    // Answered here: the body is on its way whatever the origin says.
    parts.headers.remove(header::EXPECT);
    parts.headers.remove(header::HOST);
    if trailers {
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let bad = |_| Refusal::Path("it cannot be sent".to_owned());
    let path = asked.path.path_and_query();
    let whole = format!("{}://{authority}{path}", scheme.as_str());
    parts.uri = if http2 { whole.parse::<Uri>().map_err(bad)? } else { path.parse::<Uri>().map_err(bad)? };
    if http2 {
        parts.version = http::Version::HTTP_2;
    } else {
        parts.version = http::Version::HTTP_11;
        let host = HeaderValue::from_str(&authority).map_err(|_| Refusal::Malformed)?;
        parts.headers.insert(header::HOST, host);
        one_cookie_field(&mut parts.headers);
        if asked.upgrade {
            as_upgrade(&mut parts.headers);
        }
    }
    parts.extensions.clear();
    let body = if asked.upgrade {
        Empty::new().map_err(|never| match never {}).boxed_unsync()
    } else {
        body.map_err(Into::into).boxed_unsync()
    };
    Ok(Request::from_parts(parts, body))
}

/// Send a request; its answer, which keeps the request under way until it has passed. With `client`, the request
/// asks for an upgrade, and `switch` learns of it when the origin agrees.
pub(crate) async fn exchange(
    sender: &Sender,
    request: Request<BoxBody>,
    under_way: UnderWay,
    client: Option<(OnUpgrade, &Switch)>,
) -> Result<Response<BoxBody>, Failed> {
    if let Some((_, switch)) = &client {
        switch.asked.store(true, Ordering::Release);
    }
    let mut response = match sender.send(request).await {
        Ok(response) => response,
        Err(unsent) => return Err((Refusal::BadAnswer, unsent.0.map(|request| (request, under_way)))),
    };
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let upgrading = client.is_some();
    let agreed = response
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
    clawkeep_outbound::strip(response.headers_mut());
    // Of the connection to the origin; the other side has its own.
    *response.version_mut() = http::Version::HTTP_11;
    match client {
        Some((client, switch)) if switching && agreed => {
            let origin = hyper::upgrade::on(&mut response);
            as_upgrade(response.headers_mut());
            let switched = Switched { client, origin, under_way };
            *switch.switched.lock().unwrap_or_else(PoisonError::into_inner) = Some(switched);
            switch.opened.set();
            return Ok(response.map(|_| Empty::new().map_err(|never| match never {}).boxed_unsync()));
        }
        // An answer that leaves HTTP unasked, or for something else than was asked.
        _ if switching => return Err((Refusal::BadAnswer, None)),
        _ => {}
    }
    if upgrading {
        // What came after the request was meant for the upgrade, and is no request.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Answer { body, under_way: Some(under_way) }.boxed_unsync()))
}

/// An origin's answer as it comes: unbuffered, so the reader's pace is the sender's pace.
struct Answer {
    body: Incoming,
    under_way: Option<UnderWay>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into);
        if matches!(polled, Poll::Ready(None)) {
            self.under_way = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What is read of a request that is refused, in bytes, and for how long: a close with unread bytes would reset the
/// connection, and may take the answer with it.
const DRAINED: usize = 256 << 10;
const DRAINING: Duration = Duration::from_secs(1);

/// Read what little is still on its way of a request that is refused. One that waits for permission to send its
/// body never gets it.
pub(crate) async fn drain(request: Request<Incoming>) {
    if !request.headers().contains_key(header::EXPECT) {
        let _ = timeout(DRAINING, Limited::new(request.into_body(), DRAINED).collect()).await;
    }
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::TE).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")))
}

fn as_upgrade(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// HTTP/2 may send cookies in several fields, HTTP/1.1 may not (RFC 9113, 8.2.3).
fn one_cookie_field(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}
