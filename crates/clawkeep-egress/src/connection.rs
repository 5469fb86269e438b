use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use clawkeep_inference::{BoxBody, HOST};
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::front::{First, Front};
use crate::head::{Head, HeadError, MAX_HEAD, MAX_HEADERS};
use crate::idle::Idle;
use crate::proxy::Shared;
use crate::refusal;
use crate::verdict::{Reason, Verdict, decide};
use clawkeep_policy::Target;

/// What a connection is for, after its first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The proxy itself: absolute-form requests, or plain ones with a Host field.
    Proxy,
    /// Inside a tunnel to `inference.local` at this port.
    Tunnel(u16),
}

/// Serve one connection to its end.
pub(crate) async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Answers are small and waited for; without this each would wait for the peer's delayed ACK.
    let _ = stream.set_nodelay(true);
    let mut front = Front::new(Idle::new(stream, shared.limits.idle), shared.limits.head);
    match front.first_head().await {
        First::Head(head) if head.method == "CONNECT" => tunnel(front, head, shared).await,
        First::Head(_) => http(front, Mode::Proxy, shared).await,
        First::Refused(error) => {
            let status = match error {
                HeadError::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                _ => StatusCode::BAD_REQUEST,
            };
            let verdict = Verdict::deny(Reason::Protocol, String::new(), 0);
            refuse(front, status, &verdict, Some(error), &shared).await;
        }
        First::TooSlow => {
            let verdict = Verdict::deny(Reason::Protocol, String::new(), 0);
            refuse(front, StatusCode::REQUEST_TIMEOUT, &verdict, None, &shared).await;
        }
        First::Closed => {}
    }
}

async fn tunnel(mut front: Front<Idle<TcpStream>>, head: Head, shared: Arc<Shared>) {
    let verdict = match Target::parse(&head.target, None) {
        Ok(target) => decide(&target),
        Err(_) => Verdict::malformed(&head.target),
    };
    if !verdict.allows() {
        return refuse(front, refusal::status_of(&verdict), &verdict, None, &shared).await;
    }
    let port = verdict.port;
    shared.tell(verdict);
    if front.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_err() {
        return;
    }
    let front = front.into_tunnel();
    if port != 443 {
        return http(Front::new(front, shared.limits.head), Mode::Tunnel(port), shared).await;
    }
    // A handshake for another name, or that takes too long, ends the connection; TLS has said why.
    if let Ok(Ok(stream)) = timeout(shared.limits.head, shared.tls.accept(front)).await {
        http(Front::new(stream, shared.limits.head), Mode::Tunnel(port), shared).await;
    }
}

async fn refuse<T: AsyncRead + AsyncWrite + Unpin>(
    mut stream: T,
    status: StatusCode,
    verdict: &Verdict,
    detail: Option<HeadError>,
    shared: &Shared,
) {
    shared.tell(verdict.clone());
    if stream.write_all(&refusal::raw(status, verdict, detail)).await.is_ok() {
        close_gently(stream).await;
    }
}

/// Close so that the peer can still read what was written: a close with unread bytes would reset the
/// connection and may take the answer with it.
pub(crate) async fn close_gently<T: AsyncRead + AsyncWrite + Unpin>(mut stream: T) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let drain = async {
        let mut block = [0_u8; 4096];
        for _ in 0..64 {
            if !matches!(stream.read(&mut block).await, Ok(n) if n > 0) {
                break;
            }
        }
    };
    let _ = timeout(Duration::from_secs(1), drain).await;
}

async fn http<T>(stream: Front<T>, mode: Mode, shared: Arc<Shared>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(request, mode, &shared).await) }
    });
    // Heads are timed by the front, which also tells an idle connection from a slow head.
    let connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(MAX_HEADERS)
        .max_buf_size(2 * MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // An error here is the peer's: it went away, or sent what was refused.
    let _ = connection.await;
}

async fn answer(request: Request<Incoming>, mode: Mode, shared: &Shared) -> Response<BoxBody> {
    let verdict = judge(&request, mode);
    if !verdict.allows() {
        let reply = refusal::reply(&verdict);
        shared.tell(verdict);
        return reply;
    }
    if mode == Mode::Proxy {
        shared.tell(verdict);
    }
    shared.inference.current().respond(request).await
}

/// Where a request wants to go, by its target and its Host field, which must agree.
fn judge<B>(request: &Request<B>, mode: Mode) -> Verdict {
    let protocol = || Verdict::deny(Reason::Protocol, String::new(), 0);
    if request.method() == Method::CONNECT {
        return protocol();
    }
    let (scheme, default_port) = match mode {
        Mode::Proxy | Mode::Tunnel(80) => ("http", 80),
        Mode::Tunnel(_) => ("https", 443),
    };
    let read = |text: &[u8]| Target::parse(text, Some(default_port)).map_err(|_| Verdict::malformed(text));
    let named = match request.headers().get(header::HOST).map(|host| read(host.as_bytes())) {
        Some(Ok(target)) => Some(target),
        Some(Err(verdict)) => return verdict,
        None => None,
    };
    let uri = request.uri();
    let target = match uri.authority() {
        Some(_) if uri.scheme_str() != Some(scheme) => return protocol(),
        Some(authority) => match read(authority.as_str().as_bytes()) {
            Ok(target) => target,
            Err(verdict) => return verdict,
        },
        None => match named.clone() {
            Some(target) => target,
            None => return protocol(),
        },
    };
    let verdict = decide(&target);
    let elsewhere = match mode {
        Mode::Proxy => named.is_some_and(|named| named != target).then_some(&target),
        Mode::Tunnel(port) => {
            let astray = |target: &Target| target.host() != HOST || target.port() != port;
            named.as_ref().filter(|named| astray(named)).or(Some(&target).filter(|target| astray(target)))
        }
    }
    .map(|target| Verdict::deny(Reason::OtherHost, target.host().to_owned(), target.port()));
    // What is denied anyway is denied for that reason.
    if mode == Mode::Proxy && !verdict.allows() { verdict } else { elsewhere.unwrap_or(verdict) }
}
